//! The frontier of a shard: how far the contiguous prefix of acked changes reaches (I5). No I/O.

use std::collections::VecDeque;

use crate::cloud::change_stream::SequenceNumber;

/// The changes of one shard from the frontier on, in order, each with what is kept of it until it is acked.
#[derive(Debug)]
pub struct Frontier<T> {
    /// The id of the first entry.
    first: u64,
    entries: VecDeque<(SequenceNumber, Option<T>)>,
    acked: Option<SequenceNumber>,
    waiting: usize,
}

impl<T> Frontier<T> {
    /// A frontier that stands at a checkpoint, or before the first change.
    pub fn new(checkpoint: Option<SequenceNumber>) -> Self {
        Self { first: 0, entries: VecDeque::new(), acked: checkpoint, waiting: 0 }
    }

    /// Adds the next change of the shard; returns its id.
    pub fn push(&mut self, sequence: SequenceNumber, value: T) -> u64 {
        self.entries.push_back((sequence, Some(value)));
        self.waiting += 1;
        self.first + self.entries.len() as u64 - 1
    }

    /// What is kept of a change that isn't acked yet.
    pub fn get_mut(&mut self, id: u64) -> Option<&mut T> {
        let at = usize::try_from(id.checked_sub(self.first)?).ok()?;
        self.entries.get_mut(at)?.1.as_mut()
    }

    /// Acks a change, and moves the frontier over all that is acked without a gap. Returns what was kept of it; nothing
    /// if it was acked before.
    pub fn ack(&mut self, id: u64) -> Option<T> {
        let at = usize::try_from(id.checked_sub(self.first)?).ok()?;
        let value = self.entries.get_mut(at)?.1.take()?;
        self.waiting -= 1;
        while let Some((sequence, None)) = self.entries.front() {
            self.acked = Some(sequence.clone());
            self.entries.pop_front();
            self.first += 1;
        }
        Some(value)
    }

    /// The last change of the acked prefix: what a checkpoint may say.
    pub fn acked(&self) -> Option<&SequenceNumber> {
        self.acked.as_ref()
    }

    /// The newest acked change, whatever is left before it: what a checkpoint may never say.
    #[cfg(test)]
    pub fn newest_acked(&self) -> Option<&SequenceNumber> {
        let acked = self.entries.iter().rev().find(|(_, value)| value.is_none());
        acked.map(|(sequence, _)| sequence).or(self.acked.as_ref())
    }

    /// The first change that isn't acked.
    pub fn oldest(&self) -> Option<&T> {
        self.entries.front().and_then(|(_, value)| value.as_ref())
    }

    /// Changes past the frontier, acked or not: what a pinned frontier makes grow.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether every change is acked.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Changes that aren't acked.
    pub fn waiting(&self) -> usize {
        self.waiting
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn sequence(n: usize) -> SequenceNumber {
        SequenceNumber(n.to_string())
    }

    proptest! {
        /// I5, F30: whatever the order of acks, the frontier is the end of the acked prefix and nothing else.
        #[test]
        fn i5_f30_the_frontier_is_the_end_of_the_acked_prefix(order in Just((0..40_usize).collect::<Vec<_>>()).prop_shuffle(),
                                                              acks in 0..40_usize) {
            let mut frontier = Frontier::new(None);
            let ids: Vec<u64> = (0..40).map(|n| frontier.push(sequence(n + 1), n)).collect();
            let mut acked = BTreeSet::new();
            for n in order.into_iter().take(acks) {
                prop_assert_eq!(frontier.get_mut(ids[n]).copied(), Some(n));
                prop_assert_eq!(frontier.ack(ids[n]), Some(n));
                prop_assert_eq!(frontier.ack(ids[n]), None, "an ack counts once");
                acked.insert(n);
                let prefix = (0..40).take_while(|n| acked.contains(n)).count();
                let expected = if prefix == 0 { None } else { Some(sequence(prefix)) };
                prop_assert_eq!(frontier.acked().cloned(), expected);
                prop_assert_eq!(frontier.len(), 40 - prefix);
                prop_assert_eq!(frontier.waiting(), 40 - acked.len());
                prop_assert_eq!(frontier.oldest().copied(), (prefix < 40).then_some(prefix));
            }
        }
    }

    #[test]
    fn a_frontier_stands_at_its_checkpoint_until_something_is_acked() {
        let mut frontier = Frontier::new(Some(sequence(7)));
        let id = frontier.push(sequence(9), ());
        assert_eq!(frontier.acked(), Some(&sequence(7)));
        frontier.ack(id);
        assert_eq!(frontier.acked(), Some(&sequence(9)));
        assert_eq!(frontier.ack(id + 1), None);
    }
}
