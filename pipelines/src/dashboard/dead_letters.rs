//! Dead letters: what was given up, with its words.

use axum::{Json, extract::State};
use chrono::DateTime;
use penstock_engine::time::format_time;
use penstock_operators::model::{MANIFEST_KEY_PREFIX, id_of_key};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::Value;

use super::{Answer, Shared, cut};
use crate::oncall::redrive::dead_letter_queues;

/// So many messages of a queue are shown, and so many characters of each.
const SHOWN: usize = 50;
const BODY_CHARS: usize = 8000;

/// The queues of dead letters.
#[derive(Debug, Serialize)]
pub struct View {
    queues: Vec<QueueView>,
    /// Why messages aren't shown, if they aren't.
    note: Option<String>,
}

#[derive(Debug, Serialize)]
struct QueueView {
    name: String,
    messages: u64,
    /// The oldest.
    shown: Vec<MessageView>,
}

#[derive(Debug, Serialize)]
struct MessageView {
    id: String,
    sent_at: Option<String>,
    receive_count: u32,
    /// The queue that gave it up; nothing if a change stream did.
    source: Option<String>,
    /// Why it was given up, if it says so itself.
    reason: Option<String>,
    /// The page of what it tells of.
    about: Option<String>,
    body: String,
}

pub async fn list(State(dashboard): State<Shared>) -> Answer<View> {
    let depths = dashboard.queues().await?;
    let mut queues = Vec::new();
    for name in dead_letter_queues(&dashboard.pipeline) {
        let mut shown = Vec::new();
        if let Some(local) = dashboard.home.local() {
            for message in local.peek(&name, SHOWN).await? {
                shown.push(MessageView {
                    id: message.id,
                    sent_at: DateTime::from_timestamp_millis(message.sent_ms).map(format_time),
                    receive_count: message.receive_count,
                    source: message.source,
                    reason: reason(&message.body),
                    about: about(&message.body),
                    body: cut(&pretty(&message.body), BODY_CHARS),
                });
            }
        }
        let messages = depths.get(&name).map_or(0, penstock_engine::cloud::queue::QueueDepth::total);
        queues.push(QueueView { name, messages, shown });
    }
    let note = dashboard.home.local().is_none().then(|| {
        "On AWS looking at a queue's messages counts as receiving them, so they aren't shown unasked: the action below shows \
         them first, and sends them back only when told to."
            .to_owned()
    });
    Ok(Json(View { queues, note }))
}

/// The reason that a dead letter carries itself, as those of change streams do.
fn reason(body: &str) -> Option<String> {
    let body: Value = serde_json::from_str(body).ok()?;
    body.get("reason")?.as_str().map(|reason| cut(reason, 500))
}

/// The page of what a dead letter tells of: the file of a notification, the file or manifest of a change, the manifest of an
/// event.
fn about(body: &str) -> Option<String> {
    let body: Value = serde_json::from_str(body).ok()?;
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let of_item = |date: &str, key: &str| match key.strip_prefix(MANIFEST_KEY_PREFIX) {
        Some(_) => format!("/manifests/{}/{}", encoded(date), encoded(id_of_key(key))),
        None => format!("/files/{}/{}", encoded(date), encoded(key)),
    };
    if let (Some(date), Some(key)) = (body["key"]["partition"].as_str(), body["key"]["sort"].as_str()) {
        return Some(of_item(date, key));
    }
    let detail = &body["detail"];
    if let (Some(date), Some(key)) = (detail["date_prefix"].as_str(), detail["file_key"].as_str()) {
        return Some(of_item(date, key));
    }
    let object = body["Records"][0]["s3"]["object"]["key"].as_str();
    // S3's own notifications encode the key, as forms do.
    object.map(|key| format!("/files?key={key}"))
}

fn pretty(body: &str) -> String {
    let parsed = serde_json::from_str::<Value>(body).ok();
    parsed.and_then(|body| serde_json::to_string_pretty(&body).ok()).unwrap_or_else(|| body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_leads_to_what_it_tells_of() {
        let page = |body: Value| about(&body.to_string());
        let change = serde_json::json!({ "key": { "partition": "2026-02-01", "sort": "eu/a b.ndjson" } });
        assert_eq!(page(change).as_deref(), Some("/files/2026%2D02%2D01/eu%2Fa%20b%2Endjson"));
        let event =
            serde_json::json!({ "detail": { "date_prefix": "2026-02-01", "file_key": "MANIFEST#batch-0001.json" } });
        assert_eq!(page(event).as_deref(), Some("/manifests/2026%2D02%2D01/batch%2D0001"));
        let notification =
            serde_json::json!({ "Records": [{ "s3": { "object": { "key": "landing/a%2Bb+c.ndjson" } } }] });
        assert_eq!(page(notification).as_deref(), Some("/files?key=landing/a%2Bb+c.ndjson"));
        assert_eq!((about("no json"), page(serde_json::json!({}))), (None, None));
    }

    #[test]
    fn a_reason_is_read_from_a_letter_that_has_one() {
        assert_eq!(reason(r#"{"reason":"it is gone","change":{}}"#), Some("it is gone".to_owned()));
        assert_eq!(reason("no json"), None);
        assert_eq!(reason("{}"), None);
    }
}
