//! The handle of one held lease.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_dynamo::{AttributeValue, Item};
use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{LEASE_ATTRIBUTES, Leases, TOKEN, keeper::Command};
use crate::cloud::{
    CloudError, ErrorKind, Result,
    table::{Action, Condition, Key, Outcome, Write},
};

/// A lease of this process. Dropping it gives it back in the background; [`release`](Self::release) waits for that.
pub struct Lease {
    held: Arc<Held>,
    item: Item,
    leases: Leases,
    released: bool,
}

/// What a handle and the background task share of one lease.
pub(super) struct Held {
    pub(super) key: Key,
    pub(super) token: String,
    pub(super) lost: CancellationToken,
    expires: Mutex<Instant>,
    /// When its work last showed life, if it is to show any.
    life: Mutex<Option<Instant>>,
    keep_item: AtomicBool,
}

impl Held {
    pub(super) fn new(key: Key, token: String, expires: Instant, keep_item: bool) -> Self {
        let (expires, keep_item) = (Mutex::new(expires), AtomicBool::new(keep_item));
        Self { key, token, lost: CancellationToken::new(), expires, life: Mutex::default(), keep_item }
    }

    pub(super) fn expires(&self) -> Instant {
        *self.expires.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn extend(&self, expires: Instant) {
        *self.expires.lock().unwrap_or_else(PoisonError::into_inner) = expires;
    }

    /// When its work last showed life, if it is to show any.
    pub(super) fn life(&self) -> Option<Instant> {
        *self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_life(&self, life: Option<Instant>) {
        *self.life.lock().unwrap_or_else(PoisonError::into_inner) = life;
    }

    fn forget_item(&self) {
        self.keep_item.store(false, Ordering::Relaxed);
    }

    /// Whether the item says more than who holds it, so that it must outlive the lease.
    pub(super) fn keeps_item(&self) -> bool {
        self.keep_item.load(Ordering::Relaxed)
    }

    fn is_held(&self) -> bool {
        !self.lost.is_cancelled() && Instant::now() < self.expires()
    }
}

impl Lease {
    pub(super) fn new(held: Arc<Held>, item: Item, leases: Leases) -> Self {
        Self { held, item, leases, released: false }
    }

    /// The token of this acquisition: put it into the condition of every write that the lease guards.
    pub fn token(&self) -> &str {
        &self.held.token
    }

    /// The scope that it was taken in.
    pub fn scope(&self) -> &str {
        &self.held.key.partition
    }

    /// Its id within the scope.
    pub fn id(&self) -> &str {
        &self.held.key.sort
    }

    /// The item as it was when the lease was taken, with what earlier holders left there.
    pub fn item(&self) -> &Item {
        &self.item
    }

    /// Whether it is still held, judged by this host's monotonic clock. A process that was stopped for longer than the
    /// lease's length sees `false` here at once.
    pub fn is_held(&self) -> bool {
        self.held.is_held()
    }

    /// Shows that the work which the lease is for goes on. Once called, it has to be called again and again, at least each
    /// [`LeaseOptions::silence`](super::LeaseOptions::silence): else the lease is renewed no more, and lost (F22).
    pub fn show_life(&self) {
        self.held.set_life(Some(Instant::now()));
    }

    /// From now on nobody has to show life.
    pub fn rest(&self) {
        self.held.set_life(None);
    }

    /// Cancelled when the lease is lost or given back. Stop what it guards then.
    pub fn lost(&self) -> CancellationToken {
        self.held.lost.clone()
    }

    /// Writes further attributes under the lease's fence: refused if the token isn't ours any more (I7, F18).
    ///
    /// An unknown outcome is re-read once, so `Unknown` means that the table can't tell even now.
    pub async fn update(&self, set: BTreeMap<String, AttributeValue>, remove: Vec<String>) -> Result<Outcome> {
        self.write(Condition::All(Vec::new()), set, remove).await
    }

    /// The same with a further condition, e.g. that a checkpoint is as it was last seen.
    pub async fn update_if(
        &self,
        condition: Condition,
        set: BTreeMap<String, AttributeValue>,
        remove: Vec<String>,
    ) -> Result<Outcome> {
        self.write(condition, set, remove).await
    }

    async fn write(
        &self,
        further: Condition,
        set: BTreeMap<String, AttributeValue>,
        remove: Vec<String>,
    ) -> Result<Outcome> {
        let core = &self.leases.core;
        if let Some(name) = set.keys().chain(&remove).find(|name| LEASE_ATTRIBUTES.contains(&name.as_str())) {
            let operation = format!("update of lease {}/{}", self.scope(), self.id());
            return Err(CloudError::new(
                ErrorKind::Invalid,
                operation,
                format!("`{name}` belongs to the lease itself"),
            ));
        }
        let fence = (core.fence)(self.token());
        let condition = if further == Condition::All(Vec::new()) { fence } else { fence.and(further) };
        self.held.keep_item.store(true, Ordering::Relaxed);
        let write = Write { key: self.held.key.clone(), action: Action::Update { set, remove }, condition };
        let outcome = match core.write(&write).await? {
            Outcome::Unknown(error) => match core.read(&self.held.key).await {
                Ok(item) if self.shows(&write, item.as_ref()) => Outcome::Applied(item),
                _ => Outcome::Unknown(error),
            },
            Outcome::Refused(item) if self.shows(&write, item.as_ref()) => Outcome::Applied(item),
            outcome => outcome,
        };
        if let Outcome::Refused(item) = &outcome
            && !self.is_ours(item.as_ref())
        {
            self.leases.tell(Command::Lost { held: Arc::clone(&self.held) });
            self.held.lost.cancel();
        }
        Ok(outcome)
    }

    fn shows(&self, write: &Write, item: Option<&Item>) -> bool {
        self.is_ours(item) && write.is_shown_by(item)
    }

    fn is_ours(&self, item: Option<&Item>) -> bool {
        item.and_then(|item| item.get(TOKEN)) == Some(&AttributeValue::S(self.held.token.clone()))
    }

    /// Gives it back and deletes its item, with all that earlier holders left there.
    pub async fn retire(self) {
        self.held.forget_item();
        self.release().await;
    }

    /// Gives it back, and waits until the table says so or it was tried three times (then it expires).
    pub async fn release(mut self) {
        self.released = true;
        let (done, released) = oneshot::channel();
        self.leases.tell(Command::Release { held: Arc::clone(&self.held), done: Some(done) });
        if released.await.is_err() {
            tracing::debug!(scope = self.scope(), id = self.id(), "Lease left to expire: its runtime has stopped.");
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.released {
            self.leases.tell(Command::Release { held: Arc::clone(&self.held), done: None });
        }
    }
}
