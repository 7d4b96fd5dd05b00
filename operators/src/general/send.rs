//! `sqs`: sends each record's document to a queue.

use std::sync::Arc;

use async_trait::async_trait;
use penstock_engine::{
    cloud::{
        Queue,
        limits::{MESSAGE_BYTES, QUEUE_BATCH},
        queue::Outgoing,
    },
    document,
    graph::{Build, Built, Role, Use},
    operator::{Context, Kind, Operator, OperatorError, Outputs, Record},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{requests, shared, unanswered};

/// Options of `sqs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqsOptions {
    /// The queue.
    pub queue: String,
}

#[async_trait]
impl Build for SqsOptions {
    const NAME: &'static str = "sqs";
    const ABOUT: &'static str = "Sends each record to a queue, at least once.";
    const ROLE: Role = Role::Sink;

    fn input() -> Option<Kind> {
        Some(Kind::Any)
    }

    fn uses(&self) -> Vec<Use> {
        vec![Use::shared("queue", &self.queue, &[])]
    }

    async fn build(self, context: Context) -> Result<Built, OperatorError> {
        Ok(Built::Operator(Box::new(Sender { queue: context.cloud.queue(&self.queue).await? })))
    }
}

struct Sender {
    queue: Arc<dyn Queue>,
}

#[async_trait]
impl Operator for Sender {
    async fn on_record(&mut self, record: &Record, out: &mut Outputs) -> Result<(), OperatorError> {
        let failure = self.on_batch(std::slice::from_ref(record), out).await.pop();
        failure.map_or(Ok(()), |(_, error)| Err(error))
    }

    async fn on_batch(&mut self, records: &[Record], _out: &mut Outputs) -> Vec<(usize, OperatorError)> {
        let (mut failures, mut messages) = (Vec::new(), Vec::new());
        for (index, record) in records.iter().enumerate() {
            match document::text(&record.body) {
                Ok(text) => messages.push((index, Outgoing::new(text))),
                Err(error) => failures.push((index, error)),
            }
        }
        let sizes: Vec<usize> = messages.iter().map(|(_, message)| message.body.len()).collect();
        for run in requests(&sizes, QUEUE_BATCH, MESSAGE_BYTES) {
            let run = &messages[run];
            let bodies: Vec<Outgoing> = run.iter().map(|(_, message)| message.clone()).collect();
            match self.queue.send(&bodies).await {
                Ok(results) => {
                    let mut results = results.into_iter();
                    for (index, _) in run {
                        match results.next() {
                            Some(Ok(())) => {}
                            Some(Err(error)) => failures.push((*index, error.into())),
                            None => failures.push((*index, unanswered(self.queue.name()))),
                        }
                    }
                }
                Err(error) => {
                    let failed = |(index, _): &(usize, Outgoing)| (*index, shared(&error));
                    failures.extend(run.iter().map(failed));
                }
            }
        }
        let sent = records.len() - failures.len();
        metrics::counter!("penstock_messages_sent_total", "queue" => self.queue.name().to_owned())
            .increment(sent as u64);
        failures
    }
}
