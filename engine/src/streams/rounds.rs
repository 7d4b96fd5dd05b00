//! The loop of a consumer: look at streams, shards and leases, decide, carry it out; and keep the shards that are read.
//!
//! A round that fails changes nothing for those.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::mpsc,
    task::{self, JoinSet},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    assignment::{self, Facts, LeaseFacts, Plan, ShardKey, StreamFacts},
    consumer::{Delivery, Known, Shared},
    events,
    first_start::{self, FirstStart, Settled},
    shard::{Left, Taken, read_shard},
    shard_graph::ShardGraph,
    shard_item::{Ending, ShardItem},
    status::{self, Progress, ShardState, Trouble},
};
use crate::{
    cloud::{CloudError, ErrorKind, change_stream::ShardId, limits::STREAM_RETENTION_HOURS},
    leases::{Lease, LeaseState},
};

/// So soon a listing is repeated that left something open.
const RELIST: Duration = Duration::from_millis(500);

/// So long a shard rests that couldn't be opened.
const REST: Duration = Duration::from_secs(5);

/// How long a stream keeps a change.
const RETENTION_SECS: u64 = STREAM_RETENTION_HOURS as u64 * 3600;

/// So often leases are listed while nobody else could have changed them: this worker is alone and reads every shard.
const LIST_ALONE: Duration = Duration::from_secs(5);

/// So often it is asked then whether another worker has come: until that is seen it gets no part of the work, though nothing
/// stands still.
const LOOK_ROUND: Duration = Duration::from_secs(2);

/// So often the watchdog looks.
const WATCH: Duration = Duration::from_secs(1);

/// So many tombstones go in a round.
const BURIALS: usize = 5;

/// What the loop of a consumer keeps from round to round.
pub(super) struct Work {
    shared: Arc<Shared>,
    deliveries: mpsc::Sender<Vec<Delivery>>,
    stop: CancellationToken,
    tasks: JoinSet<(ShardKey, Left)>,
    owned: BTreeMap<ShardKey, Owned>,
    streams: Vec<KnownStream>,
    list_streams_at: Instant,
    list_leases_at: Instant,
    workers: BTreeSet<String>,
    list_workers_at: Instant,
    first_start: FirstStart,
    presence: Option<Lease>,
    free_rounds: BTreeMap<ShardKey, u32>,
    uneven_rounds: u32,
    unread: BTreeMap<ShardKey, Unread>,
    stuck: BTreeSet<ShardKey>,
    /// How many quarters of the retention the worst lag amounts to.
    lag_quarter: u64,
    watch_at: Instant,
    next_round: Instant,
}

struct Owned {
    give_back: CancellationToken,
    giving: bool,
    task: task::Id,
}

/// A shard that nobody reads though somebody should; or one that was taken, and of which nothing was read yet.
struct Unread {
    since: Instant,
    /// Why, and until when it rests, if it couldn't be opened.
    failed: Option<(String, Instant)>,
}

impl Unread {
    fn since_now() -> Self {
        Self { since: Instant::now(), failed: None }
    }

    fn reason(&self) -> Option<&str> {
        self.failed.as_ref().map(|(reason, _)| reason.as_str())
    }
}

/// One stream of the table.
struct KnownStream {
    arn: String,
    graph: ShardGraph,
    list_at: Instant,
    /// The wait after the next listing that leaves something open.
    relist: Duration,
    /// Why the last listing failed, if it did.
    failure: Option<String>,
    leases: BTreeMap<ShardId, LeaseFacts>,
}

impl KnownStream {
    fn new(arn: String) -> Self {
        let graph = ShardGraph::default();
        Self { arn, graph, list_at: Instant::now(), relist: RELIST, failure: None, leases: BTreeMap::new() }
    }

    /// What can't be found out because listings fail: there may be shards that nobody reads.
    fn why_unlisted(&self) -> Option<String> {
        let failure = self.failure.as_ref().filter(|_| self.graph.is_unsettled() || !self.graph.is_known())?;
        Some(format!("the shards of {} aren't listed: {failure}", self.arn))
    }

