//! The `queue` source: receives messages, keeps them hidden while they are worked on, and carries their verdicts out.
//!
//! Done deletes the message. Retry gives it back after a wait that grows with its receive count, so that the queue's own
//! limit dead-letters it in the end; Dead leaves it to that limit too, without a wait. What a stop left unhandled is given
//! back uncharged: restarts must not add up to dead letters. Whatever is lost (a receipt, a
//! delete) only means that the message comes again: effects bear that.

mod events;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use events::{GivenBack, MessageGivenBack, RequestFailed};

use crate::{
    ack::{Ack, Verdict},
    cloud::{
        CloudError, ErrorKind, Queue,
        limits::QUEUE_BATCH,
        queue::{Message, Receipt},
    },
    graph::{Build, Built, Role, Use},
    operator::{Body, Context, Kind, MAIN_OUTPUT, OperatorError, Outputs, Source},
    units,
};

/// Options of a `queue` source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueueOptions {
    /// The queue to read.
    pub queue: String,
    /// At most so many messages are worked on at once.
    #[serde(default = "QueueOptions::default_max_in_flight")]
    pub max_in_flight: usize,
    /// How long one receive waits for the first message.
    #[serde(with = "units::duration", default = "QueueOptions::default_wait")]
    #[schemars(with = "String")]
    pub wait: Duration,
    /// A failed message comes again after this; the wait doubles with each receive.
    #[serde(with = "units::duration", default = "QueueOptions::default_retry_wait")]
    #[schemars(with = "String")]
    pub retry_wait: Duration,
}

impl QueueOptions {
    fn default_max_in_flight() -> usize {
        100
    }

    fn default_wait() -> Duration {
        Duration::from_secs(20)
    }

    fn default_retry_wait() -> Duration {
        Duration::from_secs(5)
    }
}

#[async_trait]
impl Build for QueueOptions {
    const NAME: &'static str = "queue";
    const ABOUT: &'static str = "Receives messages and deletes each once all its effects are durable.";
    const ROLE: Role = Role::Source;

    fn input() -> Option<Kind> {
        None
    }

    fn outputs() -> Vec<(&'static str, Kind)> {
        vec![(MAIN_OUTPUT, Kind::Message)]
    }

    fn uses(&self) -> Vec<Use> {
        vec![Use::owned("queue", &self.queue)]
    }

    fn check(&self) -> Result<(), String> {
        if self.max_in_flight == 0 { Err("max_in_flight: must be at least 1".to_owned()) } else { Ok(()) }
    }

    async fn build(self, context: Context) -> Result<Built, OperatorError> {
        let queue = context.cloud.queue(&self.queue).await?;
        Ok(Built::Source(Box::new(QueueSource { queue, options: self, id: context.id })))
    }
}

struct QueueSource {
    queue: Arc<dyn Queue>,
    options: QueueOptions,
    id: String,
}

/// A message that is worked on.
struct InFlight {
    message: Arc<Message>,
    hidden_since: Instant,
}

#[async_trait]
impl Source for QueueSource {
    async fn run(&mut self, out: &mut Outputs, stop: CancellationToken) -> Result<(), OperatorError> {
        let (sender, verdicts) = mpsc::unbounded_channel();
        let shared = Shared { in_flight: Mutex::default(), room: Notify::new() };
        // Three loops side by side: a reader that has to wait, downstream or at the queue, must hold up neither the
        // verdicts nor the heartbeats. The verdicts end when the reader has, and its last message has its verdict.
        tokio::select! {
            biased;
            ((), ()) = async { tokio::join!(self.receive(&shared, sender, out, &stop), self.settle(&shared, verdicts, &stop)) } => {}
            () = self.keep_hidden(&shared) => {}
        }
        Ok(())
    }
}

/// What the loops of a source share.
struct Shared {
    in_flight: Mutex<BTreeMap<u64, InFlight>>,
    room: Notify,
}

