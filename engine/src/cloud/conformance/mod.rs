//! Suites.

pub mod stage;
