//! Dead letters: what was given up, with its words.

use axum::{Json, extract::State};
use chrono::DateTime;
use penstock_engine::time::format_time;
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

fn pretty(body: &str) -> String {
    let parsed = serde_json::from_str::<Value>(body).ok();
    parsed.and_then(|body| serde_json::to_string_pretty(&body).ok()).unwrap_or_else(|| body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_read_from_a_letter_that_has_one() {
        assert_eq!(reason(r#"{"reason":"it is gone","change":{}}"#), Some("it is gone".to_owned()));
        assert_eq!(reason("no json"), None);
        assert_eq!(reason("{}"), None);
    }
}
