//! `admit`: decides whether an object may become a file: by its name, its size and its date.
//!
//! What may not goes out by `rejected`, with the reason; nothing is dropped.

use async_trait::async_trait;
use object_store::path::Path;
use penstock_engine::{
    graph::{Build, Built, Role, Use},
    operator::{Body, Context, Kind, MAIN_OUTPUT, Operator, OperatorError, Outputs, Record},
    units,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    model::ObjectEvent,
    record::{read_value, to_value},
};

/// The output of objects that may not become files.
pub const REJECTED: &str = "rejected";

/// Options of `admit`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdmitOptions {
    /// Keys must end with one of these; upper and lower case count the same.
    pub suffixes: Vec<String>,
    /// Smaller objects are rejected.
    #[serde(with = "units::size")]
    #[schemars(with = "String")]
    pub min_bytes: u64,
    /// Larger objects are rejected.
    #[serde(with = "units::size")]
    #[schemars(with = "String")]
    pub max_bytes: u64,
    /// Reject keys without a calendar date; otherwise they belong to the day of their notification.
    pub require_date: bool,
}

impl Default for AdmitOptions {
    fn default() -> Self {
        let suffixes =
            ["", ".gz", ".zst"].iter().flat_map(|packed| [format!(".ndjson{packed}"), format!(".jsonl{packed}")]);
        Self { suffixes: suffixes.collect(), min_bytes: 0, max_bytes: 1 << 40, require_date: false }
    }
}

impl AdmitOptions {
    /// Why an object may not become a file.
    pub fn objection(&self, object: &ObjectEvent) -> Option<String> {
        // What can't be read later is refused now, not in the middle of a manifest.
        if let Err(error) = Path::parse(&object.key) {
            return Some(format!("unusable key: {error}"));
        }
        let lower = object.key.to_ascii_lowercase();
        if !self.suffixes.iter().any(|suffix| lower.ends_with(&suffix.to_ascii_lowercase())) {
            return Some(format!("wrong suffix: the key ends with none of {}", self.suffixes.join(", ")));
        }
        if !(self.min_bytes..=self.max_bytes).contains(&object.size_bytes) {
            let (min, max) = (units::format_size(self.min_bytes), units::format_size(self.max_bytes));
            return Some(format!("wrong size: {} bytes is not between {min} and {max}", object.size_bytes));
        }
        if self.require_date && crate::model::date_of_key(&object.key).is_none() {
            return Some("no date: the key holds no calendar date YYYY-MM-DD".to_owned());
        }
        None
    }
}

#[async_trait]
impl Build for AdmitOptions {
    const NAME: &'static str = "admit";
    const ABOUT: &'static str = "Decides whether an object may become a file: by its name, its size and its date.";
    const ROLE: Role = Role::Transform;

    fn input() -> Option<Kind> {
        Some(Kind::Value(ObjectEvent::SHAPE))
    }

    fn outputs() -> Vec<(&'static str, Kind)> {
        vec![(MAIN_OUTPUT, Kind::Value(ObjectEvent::SHAPE)), (REJECTED, Kind::Value(ObjectEvent::SHAPE))]
    }

    fn uses(&self) -> Vec<Use> {
        Vec::new()
    }

    fn check(&self) -> Result<(), String> {
        if self.suffixes.is_empty() {
            return Err("suffixes: at least one is needed, e.g. `.ndjson`".to_owned());
        }
        if self.min_bytes > self.max_bytes {
            return Err("min_bytes: must not be above max_bytes".to_owned());
        }
        Ok(())
    }

    async fn build(self, _context: Context) -> Result<Built, OperatorError> {
        Ok(Built::Operator(Box::new(Admit { options: self })))
    }
}

struct Admit {
    options: AdmitOptions,
}

#[async_trait]
impl Operator for Admit {
    async fn on_record(&mut self, record: &Record, out: &mut Outputs) -> Result<(), OperatorError> {
        let object: ObjectEvent = read_value(record)?;
        match self.options.objection(&object) {
            None => out.emit(record, record.body.clone()).await,
            Some(reason) => {
                let rejected = ObjectEvent { reason: Some(reason), ..object };
                out.emit_to(REJECTED, Body::Value(to_value(&rejected)?), record.ack.clone()).await;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(key: &str, size_bytes: u64) -> ObjectEvent {
        ObjectEvent {
            bucket: "b".to_owned(),
            key: key.to_owned(),
            size_bytes,
            etag: None,
            sequencer: None,
            version_id: None,
            event_ms: 0,
            reason: None,
        }
    }

    #[test]
    fn what_may_become_a_file() {
        let options = AdmitOptions { min_bytes: 10, max_bytes: 100, require_date: true, ..AdmitOptions::default() };
        assert_eq!(options.objection(&object("2026-02-01/A.NDJSON", 10)), None);
        assert_eq!(options.objection(&object("2026-02-01/a.jsonl.zst", 100)), None);
        let why = |key: &str, size| options.objection(&object(key, size)).unwrap();
        assert!(why("2026-02-01/a.csv", 50).starts_with("wrong suffix"));
        assert_eq!(why("2026-02-01/a.ndjson", 101), "wrong size: 101 bytes is not between 10B and 100B");
        assert!(why("a.ndjson", 50).starts_with("no date"));
        for key in ["2026-02-01//a.ndjson", "2026-02-01/../a.ndjson"] {
            assert!(why(key, 50).starts_with("unusable key"), "{key}");
        }
    }
}
