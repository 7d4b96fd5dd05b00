//! The shape of a pipeline's file: what serde reads and what the JSON Schema says come from these types.

use std::{collections::BTreeMap, time::Duration};

use penstock_engine::{
    cloud::resources::Resources,
    graph::{Declared, Fault, Path, Problem, Role, Running, Spellings, read, spellings_below},
    units,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::tree::Tree;
use crate::config_test::TestSpec;

/// A pipeline: operators joined by their inputs, and the resources that they use.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// The pipeline's name: the first part of the name of each of its resources.
    // Its absence is told by the loader, so that the rest of the file is still read.
    #[serde(default)]
    pub pipeline: String,
    /// The environment, e.g. `dev`: the last part of the name of each resource.
    #[serde(default = "default_env")]
    pub env: String,
    /// The AWS account's id, 12 digits; part of the names of buckets.
    #[serde(default = "default_account")]
    pub account: String,
    /// The buckets, queues, tables and buses that the pipeline needs, by their short names.
    #[serde(default)]
    pub resources: Resources,
    /// The operators that each service runs. One process runs one service; without services, one process runs all.
    #[serde(default)]
    pub services: BTreeMap<String, Vec<String>>,
    /// How long a graceful stop may take; below the stopTimeout of the ECS task.
    #[serde(default = "default_shutdown_limit", with = "units::duration")]
    #[schemars(with = "String")]
    pub shutdown_limit: Duration,
    /// Operators that make records, by id.
    #[serde(default)]
    pub sources: Map<String, Value>,
    /// Operators that take records and make records, by id.
    #[serde(default)]
    pub transforms: Map<String, Value>,
    /// Operators that take records, by id.
    #[serde(default)]
    pub sinks: Map<String, Value>,
    /// Tests of the pipeline: what is put into its operators, and what must come out. `penstock test` runs them.
    #[serde(default)]
    pub tests: Vec<TestSpec>,
}

/// A file of tests that stands beside a pipeline's.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestFile {
    /// The tests.
    #[serde(default)]
    pub tests: Vec<TestSpec>,
}

/// What every operator has besides its own options.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Common {
    /// The type of operator.
    #[serde(default, rename = "type")]
    pub type_name: Option<String>,
    /// The outputs that it reads: `id`, or `id.output` for one that isn't the main output.
    #[serde(default)]
    pub inputs: Vec<String>,
    /// How the runtime runs it.
    #[serde(default)]
    pub running: Running,
}

fn default_env() -> String {
    "dev".to_owned()
}

fn default_account() -> String {
    "0".repeat(12)
}

fn default_shutdown_limit() -> Duration {
    Duration::from_secs(25)
}

impl Document {
    /// Reads a file's tree, and finds what is wrong with its types.
    pub fn read(tree: &Tree) -> (Option<Self>, Vec<Problem>) {
        let value = tree.to_value();
        if value.is_null() {
            let message = "the file is empty: a pipeline begins with `pipeline: its-name`".to_owned();
            return (None, vec![Problem::value(Path::root(), Fault::Invalid(message))]);
        }
        if !value.is_object() {
            let message = "expected a map: a pipeline begins with `pipeline: its-name`".to_owned();
            return (None, vec![Problem::value(Path::root(), Fault::Invalid(message))]);
        }
        read(&value, &tree.spellings(), &[], |value| serde_path_to_error::deserialize(value))
    }

    /// The operators, and what is wrong with what all have.
    pub fn operators(&self, spellings: &Spellings) -> (Vec<Declared>, Vec<Problem>) {
        let sections = [(Role::Source, &self.sources), (Role::Transform, &self.transforms), (Role::Sink, &self.sinks)];
        let (mut operators, mut problems) = (Vec::new(), Vec::new());
        for (section, entries) in sections {
            for (id, value) in entries {
                let path = Path::root().key(section.section()).key(id);
                let (declared, found) = operator(section, id, value, &spellings_below(spellings, &path));
                operators.push(declared);
                problems.extend(found.into_iter().map(|problem| problem.under(&path)));
            }
        }
        (operators, problems)
    }
}

fn operator(section: Role, id: &str, value: &Value, spellings: &Spellings) -> (Declared, Vec<Problem>) {
    let mut problems = Vec::new();
    let (mut common, mut options) = (Map::new(), Map::new());
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let to =
                    if ["type", "inputs", "running"].contains(&name.as_str()) { &mut common } else { &mut options };
                to.insert(name.clone(), value.clone());
            }
        }
        // An id with nothing after it: what is missing is told by the check.
        Value::Null => {}
        _ => {
            let message = "expected a map with `type` and the operator's options".to_owned();
            problems.push(Problem::value(Path::root(), Fault::Invalid(message)));
        }
    }
    let (common, found) =
        read::<Common>(&common.into(), spellings, &[], |value| serde_path_to_error::deserialize(value));
    problems.extend(found);
    let Common { type_name, inputs, running } = common.unwrap_or_default();
    let (id, options, spellings) = (id.to_owned(), options.into(), spellings.clone());
    (Declared { section, id, type_name, inputs, running, options, spellings }, problems)
}
