//! What the end-to-end tests of Penstock share.
//!
//! Some run the real program as a child process, in a temporary folder, and judge it by what it leaves there: the items
//! of its table, the Parquet that readers see, the rejects, the quarantine. Others simulate the whole pipeline in one
//! thread, where time is paused and every fault is drawn from a seed.
//!
//! - [`program`]: a child that is waited for with a deadline, stopped, or killed;
//! - [`place`]: a temporary folder with a local cloud in it;
//! - [`parquet_rows`]: rows as readers see them, and the rows that NDJSON text must become;
//! - [`mod@reference`]: what a single line must become, by a strict parser;
//! - [`conservation`]: whether every line that went in came out exactly once (I1);
//! - [`rebuilt`]: the real operators, built on another way to the cloud; [`death`]: to die at a named point by a real kill -9;
//! - [`cost`]: the requests of a run, counted;
//! - [`memory`]: a cloud in memory, on tokio's clock;
//! - [`simulation`]: several processes of the pipeline on it, that may be paused and killed between any two requests.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a suite fails by panicking")]

pub mod conservation;
pub mod cost;
pub mod death;
pub mod memory;
pub mod parquet_rows;
pub mod place;
pub mod program;
pub mod rebuilt;
pub mod reference;
pub mod simulation;

use std::time::{Duration, Instant};

/// How long anything may take that has no limit of its own. Far above what it takes on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until `look` finds something. Panics with `what` once `limit` has passed.
pub fn wait_for<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
