//! The outbox: events about manifests that the bus hasn't accepted yet.
//!
//! A committed manifest without `announced_at`, and a failed one without `alerted_at`, *is* the outbox. `announce` and
//! `alert` publish at the change; what they leave, because the breaker is open or a process died, the sweep publishes.
//! Workers need no event to find a manifest, but others listen too: one that was converted before it could be announced is
//! announced all the same, so that each is at least once.

mod events;

use std::{sync::Arc, time::Duration};

use penstock_engine::{
    breaker::{self, Breaker},
    cloud::{
        EventBus, Table,
        event_bus::Event,
        limits::EVENTS_PER_PUT,
        table::{Carried, Condition, Write, carry_out},
    },
    operator::OperatorError,
    time::{Clock, format_time},
};
use serde::Serialize;
use tokio::time::Instant;

use events::{Deferred, Published};

use crate::{
    model::{
        FILES_FAILED, MANIFEST_FAILED, MANIFEST_READY, ManifestFailed, ManifestItem, ManifestReady, ManifestState,
        SCHEMA_VERSION, SOURCE, attribute,
    },
    spans,
};

/// Failures in a row that open the breaker, and how long it stays open.
const BREAKER: (u32, Duration) = (3, Duration::from_secs(30));

/// Publishes events about manifests and marks them as published.
pub struct Outbox {
    table: Arc<dyn Table>,
    bus: Arc<dyn EventBus>,
    breaker: Breaker,
    clock: Clock,
}

/// An event that a manifest owes the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owed {
    /// ManifestReady.
    Announcement,
    /// ManifestFailed or FilesFailed.
    Alert,
}

impl Owed {
    /// What it is.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Announcement => "an announcement that the bus hadn't accepted",
            Self::Alert => "an alert that the bus hadn't accepted",
        }
    }

    /// The attribute that says that it was published.
    fn mark(self) -> &'static str {
        match self {
            Self::Announcement => "announced_at",
            Self::Alert => "alerted_at",
        }
    }
}

/// What a manifest owes, by its item alone, in the order in which it is to be published.
pub fn owed(manifest: &ManifestItem) -> Vec<Owed> {
    use ManifestState::{Completed, Failed, Pending, Processing};
    let may_be_announced = match manifest.status {
        // Nobody needs to be woken for one that isn't due: it is announced once it goes on.
        Pending => manifest.retry_at.is_none(),
        state => matches!(state, Processing | Completed | Failed),
    };
    let has_failures =
        manifest.status == Failed || (manifest.status == Completed && manifest.failed_files.unwrap_or_default() > 0);
    let announcement = (may_be_announced && manifest.announced_at.is_none()).then_some(Owed::Announcement);
    let alert = (has_failures && manifest.alerted_at.is_none()).then_some(Owed::Alert);
    announcement.into_iter().chain(alert).collect()
}

impl Outbox {
    /// An outbox on this table and bus.
    pub fn new(table: Arc<dyn Table>, bus: Arc<dyn EventBus>, clock: Clock) -> Self {
        Self { table, bus, breaker: Breaker::new(BREAKER.0, BREAKER.1), clock }
    }

    /// Publishes what these manifests owe. Returns how many were published; with the breaker open that is none, and no
    /// error: the items say what is still owed.
    pub async fn publish(&mut self, manifests: &[(ManifestItem, Owed)]) -> Result<usize, OperatorError> {
        let mut published = 0;
        for batch in manifests.chunks(EVENTS_PER_PUT) {
            let events =
                batch.iter().map(|(manifest, owed)| self.event(manifest, *owed)).collect::<Result<Vec<_>, _>>()?;
            if !self.breaker.allow(Instant::now()) {
                Deferred { bus: self.bus.name(), events: events.len() }.emit();
                return Ok(published);
            }
            let put = self.bus.put(&events).await;
            let failure = match &put {
                Err(error) => Some(error.to_string()),
                Ok(results) => results.iter().find_map(|result| result.as_ref().err().map(ToString::to_string)),
            };
            self.breaker.record(failure.is_none(), Instant::now());
            breaker::show(self.bus.name(), self.breaker.state());
            for ((manifest, owed), _) in batch.iter().zip(put.unwrap_or_default()).filter(|(_, result)| result.is_ok())
            {
                self.mark(manifest, *owed).await?;
                published += 1;
            }
            if let Some(failure) = failure {
                metrics::counter!("penstock_events_failed_total").increment(1);
                return Err(OperatorError::transient(format!("bus {} refused an event: {failure}", self.bus.name())));
            }
        }
        Ok(published)
    }

