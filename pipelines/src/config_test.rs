//! Tests of a pipeline's YAML: records in, expected records out, without a cloud.
//!
//! A test puts records into operators as if their inputs had sent them. Transforms run as they do in a service; sinks
//! don't: what reaches one is what it is judged by. Whatever leaves an operator is compared by its
//! [document](mod@penstock_engine::document).

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use penstock_engine::{
    ack::Ack,
    cloud::{
        Bucket, ChangeStream, Cloud, CloudError, ErrorKind, EventBus, Item, Queue, Result as CloudResult, Table,
        change_stream::{Change, ChangeKind, SequenceNumber},
        limits::item_bytes,
        queue::{Message, Receipt},
        resources::Naming,
        table::Key,
    },
    document,
    graph::{Built, Graph, Input, Node, OperatorType, Registry, Role},
    operator::{Body, Context, Operator, OperatorError, Outputs, Record},
    streams::Common,
    time::Clock,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Room for more than any file of tests can send.
const MAX_BATCHES: usize = 1 << 16;

/// A test of a pipeline.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TestSpec {
    /// What it shows.
    pub name: String,
    /// What the clock says.
    #[serde(default = "default_now")]
    pub now: DateTime<Utc>,
    /// Records by the operator that they are put into.
    pub send: BTreeMap<String, Vec<Sent>>,
    /// What must leave an operator (`id`, or `id.output`), or reach a sink: all of it, in order. Of each record the
    /// fields that are given must be as given.
    #[serde(default)]
    pub expect: BTreeMap<String, Vec<Value>>,
    /// Records that an operator must refuse: a part of each error, in order.
    #[serde(default)]
    pub fail: BTreeMap<String, Vec<String>>,
}

fn default_now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_769_904_000, 0).unwrap_or_default()
}

/// A record that a test sends.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sent {
    /// A message of a queue: its body, as text or as the JSON that it holds.
    Message(Value),
    /// A change of a table.
    Change(SentChange),
    /// A record of another kind, e.g. an object's.
    Value(Value),
}

/// A change of a table, its images as plain JSON.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SentChange {
    /// What happened.
    pub operation: Operation,
    /// The value of the partition key.
    #[serde(default)]
    pub partition: String,
    /// The value of the sort key.
    #[serde(default)]
    pub sort: String,
    /// The item before.
    #[serde(default)]
    pub old: Option<BTreeMap<String, Value>>,
    /// The item after.
    #[serde(default)]
    pub new: Option<BTreeMap<String, Value>>,
}

/// What happened to an item.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Operation {
    /// It was made.
    Insert,
    /// It was changed.
    Modify,
    /// It was removed.
    Remove,
}

/// What came of a test.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// The test.
    pub name: String,
    /// What was not as expected.
    pub differences: Vec<String>,
}

impl Outcome {
    /// Whether all was as expected.
    pub fn passed(&self) -> bool {
        self.differences.is_empty()
    }
}

/// Runs a test on a pipeline's graph.
pub async fn run(test: &TestSpec, graph: &Graph, naming: &Naming, registry: &Registry) -> Outcome {
    let mut trial = Trial { test, naming, registry, inboxes: BTreeMap::new(), seen: Seen::default() };
    let differences = match trial.flow(graph).await {
        Ok(()) => trial.seen.differences(test),
        Err(error) => vec![error.to_string()],
    };
    Outcome { name: test.name.clone(), differences }
}

struct Trial<'a> {
    test: &'a TestSpec,
    naming: &'a Naming,
    registry: &'a Registry,
    inboxes: BTreeMap<String, Vec<Body>>,
    seen: Seen,
}

/// What happened in a test.
#[derive(Default)]
struct Seen {
    /// Documents by where they left, or by the sink that they reached.
    records: BTreeMap<String, Vec<Value>>,
    failures: BTreeMap<String, Vec<String>>,
}

