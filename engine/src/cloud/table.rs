//! Tables of items: conditional writes with three outcomes, and queries by key and by index.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde_dynamo::{AttributeValue, Item};

use super::{CloudError, Result};

/// A table of items under a partition key and a sort key, at the level of DynamoDB's operations.
#[async_trait]
pub trait Table: Send + Sync {
    /// The table's full name.
    fn name(&self) -> &str;

    /// The names of the key attributes.
    fn keys(&self) -> &KeyNames;

    /// The item under `key`. A plain read may be stale; a [`Consistency::Strong`] one is not.
    async fn get(&self, key: &Key, consistency: Consistency) -> Result<Option<Item>>;

    /// One conditional write. An `Err` means that it certainly did not happen.
    async fn write(&self, write: &Write) -> Result<Outcome>;

    /// One page of the items under a partition key, or under an index's hash key; in order of the sort (range) key.
    ///
    /// A page holds at most 1 MB and may be empty while more pages follow. Index reads are always stale.
    async fn query(&self, query: &Query) -> Result<Page>;
}

/// The names of a table's key attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyNames {
    /// The partition (hash) key.
    pub partition: String,
    /// The sort (range) key.
    pub sort: String,
}

/// The primary key of an item. A numeric key attribute is given by its decimal text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Value of the partition key.
    pub partition: String,
    /// Value of the sort key.
    pub sort: String,
}

impl Key {
    /// The key of partition `partition` and sort value `sort`.
    pub fn new(partition: impl Into<String>, sort: impl Into<String>) -> Self {
        Self { partition: partition.into(), sort: sort.into() }
    }
}

/// Whether a read may be stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// Cheaper, and possibly stale.
    Eventual,
    /// Shows every write that was answered before the read began.
    Strong,
}

/// A write of one item. There is no unconditional one (I3).
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    /// Which item.
    pub key: Key,
    /// What to do with it.
    pub action: Action,
    /// What must hold for it to be done.
    pub condition: Condition,
}

/// What a [`Write`] does to its item.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Replace the item, or make it. The key attributes are added by the table.
    Put(Item),
    /// Set and remove attributes; makes the item if the condition lets it be absent.
    Update {
        /// Attributes to set.
        set: BTreeMap<String, AttributeValue>,
        /// Attributes to remove.
        remove: Vec<String>,
    },
    /// Delete the item.
    Delete,
}

/// A condition on the item as it is just before the write: one small closed language.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// The attribute is absent; on a key attribute: the item is absent.
    Absent(String),
    /// The attribute is there and equals the value.
    Equals(String, AttributeValue),
    /// The attribute is there and equals one of the values.
    In(String, Vec<AttributeValue>),
    /// Every one holds.
    All(Vec<Condition>),
    /// At least one holds.
    Any(Vec<Condition>),
}

impl Condition {
    /// The attribute is absent.
    pub fn absent(attribute: impl Into<String>) -> Self {
        Self::Absent(attribute.into())
    }

    /// The attribute equals this string.
    pub fn equals(attribute: impl Into<String>, value: impl Into<String>) -> Self {
        Self::Equals(attribute.into(), AttributeValue::S(value.into()))
    }

    /// The attribute equals this number.
    pub fn equals_number(attribute: impl Into<String>, value: impl std::fmt::Display) -> Self {
        Self::Equals(attribute.into(), AttributeValue::N(value.to_string()))
    }

    /// The attribute equals one of these strings.
    pub fn one_of<S: Into<String>>(attribute: impl Into<String>, values: impl IntoIterator<Item = S>) -> Self {
        Self::In(attribute.into(), values.into_iter().map(|value| AttributeValue::S(value.into())).collect())
    }

    /// The attribute is as it was seen: equal to the value, or absent where there was none.
    pub fn as_read(attribute: impl Into<String>, seen: Option<&AttributeValue>) -> Self {
        match seen {
            Some(value) => Self::Equals(attribute.into(), value.clone()),
            None => Self::Absent(attribute.into()),
        }
    }

