//! Tells operators that keep a view of a table that changes of it were lost to the stream's retention, so that they make
//! the view again from what they have besides the stream: what `on_trimmed: reconcile` promises.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

static GAPS: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

/// How many gaps this process's consumers have read on behind, of a table with the policy `reconcile`. Whoever sees it
/// grow should read anew what the view is a view of.
pub fn gaps_of_process(table: &str) -> u64 {
    GAPS.lock().unwrap_or_else(PoisonError::into_inner).get(table).copied().unwrap_or(0)
}

/// A consumer reads on behind a gap.
pub(super) fn note(table: &str) {
    let mut gaps = GAPS.lock().unwrap_or_else(PoisonError::into_inner);
    *gaps.entry(table.to_owned()).or_default() += 1;
}
