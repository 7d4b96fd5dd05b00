//! The books of one shard that this worker reads: what was handed on, which verdicts came back, how far the frontier is,
//! and what the lease item says.
//!
//! A change is in the books until its effects are durable, or it is in the dead-letter queue. One that is to be tried
//! again is handed on again after a wait, by itself: later changes of the same item may have passed it, so effects must
//! bear an older image after a newer one. The checkpoint never passes it (I5, F30).

use std::{collections::VecDeque, sync::Arc};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    assignment::ShardKey,
    consumer::{Delivery, Shared},
    dead_letter::{self, Failure},
    events,
    frontier::Frontier,
    reader::Fetched,
    retries::{self, Next, Retries},
    shard_item::{CHECKPOINT, Ending, Gap, ShardItem},
    status::{Progress, ShardState, Trouble},
};
use crate::{
    ack::{Ack, Verdict},
    cloud::{
        CloudError,
        change_stream::Change,
        table::{Condition, Outcome},
    },
    leases::Lease,
};

/// The books of one shard.
pub(super) struct Ledger {
    pub shard: OwnedShard,
    frontier: Frontier<Flight>,
    /// Changes older than this, in seconds since the epoch, are passed over.
    pass_over_before_secs: Option<i64>,
    gap: Option<Gap>,
    in_flight_bytes: u64,
    /// Handed on, or about to be, and without a verdict.
    unanswered: usize,
    pages: mpsc::Receiver<Fetched>,
    deliveries: mpsc::Sender<Vec<Delivery>>,
    outgoing: VecDeque<Vec<Delivery>>,
    verdicts: mpsc::UnboundedReceiver<(u64, Verdict)>,
    verdict_sender: mpsc::UnboundedSender<(u64, Verdict)>,
    /// The shard's name on its records: their order is its order.
    origin: Arc<str>,
    retries: Retries,
    dead_lettering: FuturesUnordered<BoxFuture<'static, u64>>,
    writing: Option<BoxFuture<'static, (ShardItem, Result<Outcome, CloudError>)>>,
    checkpoint_at: Instant,
    ended: Option<Ending>,
    stopped: bool,
    drain_until: Option<Instant>,
    /// The newest change read, if it wasn't followed by an empty page.
    behind_secs: Option<i64>,
}

/// A shard whose lease this worker holds.
pub(super) struct OwnedShard {
    pub shared: Arc<Shared>,
    pub key: ShardKey,
    pub lease: Arc<Lease>,
    /// What the lease item says, as far as is known.
    pub item: ShardItem,
    pub progress: Arc<Progress>,
}

/// A change that has no good verdict yet.
struct Flight {
    change: Arc<Change>,
    attempts: u32,
}

/// Why the books were closed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// Everything was read and is durable.
    Complete(Ending),
    /// The shard was asked for, or the service stops.
    GivenBack,
    /// Somebody else has the lease.
    Lost,
}

enum Event {
    Verdict(u64, Verdict),
    Fetched(Fetched),
    ReaderEnded,
    Handed,
    Unwanted,
    Written(ShardItem, Result<Outcome, CloudError>),
    DeadLettered(u64),
    Asked,
    Lost,
    Timer,
}

impl Ledger {
    pub fn new(
        shard: OwnedShard,
        pages: mpsc::Receiver<Fetched>,
        deliveries: mpsc::Sender<Vec<Delivery>>,
        pass_over_before_secs: Option<i64>,
    ) -> Self {
        let (verdict_sender, verdicts) = mpsc::unbounded_channel();
        let origin = format!("{}/{}", shard.key.arn, shard.key.shard).into();
        Self {
            frontier: Frontier::new(shard.item.checkpoint.clone()),
            gap: shard.item.gap.clone(),
            shard,
            pass_over_before_secs,
            in_flight_bytes: 0,
            unanswered: 0,
            pages,
            deliveries,
            outgoing: VecDeque::new(),
            verdicts,
            verdict_sender,
            origin,
            retries: Retries::default(),
            dead_lettering: FuturesUnordered::new(),
            writing: None,
            checkpoint_at: Instant::now(),
            ended: None,
            stopped: false,
            drain_until: None,
            behind_secs: None,
        }
    }

