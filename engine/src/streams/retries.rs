//! What becomes of a change after a verdict: when it is offered again, and when it goes to the dead letters (F29). The
//! decision has no I/O and no clock.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use super::options::ChangeStreamOptions;
use crate::ack::Verdict;

/// The longest wait before a failing change is offered again.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// What becomes of a change.
pub(super) enum Next<Q> {
    /// Its effects are durable.
    Done,
    /// It is offered again after the wait. `used_up`: it would be dead-lettered if there were a queue for that.
    Again { reason: String, wait: Duration, used_up: bool },
    /// It goes to the dead letters.
    DeadLetter { queue: Q, reason: String },
}

/// Decides after the `attempts`th verdict. `queue` takes the dead letters, if there is one.
pub(super) fn after<Q>(verdict: Verdict, attempts: u32, options: &ChangeStreamOptions, queue: Option<Q>) -> Next<Q> {
    let (reason, used_up) = match verdict {
        Verdict::Done => return Next::Done,
        Verdict::Retry(reason) => (reason, attempts >= options.max_attempts),
        Verdict::Dead(reason) => (reason, true),
    };
    if let Some(queue) = queue.filter(|_| used_up) {
        return Next::DeadLetter { queue, reason };
    }
    let doublings = attempts.saturating_sub(1).min(16);
    let wait = options.retry_wait.saturating_mul(1 << doublings).min(WAIT_MAX);
    Next::Again { reason, wait, used_up }
}

/// The changes that wait to be offered again, by time.
#[derive(Debug, Default)]
pub(super) struct Retries(BTreeSet<(Instant, u64)>);

impl Retries {
    pub fn insert(&mut self, at: Instant, id: u64) {
        self.0.insert((at, id));
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Takes out one that is due.
    pub fn take_due(&mut self, now: Instant) -> Option<u64> {
        self.next().filter(|at| *at <= now)?;
        self.0.pop_first().map(|(_, id)| id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A change that fails once would have been skipped, or one that always fails would have held its shard for a day.
    #[test]
    fn f29_a_change_is_offered_again_with_longer_waits_and_then_dead_lettered() {
        let options = ChangeStreamOptions::new("t");
        let waits = (1..5).map(|attempts| match after(Verdict::Retry("r".into()), attempts, &options, Some(())) {
            Next::Again { wait, used_up: false, .. } => wait.as_secs(),
            _ => panic!("attempt {attempts} was the last"),
        });
        assert_eq!(waits.collect::<Vec<_>>(), [1, 2, 4, 8]);
        let is_dead =
            |verdict, attempts| matches!(after(verdict, attempts, &options, Some(())), Next::DeadLetter { .. });
        assert!(is_dead(Verdict::Retry("r".into()), 5));
        assert!(is_dead(Verdict::Dead("d".into()), 1));
        assert!(matches!(after(Verdict::Done, 1, &options, Some(())), Next::Done));
    }

    /// A change that cannot be handled would have been dropped, with no copy of it anywhere.
    #[test]
    fn f29_without_a_dead_letter_queue_a_change_is_offered_for_ever() {
        let options = ChangeStreamOptions::new("t");
        for attempts in [1, 5, 100, u32::MAX] {
            let next = after::<()>(Verdict::Dead("d".into()), attempts, &options, None);
            assert!(matches!(next, Next::Again { used_up: true, wait, .. } if wait <= WAIT_MAX));
        }
    }
}