    /// When to list next: soon, and then less and less soon, while the last listing left something open.
    fn schedule(&mut self, every: Duration) {
        if self.graph.is_unsettled() || !self.graph.is_known() {
            self.list_at = Instant::now() + self.relist.min(every);
            self.relist = (self.relist * 2).min(every);
        } else {
            self.list_at = Instant::now() + every;
            self.relist = RELIST;
        }
    }
}

impl Work {
    pub fn new(shared: Arc<Shared>, deliveries: mpsc::Sender<Vec<Delivery>>, stop: CancellationToken) -> Self {
        let now = Instant::now();
        Self {
            shared,
            deliveries,
            stop,
            tasks: JoinSet::new(),
            owned: BTreeMap::new(),
            streams: Vec::new(),
            list_streams_at: now,
            list_leases_at: now,
            workers: BTreeSet::new(),
            list_workers_at: now,
            first_start: FirstStart::default(),
            presence: None,
            free_rounds: BTreeMap::new(),
            uneven_rounds: 0,
            unread: BTreeMap::new(),
            stuck: BTreeSet::new(),
            lag_quarter: 0,
            watch_at: now,
            next_round: now,
        }
    }

    /// Waits for the next round, which is at once when a shard has ended: its children can be read.
    pub async fn next(&mut self) {
        while Instant::now() < self.next_round {
            tokio::select! {
                biased;
                Some(left) = self.tasks.join_next() => self.on_left(left),
                () = sleep_until(self.next_round) => {}
            }
        }
    }

    pub async fn round(&mut self) {
        self.next_round = Instant::now() + self.shared.options.balance_every;
        let unseen = match self.try_round().await {
            Ok(unsettled) => self.streams.iter().find_map(KnownStream::why_unlisted).or(unsettled),
            Err(error) => {
                let error = error.to_string();
                events::RoundFailed { table: &self.shared.options.table, error: &error }.emit();
                Some(error)
            }
        };
        self.shared.note_unseen(unseen);
    }

    /// Returns what has to be settled first, if nothing could be done yet.
    async fn try_round(&mut self) -> Result<Option<String>, CloudError> {
        let stop = self.stop.clone();
        let listed = tokio::select! {
            biased;
            // Nothing is written meanwhile, so that it may be cut off: a stop waits for no listing.
            () = stop.cancelled() => return Ok(None),
            listed = self.list_shards() => listed?,
        };
        let workers = self.see_workers().await?;
        let streams = self.streams.iter().map(|s| (s.arn.as_str(), &s.graph));
        if let Settled::NotYet(reason) = self.first_start.settle(&self.shared, streams).await? {
            return Ok(Some(reason));
        }
        if listed || workers != self.workers {
            self.list_leases_at = Instant::now();
        }
        if Instant::now() < self.list_leases_at {
            return Ok(None);
        }
        for stream in &mut self.streams {
            stream.leases = read_leases(&self.shared, &stream.arn).await?;
        }
        self.workers.clone_from(&workers);
        let plan = self.plan(workers);
        self.note(&plan);
        let is_settled = plan == Plan::default() && self.is_alone();
        self.list_leases_at = Instant::now() + if is_settled { LIST_ALONE } else { Duration::ZERO };
        self.carry_out(plan).await?;
        Ok(None)
    }

    /// Whether there is no other worker, and nothing to read that this one doesn't.
    fn is_alone(&self) -> bool {
        let me = self.shared.leases.owner();
        let is_mine = |state: &LeaseState| matches!(state, LeaseState::Held { owner, .. } if owner == me);
        let leases = self.streams.iter().flat_map(|stream| stream.leases.values());
        let (mut mine, mut open) = (0, 0);
        for lease in leases.filter(|lease| lease.item.ended.is_none()) {
            open += 1;
            mine += usize::from(is_mine(&lease.state));
        }
        // One that shows my name and isn't read may be left over from before a restart: it has to be watched.
        self.workers.len() == 1 && mine == open && open == self.owned.len()
    }

