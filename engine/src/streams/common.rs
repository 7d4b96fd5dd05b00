//! What the consumers of one process share, with each other and with operators that keep views of a table.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::discovery::Pace;

/// The pace of DescribeStream, whose limit is the account's (F14), and the gaps that were read on behind. A process makes
/// one, and hands it to all that it runs. Cheap to clone; clones are the same.
///
/// It is never a static: the pace is kept in the runtime's own time, which in a simulation is another one for each run.
#[derive(Debug, Clone)]
pub struct Common {
    pace: Arc<Pace>,
    gaps: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Common {
    /// With a pace of its own.
    pub fn new(pace: Pace) -> Self {
        Self { pace: Arc::new(pace), gaps: Arc::default() }
    }

    /// How many gaps the consumers of this process have read on behind, of a table with the policy `reconcile`; the
    /// beginning of a shard at its latest record is one, too. Whoever sees it grow should read anew what the view is a view
    /// of.
    pub fn gaps(&self, table: &str) -> u64 {
        self.noted().get(table).copied().unwrap_or(0)
    }

    /// A consumer reads on behind a gap: what `on_trimmed: reconcile` promises to tell, and what a first start at the
    /// latest record leaves out.
    pub(super) fn note_gap(&self, table: &str) {
        *self.noted().entry(table.to_owned()).or_default() += 1;
    }

    pub(super) fn pace(&self) -> Arc<Pace> {
        Arc::clone(&self.pace)
    }

    fn noted(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.gaps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Common {
    fn default() -> Self {
        Self::new(Pace::of_describe())
    }
}