    /// Keeps the books until the shard is read to its end, asked for by `give_back`, or lost.
    pub async fn keep(&mut self, give_back: &CancellationToken) -> Closed {
        let lost = self.shard.lease.lost();
        loop {
            self.start_writing();
            self.report();
            if let Some(ending) = self.ended
                && self.frontier.is_empty()
                && self.writing.is_none()
            {
                return Closed::Complete(ending);
            }
            if self.is_drained() {
                return Closed::GivenBack;
            }
            match self.next_event(&lost, give_back).await {
                Event::Lost => return Closed::Lost,
                Event::Asked | Event::Unwanted => self.drain(),
                Event::Verdict(id, verdict) => self.on_verdict(id, verdict),
                Event::Fetched(fetched) => self.on_fetched(fetched),
                // It never ends without saying why, but for a panic: the shard is begun again by whoever takes it.
                Event::ReaderEnded if self.ended.is_none() && !self.stopped => self.drain(),
                Event::DeadLettered(id) => self.on_done(id),
                Event::Written(item, outcome) => self.on_written(item, outcome),
                Event::ReaderEnded | Event::Handed => {}
                Event::Timer => self.offer_again(),
            }
            if !self.shard.lease.is_held() {
                return Closed::Lost;
            }
        }
    }

    async fn next_event(&mut self, lost: &CancellationToken, give_back: &CancellationToken) -> Event {
        let wake = self.next_wake();
        let draining = self.drain_until.is_some();
        let reading = !draining && self.has_room() && self.ended.is_none() && !self.stopped;
        tokio::select! {
            biased;
            () = lost.cancelled() => Event::Lost,
            () = give_back.cancelled(), if !draining => Event::Asked,
            Some((id, verdict)) = self.verdicts.recv() => Event::Verdict(id, verdict),
            (item, outcome) = async { match &mut self.writing {
                Some(writing) => writing.await,
                None => std::future::pending().await,
            } }, if self.writing.is_some() => Event::Written(item, outcome),
            Some(id) = self.dead_lettering.next() => Event::DeadLettered(id),
            permit = self.deliveries.reserve(), if !self.outgoing.is_empty() && !draining => match permit {
                Ok(permit) => {
                    if let Some(batch) = self.outgoing.pop_front() {
                        permit.send(batch);
                    }
                    Event::Handed
                }
                Err(_) => Event::Unwanted,
            },
            fetched = self.pages.recv(), if reading => fetched.map_or(Event::ReaderEnded, Event::Fetched),
            () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => Event::Timer,
        }
    }

    fn next_wake(&self) -> Option<Instant> {
        let retry = self.retries.next().filter(|_| self.drain_until.is_none());
        let checkpoint = (self.is_dirty() && self.writing.is_none()).then_some(self.checkpoint_at);
        [retry, checkpoint, self.drain_until].into_iter().flatten().min()
    }

    /// Whether another page may be taken: pressure from downstream and from a pinned frontier ends here.
    fn has_room(&self) -> bool {
        let (records, bytes) = self.shard.shared.in_flight_share();
        self.outgoing.is_empty() && self.frontier.len() < records && self.in_flight_bytes < bytes
    }

    fn on_fetched(&mut self, fetched: Fetched) {
        self.shard.progress.set_trouble(Trouble::Reading, None);
        match fetched {
            Fetched::Page { changes, caught_up } => {
                self.behind_secs = if caught_up {
                    None
                } else {
                    changes.last().map(|change| change.created_secs).or(self.behind_secs)
                };
                self.hand_on(changes);
            }
            Fetched::Gap(gap) => self.gap = Some(gap),
            Fetched::End(gap) => {
                self.ended = Some(if gap.is_some() { Ending::Gone } else { Ending::Read });
                self.behind_secs = None;
                self.gap = gap.or(self.gap.take());
            }
            Fetched::Stopped(gap, reason) => {
                self.stopped = true;
                self.gap = Some(gap);
                self.shard.progress.set_trouble(Trouble::Reading, Some(reason));
            }
            Fetched::Trouble(reason) => self.shard.progress.set_trouble(Trouble::Reading, Some(reason)),
        }
    }

