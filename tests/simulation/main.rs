//! The promises of the design under every crash and fault that a seed or a plan can make, in simulation.
//!
//! What goes on for minutes, and what hangs on chance, is in `chaos.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod contract;
mod defects;
mod gaps;
mod model;
mod paused;

use paused::simulate;
