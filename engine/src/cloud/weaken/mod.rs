//! Decorators that take strength away, for simulation.
//!
//! The contract of the seam is weak: reads may be stale, queues duplicate and reorder, a write may land after its error.
//! A cloud that is stronger than its contract hides bugs, so each decorator here makes one resource as weak as the
//! contract allows, at rates given by a [`Weakness`]. What is weak and when is drawn from a seed, and times are tokio's,
//! so that a run on one thread with paused time can be repeated exactly.

mod bus;
mod past;
mod queue;
mod stage;
mod stream;
mod table;
#[cfg(test)]
mod tests;

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};

pub use self::{bus::WeakEventBus, queue::WeakQueue, stage::WeakStage, stream::WeakChangeStream, table::WeakTable};
use super::{CloudError, ErrorKind, Result};

/// How weak a cloud is: probabilities between 0 and 1, each drawn anew for each request, message or item.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weakness {
    /// A request is refused as too frequent; it has no effect.
    pub throttle: f64,
    /// A request fails and has no effect.
    pub fault_before: f64,
    /// A request takes effect and its answer is lost. A table's write is then unknown, anything else unavailable.
    pub fault_after: f64,
    /// A table's write is unknown and lands later, within `lag`, if its condition holds then.
    pub late_write: f64,
    /// A table's write is unknown and never lands.
    pub lost_write: f64,
    /// An eventual read of a table answers from the past.
    pub stale_read: f64,
    /// A query of an index answers from the past, each item from another one.
    pub stale_index: f64,
    /// A page holds nothing, or less than it could, though more follow.
    pub empty_page: f64,
    /// A listing of shards lacks its newest shard, or shows a closed one as open.
    pub stale_listing: f64,
    /// A shard iterator has expired.
    pub expired_iterator: f64,
    /// A message is delivered again, or an event put twice.
    pub duplicate: f64,
    /// A message is held back, or a batch shuffled.
    pub reorder: f64,
    /// How far the past reaches back, and how late what is late may come.
    pub lag: Duration,
}

impl Weakness {
    /// No weakness: the thing itself.
    pub const fn none() -> Self {
        Self {
            throttle: 0.0,
            fault_before: 0.0,
            fault_after: 0.0,
            late_write: 0.0,
            lost_write: 0.0,
            stale_read: 0.0,
            stale_index: 0.0,
            empty_page: 0.0,
            stale_listing: 0.0,
            expired_iterator: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            lag: Duration::ZERO,
        }
    }

    /// Far weaker than a good day on AWS, and no weaker than a bad one.
    pub const fn typical() -> Self {
        Self {
            throttle: 0.02,
            fault_before: 0.02,
            fault_after: 0.02,
            late_write: 0.02,
            lost_write: 0.01,
            stale_read: 0.2,
            stale_index: 0.5,
            empty_page: 0.1,
            stale_listing: 0.1,
            expired_iterator: 0.02,
            duplicate: 0.05,
            reorder: 0.2,
            lag: Duration::from_secs(2),
        }
    }
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Throttled,
    FailsBefore,
    FailsAfter,
    Goes,
}

impl Fate {
    /// The error that the caller sees.
    fn error(self, operation: &str) -> CloudError {
        let (kind, message) = match self {
            Self::Throttled => (ErrorKind::Throttled, "throttled on purpose"),
            Self::FailsBefore => (ErrorKind::Unavailable, "failed on purpose, before its effect"),
            Self::FailsAfter | Self::Goes => (ErrorKind::Unavailable, "answer lost on purpose, after its effect"),
        };
        CloudError::new(kind, operation, message)
    }
}

/// A weakness and the dice that decide when it shows.
#[derive(Debug)]
struct Dice {
    weakness: Weakness,
    rng: Mutex<StdRng>,
}

impl Dice {
    fn new(weakness: Weakness, seed: u64) -> Self {
        Self { weakness, rng: Mutex::new(StdRng::seed_from_u64(seed)) }
    }

    fn rng(&self) -> MutexGuard<'_, StdRng> {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chance(&self, probability: f64) -> bool {
        self.rng().random::<f64>() < probability
    }

    /// A time between nothing and the lag.
    fn delay(&self) -> Duration {
        self.weakness.lag.mul_f64(self.rng().random())
    }

    /// A number from 1 to `most`.
    fn up_to(&self, most: usize) -> usize {
        self.rng().random_range(1..=most.max(1))
    }

    fn fate(&self) -> Fate {
        let Weakness { throttle, fault_before, fault_after, .. } = self.weakness;
        let drawn: f64 = self.rng().random();
        if drawn < throttle {
            Fate::Throttled
        } else if drawn < throttle + fault_before {
            Fate::FailsBefore
        } else if drawn < throttle + fault_before + fault_after {
            Fate::FailsAfter
        } else {
            Fate::Goes
        }
    }

    /// A request, with whatever becomes of it.
    async fn through<T>(&self, operation: &str, request: impl Future<Output = Result<T>>) -> Result<T> {
        match self.fate() {
            Fate::Goes => request.await,
            Fate::FailsAfter => request.await.and_then(|_| Err(Fate::FailsAfter.error(operation))),
            fate => Err(fate.error(operation)),
        }
    }

    /// A batch of which each entry has its own fate; the request gets those that reach the other side.
    async fn each_through<E: Clone, T, F>(
        &self,
        operation: &str,
        entries: &[E],
        request: impl FnOnce(Vec<E>) -> F,
    ) -> Result<Vec<Result<T>>>
    where
        F: Future<Output = Result<Vec<Result<T>>>>,
    {
        let fates: Vec<Fate> = entries.iter().map(|_| self.fate()).collect();
        let arrives = |fate: &Fate| matches!(fate, Fate::Goes | Fate::FailsAfter);
        let arriving: Vec<E> =
            entries.iter().zip(&fates).filter(|(_, fate)| arrives(fate)).map(|(entry, _)| entry.clone()).collect();
        // Nobody sends an empty batch.
        let answers = if arriving.is_empty() { Vec::new() } else { request(arriving).await? };
        let mut answers = answers.into_iter();
        let mut results = Vec::with_capacity(fates.len());
        for fate in fates {
            let answer = if arrives(&fate) { answers.next() } else { None };
            results.push(match (fate, answer) {
                (Fate::Goes, Some(answer)) => answer,
                (Fate::FailsAfter, Some(Err(error))) => Err(error),
                (fate, _) => Err(fate.error(operation)),
            });
        }
        Ok(results)
    }
}
