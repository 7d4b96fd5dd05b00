//! Tables in memory.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use penstock_engine::cloud::{
    AttributeValue, Item, Result, Table,
    change_stream::ChangeKind,
    limits,
    resources::{IndexSpec, TableSpec},
    table::{Consistency, Key, KeyNames, Outcome, Page, PageToken, Query, Range, Write},
};

use super::{MemoryStream, lock};

/// Items on a page, so that there are pages.
const PAGE: usize = 50;

/// A table.
pub struct MemoryTable {
    name: String,
    keys: KeyNames,
    indexes: BTreeMap<String, IndexSpec>,
    ttl: Option<String>,
    items: Mutex<BTreeMap<Key, Item>>,
    stream: Option<Arc<MemoryStream>>,
}

impl MemoryTable {
    pub(super) fn new(name: String, spec: &TableSpec, stream: Option<Arc<MemoryStream>>) -> Self {
        Self {
            name,
            keys: KeyNames { partition: spec.partition_key.clone(), sort: spec.sort_key.clone() },
            indexes: spec.indexes.clone(),
            ttl: spec.ttl.clone(),
            items: Mutex::default(),
            stream,
        }
    }

    /// Its change stream.
    pub fn stream(&self) -> Option<&Arc<MemoryStream>> {
        self.stream.as_ref()
    }

    /// Its indexes.
    pub fn indexes(&self) -> &BTreeMap<String, IndexSpec> {
        &self.indexes
    }

    /// All items.
    pub fn items(&self) -> Vec<Item> {
        lock(&self.items).values().cloned().collect()
    }

    /// Removes what has expired by then, in seconds since the epoch; returns how many items.
    pub fn expire(&self, now_secs: i64) -> usize {
        let Some(ttl) = &self.ttl else { return 0 };
        let has_expired = |item: &Item| match item.get(ttl) {
            Some(AttributeValue::N(at)) => at.parse::<i64>().is_ok_and(|at| at <= now_secs),
            _ => false,
        };
        let mut items = lock(&self.items);
        let expired: Vec<Key> =
            items.iter().filter(|(_, item)| has_expired(item)).map(|(key, _)| key.clone()).collect();
        for key in &expired {
            let old = items.remove(key);
            if let Some(stream) = &self.stream {
                stream.append(ChangeKind::Remove, key, old, None, true);
            }
        }
        expired.len()
    }

    fn attribute<'a>(&self, item: &'a Item, name: &str) -> Option<&'a str> {
        match item.get(name) {
            Some(AttributeValue::S(text) | AttributeValue::N(text)) => Some(text),
            _ => None,
        }
    }
}

#[async_trait]
impl Table for MemoryTable {
    fn name(&self) -> &str {
        &self.name
    }

    fn keys(&self) -> &KeyNames {
        &self.keys
    }

    async fn get(&self, key: &Key, _consistency: Consistency) -> Result<Option<Item>> {
        Ok(lock(&self.items).get(key).cloned())
    }

    async fn write(&self, write: &Write) -> Result<Outcome> {
        let mut items = lock(&self.items);
        let before = items.get(&write.key).cloned();
        if !write.condition.holds(before.as_ref()) {
            return Ok(Outcome::Refused(before));
        }
        let after = write.apply(&self.keys, before.as_ref());
        match &after {
            Some(item) => {
                limits::check_item(&format!("write to {}", self.name), item)?;
                items.insert(write.key.clone(), item.clone());
            }
            None => {
                items.remove(&write.key);
            }
        }
        if let Some(stream) = &self.stream
            && before != after
        {
            let kind = match (&before, &after) {
                (None, _) => ChangeKind::Insert,
                (Some(_), Some(_)) => ChangeKind::Modify,
                (Some(_), None) => ChangeKind::Remove,
            };
            stream.append(kind, &write.key, before, after.clone(), false);
        }
        Ok(Outcome::Applied(after))
    }

    async fn query(&self, query: &Query) -> Result<Page> {
        limits::check_range(&format!("query of {}", self.name), &query.range)?;
        let (hash, range) = match &query.index {
            Some(index) => (&self.indexes[index].hash, &self.indexes[index].range),
            None => (&self.keys.partition, &self.keys.sort),
        };
        let place = |item: &Item| {
            let text = |name: &str| self.attribute(item, name).unwrap_or_default().to_owned();
            (text(range), text(&self.keys.partition), text(&self.keys.sort))
        };
        let start = query.start.as_ref().map(|token| place(&token.0));
        let in_range = |value: &str| match &query.range {
            Range::All => true,
            Range::Equals(wanted) => value == wanted,
            Range::Prefix(prefix) => value.starts_with(prefix.as_str()),
            Range::Between(first, last) => value >= first.as_str() && value <= last.as_str(),
        };
        let mut found: Vec<_> = lock(&self.items)
            .values()
            .filter(|item| self.attribute(item, hash) == Some(query.partition.as_str()))
            .filter(|item| self.attribute(item, range).is_some_and(in_range))
            .map(|item| (place(item), item.clone()))
            .filter(|(place, _)| start.as_ref().is_none_or(|start| place > start))
            .collect();
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        let limit = query.limit.unwrap_or(PAGE).min(PAGE);
        let more = found.len() > limit;
        let items: Vec<Item> = found.into_iter().take(limit).map(|(_, item)| item).collect();
        let next = items.last().filter(|_| more).cloned().map(PageToken);
        Ok(Page { items, next })
    }
}
