//! The books of one shard that this worker reads: what was handed on, which verdicts came back, how far the frontier is,
//! and what the lease item says.
//!
//! A change is in the books until its effects are durable, or it is in the dead-letter queue. It is handed on when the
//! changes of the same item before it are out of the books ([`turns`]), so that one which is tried again is never passed by
//! a later one of its item. The checkpoint passes neither (I5, F30).

use std::sync::Arc;

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    assignment::ShardKey,
    batches::Batches,
    consumer::{Delivery, Shared},
    dead_letter::{self, Failure},
    events,
    frontier::Frontier,
    options::{OnTrimmed, Order},
    reader::Fetched,
    retries::{self, Next, Retries},
    shard_item::{CHECKPOINT, Ending, Gap, ShardItem},
    status::{Progress, Report, ShardState, Trouble},
    turns::{ItemHash, Turns},
};
use crate::{
    ack::{Ack, Verdict},
    cloud::{
        CloudError,
        change_stream::{Change, SequenceNumber},
        table::{Condition, Outcome},
    },
    leases::Lease,
};

/// So many verdicts are taken in at once.
const VERDICTS: usize = 1024;

/// The books of one shard.
pub(super) struct Ledger {
    pub shard: OwnedShard,
    frontier: Frontier<Flight>,
    turns: Turns,
    batches: Batches,
    /// Changes older than this, in seconds since the epoch, are passed over.
    pass_over_before_secs: Option<i64>,
    gap: Option<Gap>,
    in_flight_bytes: u64,
    /// What is in flight of all that this process may have.
    room: Option<OwnedSemaphorePermit>,
    pages: mpsc::Receiver<Fetched>,
    deliveries: mpsc::Sender<Vec<Delivery>>,
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
    /// The newest change read, if there may be newer ones.
    behind_secs: Option<i64>,
    arrivals: Arrivals,
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
#[derive(Debug)]
pub(super) struct Flight {
    change: Arc<Change>,
    item: ItemHash,
    attempts: u32,
    /// The batch that it was last handed on with.
    batch: u64,
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
    Verdicts,
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
        let options = &shard.shared.options;
        Self {
            turns: Turns::default(),
            batches: Batches::new(options.batch_records, options.batch_window, options.batches_out()),
            frontier: Frontier::new(shard.item.checkpoint.clone()),
            gap: shard.item.gap.clone(),
            shard,
            pass_over_before_secs,
            in_flight_bytes: 0,
            room: None,
            pages,
            deliveries,
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
            arrivals: Arrivals::default(),
        }
    }

    /// Keeps the books until the shard is read to its end, asked for by `give_back`, or lost.
    pub async fn keep(&mut self, give_back: &CancellationToken) -> Closed {
        let lost = self.shard.lease.lost();
        let mut verdicts = Vec::with_capacity(VERDICTS);
        loop {
            self.shard.lease.show_life();
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
            match self.next_event(&mut verdicts, &lost, give_back).await {
                Event::Lost => return Closed::Lost,
                Event::Asked | Event::Unwanted => self.drain(),
                Event::Verdicts => verdicts.drain(..).for_each(|(id, verdict)| self.on_verdict(id, verdict)),
                Event::Fetched(fetched) => self.on_fetched(fetched),
                // It never ends without saying why, but for a panic: the shard is begun again by whoever takes it.
                Event::ReaderEnded if self.ended.is_none() && !self.stopped => self.drain(),
                Event::DeadLettered(id) => self.on_done(id),
                Event::Written(item, outcome) => self.on_written(item, outcome),
                Event::ReaderEnded | Event::Handed => {}
                Event::Timer => self.offer_again(),
            }
            self.give_room_back();
            if !self.shard.lease.is_held() {
                return Closed::Lost;
            }
        }
    }

