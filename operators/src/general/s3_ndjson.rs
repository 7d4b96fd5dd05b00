//! `s3_ndjson`: gathers records into NDJSON objects, closed by count, bytes, age or day.
//!
//! Records of a change stream stand in exactly one object each, through crashes and lost leases: see
//! [`gathering`](super::gathering). That rests on a reader that goes on at its checkpoint. Records without an order (of a
//! queue) are written at least once, as their queue delivers them.
//!
//! A record is acked when its object is durable. So the source's checkpoint waits for the object, and as many records
//! are in flight as an object holds: keep `max_records` and `max_bytes` below the source's `max_in_flight_*`.

use std::{collections::BTreeSet, time::Duration};

use async_trait::async_trait;
use object_store::{ObjectStoreExt, PutMode, path::Path};
use penstock_engine::{
    ack::{Ack, Verdict},
    cloud::{Bucket, CloudError, change_stream::SequenceNumber},
    document,
    graph::{Access, Build, Built, Role, Use},
    operator::{Body, Command, Context, Kind, Operator, OperatorError, Outputs, Record},
    time::Clock,
    units,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    events::{ObjectAdopted, ObjectWriteFailed, ObjectWritten, OutOfOrder},
    gathering::{Foreign, Gathering, Limits, Line, Object, Origin, Reason},
    publish::happened,
};

/// The first and the longest wait between two tries to write an object.
const WAITS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// Options of `s3_ndjson`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct S3NdjsonOptions {
    /// The bucket.
    pub bucket: String,
    /// Keys are `{prefix}{date}/{name}.ndjson`, by the day (UTC) on which the records happened.
    #[serde(default)]
    pub prefix: String,
    /// An object is closed with so many records.
    #[serde(default = "default_max_records")]
    pub max_records: usize,
    /// An object is closed with so many bytes.
    #[serde(with = "units::size", default = "default_max_bytes")]
    #[schemars(with = "String")]
    pub max_bytes: u64,
    /// An object is closed when its first record came so long ago.
    #[serde(with = "units::duration", default = "default_max_age")]
    #[schemars(with = "String")]
    pub max_age: Duration,
}

fn default_max_records() -> usize {
    5_000
}

fn default_max_bytes() -> u64 {
    16 << 20
}

fn default_max_age() -> Duration {
    Duration::from_secs(60)
}

#[async_trait]
impl Build for S3NdjsonOptions {
    const NAME: &'static str = "s3_ndjson";
    const ABOUT: &'static str = "Gathers records into NDJSON objects; those of a change stream exactly once.";
    const ROLE: Role = Role::Sink;

    fn input() -> Option<Kind> {
        Some(Kind::Any)
    }

    fn uses(&self) -> Vec<Use> {
        vec![Use::shared("bucket", &self.bucket, &[Access::Get, Access::Put]).below(&self.prefix)]
    }

    fn check(&self) -> Result<(), String> {
        if self.max_records == 0 {
            return Err("max_records: must be at least 1".to_owned());
        }
        if self.max_bytes == 0 {
            return Err("max_bytes: must be more than 0".to_owned());
        }
        if self.max_age.is_zero() {
            return Err("max_age: must be more than 0".to_owned());
        }
        let key = format!("{}2026-02-01/x.ndjson", self.prefix);
        Path::parse(&key).map(drop).map_err(|error| format!("prefix: {error}"))
    }

    async fn build(self, context: Context) -> Result<Built, OperatorError> {
        let limits = Limits { records: self.max_records, bytes: self.max_bytes, age: self.max_age };
        Ok(Built::Operator(Box::new(S3Ndjson {
            bucket: context.cloud.bucket(&self.bucket).await?,
            id: context.id,
            prefix: self.prefix,
            tick: (self.max_age / 4).clamp(Duration::from_millis(50), Duration::from_secs(1)),
            gathering: Gathering::new(limits),
            began: Instant::now(),
            clock: context.clock,
            stop: context.stop,
        })))
    }
}

struct S3Ndjson {
    bucket: Bucket,
    id: String,
    prefix: String,
    tick: Duration,
    gathering: Gathering<Ack>,
    /// Zero of the monotonic clock.
    began: Instant,
    clock: Clock,
    stop: CancellationToken,
}

#[async_trait]
impl Operator for S3Ndjson {
    async fn on_record(&mut self, record: &Record, _out: &mut Outputs) -> Result<(), OperatorError> {
        let line = self.line(record)?;
        let origin = line.origin.clone();
        if let Some(reason) = self.gathering.closes(&line) {
            if reason == Reason::Order {
                OutOfOrder { operator: &self.id, origin: origin.as_deref() }.emit();
            }
            self.close(&origin, reason).await?;
        }
        let (now, clock) = (self.began.elapsed(), &self.clock);
        let unordered = || format!("{}-{:016x}", clock.now().format("%Y%m%dT%H%M%S%.3f"), rand::random::<u64>());
        if let Some(known) = self.gathering.add(line, now, unordered) {
            known.ack.settle(Verdict::Done);
        } else if let Some(reason) = self.gathering.due(&origin, now) {
            // The record is in good keeping: should the write be cut short, its ack says so later.
            if let Err(error) = self.close(&origin, reason).await {
                tracing::debug!(operator = self.id, %error, "An object is left for later.");
            }
        }
        Ok(())
    }