    fn hand_on(&mut self, changes: Vec<Arc<Change>>) {
        let mut batch = Vec::with_capacity(changes.len());
        for change in changes {
            if let Some(gap) = &mut self.gap
                && gap.to.is_none()
            {
                gap.to = Some(change.sequence.clone());
            }
            let flight = Flight { change: Arc::clone(&change), attempts: 0 };
            let id = self.frontier.push(change.sequence.clone(), flight);
            if self.pass_over_before_secs.is_some_and(|before| change.created_secs < before) {
                self.frontier.ack(id);
                continue;
            }
            self.in_flight_bytes += change.size_bytes;
            batch.push(self.delivery(id, change));
        }
        self.send(batch);
    }

    fn delivery(&self, id: u64, change: Arc<Change>) -> Delivery {
        Delivery { change, ack: Ack::from_origin(id, self.verdict_sender.clone(), Arc::clone(&self.origin)) }
    }

    fn send(&mut self, batch: Vec<Delivery>) {
        self.unanswered += batch.len();
        if !batch.is_empty() {
            self.outgoing.push_back(batch);
        }
    }

    fn on_verdict(&mut self, id: u64, verdict: Verdict) {
        let Some(flight) = self.frontier.get_mut(id) else { return };
        self.unanswered -= 1;
        flight.attempts += 1;
        let attempts = flight.attempts;
        let options = Arc::clone(&self.shard.shared.options);
        let queue = self.shard.shared.dead_letter.clone();
        let next = retries::after(verdict, attempts, &options, queue);
        let change = Arc::clone(&flight.change);
        if self.drain_until.is_some() && !matches!(next, Next::Done) {
            return; // It stays behind the frontier: whoever reads the shard next is offered it.
        }
        match next {
            Next::Done => self.on_done(id),
            Next::DeadLetter { queue, reason } => {
                let failure = Failure { change, reason, attempts };
                let sent = dead_letter::send(queue, self.shard.key.clone(), failure, Arc::clone(&self.shard.shared));
                self.dead_lettering.push(sent.map(move |()| id).boxed());
            }
            Next::Again { reason, wait, used_up } => {
                let failure = Failure { change, reason, attempts };
                let (table, key) = (&options.table, &self.shard.key);
                events::RecordFailed { table, key, failure: &failure, used_up, wait }.emit();
                if used_up {
                    let text = format!(
                        "change {} fails ({attempts} attempts): {}; set dead_letter to a queue to go on without it",
                        failure.change.sequence, failure.reason
                    );
                    self.shard.progress.set_trouble(Trouble::Record, Some(text));
                }
                self.retries.insert(Instant::now() + wait, id);
            }
        }
    }

    fn on_done(&mut self, id: u64) {
        if let Some(flight) = self.frontier.ack(id) {
            self.in_flight_bytes = self.in_flight_bytes.saturating_sub(flight.change.size_bytes);
            if flight.attempts > 1 {
                self.shard.progress.set_trouble(Trouble::Record, None);
            }
        }
    }

    fn offer_again(&mut self) {
        if self.drain_until.is_some() {
            return;
        }
        let now = Instant::now();
        let mut batch = Vec::new();
        while let Some(id) = self.retries.take_due(now) {
            if let Some(flight) = self.frontier.get_mut(id) {
                let change = Arc::clone(&flight.change);
                batch.push(self.delivery(id, change));
            }
        }
        self.send(batch);
    }

