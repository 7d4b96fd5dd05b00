//! Deaths at every point, seeds of chaos and planted bugs.
//!
//! `PENSTOCK_SEEDS=5000 cargo test -p penstock-tests --test chaos` runs more seeds than the default; `PENSTOCK_SEED=17` runs
//! one again, as a failure tells, and draws another course of the deaths.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod crashes;
mod paused;
mod planted;
mod seeds;
mod settling;

use paused::{simulate, simulate_seed};
