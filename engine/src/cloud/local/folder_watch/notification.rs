//! The notification that S3 sends for a new object, version 2.1 of its event message
//! (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html>).

use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use crate::time::format_time;

/// What S3 leaves as it is in a key, beside letters and digits. It writes a space as `+`.
const ENCODED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'*').remove(b'/').remove(b' ');

/// An object that has landed.
#[derive(Debug)]
pub(super) struct Notification {
    pub(super) bucket: String,
    pub(super) key: Arc<str>,
    pub(super) size_bytes: u64,
    pub(super) etag: String,
    pub(super) sequencer: String,
    pub(super) time: DateTime<Utc>,
}

impl Notification {
    /// The message's body.
    pub(super) fn body(&self) -> String {
        json!({"Records": [{
            "eventVersion": "2.1",
            "eventSource": "aws:s3",
            "awsRegion": "local",
            "eventTime": format_time(self.time),
            "eventName": "ObjectCreated:Put",
            "userIdentity": {"principalId": "local"},
            "requestParameters": {"sourceIPAddress": "127.0.0.1"},
            "responseElements": {"x-amz-request-id": self.sequencer, "x-amz-id-2": "local"},
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": "penstock",
                "bucket": {
                    "name": self.bucket,
                    "ownerIdentity": {"principalId": "local"},
                    "arn": format!("arn:aws:s3:::{}", self.bucket),
                },
                "object": {
                    "key": encode_key(&self.key),
                    "size": self.size_bytes,
                    "eTag": self.etag,
                    "sequencer": self.sequencer,
                },
            },
        }]})
        .to_string()
    }
}

/// A key as S3 writes it in notifications: form-encoded, slashes kept.
pub(super) fn encode_key(key: &str) -> String {
    utf8_percent_encode(key, ENCODED).to_string().replace(' ', "+")
}

/// Gives out sequencers: hexadecimal, each greater than all before. They follow the clock, so that they grow across
/// restarts too; where the clock was set back, the sequencer that the ledger has for a key is the floor.
#[derive(Debug, Default)]
pub(super) struct Sequencer(Mutex<u64>);

impl Sequencer {
    /// The next one, greater than `floor`.
    pub(super) fn next(&self, now: DateTime<Utc>, floor: Option<&str>) -> String {
        let now = now.timestamp_nanos_opt().and_then(|nanos| u64::try_from(nanos).ok()).unwrap_or(0);
        let floor = floor.and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or(0);
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *last = now.max(last.saturating_add(1)).max(floor.saturating_add(1));
        format!("{:018X}", *last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_written_as_s3_writes_them() {
        assert_eq!(encode_key("landing/2026-02-01/red flower.ndjson"), "landing/2026-02-01/red+flower.ndjson");
        assert_eq!(encode_key("a+b=c&d(1)~%é*_"), "a%2Bb%3Dc%26d%281%29%7E%25%C3%A9*_");
    }

    #[test]
    fn sequencers_grow_whatever_the_clock_does() {
        let sequencer = Sequencer::default();
        let at = |secs| DateTime::from_timestamp(secs, 0).unwrap();
        let first = sequencer.next(at(1_770_000_000), None);
        let same_time = sequencer.next(at(1_770_000_000), None);
        let set_back = sequencer.next(at(1_000_000_000), None);
        let floor = Sequencer::default().next(at(1_000_000_000), Some(&set_back));
        assert!(first < same_time && same_time < set_back && set_back < floor);
        assert_eq!(first.len(), 18);
    }
}
