//! `drop`: ends records that nobody wants. An output that leads here is dropped on purpose, and is counted.

use async_trait::async_trait;
use penstock_engine::{
    graph::{Build, Built, Role, Use},
    operator::{Context, Kind, Operator, OperatorError, Outputs, Record},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Options of `drop`: none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DropOptions {}

#[async_trait]
impl Build for DropOptions {
    const NAME: &'static str = "drop";
    const ABOUT: &'static str = "Ends records that nobody wants, and counts them.";
    const ROLE: Role = Role::Sink;

    fn input() -> Option<Kind> {
        Some(Kind::Any)
    }

    fn uses(&self) -> Vec<Use> {
        Vec::new()
    }

    async fn build(self, context: Context) -> Result<Built, OperatorError> {
        Ok(Built::Operator(Box::new(Drop { id: context.id })))
    }
}

struct Drop {
    id: String,
}

#[async_trait]
impl Operator for Drop {
    async fn on_record(&mut self, _record: &Record, _out: &mut Outputs) -> Result<(), OperatorError> {
        metrics::counter!("penstock_records_dropped_total", "component_id" => self.id.clone()).increment(1);
        Ok(())
    }
}