    /// Both hold.
    pub fn and(self, other: Condition) -> Self {
        match self {
            Self::All(mut all) => {
                all.push(other);
                Self::All(all)
            }
            first => Self::All(vec![first, other]),
        }
    }

    /// Whether the condition holds for `item`, or for an absent one. The item includes its key attributes.
    pub fn holds(&self, item: Option<&Item>) -> bool {
        let get = |name: &str| item.and_then(|item| item.get(name));
        match self {
            Self::Absent(name) => get(name).is_none(),
            Self::Equals(name, value) => get(name) == Some(value),
            Self::In(name, values) => get(name).is_some_and(|value| values.contains(value)),
            Self::All(all) => all.iter().all(|condition| condition.holds(item)),
            Self::Any(any) => any.iter().any(|condition| condition.holds(item)),
        }
    }
}

/// How a conditional write ended.
#[derive(Debug)]
pub enum Outcome {
    /// It happened. For a put or an update, the item as it is now; for a delete, `None`.
    Applied(Option<Item>),
    /// The condition didn't hold: the item as it was, `None` where there was none. A normal outcome, not an error.
    Refused(Option<Item>),
    /// No telling: it may have happened, or may still happen. Re-read, or leave it to the lease; never a refusal.
    Unknown(CloudError),
}

impl Write {
    /// Puts `item` under `key` if `condition` holds.
    pub fn put(key: Key, item: Item, condition: Condition) -> Self {
        Self { key, action: Action::Put(item), condition }
    }

    /// An update of the item under `key` if `condition` holds; add to it with [`set`](Self::set) and the like.
    pub fn update(key: Key, condition: Condition) -> Self {
        Self { key, action: Action::Update { set: BTreeMap::new(), remove: Vec::new() }, condition }
    }

    /// Deletes the item under `key` if `condition` holds.
    pub fn delete(key: Key, condition: Condition) -> Self {
        Self { key, action: Action::Delete, condition }
    }

    /// Sets an attribute.
    pub fn set_value(mut self, attribute: impl Into<String>, value: AttributeValue) -> Self {
        match &mut self.action {
            Action::Put(item) => {
                item.inner_mut().insert(attribute.into(), value);
            }
            Action::Update { set, .. } => {
                set.insert(attribute.into(), value);
            }
            Action::Delete => {}
        }
        self
    }

    /// Sets a string attribute.
    pub fn set(self, attribute: impl Into<String>, value: impl Into<String>) -> Self {
        self.set_value(attribute, AttributeValue::S(value.into()))
    }

    /// Sets a number attribute.
    pub fn set_number(self, attribute: impl Into<String>, value: impl std::fmt::Display) -> Self {
        self.set_value(attribute, AttributeValue::N(value.to_string()))
    }

    /// Removes an attribute.
    pub fn remove(mut self, attribute: impl Into<String>) -> Self {
        if let Action::Update { remove, .. } = &mut self.action {
            remove.push(attribute.into());
        }
        self
    }

    /// What the item would be after the write, given what it is; `None` where there would be none.
    pub fn apply(&self, keys: &KeyNames, before: Option<&Item>) -> Option<Item> {
        let mut after = match &self.action {
            Action::Delete => return None,
            Action::Put(item) => item.clone(),
            Action::Update { set, remove } => {
                let mut item = before.cloned().unwrap_or_default();
                item.inner_mut().extend(set.iter().map(|(name, value)| (name.clone(), value.clone())));
                for name in remove {
                    item.inner_mut().remove(name);
                }
                item
            }
        };
        for (name, value) in [(&keys.partition, &self.key.partition), (&keys.sort, &self.key.sort)] {
            after.inner_mut().entry(name.clone()).or_insert_with(|| AttributeValue::S(value.clone()));
        }
        Some(after)
    }

