//! The options of a `change_stream` source, with their defaults.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::filter::Filter;
use crate::{
    cloud::limits::{RECORD_PAGE_BYTES, RECORDS_PER_PAGE},
    units,
};

/// As many as Lambda allows.
const BATCH_RECORDS_MAX: usize = 10_000;

/// As long as Lambda allows.
const BATCH_WINDOW_MAX: Duration = Duration::from_secs(300);

/// As short as Lambda allows.
const RECORD_AGE_MIN: Duration = Duration::from_secs(60);

/// Options of a `change_stream` source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeStreamOptions {
    /// The table whose changes are read.
    pub table: String,
    /// The table of leases. Default `leases`.
    #[serde(default = "default_leases")]
    pub leases: String,
    /// Where the very first start begins; later ones go on from the checkpoints. Default `trim_horizon`.
    #[serde(default)]
    pub start: StartAt,
    /// What to do about changes that were trimmed away before they were read. Default `stop`.
    #[serde(default)]
    pub on_trimmed: OnTrimmed,
    /// Patterns in EventBridge's syntax, up to 5: a change that none of them takes is passed over. Without patterns all
    /// are taken. A change has the shape that Lambda gives it, `{eventName, dynamodb: {NewImage, OldImage}}`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<serde_json::Value>,
    /// At most so many records a read; up to 1,000. Default 1,000.
    #[serde(default = "default_read_records")]
    pub read_records: usize,
    /// At most so many changes are handed on together; up to 10,000. Default 1,000.
    #[serde(default = "default_batch_records")]
    pub batch_records: usize,
    /// How long a batch may wait to become full; up to 5 minutes. Default 0 s: it doesn't wait.
    #[serde(with = "units::duration", default)]
    #[schemars(with = "String")]
    pub batch_window: Duration,
    /// Which order is kept while changes are without their verdicts. Default `item`.
    #[serde(default)]
    pub order: Order,
    /// How many batches of one shard may be without their verdicts at once. Changes of one item keep their order whatever
    /// it is. Default 10. Means nothing with `order: shard`.
    #[serde(default = "default_parallel_batches")]
    pub parallel_batches: usize,
    /// At most so many records past the checkpoints, over all shards of this process; then reading waits. Each shard has
    /// an equal part, so that a stuck one can't stop the others. Default 10,000.
    #[serde(default = "default_max_in_flight_records")]
    pub max_in_flight_records: usize,
    /// At most so many bytes of records, as they are stored, over all shards of this process: what was read and isn't
    /// done. At least 4 MiB; a page of up to 1 MiB is read when
    /// there is room for all of it. Default 64 MiB.
    #[serde(with = "units::size", default = "default_max_in_flight_bytes")]
    #[schemars(with = "String")]
    pub max_in_flight_bytes: u64,
    /// The wait after a first empty page; it doubles with each further one. A page with records is followed by the next
    /// read at once, but a shard that was throttled is read at most every 200 ms from then on. Default 50 ms.
    #[serde(with = "units::duration", default = "default_poll_min")]
    #[schemars(with = "String")]
    pub poll_min: Duration,
    /// The longest wait after an empty page. Default 1 s.
    #[serde(with = "units::duration", default = "default_poll_max")]
    #[schemars(with = "String")]
    pub poll_max: Duration,
    /// How long a lease lives without renewal; the same for all processes. Default 10 s.
    #[serde(with = "units::duration", default = "default_lease_length")]
    #[schemars(with = "String")]
    pub lease_length: Duration,
    /// How often the leases are looked at for shards to take or to give away. Default 500 ms.
    #[serde(with = "units::duration", default = "default_balance_every")]
    #[schemars(with = "String")]
    pub balance_every: Duration,
    /// How often the shards are listed; children are also looked up when a shard ends. Default 1 minute.
    #[serde(with = "units::duration", default = "default_discover_every")]
    #[schemars(with = "String")]
    pub discover_every: Duration,
    /// At most so often a shard's checkpoint is written; also at its end and when it is given back. Default 1 s.
    #[serde(with = "units::duration", default = "default_checkpoint_every")]
    #[schemars(with = "String")]
    pub checkpoint_every: Duration,
    /// How often a failing record is offered again before it is dead-lettered. The graph's own retries come on top: one
    /// offer is all of them. Default 5.
    #[serde(default = "default_max_attempts")]
    pub max_attempts: u32,
    /// A change that is older than this is handed on no more, but dead-lettered: needs `dead_letter`. Default: no limit.
    #[serde(with = "units::optional_duration", default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub max_record_age: Option<Duration>,
    /// The wait before a failing record is offered again; it doubles up to a minute. Default 1 s.
    #[serde(with = "units::duration", default = "default_retry_wait")]
    #[schemars(with = "String")]
    pub retry_wait: Duration,
    /// The queue that takes records which can't be handled. Without one they are offered again for ever, and their
    /// shard stops at them.
    #[serde(default)]
    pub dead_letter: Option<String>,
    /// How long a stop waits for the verdicts on what was emitted. Default 20 s, below ECS's 30 s.
    #[serde(with = "units::duration", default = "default_drain")]
    #[schemars(with = "String")]
    pub drain: Duration,
    /// A shard that has lag and makes no progress for so long, or that nobody reads though somebody should, is reported as
    /// stuck, with the reason. Default 1 minute.
    #[serde(with = "units::duration", default = "default_stuck_after")]
    #[schemars(with = "String")]
    pub stuck_after: Duration,
}