    /// Lists streams and shards where that is due; returns whether any was. A stream that can't be listed keeps its old
    /// graph, and its shards go on (F32).
    async fn list_shards(&mut self) -> Result<bool, CloudError> {
        let now = Instant::now();
        let due = now >= self.list_streams_at || self.streams.iter().any(|stream| now >= stream.list_at);
        if now >= self.list_streams_at {
            match self.shared.discovery.streams().await {
                Ok(arns) => self.take_in_streams(arns),
                // Those that are known are kept: their shards change hands, whatever the listing does (F32).
                Err(error) if !self.streams.is_empty() => {
                    events::RoundFailed { table: &self.shared.options.table, error: &error.to_string() }.emit();
                    self.list_streams_at = now + RELIST;
                }
                Err(error) => return Err(error),
            }
        }
        for stream in self.streams.iter_mut().filter(|stream| now >= stream.list_at) {
            match self.shared.discovery.list(&stream.arn).await {
                Ok(listing) => {
                    stream.graph.observe(&listing, named(&stream.leases));
                    stream.failure = None;
                }
                Err(error) => {
                    // Gone since the streams were listed: the next listing of them knows.
                    if error.kind == ErrorKind::NotFound {
                        self.list_streams_at = now;
                    }
                    let failure = error.to_string();
                    events::RoundFailed { table: &self.shared.options.table, error: &failure }.emit();
                    stream.failure = Some(failure);
                }
            }
            for shard in stream.graph.holes() {
                events::ShardHole { table: &self.shared.options.table, arn: &stream.arn, shard }.emit();
            }
            stream.schedule(self.shared.options.discover_every);
        }
        Ok(due)
    }

    fn take_in_streams(&mut self, arns: Vec<String>) {
        self.list_streams_at = Instant::now() + self.shared.options.discover_every;
        self.streams.retain(|stream| arns.contains(&stream.arn));
        for (at, arn) in arns.into_iter().enumerate() {
            if !self.streams.iter().any(|stream| stream.arn == arn) {
                self.streams.insert(at.min(self.streams.len()), KnownStream::new(arn));
            }
        }
    }

    /// Shows that this worker is there, and finds out who else is.
    async fn see_workers(&mut self) -> Result<BTreeSet<String>, CloudError> {
        let (leases, scope) = (&self.shared.leases, first_start::scope(&self.shared.options.table));
        if let Some(presence) = &self.presence {
            presence.show_life();
        }
        if !self.presence.as_ref().is_some_and(Lease::is_held) {
            self.presence = leases.try_acquire(&scope, &first_start::worker_id(leases.owner())).await?;
        }
        // Who waits with the next listing of leases was alone at the last.
        if Instant::now() < self.list_leases_at.min(self.list_workers_at) {
            return Ok(self.workers.clone());
        }
        self.list_workers_at = Instant::now() + LOOK_ROUND;
        let mut workers = BTreeSet::from([leases.owner().to_owned()]);
        for listed in leases.list(&scope).await? {
            match listed.state {
                LeaseState::Held { owner, .. } if first_start::is_worker(&listed.id) => {
                    workers.insert(owner);
                }
                // Its worker died without a word: nobody else would ever remove it.
                LeaseState::Dead { .. } if first_start::is_worker(&listed.id) => {
                    if let Some(lease) = leases.try_acquire(&scope, &listed.id).await? {
                        lease.retire().await;
                    }
                }
                _ => {}
            }
        }
        Ok(workers)
    }

