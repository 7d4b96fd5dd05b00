//! A table in memory whose writes can fail in the ways that a real one's do.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use serde_dynamo::{AttributeValue, Item};

use crate::cloud::{
    CloudError, ErrorKind, Result, Table,
    table::{Consistency, Key, KeyNames, Outcome, Page, PageToken, Query, Range, Write},
};

/// What goes wrong with a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
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

#[derive(Clone)]
pub(crate) struct FakeTable {
    names: KeyNames,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    items: Mutex<BTreeMap<(String, String), Item>>,
    faults: Mutex<VecDeque<(String, Fault)>>,
    down: AtomicBool,
}

impl FakeTable {
    pub fn new() -> Self {
        let names = KeyNames { partition: "scope".into(), sort: "id".into() };
        Self { names, state: Arc::default() }
    }

    /// A handle of one host, whose network can fail by itself.
    pub fn host(&self) -> (Arc<dyn Table>, Network) {
        let down = Arc::new(AtomicBool::new(false));
        let table = Host { table: self.clone(), down: Arc::clone(&down) };
        (Arc::new(table), Network { down })
    }

    /// The next write to an item with this sort key goes wrong like this.
    pub fn fail_next(&self, sort: &str, fault: Fault) {
        self.state.faults.lock().unwrap().push_back((sort.to_owned(), fault));
    }

    /// Everything fails until it is up again.
    pub fn set_down(&self, down: bool) {
        self.state.down.store(down, Ordering::SeqCst);
    }

    pub fn item(&self, partition: &str, sort: &str) -> Option<Item> {
        self.items().get(&(partition.to_owned(), sort.to_owned())).cloned()
    }

    pub fn remove(&self, partition: &str, sort: &str) {
        self.items().remove(&(partition.to_owned(), sort.to_owned()));
    }

    pub fn partition(&self, partition: &str) -> Vec<Item> {
        self.items().iter().filter(|((key, _), _)| key == partition).map(|(_, item)| item.clone()).collect()
    }

    fn items(&self) -> MutexGuard<'_, BTreeMap<(String, String), Item>> {
        self.state.items.lock().unwrap()
    }

    fn apply(&self, write: &Write) -> Outcome {
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
        Outcome::Applied(after)
    }

    fn check_up(&self, operation: &str) -> Result<()> {
        if self.state.down.load(Ordering::SeqCst) { Err(unavailable(operation)) } else { Ok(()) }
    }
}

fn unavailable(operation: &str) -> CloudError {
    CloudError::new(ErrorKind::Unavailable, operation, "the fake is down")
}

#[async_trait]
impl Table for FakeTable {
    fn name(&self) -> &str {
        "leases"
    }

    fn keys(&self) -> &KeyNames {
        &self.names
    }

    async fn get(&self, key: &Key, _consistency: Consistency) -> Result<Option<Item>> {
        self.check_up("GetItem of leases")?;
        Ok(self.item(&key.partition, &key.sort))
    }

    async fn write(&self, write: &Write) -> Result<Outcome> {
        self.check_up("UpdateItem of leases")?;
        let fault = {
            let mut faults = self.state.faults.lock().unwrap();
            let at = faults.iter().position(|(sort, _)| *sort == write.key.sort);
            at.and_then(|at| faults.remove(at)).map(|(_, fault)| fault)
        };
        let unknown = || Ok(Outcome::Unknown(unavailable("UpdateItem of leases")));
        match fault {
            None => Ok(self.apply(write)),
            Some(Fault::Error) => Err(unavailable("UpdateItem of leases")),
            Some(Fault::UnknownNotApplied) => unknown(),
            Some(Fault::UnknownApplied) => {
                self.apply(write);
                unknown()
            }
            Some(Fault::UnknownLandsAfter(delay)) => {
                let (table, write) = (self.clone(), write.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    table.apply(&write);
                });
                unknown()
            }
            Some(Fault::Hangs) => {
                self.apply(write);
                std::future::pending().await
            }
        }
    }

    async fn query(&self, query: &Query) -> Result<Page> {
        self.check_up("Query of leases")?;
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

/// The network of one host.
pub(crate) struct Network {
    down: Arc<AtomicBool>,
}

impl Network {
    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }
}

struct Host {
    table: FakeTable,
    down: Arc<AtomicBool>,
}

impl Host {
    fn check(&self) -> Result<()> {
        if self.down.load(Ordering::SeqCst) { Err(unavailable("request to leases")) } else { Ok(()) }
    }
}

#[async_trait]
impl Table for Host {
    fn name(&self) -> &str {
        self.table.name()
    }

    fn keys(&self) -> &KeyNames {
        self.table.keys()
    }

    async fn get(&self, key: &Key, consistency: Consistency) -> Result<Option<Item>> {
        self.check()?;
        self.table.get(key, consistency).await
    }

    async fn write(&self, write: &Write) -> Result<Outcome> {
        self.check()?;
        self.table.write(write).await
    }

    async fn query(&self, query: &Query) -> Result<Page> {
        self.check()?;
        self.table.query(query).await
    }
}
