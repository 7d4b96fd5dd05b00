//! The local cloud: everything that the seam asks for, on one machine, with no account.

pub mod bucket;
mod db;
pub mod watch;