    async fn next_event(
        &mut self,
        verdicts: &mut Vec<(u64, Verdict)>,
        lost: &CancellationToken,
        give_back: &CancellationToken,
    ) -> Event {
        let wake = self.next_wake();
        let draining = self.drain_until.is_some();
        let reading = !draining && self.has_room() && self.ended.is_none() && !self.stopped;
        let sending = !draining && self.batch_due().is_some_and(|due| due <= Instant::now());
        tokio::select! {
            biased;
            () = lost.cancelled() => Event::Lost,
            () = give_back.cancelled(), if !draining => Event::Asked,
            1.. = self.verdicts.recv_many(verdicts, VERDICTS) => Event::Verdicts,
            (item, outcome) = async { match &mut self.writing {
                Some(writing) => writing.await,
                None => std::future::pending().await,
            } }, if self.writing.is_some() => Event::Written(item, outcome),
            Some(id) = self.dead_lettering.next() => Event::DeadLettered(id),
            permit = self.deliveries.reserve(), if sending => match permit {
                // A process that was stopped for a while finds out here that the shard isn't its own any more.
                Ok(_) if !self.shard.lease.is_held() => Event::Lost,
                Ok(permit) => {
                    let (batch, ids) = self.batches.take();
                    let (frontier, sender, origin) = (&mut self.frontier, &self.verdict_sender, &self.origin);
                    let delivery = |id| {
                        let flight = frontier.get_mut(id)?;
                        flight.batch = batch;
                        let ack = Ack::from_origin(id, sender.clone(), Arc::clone(origin));
                        Some(Delivery { change: Arc::clone(&flight.change), ack })
                    };
                    permit.send(ids.into_iter().filter_map(delivery).collect());
                    Event::Handed
                }
                Err(_) => Event::Unwanted,
            },
            fetched = self.pages.recv(), if reading => fetched.map_or(Event::ReaderEnded, Event::Fetched),
            () = sleep_until(wake) => Event::Timer,
        }
    }

    /// When to look again at the latest: at least now and then, to show that this task lives (F22).
    fn next_wake(&self) -> Instant {
        let handing_on = self.drain_until.is_none();
        let retry = self.retries.next().filter(|_| handing_on);
        let batch = self.batch_due().filter(|due| handing_on && *due > Instant::now());
        // While it drains the last checkpoint is written by whoever closes the books: to wake up for it would be to spin.
        let checkpoint = (handing_on && self.is_dirty() && self.writing.is_none()).then_some(self.checkpoint_at);
        let life = Instant::now() + self.shard.shared.leases.options().length;
        [retry, batch, checkpoint, self.drain_until].into_iter().flatten().fold(life, Instant::min)
    }

    fn batch_due(&self) -> Option<Instant> {
        self.batches.due(self.ended.is_some())
    }

    /// Whether another page may be taken: pressure from downstream and from a pinned frontier ends here.
    fn has_room(&self) -> bool {
        let (records, bytes) = self.shard.shared.in_flight_share();
        self.frontier.len() < records && self.in_flight_bytes < bytes
    }