impl Trial<'_> {
    /// Lets the records flow: each operator comes after its inputs.
    async fn flow(&mut self, graph: &Graph) -> Result<(), OperatorError> {
        for (id, sent) in &self.test.send {
            let bodies = sent.iter().enumerate().map(|(at, sent)| body(sent, at, self.test.now));
            self.inboxes.entry(id.clone()).or_default().extend(bodies.collect::<Result<Vec<_>, _>>()?);
        }
        for node in &graph.nodes {
            let Some(bodies) = self.inboxes.remove(&node.id) else { continue };
            let Some(known) = self.registry.get(&node.type_name) else { continue };
            if known.role() == Role::Sink {
                let documents = bodies.iter().map(document::value).collect::<Result<Vec<_>, _>>()?;
                self.seen.records.insert(node.id.clone(), documents);
                continue;
            }
            for (output, bodies) in self.operate(node, known, bodies).await? {
                let place = Input { id: node.id.clone(), output };
                let documents = bodies.iter().map(document::value).collect::<Result<Vec<_>, _>>()?;
                self.seen.records.insert(place.to_string(), documents);
                for reader in graph.nodes.iter().filter(|reader| reader.inputs.contains(&place)) {
                    self.inboxes.entry(reader.id.clone()).or_default().extend(bodies.iter().cloned());
                }
            }
        }
        Ok(())
    }

    /// Runs one transform on its records. Returns what leaves it, by output.
    async fn operate(
        &mut self,
        node: &Node,
        known: &dyn OperatorType,
        bodies: Vec<Body>,
    ) -> Result<Vec<(String, Vec<Body>)>, OperatorError> {
        let Built::Operator(mut operator) = known.build(&node.options, self.context(node)).await? else {
            return Err(OperatorError::permanent(format!("{}: a source takes no records", node.id)));
        };
        let (mut ports, mut leaving) = (BTreeMap::new(), Vec::new());
        for (output, _) in known.outputs() {
            // Nobody reads before the operator is done.
            let (sender, receiver) = mpsc::channel(MAX_BATCHES);
            ports.insert(output.to_owned(), vec![sender]);
            leaving.push((output.to_owned(), receiver));
        }
        let mut outputs = Outputs::new(ports);
        let failures = handle(&mut *operator, bodies, &mut outputs).await;
        drop(outputs);
        if !failures.is_empty() {
            self.seen.failures.insert(node.id.clone(), failures);
        }
        let mut left = Vec::new();
        for (output, mut receiver) in leaving {
            let mut bodies = Vec::new();
            while let Some(batch) = receiver.recv().await {
                bodies.extend(batch.into_iter().map(|record| record.body));
            }
            left.push((output, bodies));
        }
        Ok(left)
    }

    fn context(&self, node: &Node) -> Context {
        let now = self.test.now;
        Context {
            id: node.id.clone(),
            naming: self.naming.clone(),
            cloud: Arc::new(NoCloud),
            clock: Clock::from_fn(move || now),
            worker: "test".to_owned(),
            sole_process: true,
            streams: Common::default(),
            stop: CancellationToken::new(),
        }
    }
}

/// Gives the operator its records. Returns the errors of those that it refuses.
async fn handle(operator: &mut dyn Operator, bodies: Vec<Body>, outputs: &mut Outputs) -> Vec<String> {
    // Verdicts have nobody to go to: a test looks at the records and the errors themselves.
    let (verdicts, _) = mpsc::unbounded_channel();
    let records = bodies.into_iter().enumerate();
    let records: Vec<Record> =
        records.map(|(at, body)| Record { body, ack: Ack::new(at as u64, verdicts.clone()) }).collect();
    let mut failures = operator.on_batch(&records, outputs).await;
    failures.sort_by_key(|(at, _)| *at);
    outputs.flush().await;
    failures.into_iter().map(|(_, error)| error.to_string()).collect()
}

impl Seen {
    fn differences(&self, test: &TestSpec) -> Vec<String> {
        let mut differences = Vec::new();
        let none = Vec::new();
        for (place, expected) in &test.expect {
            // The main output has a short and a long name.
            let place_seen = Input::parse(place).to_string();
            let seen = self.records.get(&place_seen).unwrap_or(&none);
            if seen.len() != expected.len() {
                let listed: String = seen.iter().map(|record| format!("\n    {record}")).collect();
                differences.push(format!("{place}: expected {}, saw {}{listed}", expected.len(), seen.len()));
                continue;
            }
            for (at, (expected, seen)) in expected.iter().zip(seen).enumerate() {
                compare(&format!("{place}[{at}]"), expected, seen, &mut differences);
            }
        }
        for (id, expected) in &test.fail {
            let seen = self.failures.get(id).map(Vec::as_slice).unwrap_or_default();
            if seen.len() != expected.len() {
                differences.push(format!("{id}: expected {} to fail, saw {}: {seen:?}", expected.len(), seen.len()));
            }
            for (expected, seen) in expected.iter().zip(seen).filter(|(expected, seen)| !seen.contains(*expected)) {
                differences.push(format!("{id}: expected a failure with `{expected}`, saw `{seen}`"));
            }
        }
        let unexpected = self.failures.iter().filter(|(id, _)| !test.fail.contains_key(*id));
        differences
            .extend(unexpected.flat_map(|(id, errors)| errors.iter().map(move |error| format!("{id}: {error}"))));
        differences
    }
}

/// What of a value isn't as expected: of maps only the fields that are given count.
fn compare(place: &str, expected: &Value, seen: &Value, differences: &mut Vec<String>) {
    match (expected, seen) {
        (Value::Object(expected), Value::Object(seen)) => {
            for (name, expected) in expected {
                compare(&format!("{place}.{name}"), expected, seen.get(name).unwrap_or(&Value::Null), differences);
            }
        }
        (Value::Array(expected), Value::Array(seen)) if expected.len() == seen.len() => {
            for (at, (expected, seen)) in expected.iter().zip(seen).enumerate() {
                compare(&format!("{place}[{at}]"), expected, seen, differences);
            }
        }
        _ if expected == seen => {}
        _ => differences.push(format!("{place}: expected {expected}, saw {seen}")),
    }
}

