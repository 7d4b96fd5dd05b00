//! `landing`: reads notifications of new objects, in whatever envelope they come.
//!
//! S3's own bodies, the same wrapped by SNS, and EventBridge's shape. Test events, removals and folder markers are
//! counted and dropped. A body that is none of these is left to the queue's dead-letter limit: never deleted silently.

mod events;

use std::borrow::Cow;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use penstock_engine::{
    cloud::queue::Message,
    graph::{Build, Built, Role, Use},
    operator::{Body, Context, Kind, MAIN_OUTPUT, Operator, OperatorError, Outputs, Record},
};
use percent_encoding::percent_decode_str;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use events::NotificationDropped;

use crate::{model::ObjectEvent, record::to_value};

/// Envelopes within envelopes, at most.
const MAX_WRAPPING: usize = 3;

/// Options of `landing`: none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LandingOptions {}

#[async_trait]
impl Build for LandingOptions {
    const NAME: &'static str = "landing";
    const ABOUT: &'static str = "Reads notifications of new objects: from S3, or wrapped by SNS or EventBridge.";
    const ROLE: Role = Role::Transform;

    fn input() -> Option<Kind> {
        Some(Kind::Message)
    }

    fn outputs() -> Vec<(&'static str, Kind)> {
        vec![(MAIN_OUTPUT, Kind::Value(ObjectEvent::SHAPE))]
    }

    fn uses(&self) -> Vec<Use> {
        Vec::new()
    }

    async fn build(self, _context: Context) -> Result<Built, OperatorError> {
        Ok(Built::Operator(Box::new(Landing)))
    }
}

struct Landing;

#[async_trait]
impl Operator for Landing {
    async fn on_record(&mut self, record: &Record, out: &mut Outputs) -> Result<(), OperatorError> {
        let Body::Message(message) = &record.body else {
            return Err(OperatorError::permanent("landing reads messages of a queue"));
        };
        let notification = Notification::read(&message.body, message).map_err(|reason| {
            OperatorError::permanent(format!("message {} is no notification of an object: {reason}", message.id))
        })?;
        for why in notification.dropped {
            NotificationDropped { message: &message.id, why }.emit();
        }
        for object in notification.objects {
            out.emit(record, Body::Value(to_value(&object)?)).await;
        }
        Ok(())
    }
}

/// What a message tells of.
#[derive(Debug, Default, PartialEq)]
struct Notification {
    objects: Vec<ObjectEvent>,
    dropped: Vec<Dropped>,
}

/// Why a part of a notification is of no interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dropped {
    TestEvent,
    NotCreated,
    FolderMarker,
}

impl Dropped {
    fn as_str(self) -> &'static str {
        match self {
            Self::TestEvent => "test_event",
            Self::NotCreated => "not_created",
            Self::FolderMarker => "folder_marker",
        }
    }
}

/// The parts of S3's notification that count. Everything else may be missing or new.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct S3Record {
    event_name: String,
    event_time: Option<DateTime<Utc>>,
    s3: S3Entity,
}

#[derive(Deserialize)]
struct S3Entity {
    bucket: S3Bucket,
    object: S3Object,
}

#[derive(Deserialize)]
struct S3Bucket {
    name: String,
}

#[derive(Deserialize)]
struct S3Object {
    key: String,
    #[serde(default)]
    size: u64,
    #[serde(alias = "etag")]
    #[serde(rename = "eTag")]
    etag: Option<String>,
    sequencer: Option<String>,
    #[serde(rename = "versionId", alias = "version-id")]
    version_id: Option<String>,
}

/// Any of the envelopes.
#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "Records")]
    records: Option<Vec<S3Record>>,
    #[serde(rename = "Event")]
    test_event: Option<String>,
    #[serde(rename = "Message")]
    sns_message: Option<String>,
    #[serde(rename = "detail-type")]
    detail_type: Option<String>,
    detail: Option<Box<RawValue>>,
    time: Option<DateTime<Utc>>,
}

impl Notification {
    fn read(body: &str, message: &Message) -> Result<Self, String> {
        Self::read_wrapped(body, message, MAX_WRAPPING)
    }

    fn read_wrapped(body: &str, message: &Message, wrapping: usize) -> Result<Self, String> {
        let envelope: Envelope = serde_json::from_str(body).map_err(|error| error.to_string())?;
        let mut notification = Self::default();
        if let Some(records) = envelope.records {
            for record in records {
                let key = decode_key(&record.s3.object.key)?;
                let created = record.event_name.trim_start_matches("s3:").starts_with("ObjectCreated:");
                notification.add(created, record.s3, key, record.event_time, message);
            }
        } else if envelope.test_event.as_deref() == Some("s3:TestEvent") {
            notification.dropped.push(Dropped::TestEvent);
        } else if let Some(inner) = envelope.sns_message {
            if wrapping == 0 {
                return Err("too many envelopes within each other".to_owned());
            }
            return Self::read_wrapped(&inner, message, wrapping - 1);
        } else if let (Some(detail_type), Some(detail)) = (envelope.detail_type, envelope.detail) {
            // EventBridge gives the key as it is: only S3's own notifications encode it.
            let entity: S3Entity = serde_json::from_str(detail.get()).map_err(|error| error.to_string())?;
            let key = entity.object.key.clone();
            notification.add(detail_type == "Object Created", entity, key, envelope.time, message);
        } else {
            return Err("none of the known envelopes (S3, SNS, EventBridge)".to_owned());
        }
        Ok(notification)
    }

