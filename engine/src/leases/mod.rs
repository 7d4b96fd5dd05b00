//! Leases: the right to do something, held in a table by one process at a time.
//!
//! One module for all of them: shards of a stream (scope: the stream's ARN), flushes, manifests, the sweep. A lease is an
//! item under `scope` and `id`. It promises:
//!
//! - **Who holds it is decided by conditional writes alone.** Each acquisition has a random token; every later write of
//!   the holder is conditional on it, so that who lost a lease can't write under it any more (I7).
//! - **No two hosts' clocks are ever compared.** A lease is dead when its counter has stood still for its length on the
//!   *observer's* monotonic clock. The holder judges by its own clock too, counts from the start of its last successful
//!   renewal, and stops a margin earlier.
//! - **Renewals wait for nobody.** One background task renews all of a process's leases; user code can't delay it (F24).
//! - **A short outage loses nothing** (F19): a failed renewal is tried again, an ambiguous one is re-read, and the lease
//!   is kept until it expires locally.
//! - **A dead work loop holds nothing** (F22): work that once showed life ([`Lease::show_life`]) must go on showing it, or
//!   its lease is renewed no more.
//! - A lease that is given back is free at once (F20). An absent one is free.
//!
//! ```
//! # use std::sync::Arc;
//! # use penstock_engine::{cloud::{Result, Table}, leases::{LeaseOptions, Leases}};
//! # async fn example(table: Arc<dyn Table>) -> Result<()> {
//! let leases = Leases::new(table, "engine-1", LeaseOptions::default());
//! if let Some(lease) = leases.try_acquire("flush", "2026-02-01").await? {
//!     // … write under `lease.token()`, and stop when `lease.lost()` is cancelled …
//!     lease.release().await;
//! }
//! # Ok(())
//! # }
//! ```

mod decide;
mod events;
mod keeper;
mod lease;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_dynamo::{AttributeValue, Item};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};

use crate::{
    cloud::{
        CloudError, ErrorKind, Result, Table,
        resources::Access,
        table::{Condition, Consistency, Key, Outcome, Page, Query, Write},
    },
    random,
};

use lease::Held;

pub use decide::{COUNTER, Holding, LEASE_ATTRIBUTES, LeaseState, OWNER, SCHEMA_VERSION, TOKEN, holding};
pub use lease::Lease;

/// So many leases of others are watched at once; beyond that the ones not looked at for longest are forgotten.
const WATCHED: usize = 50_000;

/// How leases are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseOptions {
    /// How long a lease lives without a renewal. Must be the same in all processes that share a scope. Default 10 s.
    pub length: Duration,
    /// Only one process at a time can hold leases in this table, as on one machine: a holder that isn't named after
    /// this process (`{process}/{operator}`) has died, and needs no watching.
    pub sole_process: bool,
}

impl Default for LeaseOptions {
    fn default() -> Self {
        Self { length: Duration::from_secs(10), sole_process: false }
    }
}

impl LeaseOptions {
    /// How often a lease is renewed: a third of its length.
    pub fn renew_every(&self) -> Duration {
        self.length / 3
    }

    /// How long an answer of the table is waited for: a quarter of the lease's length.
    pub fn patience(&self) -> Duration {
        self.length / 4
    }

    /// How much earlier than others the holder counts its lease as expired: a tenth of its length.
    pub fn margin(&self) -> Duration {
        self.length / 10
    }

    /// How long work may show no life: six times the lease's length, for it may wait for requests that time out.
    pub fn silence(&self) -> Duration {
        self.length * 6
    }

    fn expiry(&self, renewal_began: Instant) -> Instant {
        renewal_began + self.length - self.margin()
    }
}

/// Takes, keeps and gives back leases for one owner. Cheap to clone; clones share one background task.
#[derive(Clone)]
pub struct Leases {
    core: Arc<Core>,
    keeper: mpsc::UnboundedSender<keeper::Command>,
}

struct Core {
    table: Arc<dyn Table>,
    owner: String,
    options: LeaseOptions,
    observed: Mutex<decide::Observations>,
    /// What must hold for a write under a lease, by its token.
    fence: fn(&str) -> Condition,
}

/// A lease as listed.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its id within the scope.
    pub id: String,
    /// What this observer knows of it.
    pub state: LeaseState,
    /// The whole item, with what its holder keeps there.
    pub item: Item,
}

impl Leases {
    /// What is done with the table for a lease of a known name.
    pub const ACCESS: &'static [Access] = &[Access::Get, Access::Update, Access::Delete];

