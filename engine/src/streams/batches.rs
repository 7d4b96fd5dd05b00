//! Batches: which changes are handed on together, and when. No I/O; the time is given.
//!
//! A batch goes when it is full, or when its first change has waited for the window. At most so many batches are out at
//! once; one is back when each of its changes has had a verdict, good or bad.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

/// The changes of a shard whose turn has come, and the batches that are out.
#[derive(Debug)]
pub struct Batches {
    records: usize,
    window: Duration,
    parallel: usize,
    ready: VecDeque<(u64, Instant)>,
    /// How many verdicts each batch still lacks.
    out: BTreeMap<u64, usize>,
    next: u64,
}

impl Batches {
    /// Batches of up to `records` changes, of which each waits at most for `window`; up to `parallel` of them at once.
    pub fn new(records: usize, window: Duration, parallel: usize) -> Self {
        Self { records, window, parallel, ready: VecDeque::new(), out: BTreeMap::new(), next: 0 }
    }

    /// A change is ready to be handed on.
    pub fn push(&mut self, id: u64, now: Instant) {
        self.ready.push_back((id, now));
    }

    /// When the next batch may go; none while nothing is ready or enough are out. `hurry`: nothing more will come.
    pub fn due(&self, hurry: bool) -> Option<Instant> {
        let (_, since) = self.ready.front()?;
        if self.out.len() >= self.parallel {
            return None;
        }
        let full = hurry || self.ready.len() >= self.records;
        Some(if full { *since } else { *since + self.window })
    }

    /// Takes out the next batch: its number, and its changes.
    pub fn take(&mut self) -> (u64, Vec<u64>) {
        let count = self.ready.len().min(self.records);
        let ids: Vec<u64> = self.ready.drain(..count).map(|(id, _)| id).collect();
        let batch = self.next;
        if !ids.is_empty() {
            self.next += 1;
            self.out.insert(batch, ids.len());
        }
        (batch, ids)
    }

    /// A change of this batch has had a verdict.
    pub fn answered(&mut self, batch: u64) {
        if let Some(lacking) = self.out.get_mut(&batch) {
            *lacking -= 1;
            if *lacking == 0 {
                self.out.remove(&batch);
            }
        }
    }

    /// Whether every change that was handed on has had a verdict.
    pub fn all_answered(&self) -> bool {
        self.out.is_empty()
    }

    /// Whether there is something to hand on, and nothing more may go before verdicts come back.
    pub fn is_full(&self) -> bool {
        !self.ready.is_empty() && self.out.len() >= self.parallel
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_batch_goes_when_it_is_full_or_its_first_change_has_waited_for_the_window() {
        let (now, window) = (Instant::now(), Duration::from_secs(5));
        let mut batches = Batches::new(3, window, 2);
        assert_eq!(batches.due(false), None);
        batches.push(0, now);
        batches.push(1, now + Duration::from_secs(1));
        assert_eq!(batches.due(false), Some(now + window));
        assert_eq!(batches.due(true), Some(now), "nothing more will come");
        batches.push(2, now + Duration::from_secs(2));
        batches.push(3, now + Duration::from_secs(2));
        assert_eq!(batches.due(false), Some(now));
        assert_eq!(batches.take(), (0, vec![0, 1, 2]));
        assert_eq!(batches.due(false), Some(now + Duration::from_secs(7)), "the next one has a window of its own");
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_batches_are_out_at_once_and_one_is_back_with_its_last_verdict() {
        let now = Instant::now();
        let mut batches = Batches::new(2, Duration::ZERO, 2);
        (0..6).for_each(|id| batches.push(id, now));
        let (first, _) = batches.take();
        batches.take();
        assert!(batches.due(false).is_none() && batches.is_full());
        batches.answered(first);
        assert_eq!(batches.due(false), None);
        batches.answered(first);
        assert_eq!(batches.due(false), Some(now));
        assert_eq!(batches.take(), (2, vec![4, 5]));
        for batch in [1, 1, 2, 2] {
            assert!(!batches.all_answered());
            batches.answered(batch);
        }
        assert!(batches.all_answered());
    }
}
