//! `eventbridge`: publishes each record's document as an event.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use penstock_engine::{
    cloud::{
        EventBus,
        event_bus::Event,
        limits::{DETAIL_TYPE_CHARS, EVENT_BYTES, EVENT_SOURCE_CHARS, EVENTS_PER_PUT, event_bytes},
    },
    document,
    graph::{Build, Built, Role, Use},
    operator::{Body, Context, Kind, Operator, OperatorError, Outputs, Record},
    time::Clock,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{requests, shared, unanswered};

/// Options of `eventbridge`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EventBridgeOptions {
    /// The bus.
    pub bus: String,
    /// The `source` of each event.
    pub source: String,
    /// The `detail-type` of each event.
    pub detail_type: String,
}

#[async_trait]
impl Build for EventBridgeOptions {
    const NAME: &'static str = "eventbridge";
    const ABOUT: &'static str = "Publishes each record on an event bus, at least once.";
    const ROLE: Role = Role::Sink;

    fn input() -> Option<Kind> {
        Some(Kind::Any)
    }

    fn uses(&self) -> Vec<Use> {
        vec![Use::shared("bus", &self.bus, &[])]
    }

    fn check(&self) -> Result<(), String> {
        let fits = |name: &str, text: &str, limit: usize| {
            if (1..=limit).contains(&text.chars().count()) {
                return Ok(());
            }
            Err(format!("{name}: must be 1 to {limit} characters"))
        };
        fits("source", &self.source, EVENT_SOURCE_CHARS)?;
        fits("detail_type", &self.detail_type, DETAIL_TYPE_CHARS)?;
        if self.source.starts_with("aws.") {
            return Err("source: names that begin with `aws.` are AWS's own".to_owned());
        }
        Ok(())
    }

    async fn build(self, context: Context) -> Result<Built, OperatorError> {
        let bus = context.cloud.event_bus(&self.bus).await?;
        bus.check().await?;
        Ok(Built::Operator(Box::new(Publisher { bus, options: self, clock: context.clock })))
    }
}

struct Publisher {
    bus: Arc<dyn EventBus>,
    options: EventBridgeOptions,
    clock: Clock,
}

impl Publisher {
    fn event(&self, record: &Record) -> Result<Event, OperatorError> {
        Ok(Event {
            source: self.options.source.clone(),
            detail_type: self.options.detail_type.clone(),
            detail: document::value(&record.body)?,
            time: happened(&record.body).unwrap_or_else(|| self.clock.now()),
        })
    }
}

/// When what a record tells of happened, if it says.
pub(super) fn happened(body: &Body) -> Option<DateTime<Utc>> {
    match body {
        Body::Change(change) => DateTime::from_timestamp(change.created_secs, 0),
        Body::Message(message) => DateTime::from_timestamp_millis(message.sent_ms),
        Body::Value(_) => None,
    }
}

#[async_trait]
impl Operator for Publisher {
    async fn on_record(&mut self, record: &Record, out: &mut Outputs) -> Result<(), OperatorError> {
        let failure = self.on_batch(std::slice::from_ref(record), out).await.pop();
        failure.map_or(Ok(()), |(_, error)| Err(error))
    }

    async fn on_batch(&mut self, records: &[Record], _out: &mut Outputs) -> Vec<(usize, OperatorError)> {
        let (mut failures, mut events) = (Vec::new(), Vec::new());
        for (index, record) in records.iter().enumerate() {
            match self.event(record) {
                Ok(event) => events.push((index, event)),
                Err(error) => failures.push((index, error)),
            }
        }
        let sizes: Vec<usize> = events.iter().map(|(_, event)| event_bytes(event)).collect();
        for run in requests(&sizes, EVENTS_PER_PUT, EVENT_BYTES) {
            let run = &events[run];
            let put: Vec<Event> = run.iter().map(|(_, event)| event.clone()).collect();
            match self.bus.put(&put).await {
                Ok(results) => {
                    let mut results = results.into_iter();
                    for (index, _) in run {
                        match results.next() {
                            Some(Ok(_)) => {}
                            Some(Err(error)) => failures.push((*index, error.into())),
                            None => failures.push((*index, unanswered(self.bus.name()))),
                        }
                    }
                }
                Err(error) => {
                    let failed = |(index, _): &(usize, Event)| (*index, shared(&error));
                    failures.extend(run.iter().map(failed));
                }
            }
        }
        let published = records.len() - failures.len();
        metrics::counter!("penstock_events_published_total", "bus" => self.bus.name().to_owned())
            .increment(published as u64);
        failures
    }
}
