//! What a table showed a short while ago.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use serde_dynamo::{AttributeValue, Item};
use tokio::time::Instant;

use crate::cloud::table::{Key, Range};

/// The images before the writes of the last while.
#[derive(Debug, Default)]
pub(super) struct Past(VecDeque<(Instant, Key, Option<Item>)>);

impl Past {
    /// An item was changed just now; before, it was `before`. What is older than `lag` is forgotten.
    pub(super) fn record(&mut self, key: Key, before: Option<Item>, lag: Duration) {
        let now = Instant::now();
        while self.0.front().is_some_and(|(changed, ..)| now.duration_since(*changed) > lag) {
            self.0.pop_front();
        }
        self.0.push_back((now, key, before));
    }

    /// What stood under each key that changed since the time at which it is seen, which `seen` tells for each.
    pub(super) fn images(&self, mut seen: impl FnMut(&Key) -> Instant) -> BTreeMap<Key, Option<Item>> {
        let mut times: BTreeMap<&Key, Instant> = BTreeMap::new();
        let mut images = BTreeMap::new();
        for (changed, key, before) in &self.0 {
            let at = *times.entry(key).or_insert_with(|| seen(key));
            if *changed > at && !images.contains_key(key) {
                images.insert(key.clone(), before.clone());
            }
        }
        images
    }
}

/// Whether a sort value lies in a range. Numbers are given to ranges by their text.
pub(super) fn in_range(value: &AttributeValue, range: &Range) -> bool {
    let compare = |text: &String| {
        let other = match value {
            AttributeValue::N(_) => AttributeValue::N(text.clone()),
            _ => AttributeValue::S(text.clone()),
        };
        compare_values(value, &other)
    };
    match range {
        Range::All => true,
        Range::Equals(text) => compare(text).is_eq(),
        Range::Prefix(prefix) => matches!(value, AttributeValue::S(text) if text.starts_with(prefix)),
        Range::Between(first, last) => compare(first).is_ge() && compare(last).is_le(),
    }
}

/// The order of sort values: strings by their bytes, numbers as numbers.
pub(super) fn compare_values(a: &AttributeValue, b: &AttributeValue) -> Ordering {
    match (a, b) {
        (AttributeValue::N(a), AttributeValue::N(b)) => match (a.parse::<f64>(), b.parse::<f64>()) {
            (Ok(a), Ok(b)) => a.total_cmp(&b),
            _ => a.cmp(b),
        },
        (AttributeValue::S(a), AttributeValue::S(b)) => a.cmp(b),
        _ => Ordering::Equal,
    }
}
