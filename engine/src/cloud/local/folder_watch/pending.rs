//! Keys that are to be looked at, by the time when that is due.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use tokio::time::Instant;

use crate::cloud::local::bucket::Stamp;

/// Why a key is looked at. The later, the surer: a surer reason replaces another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    /// A file was made, and its end will be told.
    Made,
    /// A file was found or changed, and nobody will tell its end: it must stand still.
    Found,
    /// What is there is whole.
    Whole,
}

/// A look that is due at some time.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pub(super) key: Arc<str>,
    pub(super) reason: Reason,
    /// How the file looked before, and since when.
    pub(super) sighting: Option<(Stamp, Instant)>,
    /// How often it failed.
    pub(super) failures: u32,
}

/// Looks that failed so often are no reason to wait for the watch to settle.
const HOPELESS: u32 = 3;

/// The looks that wait, one a key.
#[derive(Debug, Default)]
pub(super) struct Pending {
    looks: HashMap<Arc<str>, (Instant, Look)>,
    due: BTreeSet<(Instant, Arc<str>)>,
    hopeless: usize,
}

impl Pending {
    /// Adds a look. Of two at one key the sooner and the surer counts.
    pub(super) fn add(&mut self, mut due: Instant, mut look: Look) {
        if let Some((other_due, other)) = self.remove(&look.key.clone()) {
            due = if look.failures > 0 { due } else { due.min(other_due) };
            look.reason = look.reason.max(other.reason);
            look.sighting = look.sighting.or(other.sighting);
        }
        self.hopeless += usize::from(look.failures >= HOPELESS);
        self.due.insert((due, look.key.clone()));
        self.looks.insert(look.key.clone(), (due, look));
    }

    /// Takes the look that is due first, if it is due now.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Look> {
        let (due, key) = self.due.first().cloned()?;
        if due > now {
            return None;
        }
        self.remove(&key).map(|(_, look)| look)
    }

    /// When the next one is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.looks.len()
    }

    /// Whether none waits but those that keep failing.
    pub(super) fn is_settled(&self) -> bool {
        self.looks.len() == self.hopeless
    }

    fn remove(&mut self, key: &Arc<str>) -> Option<(Instant, Look)> {
        let (due, look) = self.looks.remove(key)?;
        self.due.remove(&(due, key.clone()));
        self.hopeless -= usize::from(look.failures >= HOPELESS);
        Some((due, look))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_sooner_and_the_surer_counts() {
        let now = Instant::now();
        let look = |key: &str, reason, failures| Look { key: key.into(), reason, sighting: None, failures };
        let mut pending = Pending::default();
        pending.add(now + Duration::from_secs(2), look("a", Reason::Found, 0));
        pending.add(now + Duration::from_secs(1), look("b", Reason::Found, 3));
        assert!(pending.take_due(now).is_none());
        pending.add(now, look("a", Reason::Whole, 0));
        assert_eq!((pending.len(), pending.next_due()), (2, Some(now)));
        let taken = pending.take_due(now).unwrap();
        assert_eq!((&*taken.key, taken.reason), ("a", Reason::Whole));
        assert!(pending.is_settled(), "what keeps failing isn't waited for");
        pending.add(now, look("b", Reason::Whole, 0));
        assert!(!pending.is_settled());
    }
}
