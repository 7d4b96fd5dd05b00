//! Event buses: events matched by rules and sent to targets.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::Value;

use super::Result;

/// An event bus, at the level of EventBridge's operations. Delivery is at least once, unordered.
#[async_trait]
pub trait EventBus: Send + Sync {
    /// The bus's full name.
    fn name(&self) -> &str;

    /// Fails if there is no such bus. PutEvents doesn't: it answers success.
    async fn check(&self) -> Result<()>;

    /// Puts the events; one result each, in order: the event's id. Only those that failed are to be put again.
    async fn put(&self, events: &[Event]) -> Result<Vec<Result<String>>>;
}

/// An event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Who says it, e.g. `etl.pipeline`.
    pub source: String,
    /// What happened, e.g. `ManifestReady`; at most 128 characters.
    pub detail_type: String,
    /// The particulars: a JSON object.
    pub detail: Value,
    /// When it happened.
    pub time: DateTime<Utc>,
}
