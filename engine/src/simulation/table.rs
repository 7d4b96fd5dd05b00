//! A table in memory whose writes can fail in the ways that a real one's do.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use serde_dynamo::{AttributeValue, Item};

use super::Switch;
use crate::cloud::{
    CloudError, ErrorKind, Result, Table,
    table::{Consistency, Key, KeyNames, Outcome, Page, PageToken, Query, Range, Write},
};

/// What goes wrong with a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It certainly doesn't happen.
    Error,
    /// It happens, and the answer is lost.
    UnknownApplied,
    /// It doesn't happen, and there is no telling.
    UnknownNotApplied,
    /// There is no telling, and it lands so much later.
    UnknownLandsAfter(Duration),
    /// It happens, and no answer ever comes.
    Hangs,
}

/// A table of leases in memory. Cheap to clone; clones are the same table.
#[derive(Clone)]
pub struct FakeTable {
    names: KeyNames,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    items: Mutex<BTreeMap<(String, String), Item>>,
    faults: Mutex<VecDeque<(String, Fault)>>,
    down: AtomicBool,
    hosts: AtomicUsize,
    /// How often each partition was read from its beginning.
    listings: Mutex<BTreeMap<String, u64>>,
    /// What was written, if that is kept.
    written: Mutex<Option<Vec<Written>>>,
}

/// A write that took effect.
#[derive(Debug, Clone)]
pub struct Written {
    /// The number of the host that sent it; hosts count from 0.
    pub host: usize,
    /// The item.
    pub key: Key,
    /// The item before.
    pub before: Option<Item>,
    /// The item after.
    pub after: Option<Item>,
}

impl FakeTable {
    /// An empty table with the keys of a table of leases.
    pub fn new() -> Self {
        let names = KeyNames { partition: "scope".into(), sort: "id".into() };
        Self { names, state: Arc::default() }
    }

    /// A handle of one host, whose network can fail by itself.
    pub fn host(&self) -> (Arc<dyn Table>, Network) {
        let number = self.state.hosts.fetch_add(1, Ordering::SeqCst);
        let network = Network { number, state: Arc::new(Switch::new(Reach::Up)) };
        (Arc::new(Host { table: self.clone(), network: network.clone() }), network)
    }

    /// Keeps every write that takes effect from now on; [`written`](Self::written) takes them out.
    pub fn keep_writes(&self) {
        *self.state.written.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
    }

    /// The writes that took effect since this was last asked, in order.
    pub fn written(&self) -> Vec<Written> {
        let mut written = self.state.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The next write to an item with this sort key goes wrong like this.
    pub fn fail_next(&self, sort: &str, fault: Fault) {
        self.state.faults.lock().unwrap_or_else(PoisonError::into_inner).push_back((sort.to_owned(), fault));
    }

    /// Everything fails until it is up again.
    pub fn set_down(&self, down: bool) {
        self.state.down.store(down, Ordering::SeqCst);
    }

    /// How often a partition was listed.
    pub fn listings(&self, partition: &str) -> u64 {
        let listings = self.state.listings.lock().unwrap_or_else(PoisonError::into_inner);
        listings.get(partition).copied().unwrap_or(0)
    }

    /// An item as it is.
    pub fn item(&self, partition: &str, sort: &str) -> Option<Item> {
        self.items().get(&(partition.to_owned(), sort.to_owned())).cloned()
    }

    /// A person deletes an item.
    pub fn remove(&self, partition: &str, sort: &str) {
        self.items().remove(&(partition.to_owned(), sort.to_owned()));
    }

    /// An attribute comes to be of a type that nobody can read; the item is made if it isn't there.
    pub fn spoil(&self, partition: &str, sort: &str, attribute: &str) {
        let mut items = self.items();
        let item = items.entry((partition.to_owned(), sort.to_owned())).or_default();
        for (name, value) in [(&self.names.partition, partition), (&self.names.sort, sort)] {
            item.insert(name.clone(), AttributeValue::S(value.to_owned()));
        }
        item.insert(attribute.to_owned(), AttributeValue::Bool(true));
    }

    /// The items of a partition.
    pub fn partition(&self, partition: &str) -> Vec<Item> {
        self.items().iter().filter(|((key, _), _)| key == partition).map(|(_, item)| item.clone()).collect()
    }

    fn items(&self) -> MutexGuard<'_, BTreeMap<(String, String), Item>> {
        self.state.items.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, host: usize, write: &Write) -> Outcome {
        let mut items = self.items();
        let key = (write.key.partition.clone(), write.key.sort.clone());
        let before = items.get(&key).cloned();
        if !write.condition.holds(before.as_ref()) {
            return Outcome::Refused(before);
        }
        let after = write.apply(&self.names, before.as_ref());
        match &after {
            Some(item) => items.insert(key, item.clone()),
            None => items.remove(&key),
        };
        if let Some(written) = &mut *self.state.written.lock().unwrap_or_else(PoisonError::into_inner) {
            written.push(Written { host, key: write.key.clone(), before, after: after.clone() });
        }
        Outcome::Applied(after)
    }