    fn plan(&self, workers: BTreeSet<String>) -> Plan {
        let is_mine = |(_, owned): &(&ShardKey, &Owned)| !owned.giving;
        let facts = Facts {
            me: self.shared.leases.owner(),
            streams: self.streams.iter().map(|s| StreamFacts::new(&s.arn, &s.graph, &s.leases)).collect(),
            workers,
            mine: self.owned.iter().filter(is_mine).map(|(key, _)| key.clone()).collect(),
            giving: self.owned.values().filter(|owned| owned.giving).count(),
            free_rounds: &self.free_rounds,
            uneven_rounds: self.uneven_rounds,
        };
        (self.shared.rules.plan)(&facts)
    }

    /// Keeps what the next round needs to know, and what people want to see.
    fn note(&mut self, plan: &Plan) {
        self.uneven_rounds = if plan.uneven { self.uneven_rounds + 1 } else { 0 };
        self.free_rounds =
            plan.free.iter().map(|key| (key.clone(), self.free_rounds.get(key).map_or(1, |n| n + 1))).collect();
        let mut known = BTreeMap::new();
        let Self { shared, owned, unread, .. } = self;
        let progress = |key: &ShardKey| {
            let owned = owned.contains_key(key);
            shared.shards().get(key).and_then(|known| known.progress.clone()).filter(|_| owned)
        };
        for stream in &self.streams {
            let facts = StreamFacts::new(&stream.arn, &stream.graph, &stream.leases);
            for shard in facts.shards() {
                let key = ShardKey { arn: stream.arn.clone(), shard: shard.clone() };
                let lease = stream.leases.get(shard);
                let (owner, state) = match lease.map(|lease| &lease.state) {
                    _ if facts.standing(shard) == assignment::Standing::Done => (None, ShardState::Ended),
                    Some(LeaseState::Held { owner, .. }) => (Some(owner.clone()), ShardState::Elsewhere),
                    _ if plan.waiting.contains_key(&key) => (None, ShardState::Waiting),
                    _ => (None, ShardState::Free),
                };
                let item = lease.map(|lease| lease.item.clone()).unwrap_or_default();
                let progress = progress(&key);
                let is_broken = matches!(lease.map(|lease| &lease.state), Some(LeaseState::Unreadable { .. }));
                let is_unread = match &progress {
                    Some(progress) => !progress.is_read(),
                    // Who waits for another shard isn't the one to look at.
                    None => state == ShardState::Free || state == ShardState::Waiting && is_broken,
                };
                if is_unread {
                    unread.entry(key.clone()).or_insert_with(Unread::since_now);
                } else {
                    unread.remove(&key);
                }
                let here = unread.get(&key);
                let reason = here.and_then(Unread::reason).or(plan.waiting.get(&key).map(String::as_str));
                let (reason, unread_since) = (reason.map(str::to_owned), here.map(|unread| unread.since));
                known.insert(key, Known { owner, state, item, reason, progress, unread_since });
            }
        }
        unread.retain(|key, _| known.contains_key(key));
        *shared.shards() = known;
    }

    async fn carry_out(&mut self, plan: Plan) -> Result<(), CloudError> {
        let now = Instant::now();
        if let Some(owned) = plan.give.as_ref().and_then(|key| self.owned.get_mut(key)) {
            owned.giving = true;
            owned.give_back.cancel();
        }
        for key in plan.take {
            let failed = self.unread.get(&key).and_then(|unread| unread.failed.as_ref());
            let rests = failed.is_some_and(|(_, until)| *until > now);
            if !self.stop.is_cancelled() && !rests && !self.owned.contains_key(&key) {
                // What is wrong with one shard holds up no other.
                if let Err(error) = self.take(key.clone()).await {
                    let (table, reason) = (&self.shared.options.table, error.to_string());
                    events::ShardClosed { table, key: &key, how: "failed", checkpoint: None, reason: &reason }.emit();
                    self.rest(key, reason);
                }
            }
        }
        for key in plan.buried.iter().take(BURIALS) {
            if let Some(lease) = self.shared.leases.try_acquire(&key.arn, &key.shard.0).await? {
                lease.retire().await;
                events::TombstoneRemoved { table: &self.shared.options.table, key }.emit();
            }
        }
        Ok(())
    }

