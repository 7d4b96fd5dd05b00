//! What an operator is: a node of the graph that reacts to records, to ticks and to commands.
//!
//! A small operator implements [`Operator::on_record`] and nothing else. It returns an error for a record that it could
//! not handle; the runtime retries by policy and carries the verdict back. A source implements [`Source::run`].
//!
//! A whole operator, with its options, its place in a graph and what it does:
//!
//! ```
//! use async_trait::async_trait;
//! use penstock_engine::{
//!     graph::{Build, Built, Role, Use},
//!     operator::{Body, Context, Kind, MAIN_OUTPUT, Operator, OperatorError, Outputs, Record},
//! };
//!
//! /// Options of `skip`.
//! #[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
//! #[serde(deny_unknown_fields)]
//! struct SkipOptions {
//!     /// Objects whose key holds this text are passed over.
//!     text: String,
//! }
//!
//! #[async_trait]
//! impl Build for SkipOptions {
//!     const NAME: &'static str = "skip";
//!     const ABOUT: &'static str = "Passes over objects whose key holds a text.";
//!     const ROLE: Role = Role::Transform;
//!
//!     fn input() -> Option<Kind> {
//!         Some(Kind::Value("object"))
//!     }
//!
//!     fn outputs() -> Vec<(&'static str, Kind)> {
//!         vec![(MAIN_OUTPUT, Kind::Value("object"))]
//!     }
//!
//!     fn uses(&self) -> Vec<Use> {
//!         Vec::new()
//!     }
//!
//!     async fn build(self, _context: Context) -> Result<Built, OperatorError> {
//!         Ok(Built::Operator(Box::new(self)))
//!     }
//! }
//!
//! #[async_trait]
//! impl Operator for SkipOptions {
//!     async fn on_record(&mut self, record: &Record, out: &mut Outputs) -> Result<(), OperatorError> {
//!         let Body::Value(object) = &record.body else {
//!             return Err(OperatorError::permanent("skip reads objects"));
//!         };
//!         if object["key"].as_str().is_some_and(|key| key.contains(&self.text)) {
//!             metrics::counter!("penstock_skipped_objects_total").increment(1);
//!         } else {
//!             out.emit(record, record.body.clone()).await;
//!         }
//!         Ok(())
//!     }
//! }
//! # use penstock_engine::{ack::{Ack, Verdict}, graph::Registry};
//! # use std::{collections::BTreeMap, sync::Arc};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! # let mut registry = Registry::default();
//! # registry.add::<SkipOptions>();
//! # let options = serde_json::json!({ "text": "tmp" });
//! # assert!(registry.types().next().unwrap().check(&options).is_ok());
//! # let mut skip = SkipOptions { text: "tmp".to_owned() };
//! # let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
//! # let mut out = Outputs::new(BTreeMap::from([(MAIN_OUTPUT.to_owned(), vec![sender])]));
//! # let (verdicts, mut given) = tokio::sync::mpsc::unbounded_channel();
//! # for (id, key) in ["2026-02-01/a.tmp", "2026-02-01/b.ndjson"].into_iter().enumerate() {
//! #     let body = Body::Value(Arc::new(serde_json::json!({ "key": key })));
//! #     let record = Record { body, ack: Ack::new(id as u64, verdicts.clone()) };
//! #     skip.on_record(&record, &mut out).await.unwrap();
//! #     record.ack.settle(Verdict::Done);
//! # }
//! # out.flush().await;
//! # let batch = receiver.recv().await.unwrap();
//! # assert_eq!(batch.len(), 1);
//! # assert_eq!(given.recv().await, Some((0, Verdict::Done)));
//! # assert!(given.try_recv().is_err(), "the one that was handed on has no verdict yet");
//! # }
//! ```
//!
//! [`Registry::add`](crate::graph::Registry::add) makes it a type that a pipeline's YAML may name.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::Value;
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    ack::{Ack, Verdict},
    cloud::{Cloud, CloudError, change_stream::Change, queue::Message, resources::Naming},
    leases::{LeaseOptions, Leases},
    runtime::meter::Meter,
    streams::Common,
    time::Clock,
};

/// A record on its way, with the duty to give a verdict on it.
#[derive(Debug, Clone)]
pub struct Record {
    /// What it says.
    pub body: Body,
    /// The duty that comes with it.
    pub ack: Ack,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// A message of a queue.
    Message(Arc<Message>),
    /// A change of a table.
    Change(Arc<Change>),
    /// Anything else, as JSON.
    Value(Arc<Value>),
}

