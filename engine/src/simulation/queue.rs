//! A queue in memory.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;

use crate::cloud::{
    Queue, Result,
    queue::{Message, Outgoing, QueueDepth, Receipt},
};

/// A queue that keeps what is sent to it.
#[derive(Clone, Default)]
pub struct FakeQueue(Arc<Mutex<Vec<String>>>);

impl FakeQueue {
    /// What was sent.
    pub fn bodies(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl Queue for FakeQueue {
    fn name(&self) -> &str {
        "dlq"
    }

    async fn send(&self, messages: &[Outgoing]) -> Result<Vec<Result<()>>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(messages.iter().map(|message| message.body.clone()));
        Ok(messages.iter().map(|_| Ok(())).collect())
    }

    async fn receive(&self, _max: usize, _wait: Duration) -> Result<Vec<Message>> {
        Ok(Vec::new())
    }

    async fn delete(&self, receipts: &[Receipt]) -> Result<Vec<Result<()>>> {
        Ok(receipts.iter().map(|_| Ok(())).collect())
    }

    async fn set_visibility(&self, _receipt: &Receipt, _timeout: Duration) -> Result<()> {
        Ok(())
    }

    fn visibility_timeout(&self) -> Duration {
        Duration::from_secs(30)
    }

    async fn depth(&self) -> Result<QueueDepth> {
        Ok(QueueDepth::default())
    }
}
