//! A weak table: stale reads, indexes that lag and jump back, writes that land late, never, or without an answer.

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use serde_dynamo::{AttributeValue, Item};
use tokio::time::{Instant, sleep};

use super::{
    Dice, Fate, Weakness,
    past::{Past, compare_values, in_range},
};
use crate::cloud::{
    Result, Table,
    resources::IndexSpec,
    table::{Consistency, Key, KeyNames, Outcome, Page, PageToken, Query, Write},
};

/// The attribute that marks the token of a page that was left empty on purpose.
const EMPTY: &str = "penstock-weaken-empty";

/// A table made weak. Only writes through it make a past, so give all its users the same one.
pub struct WeakTable(Arc<Shared>);

struct Shared {
    inner: Arc<dyn Table>,
    indexes: BTreeMap<String, IndexSpec>,
    dice: Dice,
    past: Mutex<Past>,
}

impl WeakTable {
    /// Makes `inner`, which has these indexes, as weak as this.
    pub fn new(inner: Arc<dyn Table>, indexes: BTreeMap<String, IndexSpec>, weakness: Weakness, seed: u64) -> Self {
        Self(Arc::new(Shared { inner, indexes, dice: Dice::new(weakness, seed), past: Mutex::default() }))
    }
}

#[async_trait]
impl Table for WeakTable {
    fn name(&self) -> &str {
        self.0.inner.name()
    }

    fn keys(&self) -> &KeyNames {
        self.0.inner.keys()
    }

    async fn get(&self, key: &Key, consistency: Consistency) -> Result<Option<Item>> {
        let operation = format!("get of {}/{} in {}", key.partition, key.sort, self.name());
        let read = async {
            let now = self.0.inner.get(key, consistency).await?;
            let stale = consistency == Consistency::Eventual && self.0.dice.chance(self.0.dice.weakness.stale_read);
            Ok(if stale { self.0.images().remove(key).unwrap_or(now) } else { now })
        };
        self.0.dice.through(&operation, read).await
    }

    async fn write(&self, write: &Write) -> Result<Outcome> {
        let shared = &self.0;
        let operation = format!("write of {}/{} in {}", write.key.partition, write.key.sort, self.name());
        let unknown = || Ok(Outcome::Unknown(Fate::FailsAfter.error(&operation)));
        match shared.dice.fate() {
            fate @ (Fate::Throttled | Fate::FailsBefore) => return Err(fate.error(&operation)),
            Fate::FailsAfter => {
                shared.write(write).await?;
                return unknown();
            }
            Fate::Goes => {}
        }
        if shared.dice.chance(shared.dice.weakness.lost_write) {
            return unknown();
        }
        if shared.dice.chance(shared.dice.weakness.late_write) {
            let (shared, write, delay) = (shared.clone(), write.clone(), shared.dice.delay());
            tokio::spawn(async move {
                sleep(delay).await;
                let outcome = shared.write(&write).await;
                tracing::debug!(?outcome, key = ?write.key, "A write landed late, on purpose.");
            });
            return unknown();
        }
        shared.write(write).await
    }

    async fn query(&self, query: &Query) -> Result<Page> {
        let operation = format!("query of {} in {}", query.partition, self.name());
        self.0.dice.through(&operation, self.0.query(query)).await
    }
}

impl Shared {
    /// Whether anything ever asks for the past.
    fn has_past(&self) -> bool {
        self.dice.weakness.stale_read > 0.0 || self.dice.weakness.stale_index > 0.0
    }

    async fn write(&self, write: &Write) -> Result<Outcome> {
        if !self.has_past() {
            return self.inner.write(write).await;
        }
        let before = self.inner.get(&write.key, Consistency::Strong).await?;
        let outcome = self.inner.write(write).await?;
        if !matches!(outcome, Outcome::Refused(_)) {
            let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
            past.record(write.key.clone(), before, self.dice.weakness.lag);
        }
        Ok(outcome)
    }

    /// Older images of keys that changed of late, each from another time.
    fn images(&self) -> BTreeMap<Key, Option<Item>> {
        let now = Instant::now();
        let seen = |_: &Key| now.checked_sub(self.dice.delay()).unwrap_or(now);
        self.past.lock().unwrap_or_else(PoisonError::into_inner).images(seen)
    }