    fn event(&self, manifest: &ManifestItem, owed: Owed) -> Result<Event, OperatorError> {
        let now = self.clock.now();
        let (detail_type, detail) = match owed {
            Owed::Announcement => (MANIFEST_READY, to_json(&ManifestReady::of(manifest, format_time(now)))?),
            Owed::Alert => {
                let whole = manifest.status == ManifestState::Failed;
                let failed = ManifestFailed {
                    manifest_path: manifest.manifest_path.clone(),
                    date_prefix: manifest.date_prefix.clone(),
                    file_key: manifest.file_key.clone(),
                    manifest_id: manifest.id().to_owned(),
                    file_count: manifest.file_count,
                    failed_files: if whole { manifest.file_count } else { manifest.failed_files.unwrap_or_default() },
                    attempts: manifest.attempt,
                    error: manifest.error_message.clone().unwrap_or_default(),
                    timestamp: format_time(now),
                    schema_version: SCHEMA_VERSION,
                };
                (if whole { MANIFEST_FAILED } else { FILES_FAILED }, to_json(&failed)?)
            }
        };
        Ok(Event { source: SOURCE.to_owned(), detail_type: detail_type.to_owned(), detail, time: now })
    }

    async fn mark(&self, manifest: &ManifestItem, owed: Owed) -> Result<(), OperatorError> {
        // The from-state is any in which the event can have been owed; a worker may have been quicker than this mark.
        let states =
            [ManifestState::Pending, ManifestState::Processing, ManifestState::Completed, ManifestState::Failed];
        let condition = Condition::absent(owed.mark())
            .and(Condition::one_of(attribute::STATUS, states.map(|state| state.as_str().to_owned())));
        let now = self.clock.now();
        let write = Write::update(manifest.key(), condition).set(owed.mark(), format_time(now));
        let is_first = matches!(carry_out(&*self.table, &write).await?, Carried::Applied(_));
        Published { manifest, owed, again: !is_first }.emit();
        if is_first {
            spans::published(manifest, owed, now);
        }
        Ok(())
    }
}

fn to_json(detail: &impl Serialize) -> Result<serde_json::Value, OperatorError> {
    serde_json::to_value(detail).map_err(|error| OperatorError::permanent(format!("event can't be written: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(status: &str, more: &serde_json::Value) -> ManifestItem {
        let mut item = serde_json::json!({
            "date_prefix": "2026-02-01",
            "file_key": "MANIFEST#batch-0001-20260201-120000-7f3a9c.json",
            "status": status,
            "manifest_path": "s3://manifests/batch-0001-20260201-120000-7f3a9c.json",
            "created_at": "2026-02-01T12:00:00.000Z",
            "schema_version": 1,
        });
        for (name, value) in more.as_object().unwrap() {
            item[name] = value.clone();
        }
        serde_json::from_value(item).unwrap()
    }

    #[test]
    fn i8_every_committed_manifest_owes_an_announcement_whatever_has_become_of_it() {
        let owes = |status: &str, more: serde_json::Value| owed(&manifest(status, &more));
        for status in ["pending", "processing", "completed"] {
            assert_eq!(owes(status, serde_json::json!({})), [Owed::Announcement], "{status}");
            assert_eq!(owes(status, serde_json::json!({"announced_at": "x"})), [], "{status}");
        }
        for status in ["assembling", "abandoned"] {
            assert_eq!(owes(status, serde_json::json!({})), [], "{status} is not committed");
        }
        assert_eq!(owes("pending", serde_json::json!({"retry_at": "2026-02-01T12:00:00Z"})), [], "it isn't due");
        assert_eq!(owes("failed", serde_json::json!({})), [Owed::Announcement, Owed::Alert], "in this order");
        let partly = serde_json::json!({"failed_files": 1, "announced_at": "x"});
        assert_eq!(owes("completed", partly), [Owed::Alert]);
    }
}
