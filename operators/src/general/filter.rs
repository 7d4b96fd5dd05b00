//! `filter`: hands on the records whose document an event pattern takes; the others go out by `unmatched`.

use async_trait::async_trait;
use penstock_engine::{
    cloud::pattern::Pattern,
    document,
    graph::{Build, Built, Role, Use},
    operator::{Context, Kind, MAIN_OUTPUT, Operator, OperatorError, Outputs, Record},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The output of records that the pattern doesn't take.
pub const UNMATCHED: &str = "unmatched";

/// Options of `filter`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilterOptions {
    /// An EventBridge event pattern on the record's document, e.g. `{ operation: [INSERT], new: { status: [paid] } }`.
    pub pattern: Value,
}

#[async_trait]
impl Build for FilterOptions {
    const NAME: &'static str = "filter";
    const ABOUT: &'static str = "Hands on the records that an event pattern takes.";
    const ROLE: Role = Role::Transform;

    fn input() -> Option<Kind> {
        Some(Kind::Any)
    }

    fn outputs() -> Vec<(&'static str, Kind)> {
        vec![(MAIN_OUTPUT, Kind::Any), (UNMATCHED, Kind::Any)]
    }

    fn uses(&self) -> Vec<Use> {
        Vec::new()
    }

    fn check(&self) -> Result<(), String> {
        Pattern::parse(&self.pattern).map(drop).map_err(|problem| format!("pattern: {problem}"))
    }

    async fn build(self, context: Context) -> Result<Built, OperatorError> {
        let pattern = Pattern::parse(&self.pattern)
            .map_err(|problem| OperatorError::permanent(format!("{}: pattern: {problem}", context.id)))?;
        Ok(Built::Operator(Box::new(Filter { id: context.id, pattern })))
    }
}

struct Filter {
    id: String,
    pattern: Pattern,
}

#[async_trait]
impl Operator for Filter {
    async fn on_record(&mut self, record: &Record, out: &mut Outputs) -> Result<(), OperatorError> {
        let matched = self.pattern.matches(&document::value(&record.body)?);
        let output = if matched { MAIN_OUTPUT } else { UNMATCHED };
        metrics::counter!("penstock_records_filtered_total", "component_id" => self.id.clone(), "output" => output)
            .increment(1);
        out.emit_to(output, record.body.clone(), record.ack.clone()).await;
        Ok(())
    }
}