    async fn take(&mut self, key: ShardKey) -> Result<(), CloudError> {
        let Some(lease) = self.shared.leases.try_acquire(&key.arn, &key.shard.0).await? else { return Ok(()) };
        let item = ShardItem::decode(&key.arn, &key.shard.0, lease.item())?;
        let stream = self.streams.iter().find(|stream| stream.arn == key.arn);
        let node = stream.and_then(|stream| stream.graph.get(&key.shard));
        let (parent, closed) = node.map_or((None, false), |node| (node.parent.clone(), node.closed));
        let first = node.map(|node| node.start.clone());
        let was_read = |id: &ShardId| {
            let lease = stream.and_then(|stream| stream.leases.get(id));
            lease.is_some_and(|lease| lease.item.ended == Some(Ending::Read))
        };
        let continues = parent.iter().chain(&item.parents).any(was_read);
        let before = self.unread.entry(key.clone()).or_insert_with(Unread::since_now);
        let progress = Arc::new(Progress::new(item.checkpoint.clone(), before.since));
        // Until a read has proved the opposite, what was wrong still is.
        progress.set_trouble(Trouble::Reading, before.reason().map(str::to_owned));
        let unread_since = Some(before.since);
        let owner = Some(self.shared.leases.owner().to_owned());
        let (state, reading) = (ShardState::Reading, Some(Arc::clone(&progress)));
        let known = Known { owner, state, item, reason: None, progress: reading, unread_since };
        self.shared.shards().insert(key.clone(), known);
        let give_back = self.stop.child_token();
        let lease = Arc::new(lease);
        let taken = Taken { key: key.clone(), lease, parent, closed, first, continues, progress };
        let reading = read_shard(Arc::clone(&self.shared), taken, self.deliveries.clone(), give_back.clone());
        let task = self.tasks.spawn(reading).id();
        self.owned.insert(key, Owned { give_back, giving: false, task });
        self.shared.readers.store(self.owned.len(), Ordering::Relaxed);
        Ok(())
    }

    fn on_left(&mut self, left: Result<(ShardKey, Left), tokio::task::JoinError>) {
        self.list_leases_at = Instant::now();
        match left {
            Ok((key, left)) => {
                self.forget(&key, if let Left::Ended(_) = left { ShardState::Ended } else { ShardState::Free });
                match left {
                    Left::Ended(children) => {
                        if let Some(stream) = self.streams.iter_mut().find(|stream| stream.arn == key.arn) {
                            children.iter().for_each(|child| stream.graph.add(child));
                            stream.list_at = stream.list_at.min(Instant::now() + RELIST);
                            stream.relist = RELIST;
                        }
                        self.next_round = Instant::now();
                    }
                    Left::Open => {}
                    Left::Failed(reason) => self.rest(key, reason),
                }
            }
            Err(error) => {
                // It panicked, and gave its lease back as it unwound.
                let task = error.id();
                let key = self.owned.iter().find(|(_, owned)| owned.task == task).map(|(key, _)| key.clone());
                let Some(key) = key else { return };
                let reason = format!("its reader failed: {error}");
                events::ShardClosed {
                    table: &self.shared.options.table,
                    key: &key,
                    how: "failed",
                    checkpoint: None,
                    reason: &reason,
                }
                .emit();
                self.forget(&key, ShardState::Free);
                self.rest(key, reason);
            }
        }
    }

    /// Lets a shard that couldn't be opened alone for a while.
    fn rest(&mut self, key: ShardKey, reason: String) {
        let unread = self.unread.entry(key).or_insert_with(Unread::since_now);
        unread.failed = Some((reason, Instant::now() + REST));
    }

