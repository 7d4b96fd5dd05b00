//! `log`: writes each record's document to the log, to see what flows.

use async_trait::async_trait;
use penstock_engine::{
    document,
    graph::{Build, Built, Role, Use},
    operator::{Context, Kind, Operator, OperatorError, Outputs, Record},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Options of `log`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogOptions {
    /// Write one record of so many.
    pub one_in: u64,
    /// At most so many characters of each.
    pub max_chars: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { one_in: 1, max_chars: 2000 }
    }
}

#[async_trait]
impl Build for LogOptions {
    const NAME: &'static str = "log";
    const ABOUT: &'static str = "Writes each record to the log.";
    const ROLE: Role = Role::Sink;

    fn input() -> Option<Kind> {
        Some(Kind::Any)
    }

    fn uses(&self) -> Vec<Use> {
        Vec::new()
    }

    fn check(&self) -> Result<(), String> {
        if self.one_in == 0 { Err("one_in: must be at least 1".to_owned()) } else { Ok(()) }
    }

    async fn build(self, context: Context) -> Result<Built, OperatorError> {
        Ok(Built::Operator(Box::new(Log { id: context.id, options: self, seen: 0 })))
    }
}

struct Log {
    id: String,
    options: LogOptions,
    seen: u64,
}

#[async_trait]
impl Operator for Log {
    async fn on_record(&mut self, record: &Record, _out: &mut Outputs) -> Result<(), OperatorError> {
        if self.seen.is_multiple_of(self.options.one_in) {
            let text = document::text(&record.body)?;
            let record: String = text.chars().take(self.options.max_chars).collect();
            tracing::info!(operator = self.id, seen = self.seen, record, "Record.");
        }
        self.seen += 1;
        Ok(())
    }
}
