//! Queues: at-least-once, unordered, with visibility and receive counts.

use std::time::Duration;

use async_trait::async_trait;

use super::Result;

/// A queue, at the level of SQS's operations. It may deliver twice and in any order.
#[async_trait]
pub trait Queue: Send + Sync {
    /// The queue's full name.
    fn name(&self) -> &str;

    /// Sends the messages; one result each, in order.
    async fn send(&self, messages: &[Outgoing]) -> Result<Vec<Result<()>>>;

    /// Up to `max` (at most 10) visible messages; waits up to `wait` for the first. They stay hidden for the queue's
    /// visibility timeout.
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Message>>;

    /// Deletes the messages; one result each, in order. Deleting one that is gone, or by an outdated receipt, is no
    /// error.
    async fn delete(&self, receipts: &[Receipt]) -> Result<Vec<Result<()>>>;

    /// Hides a message for so long from now on; zero gives it back. An outdated receipt is [`NotFound`].
    ///
    /// [`NotFound`]: super::ErrorKind::NotFound
    async fn set_visibility(&self, receipt: &Receipt, timeout: Duration) -> Result<()>;

    /// Gives back a message that was never worked on: it is visible at once, and this receive brings it no nearer to the
    /// dead letters. Giving back one that is gone is no error.
    ///
    /// A queue that can't take a receive back, as SQS can't, sends the message anew and then deletes this one. A crash
    /// between the two leaves it twice, which every reader bears.
    async fn give_back(&self, message: &Message) -> Result<()> {
        for sent in self.send(&[Outgoing::new(message.body.as_str())]).await? {
            sent?;
        }
        for deleted in self.delete(std::slice::from_ref(&message.receipt)).await? {
            deleted?;
        }
        Ok(())
    }

    /// How long a received message stays hidden.
    fn visibility_timeout(&self) -> Duration;

    /// About how many messages there are.
    async fn depth(&self) -> Result<QueueDepth>;
}

/// A message to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Its text.
    pub body: String,
    /// Not visible before so long from now.
    pub delay: Duration,
}

impl Outgoing {
    /// A message that is visible at once.
    pub fn new(body: impl Into<String>) -> Self {
        Self { body: body.into(), delay: Duration::ZERO }
    }
}

/// A received message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The same at each delivery.
    pub id: String,
    /// Its text.
    pub body: String,
    /// The right to delete or hide it: of this delivery only.
    pub receipt: Receipt,
    /// How often it was received, this time included.
    pub receive_count: u32,
    /// When it was sent, in milliseconds since the epoch.
    pub sent_ms: i64,
}

/// The handle of one delivery of a message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Receipt(pub String);

/// About how many messages a queue holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueDepth {
    /// Waiting.
    pub visible: u64,
    /// Received and not yet deleted.
    pub in_flight: u64,
    /// Sent with a delay that isn't over.
    pub delayed: u64,
}

impl QueueDepth {
    /// All messages, in whatever state.
    pub fn total(&self) -> u64 {
        self.visible + self.in_flight + self.delayed
    }
}