    async fn query(&self, query: &Query) -> Result<Page> {
        let mut query = query.clone();
        let was_empty = query.start.as_mut().is_some_and(|token| token.0.inner_mut().remove(EMPTY).is_some());
        if was_empty && query.start.as_ref().is_some_and(|token| token.0.inner().is_empty()) {
            query.start = None;
        }
        if !was_empty && self.dice.chance(self.dice.weakness.empty_page) {
            if self.dice.chance(0.5) {
                let mut token = query.start.unwrap_or_else(|| PageToken(Item::default()));
                token.0.inner_mut().insert(EMPTY.to_owned(), AttributeValue::Bool(true));
                return Ok(Page { items: Vec::new(), next: Some(token) });
            }
            query.limit = Some(self.dice.up_to(query.limit.unwrap_or(10)));
        }
        let page = self.inner.query(&query).await?;
        let weakness = &self.dice.weakness;
        let stale = match (&query.index, query.consistency) {
            (Some(_), _) => self.dice.chance(weakness.stale_index),
            (None, Consistency::Eventual) => self.dice.chance(weakness.stale_read),
            (None, Consistency::Strong) => false,
        };
        Ok(if stale { self.as_it_was(&query, page) } else { page })
    }

    /// A page as it was, as far as the past is known. An item whose place was in the gap between two pages is left out,
    /// as it may be by any index that changes while it is read.
    fn as_it_was(&self, query: &Query, mut page: Page) -> Page {
        let mut images = self.images();
        let first = page.items.first().cloned().filter(|_| query.start.is_some());
        let last = page.items.last().cloned().filter(|_| page.next.is_some());
        let nothing_to_see = page.items.is_empty() && page.next.is_some();
        page.items.retain(|item| key_of(self.inner.keys(), item).is_none_or(|key| !changed(&mut images, &key, item)));
        let fits = |item: &Item| {
            self.matches(query, item)
                && first.as_ref().is_none_or(|first| self.compare(query, item, first).is_ge())
                && last.as_ref().is_none_or(|last| self.compare(query, item, last).is_le())
        };
        if !nothing_to_see {
            page.items.extend(images.into_values().flatten().filter(fits));
        }
        page.items.sort_by(|a, b| self.compare(query, a, b));
        page.items.truncate(query.limit.unwrap_or(usize::MAX));
        page
    }

    /// The names of the hash and range attributes that a query goes by.
    fn names(&self, query: &Query) -> Option<(&str, &str)> {
        match &query.index {
            Some(index) => self.indexes.get(index).map(|spec| (spec.hash.as_str(), spec.range.as_str())),
            None => Some((self.inner.keys().partition.as_str(), self.inner.keys().sort.as_str())),
        }
    }

    fn matches(&self, query: &Query, item: &Item) -> bool {
        let Some((hash, range)) = self.names(query) else { return false };
        text(item.get(hash)) == Some(&query.partition)
            && item.get(range).is_some_and(|value| in_range(value, &query.range))
    }

    fn compare(&self, query: &Query, a: &Item, b: &Item) -> Ordering {
        let keys = self.inner.keys();
        let range = self.names(query).map_or("", |(_, range)| range);
        [range, &keys.partition, &keys.sort]
            .into_iter()
            .map(|name| match (a.get(name), b.get(name)) {
                (Some(a), Some(b)) => compare_values(a, b),
                _ => Ordering::Equal,
            })
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    }
}

/// Whether the past shows something else than this item under its key. If it shows the same, it is done with.
fn changed(images: &mut BTreeMap<Key, Option<Item>>, key: &Key, item: &Item) -> bool {
    match images.get(key) {
        None => false,
        Some(image) if image.as_ref() == Some(item) => {
            images.remove(key);
            false
        }
        Some(_) => true,
    }
}

fn key_of(names: &KeyNames, item: &Item) -> Option<Key> {
    Some(Key::new(text(item.get(&names.partition))?, text(item.get(&names.sort))?))
}

fn text(value: Option<&AttributeValue>) -> Option<&String> {
    match value {
        Some(AttributeValue::S(text) | AttributeValue::N(text)) => Some(text),
        _ => None,
    }
}
