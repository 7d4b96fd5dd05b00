//! Dead letters: what was given up, with its words, and sending it back.

use std::collections::BTreeSet;

use axum::{Json, extract::State, http::HeaderMap, http::StatusCode};
use chrono::DateTime;
use penstock_engine::time::format_time;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Answer, Dashboard, Failure, Shared, cut};

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

impl Dashboard {
    fn dead_letter_queues(&self) -> BTreeSet<String> {
        let of_queues = self.pipeline.resources.queues.values();
        let of_queues = of_queues.filter_map(|queue| Some(queue.dead_letter.as_ref()?.queue.clone()));
        let of_nodes = self.pipeline.graph.nodes.iter();
        let of_nodes = of_nodes.filter_map(|node| Some(node.options.get("dead_letter")?.as_str()?.to_owned()));
        of_queues.chain(of_nodes).collect()
    }
}

pub async fn list(State(dashboard): State<Shared>) -> Answer<View> {
    let depths = dashboard.queues().await?;
    let mut queues = Vec::new();
    for name in dashboard.dead_letter_queues() {
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
        "On AWS looking into a queue would hide its messages for a while: see them, and send them back, in the SQS console \
         (Start DLQ redrive)."
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

/// Which queue to send back.
#[derive(Deserialize)]
pub struct RedriveRequest {
    queue: String,
}

/// Sends the dead letters of a queue back to the queues that they came from.
pub async fn redrive(
    State(dashboard): State<Shared>,
    headers: HeaderMap,
    Json(request): Json<RedriveRequest>,
) -> Answer<Value> {
    dashboard.allow(&headers)?;
    if !dashboard.dead_letter_queues().contains(&request.queue) {
        return Err(Failure::missing(format!("queue of dead letters `{}`", request.queue)));
    }
    let Some(local) = dashboard.home.local() else {
        return Err(Failure::new(StatusCode::NOT_IMPLEMENTED, "on AWS use Start DLQ redrive of SQS"));
    };
    let sent = local.redrive(&request.queue).await?;
    tracing::info!(queue = request.queue, messages = sent, "Dead letters sent back from the dashboard.");
    Ok(Json(json!({ "sent_back": sent })))
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