    fn add(&mut self, created: bool, entity: S3Entity, key: String, at: Option<DateTime<Utc>>, message: &Message) {
        if !created {
            self.dropped.push(Dropped::NotCreated);
        } else if key.ends_with('/') {
            self.dropped.push(Dropped::FolderMarker);
        } else {
            self.objects.push(ObjectEvent {
                bucket: entity.bucket.name,
                key,
                size_bytes: entity.object.size,
                etag: entity.object.etag.map(|etag| etag.trim_matches('"').to_owned()),
                sequencer: entity.object.sequencer,
                version_id: entity.object.version_id,
                event_ms: at.map_or(message.sent_ms, |at| at.timestamp_millis()),
                reason: None,
            });
        }
    }
}

/// Undoes S3's form encoding of a key: plus is a space.
fn decode_key(encoded: &str) -> Result<String, String> {
    let spaced: Cow<str> =
        if encoded.contains('+') { encoded.replace('+', " ").into() } else { Cow::Borrowed(encoded) };
    let decoded = percent_decode_str(&spaced).decode_utf8();
    decoded.map(Cow::into_owned).map_err(|_| format!("key `{encoded}` is not UTF-8 once decoded"))
}

#[cfg(test)]
mod tests {
    use penstock_engine::cloud::queue::Receipt;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn read(body: &Value) -> Result<Notification, String> {
        let message = Message {
            id: "m".to_owned(),
            body: body.to_string(),
            receipt: Receipt("r".to_owned()),
            receive_count: 1,
            sent_ms: 5,
        };
        Notification::read(&message.body, &message)
    }

    fn s3_record(name: &str, key: &str) -> Value {
        json!({ "eventVersion": "2.6", "eventName": name, "eventTime": "2026-02-01T00:00:00.000Z",
                "s3": { "bucket": { "name": "b" },
                        "object": { "key": key, "size": 7, "eTag": "\"abc\"", "sequencer": "0055" } } })
    }

    #[test]
    fn f38_keys_are_decoded_in_s3s_own_notifications_only() {
        let body = json!({ "Records": [s3_record("ObjectCreated:Put", "in/with+space%2Bplus%25%C3%A9.ndjson")] });
        let object = read(&body).unwrap().objects.remove(0);
        assert_eq!(object.key, "in/with space+plus%é.ndjson");
        assert_eq!(
            (object.size_bytes, object.etag.as_deref(), object.sequencer.as_deref()),
            (7, Some("abc"), Some("0055"))
        );
        let bridge = json!({ "detail-type": "Object Created", "time": "2026-02-01T00:00:00Z", "source": "aws.s3",
            "detail": { "bucket": { "name": "b" }, "object": { "key": "a+b%41.ndjson", "size": 1, "etag": "e", "version-id": "v" } } });
        let object = read(&bridge).unwrap().objects.remove(0);
        assert_eq!((object.key.as_str(), object.version_id.as_deref()), ("a+b%41.ndjson", Some("v")));
    }

    #[test]
    fn f40_test_events_removals_and_folder_markers_are_dropped_with_a_reason() {
        let test = json!({ "Service": "Amazon S3", "Event": "s3:TestEvent", "Time": "t", "Bucket": "b", "RequestId": "r", "HostId": "h" });
        assert_eq!(read(&test).unwrap().dropped, [Dropped::TestEvent]);
        let records = json!({ "Records": [s3_record("ObjectRemoved:Delete", "a"), s3_record("ObjectCreated:Put", "folder/"),
                                          s3_record("s3:ObjectCreated:Copy", "b")] });
        let notification = read(&records).unwrap();
        assert_eq!(notification.dropped, [Dropped::NotCreated, Dropped::FolderMarker]);
        assert_eq!(notification.objects.len(), 1);
    }

    #[test]
    fn f41_sns_wraps_any_of_them_and_the_unknown_is_refused() {
        let inner = json!({ "Records": [s3_record("ObjectCreated:Put", "a")] }).to_string();
        assert_eq!(read(&json!({ "Type": "Notification", "Message": inner })).unwrap().objects.len(), 1);
        let mut nested = "{}".to_owned();
        for _ in 0..10 {
            nested = json!({ "Message": nested }).to_string();
        }
        assert!(read(&json!({ "Message": nested })).unwrap_err().contains("too many envelopes"));
        assert!(read(&json!({ "hello": 1 })).unwrap_err().contains("none of the known envelopes"));
        assert!(read(&json!([1])).is_err());
        assert!(
            read(&json!({ "Records": [s3_record("ObjectCreated:Put", "%FF")] })).unwrap_err().contains("not UTF-8")
        );
    }

    proptest! {
        #[test]
        fn any_key_survives_s3s_encoding(key in "\\PC{1,60}") {
            let encoded: String = key.bytes().map(|byte| match byte {
                b' ' => "+".to_owned(),
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => (byte as char).to_string(),
                other => format!("%{other:02X}"),
            }).collect();
            prop_assert_eq!(decode_key(&encoded), Ok(key));
        }
    }
}