fn body(sent: &Sent, at: usize, now: DateTime<Utc>) -> Result<Body, OperatorError> {
    Ok(match sent {
        Sent::Value(value) => Body::Value(Arc::new(value.clone())),
        Sent::Message(body) => Body::Message(Arc::new(Message {
            id: format!("message-{at}"),
            body: body.as_str().map_or_else(|| body.to_string(), str::to_owned),
            receipt: Receipt(format!("receipt-{at}")),
            receive_count: 1,
            sent_ms: now.timestamp_millis(),
        })),
        Sent::Change(change) => {
            let (old, new) = (image(change.old.as_ref())?, image(change.new.as_ref())?);
            let size = [&old, &new].into_iter().flatten().map(item_bytes).sum::<usize>();
            Body::Change(Arc::new(Change {
                kind: match change.operation {
                    Operation::Insert => ChangeKind::Insert,
                    Operation::Modify => ChangeKind::Modify,
                    Operation::Remove => ChangeKind::Remove,
                },
                key: Key::new(change.partition.as_str(), change.sort.as_str()),
                old,
                new,
                sequence: SequenceNumber((at + 1).to_string()),
                created_secs: now.timestamp(),
                size_bytes: size as u64,
                by_ttl: false,
            }))
        }
    })
}

fn image(plain: Option<&BTreeMap<String, Value>>) -> Result<Option<Item>, OperatorError> {
    let item = plain.map(serde_dynamo::to_item).transpose();
    item.map_err(|error| OperatorError::permanent(format!("an image is no item: {error}")))
}

/// What a transform finds that asks for a resource.
struct NoCloud;

impl NoCloud {
    fn none<T>(what: &str, name: &str) -> CloudResult<T> {
        let message = "a test has no cloud: it can't run transforms that use a resource";
        Err(CloudError::new(ErrorKind::Invalid, format!("{what} {name}"), message))
    }
}

#[async_trait]
impl Cloud for NoCloud {
    async fn table(&self, name: &str) -> CloudResult<Arc<dyn Table>> {
        Self::none("table", name)
    }

    async fn change_stream(&self, table: &str) -> CloudResult<Arc<dyn ChangeStream>> {
        Self::none("change stream of", table)
    }

    async fn queue(&self, name: &str) -> CloudResult<Arc<dyn Queue>> {
        Self::none("queue", name)
    }

    async fn event_bus(&self, name: &str) -> CloudResult<Arc<dyn EventBus>> {
        Self::none("bus", name)
    }

    async fn bucket(&self, name: &str) -> CloudResult<Bucket> {
        Self::none("bucket", name)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::loader::load_text;

    async fn differences(test: Value) -> Vec<String> {
        let text = include_str!("../table-to-parquet.yaml");
        let registry = crate::registry();
        let pipeline = load_text(std::path::Path::new("p.yaml"), text, &|_| None, &registry).unwrap();
        let test: TestSpec = serde_json::from_value(test).unwrap();
        run(&test, &pipeline.graph, &pipeline.naming, &registry).await.differences
    }

    #[tokio::test]
    async fn what_is_not_as_expected_is_told_with_its_place() {
        let send = json!({"wanted": [{"change": {"operation": "INSERT", "new": {"a": 1, "b": [1, "x"]}}}]});
        let test = |expect: Value| json!({"name": "t", "send": send, "expect": expect});
        assert_eq!(differences(test(json!({"gather": [{"new": {"b": [1, "x"]}}]}))).await, Vec::<String>::new());
        assert_eq!(
            differences(test(json!({"gather": [{"new": {"a": 2}}]}))).await,
            ["gather[0].new.a: expected 2, saw 1"]
        );
        let missing = differences(test(json!({"wanted.unmatched": [{}]}))).await;
        assert_eq!(missing, ["wanted.unmatched: expected 1, saw 0"]);
        let surplus = differences(test(json!({"wanted.out": []}))).await;
        assert!(surplus[0].starts_with("wanted.out: expected 0, saw 1\n"), "{surplus:?}");
    }

    #[tokio::test]
    async fn failures_are_expected_or_told() {
        let send = json!({"landing": [{"message": "no JSON"}]});
        let told = differences(json!({"name": "t", "send": send, "expect": {"landing": []}})).await;
        assert!(told[0].starts_with("landing: message message-0 is no notification"), "{told:?}");
        let expected = json!({"name": "t", "send": send, "fail": {"landing": ["is no notification"]}});
        assert_eq!(differences(expected).await, Vec::<String>::new());
        let other = json!({"name": "t", "send": send, "fail": {"landing": ["another reason"]}});
        assert!(differences(other).await[0].contains("expected a failure with `another reason`"));
    }
}