/// Which order is kept while changes are without their verdicts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Of one item at most one change is out at a time, so that not even a retry brings its changes out of order.
    #[default]
    Item,
    /// Changes are handed on as they stand in the shard, without waiting for verdicts: for operators that gather many
    /// before they answer. One that has to be tried again comes after later ones.
    Shard,
}

/// Where the very first start begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StartAt {
    /// At the oldest changes kept, up to 24 hours ago.
    #[default]
    TrimHorizon,
    /// With the changes from then on.
    Latest,
}

/// What to do about changes that were trimmed away before they were read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnTrimmed {
    /// Stop reading the shard and say so, until a person decides.
    #[default]
    Stop,
    /// Record the gap and go on behind it.
    Skip,
    /// The same, where something else (an index, a sweep) finds what the gap swallowed. Operators of this process that
    /// keep a view of the table are told, and make it again.
    Reconcile,
}

impl OnTrimmed {
    /// Its text in items, logs and metrics.
    pub fn text(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Skip => "skip",
            Self::Reconcile => "reconcile",
        }
    }
}

impl ChangeStreamOptions {
    /// How many batches of a shard may be out at once.
    pub(super) fn batches_out(&self) -> usize {
        match self.order {
            Order::Item => self.parallel_batches,
            Order::Shard => usize::MAX,
        }
    }

    /// The defaults, for this table.
    pub fn new(table: impl Into<String>) -> Self {
        Self {
            table: table.into(),
            leases: default_leases(),
            start: StartAt::default(),
            on_trimmed: OnTrimmed::default(),
            filters: Vec::new(),
            read_records: default_read_records(),
            batch_records: default_batch_records(),
            batch_window: Duration::ZERO,
            order: Order::default(),
            parallel_batches: default_parallel_batches(),
            max_in_flight_records: default_max_in_flight_records(),
            max_in_flight_bytes: default_max_in_flight_bytes(),
            poll_min: default_poll_min(),
            poll_max: default_poll_max(),
            lease_length: default_lease_length(),
            balance_every: default_balance_every(),
            discover_every: default_discover_every(),
            checkpoint_every: default_checkpoint_every(),
            max_attempts: default_max_attempts(),
            max_record_age: None,
            retry_wait: default_retry_wait(),
            dead_letter: None,
            drain: default_drain(),
            stuck_after: default_stuck_after(),
        }
    }