impl Shared {
    fn in_flight(&self) -> MutexGuard<'_, BTreeMap<u64, InFlight>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueueSource {
    /// Receives and emits until `stop`. The sender of verdicts ends with it.
    async fn receive(
        &self,
        shared: &Shared,
        verdicts: mpsc::UnboundedSender<(u64, Verdict)>,
        out: &mut Outputs,
        stop: &CancellationToken,
    ) {
        let (mut next_id, mut failures) = (0_u64, 0_u32);
        while !stop.is_cancelled() {
            let room = self.options.max_in_flight.saturating_sub(shared.in_flight().len()).min(QUEUE_BATCH);
            if room == 0 {
                tokio::select! {
                    biased;
                    () = shared.room.notified() => {}
                    () = stop.cancelled() => {}
                }
                continue;
            }
            let received = tokio::select! {
                biased;
                received = self.queue.receive(room, self.options.wait) => received,
                // Messages of a receive that is cut short here come again when their timeout ends.
                () = stop.cancelled() => return,
            };
            match received {
                Ok(messages) => {
                    failures = 0;
                    for message in messages {
                        let message = Arc::new(message);
                        let entry = InFlight { message: Arc::clone(&message), hidden_since: Instant::now() };
                        shared.in_flight().insert(next_id, entry);
                        let ack = Ack::new(next_id, verdicts.clone());
                        out.emit_to(MAIN_OUTPUT, Body::Message(message), ack).await;
                        next_id += 1;
                    }
                    out.flush().await;
                }
                Err(error) => {
                    failures += 1;
                    self.failed("receive", &error);
                    tokio::select! {
                        biased;
                        () = tokio::time::sleep(Duration::from_millis(100 << failures.min(7))) => {}
                        () = stop.cancelled() => {}
                    }
                }
            }
        }
    }

    /// Carries verdicts out as they come, until the last message has its own.
    async fn settle(
        &self,
        shared: &Shared,
        mut verdicts: mpsc::UnboundedReceiver<(u64, Verdict)>,
        stop: &CancellationToken,
    ) {
        while let Some(first) = verdicts.recv().await {
            let mut settled = vec![first];
            while let Ok(more) = verdicts.try_recv() {
                settled.push(more);
            }
            self.carry_out(settled, shared, stop.is_cancelled()).await;
            shared.room.notify_one();
        }
    }

    async fn carry_out(&self, settled: Vec<(u64, Verdict)>, shared: &Shared, stopping: bool) {
        let mut done = Vec::new();
        for (id, verdict) in settled {
            let removed = shared.in_flight().remove(&id);
            let Some(entry) = removed else { continue };
            let wait = match verdict {
                Verdict::Done => {
                    done.push(entry.message.receipt.clone());
                    continue;
                }
                Verdict::Retry(_) if stopping => {
                    self.give_back(&entry.message).await;
                    continue;
                }
                Verdict::Retry(reason) => {
                    self.given_back(&entry.message, GivenBack::Retry(&reason));
                    self.retry_wait(entry.message.receive_count)
                }
                Verdict::Dead(reason) => {
                    self.given_back(&entry.message, GivenBack::Dead(&reason));
                    Duration::ZERO
                }
            };
            match self.queue.set_visibility(&entry.message.receipt, wait).await {
                Ok(()) => {}
                // Someone else has it by now, or it comes again by itself when its timeout ends.
                Err(error) if error.kind == ErrorKind::NotFound => {}
                Err(error) => self.failed("give back", &error),
            }
        }
        for receipts in done.chunks(QUEUE_BATCH) {
            match self.queue.delete(receipts).await {
                Ok(results) => {
                    for error in results.into_iter().filter_map(Result::err) {
                        self.failed("delete", &error);
                    }
                }
                Err(error) => self.failed("delete", &error),
            }
        }
    }

    /// Gives back what a stop left unhandled. If that fails it comes again when its timeout ends.
    async fn give_back(&self, message: &Message) {
        self.given_back(message, GivenBack::Stop);
        if let Err(error) = self.queue.give_back(message).await {
            self.failed("give back", &error);
        }
    }

    fn given_back(&self, message: &Message, why: GivenBack<'_>) {
        MessageGivenBack { source: &self.id, queue: self.queue.name(), message_id: &message.id, why }.emit();
    }

    /// Hides again what is still worked on: its timeout must not end before its work does.
    async fn keep_hidden(&self, shared: &Shared) {
        let timeout = self.queue.visibility_timeout();
        let mut heartbeat = tokio::time::interval((timeout / 6).max(Duration::from_millis(100)));
        loop {
            heartbeat.tick().await;
            let due: Vec<(u64, Receipt)> = shared
                .in_flight()
                .iter()
                .filter(|(_, entry)| entry.hidden_since.elapsed() >= timeout / 3)
                .map(|(id, entry)| (*id, entry.message.receipt.clone()))
                .collect();
            for (id, receipt) in due {
                match self.queue.set_visibility(&receipt, timeout).await {
                    Ok(()) => {
                        if let Some(entry) = shared.in_flight().get_mut(&id) {
                            entry.hidden_since = Instant::now();
                        }
                    }
                    Err(error) => self.failed("keep hidden", &error),
                }
            }
        }
    }

    fn retry_wait(&self, receive_count: u32) -> Duration {
        let doubled = self.options.retry_wait.saturating_mul(1 << receive_count.saturating_sub(1).min(16));
        doubled.min(Duration::from_secs(900))
    }

    fn failed(&self, what: &'static str, error: &CloudError) {
        RequestFailed { source: &self.id, what, error }.emit();
    }
}
