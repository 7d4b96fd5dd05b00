//! What happens to objects that records are gathered in: each event is one log line and one metric together.

use object_store::path::Path;
use penstock_engine::operator::OperatorError;

use super::gathering::Reason;

/// A record came again, after later ones.
pub(super) struct OutOfOrder<'a> {
    pub operator: &'a str,
    pub origin: Option<&'a str>,
}

impl OutOfOrder<'_> {
    pub fn emit(self) {
        let Self { operator, origin } = self;
        metrics::counter!("penstock_records_out_of_order_total", "component_id" => operator.to_owned()).increment(1);
        tracing::warn!(operator, origin, "A record came again, after later ones.");
    }
}

/// An object couldn't be written; it is tried again.
pub(super) struct ObjectWriteFailed<'a> {
    pub operator: &'a str,
    pub bucket: &'a str,
    pub error: &'a OperatorError,
}

impl ObjectWriteFailed<'_> {
    pub fn emit(self) {
        let Self { operator, bucket, error } = self;
        metrics::counter!("penstock_object_writes_failed_total", "component_id" => operator.to_owned()).increment(1);
        tracing::warn!(operator, bucket, %error, "An object can't be written yet.");
    }
}

/// An object is durable.
pub(super) struct ObjectWritten<'a> {
    pub operator: &'a str,
    pub key: &'a Path,
    pub records: usize,
    pub bytes: u64,
    pub reason: Reason,
}

impl ObjectWritten<'_> {
    pub fn emit(self) {
        let Self { operator, key, records, bytes, reason } = self;
        let (id, reason) = (|| operator.to_owned(), reason.as_str());
        metrics::counter!("penstock_objects_written_total", "component_id" => id(), "reason" => reason).increment(1);
        metrics::counter!("penstock_objects_written_bytes_total", "component_id" => id()).increment(bytes);
        metrics::counter!("penstock_objects_written_records_total", "component_id" => id()).increment(records as u64);
        tracing::debug!(operator, %key, records, bytes, reason, "Object written.");
    }
}

/// An object was there already, and holds the records.
pub(super) struct ObjectAdopted<'a> {
    pub operator: &'a str,
    pub key: &'a Path,
    pub records: usize,
}

impl ObjectAdopted<'_> {
    pub fn emit(self) {
        let Self { operator, key, records } = self;
        metrics::counter!("penstock_objects_adopted_total", "component_id" => operator.to_owned()).increment(1);
        tracing::info!(operator, %key, records, "Object found: its records are durable.");
    }
}