/// The kinds of record: what an operator takes on its input and gives on each output. Checked before anything starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// [`Body::Message`].
    Message,
    /// [`Body::Change`].
    Change,
    /// [`Body::Value`] of the named shape, e.g. `object`.
    Value(&'static str),
    /// On an input: whatever comes. On an output: what the operator takes on its input.
    Any,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message => f.write_str("messages"),
            Self::Change => f.write_str("changes"),
            Self::Value(shape) => write!(f, "{shape}s"),
            Self::Any => f.write_str("records of any kind"),
        }
    }
}

/// The name of an operator's main output; `admit` in an `inputs:` list means `admit.out`.
pub const MAIN_OUTPUT: &str = "out";

/// A transform or a sink.
#[async_trait]
pub trait Operator: Send {
    /// Handles one record. May be called again with the same record after an error: effects must bear that.
    async fn on_record(&mut self, record: &Record, out: &mut Outputs) -> Result<(), OperatorError>;

    /// Handles a batch, in order. Returns what failed, by index; the default goes through the records one by one.
    async fn on_batch(&mut self, records: &[Record], out: &mut Outputs) -> Vec<(usize, OperatorError)> {
        let mut failures = Vec::new();
        for (index, record) in records.iter().enumerate() {
            if let Err(error) = self.on_record(record, out).await {
                failures.push((index, error));
            }
        }
        failures
    }

    /// How often [`on_tick`](Self::on_tick) wants to be called.
    fn tick_interval(&self) -> Option<Duration> {
        None
    }

    /// Called at about the tick interval, never while a batch is handled.
    async fn on_tick(&mut self, _out: &mut Outputs) -> Result<(), OperatorError> {
        Ok(())
    }

    /// Called for a command that a person gave, e.g. `flush`. Returns what to tell them.
    async fn on_command(&mut self, command: &Command) -> Result<Value, OperatorError> {
        Err(OperatorError::permanent(format!("it has no command `{}`", command.name)))
    }

    /// Called once when no more records will come.
    async fn on_stop(&mut self) -> Result<(), OperatorError> {
        Ok(())
    }
}

/// A source: makes records until it is told to stop.
#[async_trait]
pub trait Source: Send {
    /// Emits records until `stop` is cancelled; then waits for the verdicts on what it emitted, carries them out
    /// (checkpoint, delete), and returns. An error or a panic is counted and the source is started anew.
    async fn run(&mut self, out: &mut Outputs, stop: CancellationToken) -> Result<(), OperatorError>;
}

/// A command that a person gave to a running operator.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Command {
    /// What to do, e.g. `flush`.
    pub name: String,
    /// Its arguments.
    #[serde(default)]
    pub arguments: Value,
}

/// What an operator is given when it is built.
#[derive(Clone)]
pub struct Context {
    /// The operator's id in the pipeline.
    pub id: String,
    /// How the pipeline's resources are named.
    pub naming: Naming,
    /// The pipeline's resources.
    pub cloud: Arc<dyn Cloud>,
    /// The wall clock.
    pub clock: Clock,
    /// This process's name among all that run the pipeline: owner of its leases.
    pub worker: String,
    /// Whether it is the only one that can run the pipeline, as on one machine.
    pub sole_process: bool,
    /// What the process's readers of change streams share.
    pub streams: Common,
    /// Cancelled when the service stops: long work hands itself back.
    pub stop: CancellationToken,
}

impl Context {
    /// Leases of this operator in a table, each living for `length` without a renewal.
    pub async fn leases(&self, table: &str, length: Duration) -> Result<Leases, CloudError> {
        let options = LeaseOptions { length, sole_process: self.sole_process };
        Ok(Leases::new(self.cloud.table(table).await?, format!("{}/{}", self.worker, self.id), options))
    }
}

/// A failure of an operator: of one record, of a tick, or of a source.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct OperatorError {
    /// Whether trying again may help.
    pub transient: bool,
    /// What failed, and what to do about it.
    pub message: String,
    /// The failure under it.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl OperatorError {
    /// A failure that may pass: the record is tried again.
    pub fn transient(message: impl Into<String>) -> Self {
        Self { transient: true, message: message.into(), source: None }
    }

    /// A failure that will not pass: the record is dead-lettered with this reason.
    pub fn permanent(message: impl Into<String>) -> Self {
        Self { transient: false, message: message.into(), source: None }
    }

    /// The verdict on a record whose retries are used up.
    pub fn verdict(&self) -> Verdict {
        if self.transient { Verdict::Retry(self.to_string()) } else { Verdict::Dead(self.to_string()) }
    }
}