    async fn on_batch(&mut self, records: &[Record], out: &mut Outputs) -> Vec<(usize, OperatorError)> {
        for (index, record) in records.iter().enumerate() {
            match self.on_record(record, out).await {
                Ok(()) => {}
                // A gap in the order must not be: what follows one that has to wait waits too.
                Err(error) if error.transient => {
                    let after = |index| (index, OperatorError::transient("it follows one that has to wait"));
                    return std::iter::once((index, error)).chain((index + 1..records.len()).map(after)).collect();
                }
                Err(error) => {
                    let rest = self.on_rest(&records[index + 1..], out).await;
                    let rest = rest.into_iter().map(|(at, error)| (index + 1 + at, error));
                    return std::iter::once((index, error)).chain(rest).collect();
                }
            }
        }
        Vec::new()
    }

    fn tick_interval(&self) -> Option<Duration> {
        Some(self.tick)
    }

    async fn on_tick(&mut self, _out: &mut Outputs) -> Result<(), OperatorError> {
        let now = self.began.elapsed();
        for origin in self.gathering.origins() {
            if let Some(reason) = self.gathering.due(&origin, now) {
                self.close(&origin, reason).await?;
            }
        }
        Ok(())
    }

    async fn on_command(&mut self, command: &Command) -> Result<Value, OperatorError> {
        if command.name != "flush" {
            return Err(OperatorError::permanent(format!("it has no command `{}`: it knows `flush`", command.name)));
        }
        let origins = self.gathering.origins();
        for origin in &origins {
            self.close(origin, Reason::Age).await?;
        }
        Ok(serde_json::json!({ "objects": origins.len() }))
    }

    async fn on_stop(&mut self) -> Result<(), OperatorError> {
        for origin in self.gathering.origins() {
            // Once each: what fails is read again by whoever reads next.
            self.write(&origin, Reason::Stop).await?;
        }
        Ok(())
    }
}

impl S3Ndjson {
    /// The rest of a batch, after a record that can never be written.
    async fn on_rest(&mut self, rest: &[Record], out: &mut Outputs) -> Vec<(usize, OperatorError)> {
        if rest.is_empty() { Vec::new() } else { self.on_batch(rest, out).await }
    }

    fn line(&self, record: &Record) -> Result<Line<Ack>, OperatorError> {
        let sequence = match &record.body {
            Body::Change(change) => Some(change.sequence.clone()),
            Body::Message(_) | Body::Value(_) => None,
        };
        let date = happened(&record.body).unwrap_or_else(|| self.clock.now()).format("%Y-%m-%d").to_string();
        let origin = sequence.as_ref().and_then(|_| record.ack.origin().cloned());
        Ok(Line { origin, sequence, date, text: document::text(&record.body)?, ack: record.ack.clone() })
    }

    /// Closes an object, and waits until it is durable or the service stops. While it waits nothing more is taken, which
    /// is how pressure travels back to the source.
    async fn close(&mut self, origin: &Origin, reason: Reason) -> Result<(), OperatorError> {
        let mut wait = WAITS.0;
        loop {
            match self.write(origin, reason).await {
                Ok(()) => return Ok(()),
                Err(error) if self.stop.is_cancelled() => return Err(error),
                Err(error) => {
                    ObjectWriteFailed { operator: &self.id, bucket: &self.bucket.name, error: &error }.emit();
                }
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep(wait) => {}
                () = self.stop.cancelled() => {}
            }
            wait = (wait * 2).min(WAITS.1);
        }
    }

    /// One try to make an object durable.
    async fn write(&mut self, origin: &Origin, reason: Reason) -> Result<(), OperatorError> {
        let Some(Object { date, name, body }) = self.gathering.object(origin) else { return Ok(()) };
        let key = Path::from(format!("{}{date}/{name}.ndjson", self.prefix));
        let bytes = body.len() as u64;
        let acks = match self.bucket.store.put_opts(&key, body.into(), PutMode::Create.into()).await {
            Ok(_) => {
                let acks = self.gathering.written(origin);
                ObjectWritten { operator: &self.id, key: &key, records: acks.len(), bytes, reason }.emit();
                acks
            }
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                self.adopt(origin, &key).await?
            }
            Err(error) => return Err(CloudError::from(error).into()),
        };
        for ack in acks {
            ack.settle(Verdict::Done);
        }
        Ok(())
    }

    /// An object stands there: by an earlier try of this write, or by another reader of the shard.
    async fn adopt(&mut self, origin: &Origin, key: &Path) -> Result<Vec<Ack>, OperatorError> {
        let acks = match origin {
            // Its name is random: it is our own.
            None => self.gathering.written(origin),
            Some(_) => {
                let there = self.bucket.store.get(key).await.map_err(CloudError::from)?;
                let there = there.bytes().await.map_err(CloudError::from)?;
                let held = sequences(&there)
                    .map_err(|error| OperatorError::transient(format!("{key} stands in our way: {error}")))?;
                self.gathering.found(origin, held).map_err(|Foreign| {
                    OperatorError::transient(format!(
                        "{key} stands in our way: it doesn't begin with the record that it is named by; move it away"
                    ))
                })?
            }
        };
        ObjectAdopted { operator: &self.id, key, records: acks.len() }.emit();
        Ok(acks)
    }
}

/// The sequence numbers of the records in an object.
fn sequences(object: &[u8]) -> Result<BTreeSet<SequenceNumber>, String> {
    #[derive(Deserialize)]
    struct Known {
        sequence_number: SequenceNumber,
    }
    let lines = object.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty());
    lines
        .map(|(at, line)| match serde_json::from_slice::<Known>(line) {
            Ok(known) => Ok(known.sequence_number),
            Err(error) => Err(format!("line {} holds no sequence number: {error}", at + 1)),
        })
        .collect()
}
