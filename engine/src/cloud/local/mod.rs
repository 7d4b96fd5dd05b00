//! The local cloud: everything that the seam asks for, on one machine, with no account.

mod db;
