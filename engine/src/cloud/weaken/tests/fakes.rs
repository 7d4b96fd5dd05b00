//! The least that can stand behind each decorator: strong, in memory.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_dynamo::{AttributeValue, Item};

use crate::cloud::{
    ChangeStream, EventBus, Queue, Result, Table,
    change_stream::{
        Change, ChangeKind, DescribeRequest, IteratorStart, RecordPage, SequenceNumber, Shard, ShardId, ShardIterator,
        StreamDescription,
    },
    event_bus::Event,
    queue::{Message, Outgoing, QueueDepth, Receipt},
    table::{Consistency, Key, KeyNames, Outcome, Page, PageToken, Query, Write},
};

pub(super) fn key(name: &str) -> Key {
    Key::new("2026-02-01", name)
}

pub(super) fn pending_item() -> Item {
    Item::from(std::collections::HashMap::from([("status".to_owned(), AttributeValue::S("pending".to_owned()))]))
}

fn text(item: &Item, name: &str) -> String {
    match item.get(name) {
        Some(AttributeValue::S(text)) => text.clone(),
        other => panic!("{name} is {other:?}"),
    }
}

pub(super) fn name_of(item: &Item) -> String {
    text(item, "file_key")
}

pub(super) fn status_of(item: Option<&Item>) -> String {
    item.map_or("absent".to_owned(), |item| text(item, "status"))
}

/// A table with one index, on `status`.
pub(super) struct FakeTable {
    names: KeyNames,
    items: Mutex<BTreeMap<Key, Item>>,
}

impl Default for FakeTable {
    fn default() -> Self {
        let names = KeyNames { partition: "date_prefix".to_owned(), sort: "file_key".to_owned() };
        Self { names, items: Mutex::default() }
    }
}

#[async_trait]
impl Table for FakeTable {
    fn name(&self) -> &str {
        "table"
    }

    fn keys(&self) -> &KeyNames {
        &self.names
    }

    async fn get(&self, key: &Key, _: Consistency) -> Result<Option<Item>> {
        Ok(self.items.lock().unwrap().get(key).cloned())
    }

    async fn write(&self, write: &Write) -> Result<Outcome> {
        let mut items = self.items.lock().unwrap();
        let before = items.get(&write.key).cloned();
        if !write.condition.holds(before.as_ref()) {
            return Ok(Outcome::Refused(before));
        }
        let after = write.apply(&self.names, before.as_ref());
        match &after {
            Some(item) => items.insert(write.key.clone(), item.clone()),
            None => items.remove(&write.key),
        };
        Ok(Outcome::Applied(after))
    }

    async fn query(&self, query: &Query) -> Result<Page> {
        let hash = if query.index.is_some() { "status" } else { "date_prefix" };
        let after = query.start.as_ref().map(|token| name_of(&token.0));
        let items = self.items.lock().unwrap();
        let mut rest = items
            .values()
            .filter(|item| text(item, hash) == query.partition)
            .filter(|item| after.as_ref().is_none_or(|after| name_of(item) > *after));
        // Small pages, so that a listing has several.
        let limit = query.limit.unwrap_or(7);
        let page: Vec<Item> = rest.by_ref().take(limit).cloned().collect();
        let next = rest.next().and(page.last().cloned()).map(PageToken);
        Ok(Page { items: page, next })
    }
}

/// A queue that gives each message once.
#[derive(Default)]
pub(super) struct FakeQueue(Mutex<VecDeque<Message>>);

#[async_trait]
impl Queue for FakeQueue {
    fn name(&self) -> &str {
        "queue"
    }

