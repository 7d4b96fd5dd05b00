//! What a pipeline needs of a cloud: the `resources:` section of its YAML.
//!
//! On one machine the local cloud makes them; on AWS, CloudFormation does, and a preflight compares.

use std::{collections::BTreeMap, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::units;

/// Names a pipeline's resources: `{pipeline}-{component}-{env}`, and buckets `-{account}` after that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Naming {
    /// The pipeline's name.
    pub pipeline: String,
    /// The environment, e.g. `dev`.
    pub env: String,
    /// The account id; `000000000000` on one machine.
    pub account: String,
}

impl Naming {
    /// The full name of a table, queue, bus or topic.
    pub fn name(&self, component: &str) -> String {
        format!("{}-{component}-{}", self.pipeline, self.env)
    }

    /// The full name of a table.
    pub fn table(&self, component: &str, spec: &TableSpec) -> String {
        spec.name.clone().unwrap_or_else(|| self.name(component))
    }

    /// The full name of a bucket.
    pub fn bucket(&self, component: &str) -> String {
        format!("{}-{}", self.name(component), self.account)
    }
}

/// What is done with a table or a bucket. Each takes permissions of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// An item or object is read by its key.
    Get,
    /// Items are read by their partition.
    Query,
    /// Items are read by the indexes.
    QueryIndex,
    /// An item or object is written as a whole.
    Put,
    /// An item is changed.
    Update,
    /// An item is removed.
    Delete,
    /// An object is written by parts, and given up.
    Stage,
}

/// The resources of a pipeline, by their short names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Buckets of objects.
    #[serde(default)]
    pub buckets: BTreeMap<String, BucketSpec>,
    /// Queues.
    #[serde(default)]
    pub queues: BTreeMap<String, QueueSpec>,
    /// Tables.
    #[serde(default)]
    pub tables: BTreeMap<String, TableSpec>,
    /// Event buses and their rules.
    #[serde(default)]
    pub buses: BTreeMap<String, BusSpec>,
}

/// A bucket.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BucketSpec {
    /// New objects are announced to a queue.
    #[serde(default)]
    pub notify: Option<NotifySpec>,
}

/// Which new objects of a bucket are announced, and where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NotifySpec {
    /// The queue that gets the notifications.
    pub queue: String,
    /// Only keys that begin so.
    #[serde(default)]
    pub prefix: String,
}

/// A queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueueSpec {
    /// How long a received message stays hidden.
    #[serde(with = "units::duration", default = "QueueSpec::default_visibility")]
    #[schemars(with = "String")]
    pub visibility: Duration,
    /// How long a message is kept.
    #[serde(with = "units::duration", default = "QueueSpec::default_retention")]
    #[schemars(with = "String")]
    pub retention: Duration,
    /// Where a message goes that was received too often.
    #[serde(default)]
    pub dead_letter: Option<DeadLetterSpec>,
}

impl QueueSpec {
    fn default_visibility() -> Duration {
        Duration::from_secs(30)
    }

    fn default_retention() -> Duration {
        Duration::from_secs(4 * 24 * 3600)
    }
}

impl Default for QueueSpec {
    fn default() -> Self {
        Self { visibility: Self::default_visibility(), retention: Self::default_retention(), dead_letter: None }
    }
}

/// When a message is taken out of a queue, and where it goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeadLetterSpec {
    /// The queue that gets it.
    pub queue: String,
    /// After so many receives without a delete.
    pub max_receives: u32,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TableSpec {
    /// Its full name, for a table that is not this pipeline's own: whose changes it reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Name of the partition key, a string.
    pub partition_key: String,
    /// Name of the sort key. Empty for a table that has none: only one of another's (`name`) of which just the changes
    /// are read, and on AWS.
    pub sort_key: String,
    /// Type of the sort key.
    #[serde(default)]
    pub sort_type: KeyType,
    /// Secondary indexes, by name; each holds all attributes.
    #[serde(default)]
    pub indexes: BTreeMap<String, IndexSpec>,
    /// Name of the attribute, in epoch seconds, after which an item expires.
    #[serde(default)]
    pub ttl: Option<String>,
    /// Whether the table has a change stream, with old and new images.
    #[serde(default)]
    pub stream: bool,
}

/// The type of a key attribute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyType {
    /// Text, ordered by its UTF-8 bytes.
    #[default]
    String,
    /// A number.
    Number,
}

/// A secondary index: the items that have both attributes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IndexSpec {
    /// The attribute that is its hash key, a string.
    pub hash: String,
    /// The attribute that is its range key, a string.
    pub range: String,
}

/// An event bus.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BusSpec {
    /// Its rules, by name.
    #[serde(default)]
    pub rules: BTreeMap<String, RuleSpec>,
}

/// A rule: the events that match its pattern go to its targets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleSpec {
    /// An EventBridge event pattern.
    pub pattern: Value,
    /// Where matching events go, at most 5.
    pub targets: Vec<TargetSpec>,
}

/// A target of a rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TargetSpec {
    /// A queue of this pipeline.
    Queue(String),
    /// A topic; on one machine its messages are logged and appended to `topics/{name}.ndjson`.
    Topic(String),
    /// One machine only: a file that gets an event a line.
    File(String),
    /// One machine only: an address that each event is posted to as JSON.
    Webhook(String),
    /// One machine only: the process's log.
    Log {},
}
