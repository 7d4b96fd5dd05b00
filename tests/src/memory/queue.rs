//! Queues and event buses in memory.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use penstock_engine::{
    cloud::{
        CloudError, ErrorKind, EventBus, Queue, Result,
        event_bus::Event,
        limits,
        pattern::Pattern,
        queue::{Message, Outgoing, QueueDepth, Receipt},
        resources::QueueSpec,
    },
    time::Clock,
};
use serde_json::json;
use tokio::{sync::Notify, time::Instant};

use super::lock;

/// A queue.
pub struct MemoryQueue {
    name: String,
    visibility: Duration,
    dead_letter: Option<(Arc<MemoryQueue>, u32)>,
    clock: Clock,
    state: Mutex<State>,
    sent: Notify,
}

#[derive(Default)]
struct State {
    next: u64,
    messages: BTreeMap<u64, Held>,
}

struct Held {
    body: String,
    sent_ms: i64,
    visible: Instant,
    receives: u32,
}

impl MemoryQueue {
    pub(super) fn new(
        name: String,
        spec: &QueueSpec,
        dead_letter: Option<(Arc<MemoryQueue>, u32)>,
        clock: Clock,
    ) -> Self {
        Self { name, visibility: spec.visibility, dead_letter, clock, state: Mutex::default(), sent: Notify::new() }
    }

    /// Puts a message into it.
    pub fn push(&self, body: impl Into<String>, delay: Duration) {
        let mut state = lock(&self.state);
        state.next += 1;
        let id = state.next;
        let held = Held {
            body: body.into(),
            sent_ms: self.clock.now().timestamp_millis(),
            visible: Instant::now() + delay,
            receives: 0,
        };
        state.messages.insert(id, held);
        drop(state);
        self.sent.notify_waiters();
    }

    /// Loses everything in it.
    pub fn lose_all(&self) -> usize {
        let mut state = lock(&self.state);
        std::mem::take(&mut state.messages).len()
    }

    /// How many messages it holds, in whatever state.
    pub fn len(&self) -> usize {
        lock(&self.state).messages.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Their texts.
    pub fn bodies(&self) -> Vec<String> {
        lock(&self.state).messages.values().map(|held| held.body.clone()).collect()
    }

    fn take(&self, max: usize) -> (Vec<Message>, Option<Instant>) {
        let now = Instant::now();
        let (mut taken, mut dead) = (Vec::new(), Vec::new());
        let mut state = lock(&self.state);
        for (id, held) in &mut state.messages {
            if taken.len() == max {
                break;
            }
            if held.visible > now {
                continue;
            }
            if self.dead_letter.as_ref().is_some_and(|(_, most)| held.receives >= *most) {
                dead.push(*id);
                continue;
            }
            held.receives += 1;
            held.visible = now + self.visibility;
            taken.push(Message {
                id: id.to_string(),
                body: held.body.clone(),
                receipt: Receipt(format!("{id}.{}", held.receives)),
                receive_count: held.receives,
                sent_ms: held.sent_ms,
            });
        }
        for id in dead {
            if let (Some(held), Some((queue, _))) = (state.messages.remove(&id), &self.dead_letter) {
                queue.push(held.body, Duration::ZERO);
            }
        }
        (taken, state.messages.values().map(|held| held.visible).filter(|at| *at > now).min())
    }

    fn find<'a>(&self, state: &'a mut State, receipt: &Receipt) -> Option<(u64, &'a mut Held)> {
        let (id, receives) = receipt.0.split_once('.')?;
        let (id, receives) = (id.parse().ok()?, receives.parse::<u32>().ok()?);
        let held = state.messages.get_mut(&id).filter(|held| held.receives == receives)?;
        Some((id, held))
    }
}

#[async_trait]
impl Queue for MemoryQueue {
    fn name(&self) -> &str {
        &self.name
    }

