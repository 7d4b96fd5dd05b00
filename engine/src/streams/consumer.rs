//! Reads the change streams of a table together with other workers.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    assignment::ShardKey,
    discovery::{Discovery, Pace},
    options::ChangeStreamOptions,
    rounds::Work,
    shard_item::ShardItem,
    status::{self, Progress, ShardState, ShardStatus},
};
use crate::{
    ack::Ack,
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
    pub stream: Arc<dyn ChangeStream>,
    pub discovery: Discovery,
    pub leases: Leases,
    pub options: Arc<ChangeStreamOptions>,
    pub clock: Clock,
    pub dead_letter: Option<Arc<dyn Queue>>,
    /// How many shards this worker reads.
    pub readers: AtomicUsize,
    shards: Mutex<BTreeMap<ShardKey, Known>>,
}

/// What is known of a shard, for its status.
#[derive(Clone)]
pub(super) struct Known {
    pub owner: Option<String>,
    pub state: ShardState,
    pub item: ShardItem,
    pub reason: Option<String>,
    pub progress: Option<Arc<Progress>>,
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
}

impl status::Reporter for Shared {
    fn shards(&self) -> Vec<ShardStatus> {
        let now_secs = self.clock.now().timestamp();
        let known = Self::shards(self).clone();
        let status = |(key, known): (ShardKey, Known)| {
            let mut status = ShardStatus {
                table: self.options.table.clone(),
                arn: key.arn,
                shard: key.shard,
                owner: known.owner,
                state: known.state,
                checkpoint: known.item.checkpoint,
                lag_secs: None,
                in_flight_records: 0,
                still_for_secs: None,
                reason: known.reason,
            };
            if let Some(progress) = known.progress {
                progress.describe(&mut status, now_secs, self.options.stuck_after);
            }
            status
        };
        known.into_iter().map(status).collect()
    }
}

impl Consumer {
    /// A consumer of `stream` whose shards, and this worker's part in them, are settled by `leases`.
    pub fn new(
        stream: Arc<dyn ChangeStream>,
        leases: Leases,
        options: ChangeStreamOptions,
        clock: Clock,
        dead_letter: Option<Arc<dyn Queue>>,
    ) -> Self {
        Self::with_pace(stream, leases, options, clock, dead_letter, Arc::new(Pace::of_describe()))
    }

    /// The same, sharing the pace of DescribeStream with others.
    pub fn with_pace(
        stream: Arc<dyn ChangeStream>,
        leases: Leases,
        options: ChangeStreamOptions,
        clock: Clock,
        dead_letter: Option<Arc<dyn Queue>>,
        pace: Arc<Pace>,
    ) -> Self {
        let shared = Arc::new(Shared {
            discovery: Discovery::new(Arc::clone(&stream), pace),
            stream,
            leases,
            options: Arc::new(options),
            clock,
            dead_letter,
            readers: AtomicUsize::new(0),
            shards: Mutex::default(),
        });
        status::register(&shared);
        Self { shared }
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
