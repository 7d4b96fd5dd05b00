//! What happens to events that manifests owe: each is one log line and one metric together.

use super::Owed;
use crate::model::ManifestItem;

/// The breaker is open: the items say what is still owed.
pub(super) struct Deferred<'a> {
    pub bus: &'a str,
    pub events: usize,
}

impl Deferred<'_> {
    pub fn emit(self) {
        let Self { bus, events } = self;
        metrics::counter!("penstock_events_deferred_total").increment(events as u64);
        tracing::warn!(bus, events, "Breaker open; left to the sweep.");
    }
}

/// The bus took an event.
pub(super) struct Published<'a> {
    pub manifest: &'a ManifestItem,
    pub owed: Owed,
    /// Whether it was published before, by somebody who was quicker with the mark.
    pub again: bool,
}

impl Published<'_> {
    pub fn emit(self) {
        let (manifest, event) = (self.manifest.id(), self.owed.mark());
        if self.again {
            metrics::counter!("penstock_events_repeated_total").increment(1);
            tracing::info!(manifest, event, "Event published a second time.");
        } else {
            tracing::info!(manifest, event, "Event published.");
        }
    }
}