    fn on_fetched(&mut self, fetched: Fetched) {
        self.shard.progress.set_trouble(Trouble::Reading, None);
        match fetched {
            Fetched::Page { changes, caught_up, room } => {
                self.behind_secs = if caught_up {
                    None
                } else {
                    changes.last().map(|change| change.created_secs).or(self.behind_secs)
                };
                self.arrivals.note(&changes);
                self.take_in(changes);
                match &mut self.room {
                    Some(all) => all.merge(room),
                    none => *none = Some(room),
                }
            }
            Fetched::Gap(gap) => {
                self.tell_of(&gap);
                self.gap = Some(gap);
            }
            Fetched::End(gap) => {
                gap.iter().for_each(|gap| self.tell_of(gap));
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

    /// Operators that keep a view make it again.
    fn tell_of(&self, gap: &Gap) {
        if gap.policy == OnTrimmed::Reconcile.text() {
            self.shard.shared.common.note_gap(&self.shard.shared.options.table);
        }
    }

    fn take_in(&mut self, changes: Vec<Arc<Change>>) {
        let (mut filtered, mut before_start) = (0, 0);
        for change in changes {
            if let Some(gap) = &mut self.gap
                && gap.to.is_none()
            {
                gap.to = Some(change.sequence.clone());
            }
            let item = ItemHash::of(&change.key);
            let sequence = change.sequence.clone();
            let is_before_start = self.pass_over_before_secs.is_some_and(|before| change.created_secs < before);
            if is_before_start || !self.shard.shared.filter.takes(&change) {
                before_start += u64::from(is_before_start);
                filtered += u64::from(!is_before_start);
                let id = self.frontier.push(sequence, Flight { change, item, attempts: 0, batch: 0 });
                self.frontier.ack(id);
                continue;
            }
            self.in_flight_bytes += change.size_bytes;
            let id = self.frontier.push(sequence, Flight { change, item, attempts: 0, batch: 0 });
            let in_turns = self.shard.shared.options.order == Order::Item;
            if !in_turns || self.turns.queue(item, id) {
                self.make_ready(id);
            }
        }
        let table = &self.shard.shared.options.table;
        for (count, why) in [(filtered, "filter"), (before_start, "before_start")] {
            events::RecordsPassedOver { table, key: &self.shard.key, count, why }.emit();
        }
    }

    /// It is this change's turn: it goes with the next batch, unless it is too old for that.
    fn make_ready(&mut self, id: u64) {
        let Some(flight) = self.frontier.get_mut(id) else { return };
        let options = &self.shard.shared.options;
        if let Some(most) = options.max_record_age
            && let Some(queue) = self.shard.shared.dead_letter.clone()
        {
            let age_secs = self.shard.shared.clock.now().timestamp() - flight.change.created_secs;
            if u64::try_from(age_secs).is_ok_and(|age| age > most.as_secs()) {
                let reason = format!("it is {age_secs} s old, and max_record_age is {} s", most.as_secs());
                let failure = Failure { change: Arc::clone(&flight.change), reason, attempts: flight.attempts };
                let sent = dead_letter::send(queue, self.shard.key.clone(), failure, Arc::clone(&self.shard.shared));
                self.dead_lettering.push(sent.map(move |()| id).boxed());
                return;
            }
        }
        self.batches.push(id, Instant::now());
    }

    fn on_verdict(&mut self, id: u64, verdict: Verdict) {
        let Some(flight) = self.frontier.get_mut(id) else { return };
        self.batches.answered(flight.batch);
        flight.attempts += 1;
        let attempts = flight.attempts;
        if verdict == Verdict::Done {
            return self.on_done(id);
        }
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
            if let Some(next) = self.turns.pass(flight.item) {
                self.make_ready(next);
            }
        }
    }

    fn offer_again(&mut self) {
        if self.drain_until.is_some() {
            return;
        }
        let now = Instant::now();
        while let Some(id) = self.retries.take_due(now) {
            self.make_ready(id);
        }
    }

    /// What is done no longer counts among what this process has in flight.
    fn give_room_back(&mut self) {
        let Some(room) = &mut self.room else { return };
        let done = room.num_permits().saturating_sub(usize::try_from(self.in_flight_bytes).unwrap_or(usize::MAX));
        drop(room.split(done));
    }

    /// Stops reading and handing on; what was handed on may still be answered.
    fn drain(&mut self) {
        if self.drain_until.is_some() {
            return;
        }
        self.drain_until = Some(Instant::now() + self.shard.shared.options.drain);
        self.pages.close();
    }

    fn is_drained(&self) -> bool {
        let Some(until) = self.drain_until else { return false };
        let answered = self.batches.all_answered() && self.dead_lettering.is_empty();
        self.writing.is_none() && (answered || Instant::now() >= until)
    }

    /// What the checkpoint may say.
    fn checkpoint(&self) -> Option<&SequenceNumber> {
        (self.shard.shared.rules.checkpoint)(&self.frontier)
    }

    fn is_dirty(&self) -> bool {
        self.checkpoint() != self.shard.item.checkpoint.as_ref() || self.gap != self.shard.item.gap
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
        ShardItem { checkpoint: self.checkpoint().cloned(), gap: self.gap.clone(), ..self.shard.item.clone() }
    }

    /// What the item should say when its reader goes away.
    pub fn last_words(&self) -> ShardItem {
        let present = self.present();
        // It was at its end a moment ago, so nothing was lost up to now.
        let at_end = self.behind_secs.is_none() && self.frontier.is_empty() && !self.stopped;
        match present.checkpoint {
            None if at_end => ShardItem { known_secs: Some(self.shard.shared.clock.now().timestamp()), ..present },
            _ => present,
        }
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
        self.shard.progress.report(&Report {
            state,
            frontier: self.frontier.acked(),
            behind_secs: oldest.or(self.behind_secs),
            in_flight: self.frontier.waiting(),
            full: !self.has_room() || self.batches.is_full(),
            arrivals_per_sec: self.arrivals.per_sec(),
        });
    }
}

/// How many changes arrive a second, by the times that they bear: for an estimate of what isn't read yet.
#[derive(Debug, Default)]
struct Arrivals(Option<f64>);

impl Arrivals {
    fn note(&mut self, changes: &[Arc<Change>]) {
        let (Some(first), Some(last)) = (changes.first(), changes.last()) else { return };
        // Times are whole seconds: a page lies within one more than they differ by.
        let secs = (last.created_secs - first.created_secs).max(0) + 1;
        let rate = changes.len() as f64 / secs as f64;
        self.0 = Some(self.0.map_or(rate, |before| 0.7 * before + 0.3 * rate));
    }

    fn per_sec(&self) -> f64 {
        self.0.unwrap_or(0.0)
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