    /// What the types can't say: which option is wrong, and how to mend it.
    pub fn check(&self) -> Result<(), String> {
        let some = |wrong: bool, text: &str| if wrong { Err(text.to_owned()) } else { Ok(()) };
        Filter::parse(&self.filters)?;
        let records = self.read_records;
        some(records == 0 || records > RECORDS_PER_PAGE, "read_records: must be from 1 to 1000")?;
        some(!(1..=BATCH_RECORDS_MAX).contains(&self.batch_records), "batch_records: must be from 1 to 10000")?;
        some(self.batch_window > BATCH_WINDOW_MAX, "batch_window: must be at most 5m")?;
        some(self.parallel_batches == 0, "parallel_batches: must be at least 1")?;
        some(self.max_in_flight_records < records, "max_in_flight_records: must be at least read_records")?;
        some(
            self.max_in_flight_bytes < 4 * RECORD_PAGE_BYTES as u64 || self.max_in_flight_bytes > u64::from(u32::MAX),
            "max_in_flight_bytes: must be from 4MiB to 4095MiB",
        )?;
        some(self.max_record_age.is_some_and(|age| age < RECORD_AGE_MIN), "max_record_age: must be at least 60s")?;
        some(
            self.max_record_age.is_some() && self.dead_letter.is_none(),
            "max_record_age: needs dead_letter, the queue that takes what is too old",
        )?;
        some(self.poll_min.is_zero(), "poll_min: must be more than 0")?;
        some(self.poll_max < self.poll_min, "poll_max: must be at least poll_min")?;
        some(self.lease_length < Duration::from_secs(1), "lease_length: must be at least 1s")?;
        some(self.balance_every.is_zero(), "balance_every: must be more than 0")?;
        some(self.balance_every > self.lease_length / 3, "balance_every: must be at most a third of lease_length")?;
        some(self.discover_every.is_zero(), "discover_every: must be more than 0")?;
        some(self.max_attempts == 0, "max_attempts: must be at least 1")?;
        some(self.retry_wait.is_zero(), "retry_wait: must be more than 0")
    }
}

fn default_leases() -> String {
    "leases".to_owned()
}

fn default_read_records() -> usize {
    RECORDS_PER_PAGE
}

fn default_batch_records() -> usize {
    RECORDS_PER_PAGE
}

fn default_parallel_batches() -> usize {
    10
}

fn default_max_in_flight_records() -> usize {
    10_000
}

fn default_max_in_flight_bytes() -> u64 {
    64 << 20
}

fn default_poll_min() -> Duration {
    Duration::from_millis(50)
}

fn default_poll_max() -> Duration {
    Duration::from_secs(1)
}

fn default_lease_length() -> Duration {
    Duration::from_secs(10)
}

fn default_balance_every() -> Duration {
    Duration::from_millis(500)
}

fn default_discover_every() -> Duration {
    Duration::from_secs(60)
}

fn default_checkpoint_every() -> Duration {
    Duration::from_secs(1)
}

fn default_max_attempts() -> u32 {
    5
}

fn default_retry_wait() -> Duration {
    Duration::from_secs(1)
}

fn default_drain() -> Duration {
    Duration::from_secs(20)
}

fn default_stuck_after() -> Duration {
    Duration::from_secs(60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_the_same_in_yaml_and_in_code() {
        let read: ChangeStreamOptions = serde_json::from_value(serde_json::json!({"table": "t"})).unwrap();
        assert_eq!(read, ChangeStreamOptions::new("t"));
        assert_eq!(read.check(), Ok(()));
    }

    #[test]
    fn a_wrong_option_is_named() {
        let wrong = ChangeStreamOptions { poll_max: Duration::from_millis(1), ..ChangeStreamOptions::new("t") };
        assert!(wrong.check().unwrap_err().starts_with("poll_max"));
        let ageless =
            ChangeStreamOptions { max_record_age: Some(Duration::from_secs(60)), ..ChangeStreamOptions::new("t") };
        assert!(ageless.check().unwrap_err().contains("needs dead_letter"));
        let filter = serde_json::json!({"table": "t", "filters": [{"eventName": "INSERT"}]});
        let filter: ChangeStreamOptions = serde_json::from_value(filter).unwrap();
        assert!(filter.check().unwrap_err().starts_with("filters: pattern 1"));
        let unknown = serde_json::json!({"table": "t", "on_trimed": "skip"});
        assert!(serde_json::from_value::<ChangeStreamOptions>(unknown).is_err());
    }
}
