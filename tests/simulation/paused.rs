//! Time that only passes when everybody waits.

use std::{future::Future, time::Duration};

/// Runs a simulation with paused time on one thread.
pub fn simulate<T>(simulation: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let result = runtime.block_on(simulation);
    runtime.shutdown_timeout(Duration::ZERO);
    result
}
