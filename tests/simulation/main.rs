//! The promises of the design under every crash and fault that a seed or a plan can make, in simulation.
//!
//! Deaths at every point, seeds and planted bugs are in `chaos.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod bootstrap;
mod contract;
mod counts;
mod defects;
mod gaps;
mod model;
mod oncall;
mod paused;
mod reuploads;
mod sweeping;

use paused::simulate;
