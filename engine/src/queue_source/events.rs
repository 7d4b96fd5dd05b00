//! What happens to messages of a queue: each event is one log line and one metric together.

use crate::cloud::CloudError;

/// Why a message goes back to its queue.
pub(super) enum GivenBack<'a> {
    /// It is to come again, after a wait.
    Retry(&'a str),
    /// It can't be handled: its queue counts that, and dead-letters it in the end.
    Dead(&'a str),
    /// The service stops.
    Stop,
}

/// A message goes back to its queue.
pub(super) struct MessageGivenBack<'a> {
    pub source: &'a str,
    pub queue: &'a str,
    pub message_id: &'a str,
    pub why: GivenBack<'a>,
}

impl MessageGivenBack<'_> {
    pub fn emit(self) {
        let Self { source, queue, message_id, why } = self;
        metrics::counter!("penstock_queue_given_back_total", "component_id" => source.to_owned()).increment(1);
        match why {
            GivenBack::Retry(reason) => tracing::warn!(source, queue, message_id, reason, "Message given back."),
            GivenBack::Dead(reason) => tracing::error!(source, queue, message_id, reason, "Message can't be handled."),
            GivenBack::Stop => tracing::debug!(source, queue, message_id, "Message given back: the service stops."),
        }
    }
}

/// A request to the queue failed.
pub(super) struct RequestFailed<'a> {
    pub source: &'a str,
    /// `receive`, `delete`, `give back` or `keep hidden`.
    pub what: &'static str,
    pub error: &'a CloudError,
}

impl RequestFailed<'_> {
    pub fn emit(self) {
        let Self { source, what, error } = self;
        metrics::counter!("penstock_component_errors_total", "component_id" => source.to_owned(), "stage" => what)
            .increment(1);
        tracing::warn!(source, what, %error, "Queue request failed; the message will come again.");
    }
}
