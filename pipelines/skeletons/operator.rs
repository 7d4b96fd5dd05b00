//! `skeleton`: say here what it is for, and what it promises.

use async_trait::async_trait;
use penstock_engine::{
    graph::{Build, Built, Role, Use},
    operator::{Body, Context, Kind, MAIN_OUTPUT, Operator, OperatorError, Outputs, Record},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Options of `skeleton`. Each field's comment is its documentation in the JSON Schema.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SkeletonOptions {
    /// Records whose JSON holds this text are passed over.
    pub without: String,
}

#[async_trait]
impl Build for SkeletonOptions {
    const NAME: &'static str = "skeleton";
    const ABOUT: &'static str = "Passes over records whose JSON holds a text.";
    const ROLE: Role = Role::Transform;

    fn input() -> Option<Kind> {
        Some(Kind::Value("object"))
    }

    fn outputs() -> Vec<(&'static str, Kind)> {
        vec![(MAIN_OUTPUT, Kind::Value("object"))]
    }

    /// The tables, queues, buckets and buses that it uses, so that one that isn't declared is told before anything starts.
    fn uses(&self) -> Vec<Use> {
        Vec::new()
    }

    async fn build(self, _context: Context) -> Result<Built, OperatorError> {
        Ok(Built::Operator(Box::new(Skeleton { options: self })))
    }
}

struct Skeleton {
    options: SkeletonOptions,
}

#[async_trait]
impl Operator for Skeleton {
    /// The same record may come again: after an error, after a crash, or because it was delivered twice.
    async fn on_record(&mut self, record: &Record, out: &mut Outputs) -> Result<(), OperatorError> {
        let Body::Value(value) = &record.body else {
            return Err(OperatorError::permanent("skeleton reads JSON"));
        };
        if value.to_string().contains(&self.options.without) {
            metrics::counter!("penstock_skeleton_skipped_total").increment(1);
        } else {
            // What is emitted belongs to the record: its source hears of it when all parts are done.
            out.emit(record, record.body.clone()).await;
        }
        Ok(())
    }
}
