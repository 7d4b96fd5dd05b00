//! `quarantine`: keeps a copy of an object that can't be used, with the reason, and records it.

use async_trait::async_trait;
use penstock_engine::{
    cloud::{
        Bucket, ErrorKind,
        limits::OBJECT_KEY_BYTES,
        stage::{CopySource, Metadata},
    },
    graph::{Access, Build, Built, Role, Use},
    operator::{Context, Kind, Operator, OperatorError, Outputs, Record},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Target, TrackOptions, Tracker, default_ttl_days};
use crate::{model::ObjectEvent, record::read_value};

/// Options of `quarantine`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QuarantineOptions {
    /// The tracking table.
    pub table: String,
    /// The bucket of the files.
    pub input: String,
    /// The bucket that gets the copies, as `{key}@{etag}`.
    pub quarantine: String,
    /// File keys begin below this prefix.
    pub input_prefix: String,
    /// Days after which the item of a quarantined file may vanish.
    #[serde(default = "default_ttl_days")]
    pub ttl_days: u32,
}

#[async_trait]
impl Build for QuarantineOptions {
    const NAME: &'static str = "quarantine";
    const ABOUT: &'static str = "Keeps a copy of each object that can't be used, with the reason, and records it.";
    const ROLE: Role = Role::Sink;

    fn input() -> Option<Kind> {
        Some(Kind::Value(ObjectEvent::SHAPE))
    }

    fn uses(&self) -> Vec<Use> {
        vec![
            Use::shared("table", &self.table, &[Access::Get, Access::Put, Access::Update]),
            Use::shared("bucket", &self.input, &[Access::Get]).below(&self.input_prefix),
            // An object's copy keeps its key.
            Use::shared("bucket", &self.quarantine, &[Access::Stage]).below(&self.input_prefix),
        ]
    }

    async fn build(self, context: Context) -> Result<Built, OperatorError> {
        let quarantine = context.cloud.bucket(&self.quarantine).await?;
        let track = TrackOptions {
            table: self.table,
            input: self.input,
            input_prefix: self.input_prefix,
            ttl_days: self.ttl_days,
        };
        Ok(Built::Operator(Box::new(Quarantine { tracker: Tracker::open(&track, &context).await?, quarantine })))
    }
}

struct Quarantine {
    tracker: Tracker,
    quarantine: Bucket,
}

#[async_trait]
impl Operator for Quarantine {
    async fn on_record(&mut self, record: &Record, _out: &mut Outputs) -> Result<(), OperatorError> {
        let object: ObjectEvent = read_value(record)?;
        let reason = object.reason.clone().unwrap_or_else(|| "no reason was given".to_owned());
        let reason = self.copy(&object, reason).await?;
        self.tracker.track(&object, &Target::Quarantined(reason)).await
    }
}

impl Quarantine {
    /// Copies the object before its item says so. One that is gone or changed, or is somebody else's, isn't copied, and the
    /// reason says it.
    async fn copy(&self, object: &ObjectEvent, reason: String) -> Result<String, OperatorError> {
        if let Some(why) = self.tracker.stranger(object) {
            return Ok(format!("{reason}; not copied: {why}"));
        }
        let Some(etag) = object.etag.clone() else {
            return Ok(format!("{reason}; not copied: the notification has no etag"));
        };
        let metadata = Metadata::from([
            ("quarantine-reason".to_owned(), ascii(&reason)),
            ("original-uri".to_owned(), ascii(&object.uri())),
        ]);
        let key = copy_key(&object.key, &etag);
        let source = CopySource {
            bucket: object.bucket.clone(),
            key: object.key.clone(),
            etag,
            version: object.version_id.clone(),
        };
        match self.quarantine.stage.copy_from(&source, &key, &metadata).await {
            Ok(()) => Ok(reason),
            Err(error) if error.kind == ErrorKind::NotFound => {
                Ok(format!("{reason}; not copied: the object was gone by then"))
            }
            Err(error) if error.kind == ErrorKind::PreconditionFailed => {
                Ok(format!("{reason}; not copied: the object had changed by then"))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Object metadata travels in HTTP headers: anything else than printable ASCII is escaped.
fn ascii(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c.is_ascii_graphic() || c == ' ' { vec![c] } else { c.escape_unicode().collect() })
        .collect()
}

/// The key, in the quarantine bucket, of the copy of an object of this key and etag.
pub fn copy_key(key: &str, etag: &str) -> String {
    let copy = format!("{key}@{etag}");
    if copy.len() > OBJECT_KEY_BYTES { format!("long-key/{:x}@{etag}", Sha256::digest(key.as_bytes())) } else { copy }
}
