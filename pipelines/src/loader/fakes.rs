//! A small registry for the loader's tests.

use std::time::Duration;

use async_trait::async_trait;
use penstock_engine::{
    graph::{Build, Built, Registry, Role, Use},
    operator::{Context, Kind, OperatorError},
    units,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Reads a queue.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Queue {
    /// The queue's short name.
    queue: String,
}

/// Turns messages into objects.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Landing {
    /// Only keys that begin so.
    prefix: String,
    /// How long to wait for more.
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    max_age: Duration,
    /// How many files at most.
    max_files: u32,
    /// Whether to be quick.
    fast: bool,
    /// How many may be bad.
    ratio: Option<f64>,
}

impl Default for Landing {
    fn default() -> Self {
        let max_age = Duration::from_secs(300);
        Self { prefix: "landing/".to_owned(), max_age, max_files: 200, fast: false, ratio: None }
    }
}

/// Writes objects to a table.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Track {
    /// The table's short name.
    table: String,
}

fn never() -> Result<Built, OperatorError> {
    Err(OperatorError::permanent("a fake is never built"))
}

#[async_trait]
impl Build for Queue {
    const NAME: &'static str = "queue";
    const ABOUT: &'static str = "Reads a queue.";
    const ROLE: Role = Role::Source;

    fn input() -> Option<Kind> {
        None
    }

    fn outputs() -> Vec<(&'static str, Kind)> {
        vec![("out", Kind::Message)]
    }

    fn uses(&self) -> Vec<Use> {
        vec![Use::owned("queue", &self.queue)]
    }

    async fn build(self, _: Context) -> Result<Built, OperatorError> {
        never()
    }
}

#[async_trait]
impl Build for Landing {
    const NAME: &'static str = "landing";
    const ABOUT: &'static str = "Turns messages into objects.";
    const ROLE: Role = Role::Transform;

    fn input() -> Option<Kind> {
        Some(Kind::Message)
    }

    fn outputs() -> Vec<(&'static str, Kind)> {
        vec![("out", Kind::Value("object")), ("rejected", Kind::Value("reject"))]
    }

    fn uses(&self) -> Vec<Use> {
        Vec::new()
    }

    fn check(&self) -> Result<(), String> {
        if self.max_files > 0 { Ok(()) } else { Err("max_files: write at least 1".to_owned()) }
    }

    async fn build(self, _: Context) -> Result<Built, OperatorError> {
        never()
    }
}

#[async_trait]
impl Build for Track {
    const NAME: &'static str = "track";
    const ABOUT: &'static str = "Writes objects to a table.";
    const ROLE: Role = Role::Sink;

    fn input() -> Option<Kind> {
        Some(Kind::Value("object"))
    }

    fn uses(&self) -> Vec<Use> {
        vec![Use::shared("table", &self.table, &[])]
    }

    async fn build(self, _: Context) -> Result<Built, OperatorError> {
        never()
    }
}

/// The fakes.
pub fn registry() -> Registry {
    let mut registry = Registry::default();
    registry.add::<Queue>().add::<Landing>().add::<Track>();
    registry
}
