//! What more than one operator comes upon: each event is one log line and one metric together.

/// A reading of the index showed an item that nobody can read. It is passed over: it keeps no other waiting.
pub(crate) struct ItemUnreadable<E> {
    pub error: E,
}

impl<E: std::fmt::Display> ItemUnreadable<E> {
    pub fn emit(self) {
        metrics::counter!("penstock_unreadable_items_total").increment(1);
        tracing::warn!(error = %self.error, "Item of the index can't be read; it is passed over.");
    }
}
