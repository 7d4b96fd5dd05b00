//! Penstock's operators.

pub mod convert;
