//! The graph of a pipeline: operators by id, joined by their inputs, checked before anything starts.

mod registry;

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use registry::{Build, Built, OperatorType, Registry, Role, Use, UseMode};

use crate::{operator::MAIN_OUTPUT, units};

/// A checked plan: nodes in an order in which each comes after its inputs.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    /// The operators.
    pub nodes: Vec<Node>,
}

/// One operator of the plan.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its id in the pipeline.
    pub id: String,
    /// The name of its [`OperatorType`].
    pub type_name: String,
    /// Where its records come from.
    pub inputs: Vec<Input>,
    /// Its own options, with defaults filled in.
    pub options: Value,
    /// How the runtime runs it.
    pub running: Running,
}

/// An output that an operator reads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Input {
    /// The id of the operator that it belongs to.
    pub id: String,
    /// Its name there.
    pub output: String,
}

impl Input {
    /// Reads `id` or `id.output`.
    pub fn parse(text: &str) -> Self {
        let (id, output) = text.split_once('.').unwrap_or((text, MAIN_OUTPUT));
        Self { id: id.to_owned(), output: output.to_owned() }
    }
}

/// How the runtime runs an operator. The same for every type of operator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Running {
    /// How many instances share its input.
    pub concurrency: usize,
    /// At most so many batches wait before it; then its inputs wait.
    pub buffer_batches: usize,
    /// What is done about a record that fails.
    pub retry: Retry,
}

impl Default for Running {
    fn default() -> Self {
        Self { concurrency: 1, buffer_batches: 4, retry: Retry::default() }
    }
}

/// How often, and how fast, a failed record is tried again in place, before its verdict goes back to the source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Tries in all.
    pub max_attempts: u32,
    /// The wait after the first; it doubles each time.
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub initial_wait: Duration,
    /// The longest wait.
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub max_wait: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { max_attempts: 5, initial_wait: Duration::from_millis(100), max_wait: Duration::from_secs(10) }
    }
}
