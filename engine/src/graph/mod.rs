//! The graph of a pipeline: operators by id, joined by their inputs, checked before anything starts.

mod check;
mod draw;
pub mod near;
mod path;
mod problem;
mod read;
mod registry;

use std::{collections::BTreeSet, fmt, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use check::{Declared, Plan, check};
pub use draw::Surroundings;
pub use path::{Path, Step};
pub use problem::{Fault, Part, Problem, Severity};
pub use read::{PathError, Spellings, read, spellings_below};
pub use registry::{Access, Build, Built, OperatorType, Registry, Role, Use, UseMode};

use crate::{operator::MAIN_OUTPUT, units};

/// A checked plan: nodes in an order in which each comes after its inputs.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    /// The operators.
    pub nodes: Vec<Node>,
}

impl Graph {
    /// The operator of that id.
    pub fn node(&self, id: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// The operators of a service, by their ids. An input from outside is an error: services are joined by the cloud,
    /// never by channels.
    pub fn subset<S: AsRef<str>>(&self, ids: &[S]) -> Result<Self, SubsetError> {
        let ids: BTreeSet<&str> = ids.iter().map(AsRef::as_ref).collect();
        if let Some(unknown) = ids.iter().find(|id| self.node(id).is_none()) {
            return Err(SubsetError::Unknown((*unknown).to_owned()));
        }
        let nodes: Vec<Node> = self.nodes.iter().filter(|node| ids.contains(node.id.as_str())).cloned().collect();
        for node in &nodes {
            if let Some(input) = node.inputs.iter().find(|input| !ids.contains(input.id.as_str())) {
                return Err(SubsetError::Crossing { reader: node.id.clone(), input: input.to_string() });
            }
        }
        Ok(Self { nodes })
    }
}

/// Why some operators are no service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubsetError {
    /// No operator has that id.
    #[error("there is no operator `{0}`")]
    Unknown(String),
    /// An operator reads one that isn't there.
    #[error("`{reader}` reads `{input}` of another service: services are joined by queues and tables, never by inputs")]
    Crossing {
        /// Who reads.
        reader: String,
        /// What it reads.
        input: String,
    },
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

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.output == MAIN_OUTPUT { f.write_str(&self.id) } else { write!(f, "{}.{}", self.id, self.output) }
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