impl From<CloudError> for OperatorError {
    fn from(error: CloudError) -> Self {
        let transient = error.kind != crate::cloud::ErrorKind::Invalid;
        Self { transient, message: error.to_string(), source: Some(Box::new(error)) }
    }
}

/// Where an operator's records go: its named outputs.
///
/// Records are gathered and handed on in batches, one channel per reader. A full channel makes the sender wait, which is
/// how pressure travels back to the source.
pub struct Outputs {
    ports: BTreeMap<String, Port>,
    gauge: Gauge,
}

/// Where it is told what went out, and how long that had to wait.
#[derive(Default)]
struct Gauge {
    meter: Arc<Meter>,
    sent: Option<metrics::Counter>,
    /// How long this instance has waited.
    blocked: Duration,
}

/// Who reads an output: the sending ends of their channels.
pub type Readers = Vec<mpsc::Sender<Vec<Record>>>;

#[derive(Default)]
struct Port {
    readers: Readers,
    waiting: Vec<Record>,
}

/// At most so many records are gathered before they are handed on.
pub const BATCH_RECORDS: usize = 256;

impl Outputs {
    /// Outputs with the readers of each named port.
    pub fn new(ports: BTreeMap<String, Readers>) -> Self {
        let ports = ports.into_iter().map(|(name, readers)| (name, Port { readers, waiting: Vec::new() })).collect();
        Self { ports, gauge: Gauge::default() }
    }

    /// The same, counted as the output of operator `id`.
    pub(crate) fn metered(mut self, id: &str, meter: Arc<Meter>) -> Self {
        let sent = metrics::counter!("penstock_component_sent_events_total", "component_id" => id.to_owned());
        self.gauge = Gauge { meter, sent: Some(sent), blocked: Duration::ZERO };
        self
    }

    /// How long it has waited for readers so far.
    pub(crate) fn blocked(&self) -> Duration {
        self.gauge.blocked
    }

    /// Emits a record on the main output, as a part of `parent`.
    pub async fn emit(&mut self, parent: &Record, body: Body) {
        self.emit_to(MAIN_OUTPUT, body, parent.ack.clone()).await;
    }

    /// Emits a record on a named output. One that nobody reads is done at once.
    pub async fn emit_to(&mut self, port: &str, body: Body, ack: Ack) {
        match self.ports.get_mut(port) {
            Some(found) if !found.readers.is_empty() => {
                found.waiting.push(Record { body, ack });
                if found.waiting.len() >= BATCH_RECORDS {
                    found.flush(port, &mut self.gauge).await;
                }
            }
            _ => ack.settle(Verdict::Done),
        }
    }

    /// Hands on what was gathered. The runtime does so after each batch and tick; a source does so itself.
    pub async fn flush(&mut self) {
        for (name, port) in &mut self.ports {
            port.flush(name, &mut self.gauge).await;
        }
    }
}

impl Gauge {
    /// Hands a batch to a reader. One that is full is waited for, and that time is counted.
    async fn send(&mut self, reader: &mpsc::Sender<Vec<Record>>, batch: Vec<Record>) {
        // A reader that is gone drops the batch, and with it its acks: the source will offer the records again.
        let gone = match reader.try_send(batch) {
            Ok(()) => false,
            Err(TrySendError::Closed(_)) => true,
            Err(TrySendError::Full(batch)) => {
                let began = Instant::now();
                let sent = reader.send(batch).await;
                self.blocked += began.elapsed();
                self.meter.blocked(began.elapsed());
                sent.is_err()
            }
        };
        if gone {
            tracing::debug!("Batch for a reader that has stopped.");
        }
    }
}

impl Port {
    async fn flush(&mut self, name: &str, gauge: &mut Gauge) {
        let batch = std::mem::take(&mut self.waiting);
        let Some((last, others)) = self.readers.split_last() else { return };
        if batch.is_empty() {
            return;
        }
        gauge.meter.sent(name, &batch);
        if let Some(sent) = &gauge.sent {
            sent.increment(batch.len() as u64);
        }
        for reader in others {
            gauge.send(reader, batch.clone()).await;
        }
        gauge.send(last, batch).await;
    }
}
