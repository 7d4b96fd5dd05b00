//! A weak queue: messages come twice, late and in any order, and each entry of a batch fails on its own.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use rand::seq::SliceRandom;
use tokio::time::Instant;

use super::{Dice, Weakness};
use crate::cloud::{
    Queue, Result,
    queue::{Message, Outgoing, QueueDepth, Receipt},
};

/// A queue made weak. Keep the lag well below its visibility timeout: a message held back is in flight.
pub struct WeakQueue {
    inner: Arc<dyn Queue>,
    dice: Dice,
    /// Messages to be delivered, again or at last, from that time on.
    later: Mutex<Vec<(Instant, Message)>>,
}

impl WeakQueue {
    /// Makes `inner` as weak as this.
    pub fn new(inner: Arc<dyn Queue>, weakness: Weakness, seed: u64) -> Self {
        Self { inner, dice: Dice::new(weakness, seed), later: Mutex::default() }
    }

    fn later(&self) -> MutexGuard<'_, Vec<(Instant, Message)>> {
        self.later.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_due(&self, most: usize) -> Vec<Message> {
        let now = Instant::now();
        let mut later = self.later();
        let mut due = Vec::new();
        while let Some(at) = later.iter().position(|(time, _)| *time <= now)
            && due.len() < most
        {
            due.push(later.remove(at).1);
        }
        due
    }

    async fn receive_weakly(&self, max: usize, wait: Duration) -> Result<Vec<Message>> {
        let weakness = &self.dice.weakness;
        let mut messages = self.take_due(max);
        if messages.len() < max {
            let next = self.later().iter().map(|(time, _)| time.duration_since(Instant::now())).min();
            let wait = if messages.is_empty() { wait.min(next.unwrap_or(wait)) } else { Duration::ZERO };
            for message in self.inner.receive(max - messages.len(), wait).await? {
                if self.dice.chance(weakness.duplicate) {
                    self.later().push((Instant::now() + self.dice.delay(), message.clone()));
                }
                if self.dice.chance(weakness.reorder) {
                    self.later().push((Instant::now() + self.dice.delay(), message));
                } else {
                    messages.push(message);
                }
            }
            if messages.is_empty() {
                messages = self.take_due(max);
            }
        }
        if self.dice.chance(weakness.reorder) {
            messages.shuffle(&mut *self.dice.rng());
        }
        Ok(messages)
    }
}

#[async_trait]
impl Queue for WeakQueue {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn send(&self, messages: &[Outgoing]) -> Result<Vec<Result<()>>> {
        let operation = format!("send to {}", self.name());
        self.dice.each_through(&operation, messages, |arriving| async move { self.inner.send(&arriving).await }).await
    }

    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Message>> {
        self.dice.through(&format!("receive from {}", self.name()), self.receive_weakly(max, wait)).await
    }

    async fn delete(&self, receipts: &[Receipt]) -> Result<Vec<Result<()>>> {
        let operation = format!("delete from {}", self.name());
        self.dice.each_through(&operation, receipts, |arriving| async move { self.inner.delete(&arriving).await }).await
    }

    async fn set_visibility(&self, receipt: &Receipt, timeout: Duration) -> Result<()> {
        let operation = format!("set_visibility in {}", self.name());
        self.dice.through(&operation, self.inner.set_visibility(receipt, timeout)).await
    }

    async fn give_back(&self, message: &Message) -> Result<()> {
        self.dice.through(&format!("give_back to {}", self.name()), self.inner.give_back(message)).await
    }

    fn visibility_timeout(&self) -> Duration {
        self.inner.visibility_timeout()
    }

    async fn depth(&self) -> Result<QueueDepth> {
        self.dice.through(&format!("depth of {}", self.name()), self.inner.depth()).await
    }
}