    fn forget(&mut self, key: &ShardKey, state: ShardState) {
        self.owned.remove(key);
        self.shared.readers.store(self.owned.len(), Ordering::Relaxed);
        if let Some(known) = self.shared.shards().get_mut(key) {
            (known.owner, known.state, known.progress) = (None, state, None);
            let since = self.unread.get(key).map_or_else(Instant::now, |unread| unread.since);
            known.unread_since = (state == ShardState::Free).then_some(since);
        }
    }

    /// The watchdog: what is stuck is said once and counted, and the gauges show the worst.
    pub fn watch(&mut self) {
        let now = Instant::now();
        if now < self.watch_at {
            return;
        }
        self.watch_at = now + WATCH;
        let table = &self.shared.options.table;
        let shards = status::Reporter::shards(&*self.shared);
        let mut stuck = BTreeSet::new();
        for status in shards.iter().filter(|status| matches!(status.state, ShardState::Stuck | ShardState::Stopped)) {
            let key = ShardKey { arn: status.arn.clone(), shard: status.shard.clone() };
            if !self.stuck.contains(&key) {
                let reason = status.reason.as_deref().unwrap_or("for no known reason");
                events::ShardStuck { table, shard: &status.shard, reason }.emit();
            }
            stuck.insert(key);
        }
        self.stuck = stuck;
        let lag = shards.iter().filter_map(|status| status.lag_secs).max().unwrap_or(0);
        let in_flight: usize = shards.iter().map(|status| status.in_flight_records).sum();
        let quarter = quarters_of_retention(lag);
        if quarter > self.lag_quarter {
            events::LagNearRetention { table, lag_secs: lag, quarter }.emit();
        }
        self.lag_quarter = quarter;
        metrics::gauge!("penstock_stream_lag_seconds", "table" => table.clone()).set(lag as f64);
        metrics::gauge!("penstock_stream_in_flight_records", "table" => table.clone()).set(in_flight as f64);
        for state in ShardState::ALL {
            let count = shards.iter().filter(|status| status.state == state).count();
            metrics::gauge!("penstock_stream_shards", "table" => table.clone(), "state" => state.text())
                .set(count as f64);
        }
    }

    /// Every shard's task has been told by the token; each drains, writes its checkpoint and releases its lease.
    pub async fn stop(mut self) {
        if let Some(presence) = self.presence.take() {
            presence.release().await;
        }
        while let Some(left) = self.tasks.join_next().await {
            self.on_left(left);
        }
        self.shared.shards().clear();
        self.shared.note_unseen(None);
    }
}

/// How many quarters of what a stream keeps a lag amounts to: from 4 on, changes are lost (F37).
fn quarters_of_retention(lag_secs: u64) -> u64 {
    lag_secs * 4 / RETENTION_SECS
}

async fn read_leases(shared: &Shared, arn: &str) -> Result<BTreeMap<ShardId, LeaseFacts>, CloudError> {
    let mut leases = BTreeMap::new();
    for listed in shared.leases.list(arn).await? {
        let facts = match (ShardItem::decode(arn, &listed.id, &listed.item), listed.state) {
            // One that can't be read holds up no other (F32).
            (Err(error), _) => {
                LeaseFacts { state: LeaseState::Unreadable { reason: error.to_string() }, item: ShardItem::default() }
            }
            (Ok(item), state) => LeaseFacts { state, item },
        };
        leases.insert(ShardId(listed.id), facts);
    }
    Ok(leases)
}

/// The shards that lease items speak of.
fn named(leases: &BTreeMap<ShardId, LeaseFacts>) -> impl Iterator<Item = &ShardId> {
    leases.iter().flat_map(|(id, lease)| std::iter::once(id).chain(&lease.item.parents).chain(&lease.item.children))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first sign of a reader that is too slow would have been lost changes.
    #[test]
    fn f37_a_lag_is_told_at_each_quarter_of_what_the_stream_keeps() {
        let hours = |hours: u64| quarters_of_retention(hours * 3600);
        assert_eq!([0, 5, 6, 12, 18, 23, 24].map(hours), [0, 0, 1, 2, 3, 3, 4]);
    }
}
