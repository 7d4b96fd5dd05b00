//! [`EventBus`] on EventBridge.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_eventbridge::{Client, primitives::DateTime, types::PutEventsRequestEntry};

use super::error::{Target, kind_of_code};
use crate::cloud::{CloudError, ErrorKind, EventBus, Result, event_bus::Event, limits};

/// A bus of EventBridge.
pub(super) struct AwsBus {
    pub client: Client,
    pub target: Target,
}

const PUT: &str = "events:PutEvents";

/// Tries of an event that failed inside an answer that says success: those the SDK does not try again.
const TRIES: u32 = 3;

#[async_trait]
impl EventBus for AwsBus {
    fn name(&self) -> &str {
        &self.target.name
    }

    async fn check(&self) -> Result<()> {
        let request = self.client.describe_event_bus().name(self.name());
        self.target.ask("events:DescribeEventBus", request.send()).await.map(drop)
    }

    async fn put(&self, events: &[Event]) -> Result<Vec<Result<String>>> {
        let operation = self.target.operation(PUT);
        limits::check_put_events(&operation, events)?;
        let mut results: Vec<Result<String>> =
            events.iter().map(|event| limits::check_event(&operation, event).map(|()| String::new())).collect();
        let mut waiting: Vec<usize> = (0..events.len()).filter(|at| results[*at].is_ok()).collect();
        for tried in 0..TRIES {
            if waiting.is_empty() {
                break;
            }
            if tried > 0 {
                tokio::time::sleep(Duration::from_millis(50 << tried)).await;
            }
            let answers = match self.put_once(events, &waiting).await {
                Ok(answers) => answers,
                // What was taken before is taken: only the rest has failed.
                Err(error) if tried > 0 => {
                    tracing::warn!(bus = self.name(), %error, "Events could not be put again.");
                    break;
                }
                Err(error) => return Err(error),
            };
            for (at, answer) in waiting.iter().zip(answers) {
                results[*at] = answer;
            }
            waiting.retain(|at| results[*at].as_ref().is_err_and(CloudError::is_transient));
        }
        Ok(results)
    }
}

impl AwsBus {
    /// Puts the events at these places; an answer for each.
    async fn put_once(&self, events: &[Event], places: &[usize]) -> Result<Vec<Result<String>>> {
        let entries = places.iter().map(|at| {
            let event = &events[*at];
            PutEventsRequestEntry::builder()
                .event_bus_name(self.name())
                .source(&event.source)
                .detail_type(&event.detail_type)
                .detail(event.detail.to_string())
                .time(DateTime::from_secs(event.time.timestamp()))
                .build()
        });
        let request = self.client.put_events().set_entries(Some(entries.collect()));
        let answers = self.target.ask(PUT, request.send()).await?.entries.unwrap_or_default();
        let operation = self.target.operation(PUT);
        if answers.len() != places.len() {
            let message = format!("{} answers to {} events", answers.len(), places.len());
            return Err(CloudError::new(ErrorKind::Unavailable, operation, message));
        }
        Ok(answers
            .into_iter()
            .map(|answer| match (answer.event_id, answer.error_code) {
                (Some(id), None) => Ok(id),
                (_, code) => {
                    let code = code.unwrap_or_default();
                    let kind = match code.as_str() {
                        "InternalFailure" | "InternalException" | "" => ErrorKind::Unavailable,
                        code => kind_of_code(code, 400),
                    };
                    let message = format!("{code}: {}", answer.error_message.unwrap_or_default());
                    Err(CloudError::new(kind, operation.clone(), message))
                }
            })
            .collect())
    }
}