    async fn send(&self, messages: &[Outgoing]) -> Result<Vec<Result<()>>> {
        limits::check_send(&self.name, messages)?;
        for message in messages {
            self.push(message.body.as_str(), message.delay);
        }
        Ok(messages.iter().map(|_| Ok(())).collect())
    }

    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Message>> {
        limits::check_receive(&self.name, max, wait)?;
        let deadline = Instant::now() + wait;
        loop {
            let sent = self.sent.notified();
            tokio::pin!(sent);
            sent.as_mut().enable();
            let (messages, next) = self.take(max);
            if !messages.is_empty() || Instant::now() >= deadline {
                return Ok(messages);
            }
            tokio::select! {
                biased;
                () = sent => {}
                () = tokio::time::sleep_until(next.map_or(deadline, |at| at.min(deadline))) => {}
            }
        }
    }

    async fn delete(&self, receipts: &[Receipt]) -> Result<Vec<Result<()>>> {
        limits::check_batch("DeleteMessageBatch", receipts.len())?;
        let mut state = lock(&self.state);
        for receipt in receipts {
            let found = self.find(&mut state, receipt).map(|(id, _)| id);
            if let Some(id) = found {
                state.messages.remove(&id);
            }
        }
        Ok(receipts.iter().map(|_| Ok(())).collect())
    }

    async fn set_visibility(&self, receipt: &Receipt, timeout: Duration) -> Result<()> {
        let mut state = lock(&self.state);
        let Some((_, held)) = self.find(&mut state, receipt) else {
            return Err(CloudError::new(ErrorKind::NotFound, self.name.clone(), "an outdated receipt"));
        };
        held.visible = Instant::now() + timeout;
        drop(state);
        self.sent.notify_waiters();
        Ok(())
    }

    fn visibility_timeout(&self) -> Duration {
        self.visibility
    }

    async fn depth(&self) -> Result<QueueDepth> {
        let now = Instant::now();
        let state = lock(&self.state);
        let visible = state.messages.values().filter(|held| held.visible <= now).count() as u64;
        Ok(QueueDepth { visible, in_flight: state.messages.len() as u64 - visible, delayed: 0 })
    }
}

/// A rule of a bus.
pub(super) struct Rule {
    pub(super) pattern: Pattern,
    pub(super) queues: Vec<Arc<MemoryQueue>>,
}

/// An event bus.
pub(super) struct MemoryBus {
    name: String,
    rules: Vec<Rule>,
    counts: Mutex<BTreeMap<String, u64>>,
}

impl MemoryBus {
    pub(super) fn new(name: String, rules: Vec<Rule>) -> Self {
        Self { name, rules, counts: Mutex::default() }
    }

    fn put_one(&self, event: &Event) -> Result<String> {
        limits::check_event(&self.name, event)?;
        let put = {
            let mut counts = lock(&self.counts);
            *counts.entry(event.detail_type.clone()).or_default() += 1;
            counts.values().sum::<u64>()
        };
        let id = format!("event-{put}");
        let envelope = json!({
            "version": "0", "id": id, "detail-type": event.detail_type, "source": event.source, "account": "000000000000",
            "region": "memory", "resources": [], "time": event.time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
            "detail": event.detail,
        });
        for queue in self.rules.iter().filter(|rule| rule.pattern.matches(&envelope)).flat_map(|rule| &rule.queues) {
            queue.push(envelope.to_string(), Duration::ZERO);
        }
        Ok(id)
    }

    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        lock(&self.counts).clone()
    }
}

#[async_trait]
impl EventBus for MemoryBus {
    fn name(&self) -> &str {
        &self.name
    }

    async fn check(&self) -> Result<()> {
        Ok(())
    }

    async fn put(&self, events: &[Event]) -> Result<Vec<Result<String>>> {
        limits::check_put_events(&self.name, events)?;
        Ok(events.iter().map(|event| self.put_one(event)).collect())
    }
}