    /// Leases of `owner` in `table`. Starts the background task, so it must be called inside a tokio runtime.
    pub fn new(table: Arc<dyn Table>, owner: impl Into<String>, options: LeaseOptions) -> Self {
        let observed = Mutex::new(decide::Observations::new(WATCHED));
        Self::of(Core { table, owner: owner.into(), options, observed, fence: decide::fence })
    }

    fn of(core: Core) -> Self {
        let core = Arc::new(core);
        let keeper = keeper::spawn(Arc::clone(&core));
        Self { core, keeper }
    }

    /// The same with another fence: for a simulation, to show that it would find a wrong one.
    #[cfg(test)]
    pub(crate) fn with_fence(self, fence: fn(&str) -> Condition) -> Self {
        let core = &self.core;
        let observed = Mutex::new(decide::Observations::new(WATCHED));
        Self::of(Core {
            table: Arc::clone(&core.table),
            owner: core.owner.clone(),
            options: core.options,
            observed,
            fence,
        })
    }

    /// Who these leases belong to.
    pub fn owner(&self) -> &str {
        &self.core.owner
    }

    /// How they are kept.
    pub fn options(&self) -> LeaseOptions {
        self.core.options
    }

    /// Takes the lease if it is absent or released, or if its holder has shown no sign of life for its length before
    /// this observer's eyes (so a first try never takes a held one over: try again, or [`list`](Self::list) the scope
    /// now and then). `None` when somebody else has it.
    ///
    /// # Errors
    ///
    /// When the table can't tell. A lease taken by a write that lands after all is dead after its length.
    pub async fn try_acquire(&self, scope: &str, id: &str) -> Result<Option<Lease>> {
        let key = Key::new(scope, id);
        let (before, state) = self.core.look(&key).await?;
        let seen = match &state {
            LeaseState::Held { .. } | LeaseState::Unreadable { .. } => return Ok(None),
            LeaseState::Free => None,
            LeaseState::Dead { .. } => decide::holding(&key, before.as_ref())?,
        };
        let token = format!("{:032x}", random::bits());
        let write = decide::acquisition(&key, seen.as_ref(), before.as_ref(), &self.core.owner, &token);
        let began = Instant::now();
        let item = match self.core.write(&write).await? {
            Outcome::Applied(item) => item.or_else(|| write.apply(self.core.table.keys(), before.as_ref())),
            Outcome::Refused(item) => item,
            Outcome::Unknown(error) => match self.core.read(&key).await {
                Ok(item) => item,
                Err(_) => return Err(error),
            },
        };
        let holding = decide::holding(&key, item.as_ref())?;
        match (holding, item) {
            (Some(holding), Some(item)) if holding.token == token => {
                let from = seen.map(|seen| seen.owner);
                events::LeaseAcquired { key: &key, owner: &self.core.owner, taken_from: from.as_deref() }.emit();
                Ok(Some(self.hold(key, holding, item, began)))
            }
            (holding, _) => {
                let now = Instant::now();
                self.core.observed().judge(&key, holding.as_ref(), now, now, self.core.options.length);
                events::LeaseContended { key: &key }.emit();
                Ok(None)
            }
        }
    }

    fn hold(&self, key: Key, holding: Holding, item: Item, began: Instant) -> Lease {
        self.core.observed().forget(&key);
        let keep_item = self.core.has_further_attributes(&item);
        let held = Arc::new(Held::new(key, holding.token, self.core.options.expiry(began), keep_item));
        self.tell(keeper::Command::Hold { held: Arc::clone(&held), counter: holding.counter, began });
        Lease::new(held, item, self.clone())
    }

    /// Makes the item of a lease that nobody holds yet, with these attributes; refused if it is there.
    pub async fn create(&self, scope: &str, id: &str, attributes: BTreeMap<String, AttributeValue>) -> Result<Outcome> {
        let key = Key::new(scope, id);
        let write = decide::creation(&key, self.core.table.keys(), attributes);
        match self.core.write(&write).await? {
            Outcome::Unknown(error) => match self.core.read(&key).await {
                Ok(item) if write.is_shown_by(item.as_ref()) => Ok(Outcome::Applied(item)),
                _ => Ok(Outcome::Unknown(error)),
            },
            outcome => Ok(outcome),
        }
    }