    /// Whether `item` already shows this write: the sign that an earlier try of it landed after all.
    ///
    /// True only for writes that set something of their own (a token, a manifest's name): callers see to that.
    pub fn is_shown_by(&self, item: Option<&Item>) -> bool {
        match (&self.action, item) {
            (Action::Delete, item) => item.is_none(),
            (_, None) => false,
            (Action::Put(new), Some(item)) => new.iter().all(|(name, value)| item.get(name) == Some(value)),
            (Action::Update { set, remove }, Some(item)) => {
                set.iter().all(|(name, value)| item.get(name) == Some(value))
                    && remove.iter().all(|name| item.get(name).is_none())
            }
        }
    }
}

/// What to list.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// The index to read; `None` reads the table itself.
    pub index: Option<String>,
    /// Value of the table's partition key, or of the index's hash key.
    pub partition: String,
    /// Which sort keys (on an index: range keys).
    pub range: Range,
    /// Where the page before ended.
    pub start: Option<PageToken>,
    /// At most so many items on this page.
    pub limit: Option<usize>,
    /// Whether the read may be stale. An index read always is.
    pub consistency: Consistency,
}

/// A range of sort keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Range {
    /// All of them.
    All,
    /// This one.
    Equals(String),
    /// Those that begin so.
    Prefix(String),
    /// From the first to the second, both included.
    Between(String, String),
}

/// Where a page ended: opaque to everyone but the table that gave it.
#[derive(Debug, Clone, PartialEq)]
pub struct PageToken(pub Item);

/// One page of a query.
#[derive(Debug, Default)]
pub struct Page {
    /// The items, in order of the sort (range) key.
    pub items: Vec<Item>,
    /// Where to go on, if there may be more.
    pub next: Option<PageToken>,
}

impl Query {
    /// All items of a partition, possibly stale.
    pub fn partition(partition: impl Into<String>) -> Self {
        Self {
            index: None,
            partition: partition.into(),
            range: Range::All,
            start: None,
            limit: None,
            consistency: Consistency::Eventual,
        }
    }

    /// All items of an index under one hash value.
    pub fn index(index: impl Into<String>, hash: impl Into<String>) -> Self {
        Self { index: Some(index.into()), ..Self::partition(hash) }
    }

    /// Only this range of sort (range) keys.
    pub fn range(mut self, range: Range) -> Self {
        self.range = range;
        self
    }

    /// At most so many items a page.
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Read what is, not what was.
    pub fn strong(mut self) -> Self {
        self.consistency = Consistency::Strong;
        self
    }
}

/// A conditional write whose outcome is certain.
#[derive(Debug)]
pub enum Carried {
    /// It happened, by this try or by an earlier one of the same write. The item as it is after it.
    Applied(Option<Item>),
    /// The condition didn't hold: the item as it is.
    Refused(Option<Item>),
}

/// Carries a write out and makes sure of its outcome: a refusal by the write's own earlier try is an application, and an
/// unknown outcome is read again.
///
/// Fails where no certainty is to be had: the write may have happened, or may still happen.
pub async fn carry_out(table: &dyn Table, write: &Write) -> Result<Carried> {
    let count = |outcome: &'static str| {
        metrics::counter!("penstock_conditional_writes_total", "outcome" => outcome).increment(1);
    };
    match table.write(write).await? {
        Outcome::Applied(item) => {
            count("applied");
            Ok(Carried::Applied(item))
        }
        Outcome::Refused(item) if write.is_shown_by(item.as_ref()) => {
            count("applied_before");
            Ok(Carried::Applied(item))
        }
        Outcome::Refused(item) => {
            count("refused");
            Ok(Carried::Refused(item))
        }
        Outcome::Unknown(error) => {
            count("unknown");
            let item = table.get(&write.key, Consistency::Strong).await?;
            if write.is_shown_by(item.as_ref()) { Ok(Carried::Applied(item)) } else { Err(error) }
        }
    }
}

/// All items of a query, page by page. For queries whose size is bounded by design.
pub async fn query_all(table: &dyn Table, mut query: Query) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    loop {
        let page = table.query(&query).await?;
        items.extend(page.items);
        match page.next {
            Some(next) => query.start = Some(next),
            None => return Ok(items),
        }
    }
}
