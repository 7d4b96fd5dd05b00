//! Reads the change streams of a table together with other workers.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::StreamExt;
use tokio::{
    sync::{Semaphore, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    assignment::ShardKey,
    common::Common,
    discovery::Discovery,
    filter::Filter,
    options::ChangeStreamOptions,
    rounds::Work,
    rules::Rules,
    shard_item::ShardItem,
    status::{self, Progress, ShardState, ShardStatus},
};
use crate::{
    ack::{Ack, Verdict},
    cloud::{ChangeStream, Queue, change_stream::Change},
    leases::Leases,
    time::Clock,
};

/// Pages that may wait between the readers and whoever takes them.
pub(super) const PAGES: usize = 2;

/// A change to handle, with the duty to give a verdict on it.
#[derive(Debug)]
pub struct Delivery {
    /// What happened.
    pub change: Arc<Change>,
    /// The duty.
    pub ack: Ack,
}

/// Reads the change streams of a table. Cheap to clone.
#[derive(Clone)]
pub struct Consumer {
    shared: Arc<Shared>,
}

/// What the parts of a consumer share.
pub(super) struct Shared {
    pub common: Common,
    pub stream: Arc<dyn ChangeStream>,
    pub discovery: Discovery,
    pub leases: Leases,
    pub options: Arc<ChangeStreamOptions>,
    pub clock: Clock,
    pub dead_letter: Option<Arc<dyn Queue>>,
    pub filter: Filter,
    pub rules: Rules,
    /// The bytes that may be in flight.
    pub room: Arc<Semaphore>,
    /// How many shards this worker reads.
    pub readers: AtomicUsize,
    shards: Mutex<BTreeMap<ShardKey, Known>>,
    /// Since when shards and leases can't be looked at, and why.
    unseen: Mutex<Option<(Instant, String)>>,
}

/// What is known of a shard, for its status.
#[derive(Clone)]
pub(super) struct Known {
    pub owner: Option<String>,
    pub state: ShardState,
    pub item: ShardItem,
    pub reason: Option<String>,
    pub progress: Option<Arc<Progress>>,
    /// Since when nobody reads it though somebody should.
    pub unread_since: Option<Instant>,
}

impl Shared {
    /// Each shard's part of what may be in flight: records and bytes.
    pub fn in_flight_share(&self) -> (usize, u64) {
        let readers = self.readers.load(Ordering::Relaxed).max(1);
        let records = (self.options.max_in_flight_records / readers).max(1);
        (records, (self.options.max_in_flight_bytes / readers as u64).max(1))
    }

    pub fn shards(&self) -> MutexGuard<'_, BTreeMap<ShardKey, Known>> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unseen(&self) -> MutexGuard<'_, Option<(Instant, String)>> {
        self.unseen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes why shards and leases couldn't be looked at just now, if so.
    pub fn note_unseen(&self, reason: Option<String>) {
        let mut unseen = self.unseen();
        let since = unseen.as_ref().map_or_else(Instant::now, |(since, _)| *since);
        *unseen = reason.map(|reason| (since, reason));
    }
}

impl status::Reporter for Shared {
    fn shards(&self) -> Vec<ShardStatus> {
        let (now_secs, stuck_after) = (self.clock.now().timestamp(), self.options.stuck_after);
        let status = |(key, known): (&ShardKey, &Known)| {
            let mut status = ShardStatus {
                table: self.options.table.clone(),
                arn: key.arn.clone(),
                shard: key.shard.clone(),
                owner: known.owner.clone(),
                state: known.state,
                checkpoint: known.item.checkpoint.clone(),
                lag_secs: None,
                lag_records: None,
                in_flight_records: 0,
                still_for_secs: None,
                reason: known.reason.clone(),
            };
            match (&known.progress, known.unread_since) {
                (Some(progress), _) => progress.describe(&mut status, now_secs, stuck_after),
                (None, Some(since)) => status.unread(since.elapsed(), stuck_after),
                (None, None) => {}
            }
            status
        };
        let mut shards: Vec<_> = Self::shards(self).iter().map(status).collect();
        if let Some((since, reason)) = &*self.unseen()
            && since.elapsed() >= stuck_after
        {
            let mut all = ShardStatus::unseen(&self.options.table, since.elapsed(), reason);
            // Who reads some knows their lag; who reads none knows of none that it is 0.
            all.lag_secs = (self.readers.load(Ordering::Relaxed) == 0).then_some(since.elapsed().as_secs());
            shards.push(all);
        }
        shards
    }
}

/// What a consumer is made of; see [`Consumer::builder`].
pub struct ConsumerBuilder {
    stream: Arc<dyn ChangeStream>,
    leases: Leases,
    options: ChangeStreamOptions,
    clock: Clock,
    dead_letter: Option<Arc<dyn Queue>>,
    common: Common,
    rules: Rules,
}

/// Options that can't be carried out: which, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the options of the consumer of table {table}: {problem}")]
pub struct WrongOptions {
    /// The table.
    pub table: String,
    /// Which option, and how to mend it.
    pub problem: String,
}

impl ConsumerBuilder {
    /// The queue that takes changes which can't be handled, whole and with the reason. Without one such a change is offered
    /// for ever, and holds up the later ones of its item and the checkpoint of its shard.
    pub fn dead_letter(mut self, queue: Arc<dyn Queue>) -> Self {
        self.dead_letter = Some(queue);
        self
    }

    /// The wall clock, for ages and lag. Default: the host's.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// What it shares with the other consumers of its process. Default: nothing.
    pub fn common(mut self, common: Common) -> Self {
        self.common = common;
        self
    }

    #[cfg(test)]
    pub(super) fn rules(mut self, rules: Rules) -> Self {
        self.rules = rules;
        self
    }

    /// The consumer. It does nothing before it is run.
    ///
    /// # Errors
    ///
    /// When an option is wrong.
    pub fn build(self) -> Result<Consumer, WrongOptions> {
        let mut options = self.options;
        if let Some(queue) = &self.dead_letter {
            options.dead_letter.get_or_insert_with(|| queue.name().to_owned());
        }
        let wrong = |problem| WrongOptions { table: options.table.clone(), problem };
        options.check().map_err(wrong)?;
        if options.dead_letter.is_some() && self.dead_letter.is_none() {
            return Err(wrong("dead_letter: the builder was given no queue".to_owned()));
        }
        let filter = Filter::parse(&options.filters).map_err(wrong)?;
        let room = usize::try_from(options.max_in_flight_bytes).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let shared = Arc::new(Shared {
            discovery: Discovery::new(Arc::clone(&self.stream), options.table.clone(), self.common.pace()),
            common: self.common,
            stream: self.stream,
            leases: self.leases,
            options: Arc::new(options),
            clock: self.clock,
            dead_letter: self.dead_letter,
            filter,
            rules: self.rules,
            room: Arc::new(Semaphore::new(room)),
            readers: AtomicUsize::new(0),
            shards: Mutex::default(),
            unseen: Mutex::default(),
        });
        status::register(&shared);
        Ok(Consumer { shared })
    }
}

impl Consumer {
    /// A consumer of `stream` whose shards, and this worker's part in them, are settled by `leases`.
    pub fn builder(stream: Arc<dyn ChangeStream>, leases: Leases, options: ChangeStreamOptions) -> ConsumerBuilder {
        let (clock, rules) = (Clock::system(), Rules::default());
        ConsumerBuilder { stream, leases, options, clock, dead_letter: None, common: Common::default(), rules }
    }

    /// Reads until `stop` is cancelled, and calls `handle` with each change, up to `concurrency` of them side by side. Two
    /// changes of one item are never handled at once, nor in the wrong order: the next comes when the one before is done
    /// or in the dead letters.
    ///
    /// `Ok` says that every effect of the change is durable. An error's text is the reason for which the change is offered
    /// again, and in the end dead-lettered. A panic of `handle` goes on in the caller, and leaves what it was about to be
    /// read again.
    pub async fn for_each<F, E>(&self, concurrency: usize, stop: CancellationToken, handle: impl Fn(Arc<Change>) -> F)
    where
        F: Future<Output = Result<(), E>>,
        E: fmt::Display,
    {
        let (sender, pages) = mpsc::channel(PAGES);
        let handle = &handle;
        let deliveries = futures::stream::unfold(pages, |mut pages| async move {
            let page = pages.recv().await?;
            Some((futures::stream::iter(page), pages))
        });
        let deliveries = deliveries.flatten();
        let handling = deliveries.for_each_concurrent(concurrency.max(1), |Delivery { change, ack }| async move {
            match handle(change).await {
                Ok(()) => ack.settle(Verdict::Done),
                Err(error) => ack.settle(Verdict::Retry(error.to_string())),
            }
        });
        tokio::join!(self.run(sender, stop), handling);
    }

    /// What each shard of the table is doing, and why one isn't moving.
    pub fn status(&self) -> Vec<ShardStatus> {
        status::Reporter::shards(&*self.shared)
    }

    /// Reads until `stop` is cancelled, or nobody takes the pages any more, and hands on page after page. Then it waits for
    /// the verdicts on what it handed on (at most as long as its options say), writes the checkpoints and gives the leases
    /// back.
    ///
    /// It may be run again. Dropped in the middle, it leaves its leases to be given back in the background; what had no
    /// checkpoint comes again.
    pub async fn run(&self, deliveries: mpsc::Sender<Vec<Delivery>>, stop: CancellationToken) {
        let stop = stop.child_token();
        let mut work = Work::new(Arc::clone(&self.shared), deliveries.clone(), stop.clone());
        while !stop.is_cancelled() {
            work.round().await;
            work.watch();
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = deliveries.closed() => stop.cancel(),
                () = work.next() => {}
            }
        }
        drop(deliveries);
        work.stop().await;
    }
}