    fn check_up(&self, operation: &str) -> Result<()> {
        if self.state.down.load(Ordering::SeqCst) { Err(unavailable(operation)) } else { Ok(()) }
    }
}

fn unavailable(operation: &str) -> CloudError {
    CloudError::new(ErrorKind::Unavailable, operation, "the fake is down")
}

impl FakeTable {
    async fn get(&self, key: &Key) -> Result<Option<Item>> {
        self.check_up("GetItem of leases")?;
        Ok(self.item(&key.partition, &key.sort))
    }

    async fn write(&self, host: usize, write: &Write) -> Result<Outcome> {
        self.check_up("UpdateItem of leases")?;
        let fault = {
            let mut faults = self.state.faults.lock().unwrap_or_else(PoisonError::into_inner);
            let at = faults.iter().position(|(sort, _)| *sort == write.key.sort);
            at.and_then(|at| faults.remove(at)).map(|(_, fault)| fault)
        };
        let unknown = || Ok(Outcome::Unknown(unavailable("UpdateItem of leases")));
        match fault {
            None => Ok(self.apply(host, write)),
            Some(Fault::Error) => Err(unavailable("UpdateItem of leases")),
            Some(Fault::UnknownNotApplied) => unknown(),
            Some(Fault::UnknownApplied) => {
                self.apply(host, write);
                unknown()
            }
            Some(Fault::UnknownLandsAfter(delay)) => {
                let (table, write) = (self.clone(), write.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    table.apply(host, &write);
                });
                unknown()
            }
            Some(Fault::Hangs) => {
                self.apply(host, write);
                std::future::pending().await
            }
        }
    }

    async fn query(&self, query: &Query) -> Result<Page> {
        self.check_up("Query of leases")?;
        if query.start.is_none() {
            let mut listings = self.state.listings.lock().unwrap_or_else(PoisonError::into_inner);
            *listings.entry(query.partition.clone()).or_default() += 1;
        }
        assert!(query.index.is_none() && query.range == Range::All, "the fake knows whole partitions only");
        let after = match query.start.as_ref().and_then(|token| token.0.get("id")) {
            Some(AttributeValue::S(id)) => Bound::Excluded((query.partition.clone(), id.clone())),
            _ => Bound::Included((query.partition.clone(), String::new())),
        };
        let items = self.items();
        let mut rest = items.range((after, Bound::Unbounded)).filter(|((key, _), _)| *key == query.partition);
        let page: Vec<Item> = rest.by_ref().take(query.limit.unwrap_or(25)).map(|(_, item)| item.clone()).collect();
        let next = rest.next().and(page.last()).map(|last| PageToken(last.clone()));
        Ok(Page { items: page, next })
    }
}

impl Default for FakeTable {
    fn default() -> Self {
        Self::new()
    }
}

/// How far a host gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Up,
    Down,
    Frozen,
}

/// The network of one host.
#[derive(Clone)]
pub struct Network {
    number: usize,
    state: Arc<Switch<Reach>>,
}

impl Network {
    /// The number of the host.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Whether every request fails.
    pub fn set_down(&self, down: bool) {
        self.state.set(if down { Reach::Down } else { Reach::Up });
    }

    /// Whether every request waits, however long, and is sent when it is thawed: how a host that was stopped in the
    /// middle looks to others.
    pub fn set_frozen(&self, frozen: bool) {
        self.state.set(if frozen { Reach::Frozen } else { Reach::Up });
    }

    /// Waits until a request gets through.
    async fn pass(&self) -> Result<()> {
        match self.state.wait_for(|reach| reach != Reach::Frozen).await {
            Reach::Down => Err(unavailable("request to leases")),
            Reach::Up | Reach::Frozen => Ok(()),
        }
    }
}

struct Host {
    table: FakeTable,
    network: Network,
}

#[async_trait]
impl Table for Host {
    fn name(&self) -> &str {
        "leases"
    }

    fn keys(&self) -> &KeyNames {
        &self.table.names
    }

    async fn get(&self, key: &Key, _consistency: Consistency) -> Result<Option<Item>> {
        self.network.pass().await?;
        self.table.get(key).await
    }

    async fn write(&self, write: &Write) -> Result<Outcome> {
        self.network.pass().await?;
        self.table.write(self.network.number, write).await
    }

    async fn query(&self, query: &Query) -> Result<Page> {
        self.network.pass().await?;
        self.table.query(query).await
    }
}
