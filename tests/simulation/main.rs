//! The promises of the design under every crash and fault that a seed or a plan can make, in simulation.
//!
//! `PENSTOCK_SEEDS=5000` runs more seeds of chaos than the default; `PENSTOCK_SEED=17` runs one again, as a failure tells.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod contract;
mod crashes;
mod defects;
mod gaps;
mod model;
mod planted;
mod seeds;

use std::{future::Future, time::Duration};

/// Runs a simulation with paused time on one thread.
fn simulate<T>(simulation: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let result = runtime.block_on(simulation);
    runtime.shutdown_timeout(Duration::ZERO);
    result
}
