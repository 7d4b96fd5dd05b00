//! Looking at records as they pass an operator, without being in their way.
//!
//! A tap that nobody looks through costs an operator one look at a number for each batch. Who looks and is too slow misses
//! records, and is told how many; the operator never waits.

use serde_json::{Value, json};
use tokio::sync::broadcast;

use crate::{
    cloud::Item,
    operator::{Body, Record},
};

/// Records that a tap holds for one who is slow.
const HELD: usize = 1024;

/// Where a record passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// Into the operator.
    In,
    /// Out of it, by this output.
    Out(String),
}

/// A record that passed.
#[derive(Debug, Clone)]
pub struct Passed {
    /// Where.
    pub way: Way,
    /// What it said.
    pub body: Body,
}

impl Passed {
    /// What it said, as JSON: a message with its text, a change with its images, anything else as it is.
    pub fn to_json(&self) -> Value {
        match &self.body {
            Body::Value(value) => (**value).clone(),
            Body::Message(message) => {
                let text = serde_json::from_str(&message.body).unwrap_or_else(|_| json!(message.body));
                json!({ "id": message.id, "receive_count": message.receive_count, "body": text })
            }
            Body::Change(change) => json!({
                "kind": change.kind,
                "key": { "partition": change.key.partition, "sort": change.key.sort },
                "sequence": change.sequence,
                "created_secs": change.created_secs,
                "old": change.old.as_ref().map(plain),
                "new": change.new.as_ref().map(plain),
            }),
        }
    }
}

/// An item as plain JSON; one that is none, for its bytes or sets, as DynamoDB writes it.
fn plain(item: &Item) -> Value {
    serde_dynamo::from_item(item.clone()).unwrap_or_else(|_| json!(item))
}

/// The tap of one operator.
#[derive(Debug)]
pub(crate) struct Tap(broadcast::Sender<Passed>);

impl Default for Tap {
    fn default() -> Self {
        Self(broadcast::Sender::new(HELD))
    }
}

impl Tap {
    /// Shows records that pass to whoever looks.
    pub(crate) fn pass(&self, way: &dyn Fn() -> Way, records: &[Record]) {
        if self.0.receiver_count() == 0 {
            return;
        }
        for record in records {
            // The last one who looked may just have gone.
            if self.0.send(Passed { way: way(), body: record.body.clone() }).is_err() {
                return;
            }
        }
    }

    /// Looks from now on.
    pub(crate) fn look(&self) -> broadcast::Receiver<Passed> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_dynamo::AttributeValue;
    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        ack::Ack,
        cloud::{
            change_stream::{Change, ChangeKind, SequenceNumber},
            table::Key,
        },
    };

    fn record(number: u64) -> Record {
        let (verdicts, _) = mpsc::unbounded_channel();
        Record { body: Body::Value(Arc::new(json!(number))), ack: Ack::new(number, verdicts) }
    }

    #[tokio::test]
    async fn one_who_looks_sees_what_passes_from_then_on_and_one_who_is_slow_is_told_what_was_missed() {
        let tap = Tap::default();
        tap.pass(&|| Way::In, &[record(0)]);
        let mut seen = tap.look();
        tap.pass(&|| Way::In, &[record(1), record(2)]);
        assert_eq!(seen.recv().await.unwrap().to_json(), json!(1));
        assert_eq!(seen.recv().await.unwrap().to_json(), json!(2));
        let many: Vec<Record> = (0..HELD as u64 + 10).map(record).collect();
        tap.pass(&|| Way::Out("out".to_owned()), &many);
        assert!(matches!(seen.recv().await, Err(broadcast::error::RecvError::Lagged(10))));
    }

    #[test]
    fn a_change_is_shown_with_plain_images() {
        let mut item = Item::default();
        item.insert("n".to_owned(), AttributeValue::N("5".to_owned()));
        let change = Change {
            kind: ChangeKind::Insert,
            key: Key::new("p", "s"),
            old: None,
            new: Some(item),
            sequence: SequenceNumber("7".to_owned()),
            created_secs: 1,
            size_bytes: 1,
            by_ttl: false,
        };
        let shown = Passed { way: Way::In, body: Body::Change(Arc::new(change)) }.to_json();
        assert_eq!(
            (&shown["new"], &shown["key"]["sort"], &shown["old"]),
            (&json!({ "n": 5 }), &json!("s"), &Value::Null)
        );
    }
}
