//! Dead letters: a change that can't be handled is sent whole to a queue, with the reason, before the shard goes on (F29).

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::time::sleep;

use super::{assignment::ShardKey, consumer::Shared, events};
use crate::{
    cloud::{CloudError, ErrorKind, Queue, Result, change_stream::Change, limits::MESSAGE_BYTES, queue::Outgoing},
    time::format_time,
};

/// The longest wait between two tries to send.
const SEND_WAIT_MAX: Duration = Duration::from_secs(30);

/// So much of a reason is kept.
const REASON_CHARS: usize = 4096;

/// A change that failed.
pub(super) struct Failure {
    pub change: Arc<Change>,
    pub reason: String,
    pub attempts: u32,
}

/// Sends the change to the queue, and tries until the queue has it: the frontier waits for that.
pub(super) async fn send(queue: Arc<dyn Queue>, key: ShardKey, failure: Failure, shared: Arc<Shared>) {
    let failed_at = format_time(shared.clock.now());
    let (body, cut) = letter(&shared.options.table, &key, &failure, &failed_at);
    let message = [Outgoing::new(body)];
    let mut wait = Duration::from_millis(200);
    loop {
        match deliver(&*queue, &message).await {
            Ok(()) => break,
            Err(error) => {
                events::DeadLetterFailed { queue: queue.name(), key: &key, failure: &failure, error: &error }.emit();
                sleep(wait).await;
                wait = (wait * 2).min(SEND_WAIT_MAX);
            }
        }
    }
    let table = &shared.options.table;
    events::RecordDeadLettered { table, queue: queue.name(), key: &key, failure: &failure, cut: &cut }.emit();
}

async fn deliver(queue: &dyn Queue, message: &[Outgoing]) -> Result<()> {
    let mut results = queue.send(message).await?;
    results.pop().unwrap_or_else(|| {
        let operation = format!("SendMessage to {}", queue.name());
        Err(CloudError::new(ErrorKind::Unavailable, operation, "the queue gave no result for the message"))
    })
}

/// The letter: all that is known of the change. Images that make it larger than a message may be are cut, the old one
/// first, and named. Returns their names too.
fn letter(table: &str, key: &ShardKey, failure: &Failure, failed_at: &str) -> (String, Vec<&'static str>) {
    let change = &failure.change;
    let reason: String = failure.reason.chars().take(REASON_CHARS).collect();
    let mut letter = json!({
        "schema_version": 1,
        "table": table,
        "arn": key.arn,
        "shard": key.shard,
        "sequence": change.sequence,
        "kind": change.kind,
        "key": {"partition": change.key.partition, "sort": change.key.sort},
        "created_secs": change.created_secs,
        "size_bytes": change.size_bytes,
        "by_ttl": change.by_ttl,
        "old": change.old,
        "new": change.new,
        "reason": reason,
        "attempts": failure.attempts,
        "failed_at": failed_at,
        "images_cut": [],
    });
    let mut cut = Vec::new();
    let mut text = letter.to_string();
    for image in ["old", "new"] {
        if text.len() > MESSAGE_BYTES && !letter[image].is_null() {
            letter[image] = Value::Null;
            cut.push(image);
            letter["images_cut"] = json!(cut);
            text = letter.to_string();
        }
    }
    (text, cut)
}

#[cfg(test)]
mod tests {
    use serde_dynamo::{AttributeValue, Item};

    use super::*;
    use crate::cloud::{
        change_stream::{ChangeKind, SequenceNumber, ShardId},
        table::Key,
    };

    fn image(bytes: usize) -> Item {
        let mut item = Item::default();
        item.insert("text".into(), AttributeValue::S("x".repeat(bytes)));
        item
    }

    fn failure(old: usize, new: usize) -> Failure {
        let change = Change {
            kind: ChangeKind::Modify,
            key: Key::new("2026-02-01", "data-001.ndjson"),
            old: Some(image(old)),
            new: Some(image(new)),
            sequence: SequenceNumber("17".into()),
            created_secs: 1_770_000_000,
            size_bytes: 10,
            by_ttl: false,
        };
        Failure { change: Arc::new(change), reason: "no such column".into(), attempts: 5 }
    }

    /// A change that was set aside could not have been done later: nobody would know what it said.
    #[test]
    fn f29_a_dead_letter_holds_the_whole_change() {
        let key = ShardKey { arn: "arn".into(), shard: ShardId("shard-1".into()) };
        let (text, cut) = letter("t", &key, &failure(10, 10), "2026-02-01T00:00:00.000Z");
        let letter: Value = serde_json::from_str(&text).unwrap();
        assert!(cut.is_empty());
        assert_eq!(letter["new"]["text"]["S"], "xxxxxxxxxx");
        assert_eq!(
            (&letter["sequence"], &letter["shard"], &letter["arn"]),
            (&json!("17"), &json!("shard-1"), &json!("arn"))
        );
        assert_eq!((&letter["reason"], &letter["attempts"]), (&json!("no such column"), &json!(5)));
    }

    /// A change that is too large for a message would have been dropped, or would have stopped its shard.
    #[test]
    fn f17_images_that_are_too_large_for_a_message_are_cut_and_named() {
        let key = ShardKey { arn: "arn".into(), shard: ShardId("shard-1".into()) };
        for (old, new, expected) in [(200_000, 100_000, vec!["old"]), (300_000, 300_000, vec!["old", "new"])] {
            let (text, cut) = letter("t", &key, &failure(old, new), "now");
            let letter: Value = serde_json::from_str(&text).unwrap();
            assert!(text.len() <= MESSAGE_BYTES);
            assert_eq!(cut, expected);
            assert_eq!(letter["images_cut"], json!(expected));
            assert_eq!(letter["key"]["sort"], "data-001.ndjson");
        }
    }
}