    /// The item of a lease as it is now, whoever holds it.
    pub async fn item(&self, scope: &str, id: &str) -> Result<Option<Item>> {
        self.core.read(&Key::new(scope, id)).await
    }

    /// What this observer knows of a lease. That one is dead shows only at a later look, its length after the first.
    pub async fn observe(&self, scope: &str, id: &str) -> Result<LeaseState> {
        Ok(self.core.look(&Key::new(scope, id)).await?.1)
    }

    /// All leases of a scope, read strongly, each one observed.
    pub async fn list(&self, scope: &str) -> Result<Vec<Listed>> {
        let mut listed = Vec::new();
        let mut query = Query::partition(scope).strong();
        loop {
            let began = Instant::now();
            let page = self.core.page(&query).await?;
            let ended = Instant::now();
            for item in page.items {
                let id = self.core.id_of(scope, &item)?;
                let key = Key::new(scope, id.as_str());
                let state = match decide::holding(&key, Some(&item)) {
                    Ok(holding) => self.core.judge(&key, holding.as_ref(), began, ended),
                    Err(error) => LeaseState::Unreadable { reason: error.to_string() },
                };
                listed.push(Listed { id, state, item });
            }
            match page.next {
                Some(next) => query.start = Some(next),
                None => return Ok(listed),
            }
        }
    }

    /// Gives back every lease that is still held, and waits until the table says so or it was tried three times.
    pub async fn release_all(&self) {
        let (done, released) = oneshot::channel();
        self.tell(keeper::Command::ReleaseAll { done });
        if released.await.is_err() {
            tracing::debug!("The task that keeps leases has stopped; what it held expires.");
        }
    }

    fn tell(&self, command: keeper::Command) {
        if self.keeper.send(command).is_err() {
            tracing::debug!("The task that keeps leases has stopped with its runtime; what it held expires.");
        }
    }
}

impl Core {
    async fn look(&self, key: &Key) -> Result<(Option<Item>, LeaseState)> {
        let began = Instant::now();
        let item = self.read(key).await?;
        let holding = decide::holding(key, item.as_ref())?;
        let state = self.judge(key, holding.as_ref(), began, Instant::now());
        Ok((item, state))
    }

    fn judge(&self, key: &Key, holding: Option<&Holding>, began: Instant, ended: Instant) -> LeaseState {
        let process = |owner: &str| owner.split_once('/').map_or(owner, |(process, _)| process).to_owned();
        match self.observed().judge(key, holding, began, ended, self.options.length) {
            LeaseState::Held { owner, token }
                if self.options.sole_process && process(&owner) != process(&self.owner) =>
            {
                LeaseState::Dead { owner, token }
            }
            state => state,
        }
    }

    /// A write that doesn't wait for ever: the lease that it is for doesn't live for ever either.
    async fn write(&self, write: &Write) -> Result<Outcome> {
        match timeout(self.options.patience(), self.table.write(write)).await {
            Ok(outcome) => outcome,
            Err(_) => Ok(Outcome::Unknown(self.no_answer(&write.key))),
        }
    }

    async fn read(&self, key: &Key) -> Result<Option<Item>> {
        let read = timeout(self.options.patience(), self.table.get(key, Consistency::Strong)).await;
        read.unwrap_or_else(|_| Err(self.no_answer(key)))
    }

    async fn page(&self, query: &Query) -> Result<Page> {
        let page = timeout(self.options.patience(), self.table.query(query)).await;
        page.unwrap_or_else(|_| Err(self.no_answer(&Key::new(query.partition.as_str(), "*"))))
    }

    fn no_answer(&self, key: &Key) -> CloudError {
        let operation = format!("request for lease {}/{} in {}", key.partition, key.sort, self.table.name());
        let text = format!("no answer within {} ms", self.options.patience().as_millis());
        CloudError::new(ErrorKind::Unavailable, operation, text)
    }

    fn observed(&self) -> MutexGuard<'_, decide::Observations> {
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_further_attributes(&self, item: &Item) -> bool {
        let keys = self.table.keys();
        decide::has_further_attributes(item, [&keys.partition, &keys.sort])
    }

    fn id_of(&self, scope: &str, item: &Item) -> Result<String> {
        match item.get(&self.table.keys().sort) {
            Some(AttributeValue::S(id)) => Ok(id.clone()),
            _ => Err(CloudError::new(
                ErrorKind::Invalid,
                format!("listing leases of {scope} in {}", self.table.name()),
                "an item has no sort key that is a string: check that the table is one of leases",
            )),
        }
    }
}