    async fn send(&self, messages: &[Outgoing]) -> Result<Vec<Result<()>>> {
        let message = |message: &Outgoing| Message {
            id: message.body.clone(),
            body: message.body.clone(),
            receipt: Receipt(message.body.clone()),
            receive_count: 1,
            sent_ms: 0,
        };
        self.0.lock().unwrap().extend(messages.iter().map(message));
        Ok(messages.iter().map(|_| Ok(())).collect())
    }

    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Message>> {
        if self.0.lock().unwrap().is_empty() {
            tokio::time::sleep(wait).await;
        }
        let mut messages = self.0.lock().unwrap();
        let count = max.min(messages.len());
        Ok(messages.drain(..count).collect())
    }

    async fn delete(&self, receipts: &[Receipt]) -> Result<Vec<Result<()>>> {
        Ok(receipts.iter().map(|_| Ok(())).collect())
    }

    async fn set_visibility(&self, _: &Receipt, _: Duration) -> Result<()> {
        Ok(())
    }

    fn visibility_timeout(&self) -> Duration {
        Duration::from_secs(30)
    }

    async fn depth(&self) -> Result<QueueDepth> {
        Ok(QueueDepth { visible: self.0.lock().unwrap().len() as u64, ..QueueDepth::default() })
    }
}

/// A stream of one closed shard that is read, and one more that is only listed.
pub(super) struct FakeStream(Vec<Arc<Change>>);

impl FakeStream {
    pub(super) fn new(changes: u64) -> Self {
        Self((0..changes).map(|number| Arc::new(change(number))).collect())
    }
}

pub(super) fn change(number: u64) -> Change {
    Change {
        kind: ChangeKind::Insert,
        key: key(&number.to_string()),
        old: None,
        new: Some(pending_item()),
        sequence: SequenceNumber(number.to_string()),
        created_secs: 0,
        size_bytes: 1,
        by_ttl: false,
    }
}

#[async_trait]
impl ChangeStream for FakeStream {
    fn table(&self) -> &str {
        "table"
    }

    async fn streams(&self) -> Result<Vec<String>> {
        Ok(vec!["arn".to_owned()])
    }

    async fn describe(&self, _: &str, _: DescribeRequest) -> Result<StreamDescription> {
        let shard = |id: &str, parent: Option<&str>, end: Option<&str>| Shard {
            id: ShardId(id.to_owned()),
            parent: parent.map(|id| ShardId(id.to_owned())),
            start: SequenceNumber("0".to_owned()),
            end: end.map(|end| SequenceNumber(end.to_owned())),
        };
        let shards = vec![shard("parent", None, Some("99")), shard("child", Some("parent"), None)];
        Ok(StreamDescription { enabled: true, shards, last_evaluated: None })
    }

    async fn iterator(&self, _: &str, _: &ShardId, _: &IteratorStart) -> Result<ShardIterator> {
        Ok(ShardIterator("0".to_owned()))
    }

    async fn records(&self, iterator: &ShardIterator, limit: usize) -> Result<RecordPage> {
        let start: usize = iterator.0.parse().unwrap();
        let end = (start + limit).min(self.0.len());
        let next = (end < self.0.len()).then(|| ShardIterator(end.to_string()));
        Ok(RecordPage { changes: self.0[start..end].to_vec(), next })
    }
}

/// A bus that remembers what was put.
#[derive(Default)]
pub(super) struct FakeBus(Mutex<Vec<String>>);

impl FakeBus {
    pub(super) fn put_so_far(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

pub(super) fn event(name: &str) -> Event {
    Event {
        source: "test".to_owned(),
        detail_type: name.to_owned(),
        detail: serde_json::json!({}),
        time: DateTime::<Utc>::UNIX_EPOCH,
    }
}

#[async_trait]
impl EventBus for FakeBus {
    fn name(&self) -> &str {
        "bus"
    }

    async fn check(&self) -> Result<()> {
        Ok(())
    }

    async fn put(&self, events: &[Event]) -> Result<Vec<Result<String>>> {
        self.0.lock().unwrap().extend(events.iter().map(|event| event.detail_type.clone()));
        Ok(events.iter().map(|event| Ok(event.detail_type.clone())).collect())
    }
}
