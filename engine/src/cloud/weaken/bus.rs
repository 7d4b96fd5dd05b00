//! A weak event bus: events are put twice, and each of a batch fails on its own.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Dice, Weakness};
use crate::cloud::{EventBus, Result, event_bus::Event};

/// An event bus made weak.
pub struct WeakEventBus {
    inner: Arc<dyn EventBus>,
    dice: Dice,
}

impl WeakEventBus {
    /// Makes `inner` as weak as this.
    pub fn new(inner: Arc<dyn EventBus>, weakness: Weakness, seed: u64) -> Self {
        Self { inner, dice: Dice::new(weakness, seed) }
    }
}

#[async_trait]
impl EventBus for WeakEventBus {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn check(&self) -> Result<()> {
        self.dice.through(&format!("check of {}", self.name()), self.inner.check()).await
    }

    async fn put(&self, events: &[Event]) -> Result<Vec<Result<String>>> {
        let put = |arriving: Vec<Event>| async move {
            let twice = |_: &&Event| self.dice.chance(self.dice.weakness.duplicate);
            let again: Vec<Event> = arriving.iter().filter(twice).cloned().collect();
            let results = self.inner.put(&arriving).await?;
            if !again.is_empty() {
                let outcome = self.inner.put(&again).await;
                tracing::debug!(?outcome, "Events were put twice, on purpose.");
            }
            Ok(results)
        };
        self.dice.each_through(&format!("put to {}", self.name()), events, put).await
    }
}
