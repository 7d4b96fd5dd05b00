//! Acks: the verdict on a record travels back from its last effect to its source.
//!
//! A source gives each record an [`Ack`]. Whoever hands the record on, or makes further records of it, clones the ack;
//! each clone must be given a [`Verdict`] once. When the last one is gone the source gets the worst of them. An ack that
//! is dropped without a verdict counts as a failure: a forgotten record is a bug, and bugs must not lose data.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::mpsc;

/// How the handling of a record ended. A later variant is worse than an earlier one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Every effect of it is durable, or it needs none.
    Done,
    /// It failed for now: the source should offer it again.
    Retry(String),
    /// It can never succeed: dead-letter it with this reason.
    Dead(String),
}

/// The duty to give one verdict on a record, or on a part of it.
#[derive(Debug)]
pub struct Ack {
    shared: Arc<Shared>,
    settled: bool,
}

#[derive(Debug)]
struct Shared {
    id: u64,
    origin: Option<Arc<str>>,
    worst: Mutex<Verdict>,
    verdicts: mpsc::UnboundedSender<(u64, Verdict)>,
}

impl Ack {
    /// An ack that sends `(id, verdict)` to `verdicts` once all its clones have one.
    ///
    /// The channel is unbounded because a verdict is given in `drop`; the source bounds it by what it has in flight.
    pub fn new(id: u64, verdicts: mpsc::UnboundedSender<(u64, Verdict)>) -> Self {
        Self::from_origin(id, verdicts, None)
    }

    /// The same, for a record that stands in an order: `origin` names it, e.g. the shard.
    pub fn from_origin(
        id: u64,
        verdicts: mpsc::UnboundedSender<(u64, Verdict)>,
        origin: impl Into<Option<Arc<str>>>,
    ) -> Self {
        let shared = Shared { id, origin: origin.into(), worst: Mutex::new(Verdict::Done), verdicts };
        Self { shared: Arc::new(shared), settled: false }
    }

    /// The order in which the record stands: records of one origin were emitted in it. None if they have no order.
    pub fn origin(&self) -> Option<&Arc<str>> {
        self.shared.origin.as_ref()
    }

    /// Gives the verdict.
    pub fn settle(mut self, verdict: Verdict) {
        self.record(verdict);
    }

    fn record(&mut self, verdict: Verdict) {
        self.settled = true;
        let mut worst = self.shared.worst.lock().unwrap_or_else(PoisonError::into_inner);
        if verdict > *worst {
            *worst = verdict;
        }
    }
}

impl Clone for Ack {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), settled: false }
    }
}

impl Drop for Ack {
    fn drop(&mut self) {
        if !self.settled {
            self.record(Verdict::Retry("dropped without a verdict".to_owned()));
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let worst = self.worst.get_mut().unwrap_or_else(PoisonError::into_inner);
        let verdict = mem::replace(worst, Verdict::Done);
        // A source that is gone has given its records back already: their verdicts have nowhere to go.
        if self.verdicts.send((self.id, verdict)).is_err() {
            tracing::trace!(id = self.id, "Verdict for a source that has stopped.");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn verdict(kind: u8) -> Option<Verdict> {
        match kind {
            0 => Some(Verdict::Done),
            1 => Some(Verdict::Retry("r".to_owned())),
            2 => Some(Verdict::Dead("d".to_owned())),
            _ => None,
        }
    }

    proptest! {
        #[test]
        fn the_worst_verdict_of_all_parts_counts(kinds in prop::collection::vec(0_u8..4, 1..8)) {
            let (sender, mut receiver) = mpsc::unbounded_channel();
            let root = Ack::new(7, sender);
            let parts: Vec<Ack> = kinds.iter().map(|_| root.clone()).collect();
            root.settle(Verdict::Done);
            for (part, kind) in parts.into_iter().zip(&kinds) {
                prop_assert!(receiver.try_recv().is_err(), "a verdict came before the last part had one");
                match verdict(*kind) {
                    Some(verdict) => part.settle(verdict),
                    None => drop(part),
                }
            }
            let (id, got) = receiver.try_recv().unwrap();
            let dropped = Verdict::Retry("dropped without a verdict".to_owned());
            let worst = kinds.iter().map(|kind| verdict(*kind).unwrap_or(dropped.clone())).max().unwrap();
            prop_assert_eq!(id, 7);
            prop_assert_eq!(mem::discriminant(&got), mem::discriminant(&worst));
            prop_assert!(receiver.try_recv().is_err(), "more than one verdict for a record");
        }
    }
}