    /// Stops reading and handing on; what was handed on may still be answered.
    fn drain(&mut self) {
        if self.drain_until.is_some() {
            return;
        }
        self.drain_until = Some(Instant::now() + self.shard.shared.options.drain);
        self.pages.close();
        // Never handed on: dropped without a verdict they count as failed, which leaves them behind the frontier.
        self.outgoing.clear();
    }

    fn is_drained(&self) -> bool {
        let Some(until) = self.drain_until else { return false };
        let answered = self.unanswered == 0 && self.dead_lettering.is_empty();
        self.writing.is_none() && (answered || Instant::now() >= until)
    }

    fn is_dirty(&self) -> bool {
        self.frontier.acked() != self.shard.item.checkpoint.as_ref() || self.gap != self.shard.item.gap
    }

    fn start_writing(&mut self) {
        if self.is_dirty()
            && self.writing.is_none()
            && self.drain_until.is_none()
            && Instant::now() >= self.checkpoint_at
        {
            self.checkpoint_at = Instant::now() + self.shard.shared.options.checkpoint_every;
            let after = self.present();
            self.writing = Some(store(Arc::clone(&self.shard.lease), self.shard.item.clone(), after).boxed());
        }
    }

    /// What the item should say now.
    pub fn present(&self) -> ShardItem {
        ShardItem { checkpoint: self.frontier.acked().cloned(), gap: self.gap.clone(), ..self.shard.item.clone() }
    }

    fn on_written(&mut self, after: ShardItem, outcome: Result<Outcome, CloudError>) {
        self.writing = None;
        self.settle_write(after, outcome);
    }

    /// Takes in how a write of the item ended. Returns whether it is stored.
    pub fn settle_write(&mut self, after: ShardItem, outcome: Result<Outcome, CloudError>) -> bool {
        let table = &self.shard.shared.options.table;
        let error = match outcome {
            Ok(Outcome::Applied(_)) => {
                events::CheckpointWritten { table, key: &self.shard.key, checkpoint: after.checkpoint.as_ref() }.emit();
                self.shard.progress.set_trouble(Trouble::Checkpoint, None);
                self.shard.item = after;
                return true;
            }
            Ok(Outcome::Refused(item)) => {
                // Either the lease is lost, which its token tells, or an earlier write landed late: go on from there.
                let shown =
                    item.and_then(|item| ShardItem::decode(&self.shard.key.arn, &self.shard.key.shard.0, &item).ok());
                self.shard.item = shown.unwrap_or_else(|| self.shard.item.clone());
                "refused: the item says something else".to_owned()
            }
            Ok(Outcome::Unknown(error)) | Err(error) => error.to_string(),
        };
        events::CheckpointFailed { table, key: &self.shard.key, error: &error }.emit();
        self.shard.progress.set_trouble(Trouble::Checkpoint, Some(format!("its checkpoint can't be written: {error}")));
        false
    }

    fn report(&self) {
        let oldest = self.frontier.oldest().map(|flight| flight.change.created_secs);
        let state = match (self.drain_until, self.stopped) {
            (Some(_), _) => ShardState::Draining,
            (None, true) => ShardState::Stopped,
            (None, false) => ShardState::Reading,
        };
        let waiting_for_room = !self.has_room();
        let in_flight = self.frontier.waiting();
        self.shard.progress.report(
            state,
            self.frontier.acked(),
            oldest.or(self.behind_secs),
            in_flight,
            waiting_for_room,
        );
    }
}

/// Writes what differs under the lease's fence, provided that the checkpoint is as last seen: so one that lands late can
/// never set it back.
pub(super) async fn store(
    lease: Arc<Lease>,
    before: ShardItem,
    after: ShardItem,
) -> (ShardItem, Result<Outcome, CloudError>) {
    let (set, remove) = before.changes_to(&after);
    let as_seen = Condition::as_read(CHECKPOINT, before.checkpoint_value().as_ref());
    let outcome = lease.update_if(as_seen, set, remove).await;
    (after, outcome)
}
