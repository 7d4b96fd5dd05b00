//! The loop of a watch: signs and scans make looks, looks make landings, landings are delivered.
//!
//! All of it is bounded: keys that wait, looks at once, landings that wait, batches under way. What doesn't fit is left to
//! another scan. A key is in one place at a time, so that it can't land twice at once.

use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use chrono::DateTime;
use futures::{StreamExt, future::BoxFuture, future::join_all, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Watched, events,
    eyes::{Eyes, Sign},
    ledger::Landed,
    look::{Landing, Looked},
    names::can_hold,
    notification::{Notification, Sequencer},
    pending::{Look, Pending, Reason},
    scan::Scan,
};
use crate::cloud::{Result, limits::QUEUE_BATCH, queue::Outgoing};

/// Keys that may wait for a look; those of a sign beyond are left to another scan.
const PENDING: usize = 20_000;
/// Looks at once: each may read a file.
const LOOKS: usize = 4;
/// Landings that may wait for a batch.
const LANDINGS: usize = 100;
/// Batches under way at once.
const DELIVERIES: usize = 4;
/// Subfolders that may wait for a scan of their own; beyond, one scan of everything takes their place.
const SCANS: usize = 1000;
/// How long batches under way may take to end when the watch stops.
const STOP: Duration = Duration::from_secs(5);

pub(super) struct Run {
    watched: Arc<Watched>,
    eyes: Arc<Eyes>,
    signs: mpsc::Receiver<Sign>,
    sequencer: Arc<Sequencer>,
    settle: watch::Sender<bool>,
    pending: Pending,
    busy: HashSet<Arc<str>>,
    looks: FuturesUnordered<BoxFuture<'static, (Look, Result<Looked>)>>,
    landings: VecDeque<Landing>,
    deliveries: FuturesUnordered<BoxFuture<'static, Vec<Arc<str>>>>,
    scan: Option<Scan>,
    to_scan: BTreeSet<String>,
    next_poll: Option<Instant>,
    failed_scans: u32,
}

impl Run {
    pub(super) fn new(
        watched: Arc<Watched>,
        eyes: Arc<Eyes>,
        signs: mpsc::Receiver<Sign>,
        sequencer: Sequencer,
        settle: watch::Sender<bool>,
    ) -> Self {
        Self {
            watched,
            eyes,
            signs,
            sequencer: Arc::new(sequencer),
            settle,
            pending: Pending::default(),
            busy: HashSet::new(),
            looks: FuturesUnordered::new(),
            landings: VecDeque::new(),
            deliveries: FuturesUnordered::new(),
            scan: None,
            to_scan: BTreeSet::from([String::new()]),
            next_poll: None,
            failed_scans: 0,
        }
    }

    /// Runs until cancelled.
    pub(super) async fn until(mut self, cancellation: CancellationToken) {
        loop {
            self.start_what_is_due();
            self.settle.send_if_modified(|settled| std::mem::replace(settled, self.is_settled()) != *settled);
            let next_look = self.pending.next_due().filter(|_| self.may_look());
            let next_poll = self.next_poll.filter(|_| self.scan.is_none());
            let wake = next_look.into_iter().chain(next_poll).min();
            let has_room = self.pending.len() < PENDING / 2;
            tokio::select! {
                () = cancellation.cancelled() => break,
                () = self.eyes.lost() => {
                    events::lost_events(self.watched.bucket.name());
                    self.want_scan(String::new());
                }
                Some(sign) = self.signs.recv() => self.on_sign(sign),
                Some((look, looked)) = self.looks.next() => self.on_looked(look, looked),
                Some(keys) = self.deliveries.next() => keys.iter().for_each(|key| {
                    self.busy.remove(key);
                }),
                found = next_found(&mut self.scan), if has_room => self.on_found(found),
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
        }
        drop(self.looks);
        let ended = timeout(STOP, self.deliveries.collect::<Vec<_>>()).await;
        if ended.is_err() {
            tracing::warn!("The watch stopped before all was announced; the next start announces it.");
        }
    }

    fn is_settled(&self) -> bool {
        self.scan.as_ref().is_none_or(|scan| scan.is_poll)
            && self.to_scan.is_empty()
            && self.pending.is_settled()
            && self.busy.is_empty()
    }

    fn may_look(&self) -> bool {
        self.looks.len() < LOOKS && self.landings.len() < LANDINGS
    }

    fn start_what_is_due(&mut self) {
        let now = Instant::now();
        if self.scan.is_none() {
            let wanted = self.to_scan.pop_first().map(|folder| (folder, false));
            let is_due = self.next_poll.is_some_and(|due| due <= now);
            if let Some((folder, is_poll)) = wanted.or_else(|| is_due.then(|| (String::new(), true))) {
                self.next_poll = None;
                self.scan = Some(Scan::start(self.watched.clone(), self.eyes.clone(), folder, is_poll));
            }
        }
        while self.may_look() {
            let Some(look) = self.pending.take_due(now) else { break };
            if self.busy.insert(look.key.clone()) {
                let watched = self.watched.clone();
                self.looks.push(Box::pin(async move {
                    let looked = watched.look(&look).await;
                    (look, looked)
                }));
            } else {
                self.pending.add(now + self.watched.pace.event, look);
            }
        }
        // While a batch is under way the next one fills.
        while self.landings.len() >= QUEUE_BATCH || (!self.landings.is_empty() && self.deliveries.is_empty()) {
            if self.deliveries.len() >= DELIVERIES {
                break;
            }
            let batch = self.landings.drain(..self.landings.len().min(QUEUE_BATCH)).collect();
            self.deliveries.push(Box::pin(deliver(self.watched.clone(), self.sequencer.clone(), batch)));
        }
    }

    fn want_scan(&mut self, folder: String) {
        if folder.is_empty() || self.to_scan.len() >= SCANS {
            self.to_scan.clear();
            self.to_scan.insert(String::new());
        } else if !self.to_scan.contains("") {
            self.to_scan.insert(folder);
        }
    }

    fn on_sign(&mut self, sign: Sign) {
        let (key, reason) = match sign {
            Sign::Settled(key) => (key, Reason::Whole),
            Sign::Made(key) => (key, Reason::Made),
            Sign::Changed(key) => (key, Reason::Found),
        };
        let prefix = &self.watched.prefix;
        if key.split('/').any(|name| name.starts_with('.')) || !(key.starts_with(prefix) || can_hold(&key, prefix)) {
            return;
        }
        if self.pending.len() >= PENDING {
            self.want_scan(String::new());
            return;
        }
        let look = Look { key: key.into(), reason, sighting: None, failures: 0 };
        self.pending.add(Instant::now() + self.watched.pace.event, look);
    }

    fn on_found(&mut self, found: Option<Arc<str>>) {
        match (found, &self.scan) {
            (Some(key), _) => {
                self.pending.add(Instant::now(), Look { key, reason: Reason::Found, sighting: None, failures: 0 });
            }
            (None, Some(scan)) => {
                self.failed_scans = if scan.has_failed() { (self.failed_scans + 1).min(5) } else { 0 };
                if self.eyes.are_blind() || self.failed_scans > 0 {
                    let delay = self.watched.pace.poll * (1 << self.failed_scans);
                    self.next_poll = Some(Instant::now() + delay.max(10 * scan.began.elapsed()));
                }
                self.scan = None;
            }
            (None, None) => {}
        }
    }

    fn on_looked(&mut self, mut look: Look, looked: Result<Looked>) {
        if let Ok(Looked::Land(landing)) = looked {
            self.landings.push_back(landing);
            return;
        }
        self.busy.remove(&look.key);
        let pace = self.watched.pace;
        match looked {
            Ok(Looked::Folder) => self.want_scan(look.key.to_string()),
            Ok(Looked::Later(stamp, since)) => {
                look.sighting = Some((stamp, since));
                look.failures = 0;
                look.reason = Reason::Found;
                self.pending.add((since + pace.still).max(Instant::now() + pace.event), look);
            }
            Ok(_) => {}
            Err(error) => {
                look.failures += 1;
                let again_in = Duration::from_secs(60).min(Duration::from_millis(250) * (1 << look.failures.min(10)));
                let path = self.watched.bucket.root().join(&*look.key);
                events::failed(self.watched.bucket.name(), "look", &path, &error, again_in);
                self.pending.add(Instant::now() + again_in, look);
            }
        }
    }
}

async fn next_found(scan: &mut Option<Scan>) -> Option<Arc<str>> {
    match scan {
        Some(scan) => scan.found.recv().await,
        None => std::future::pending().await,
    }
}

/// Announces a batch and records it, however long that takes. Gives back the keys.
async fn deliver(watched: Arc<Watched>, sequencer: Arc<Sequencer>, batch: Vec<Landing>) -> Vec<Arc<str>> {
    let keys = batch.iter().map(|landing| landing.key.clone()).collect();
    let now = watched.clock.now();
    let mut unsent: Vec<_> = batch
        .into_iter()
        .map(|landing| {
            let sequencer = sequencer.next(now, landing.before.as_deref());
            let landed = Landed { stamp: landing.stamp, etag: landing.etag, sequencer };
            (landing.key, landed)
        })
        .collect();
    let bucket = watched.bucket.name();
    let notification = |(key, landed): &(Arc<str>, Landed)| Notification {
        bucket: bucket.to_owned(),
        key: key.clone(),
        size_bytes: landed.stamp.size_bytes,
        etag: landed.etag.clone(),
        sequencer: landed.sequencer.clone(),
        // The time of the last write, as a listing tells it: an undated key has the same day by either.
        time: DateTime::from_timestamp_nanos(landed.stamp.mtime_ns),
    };
    let mut delays = delays();
    loop {
        let messages: Vec<_> = unsent.iter().map(|landed| Outgoing::new(notification(landed).body())).collect();
        let results = match watched.queue.send(&messages).await {
            Ok(results) => results,
            Err(error) => {
                again(&watched, "send", &unsent[0].0, &error, delays.next()).await;
                continue;
            }
        };
        let (sent, failed): (Vec<_>, Vec<_>) = unsent.into_iter().zip(results).partition(|(_, result)| result.is_ok());
        sent.iter().for_each(|(landed, _)| events::landed(&notification(landed)));
        join_all(sent.iter().map(|((key, landed), _)| record(&watched, key, landed))).await;
        let Some((_, Err(error))) = failed.first() else { return keys };
        again(&watched, "send", &failed[0].0.0, error, delays.next()).await;
        unsent = failed.into_iter().map(|(landing, _)| landing).collect();
    }
}

async fn record(watched: &Watched, key: &Arc<str>, landed: &Landed) {
    let mut delays = delays();
    while let Err(error) = watched.ledger.record(key, landed).await {
        again(watched, "record", key, &error, delays.next()).await;
    }
}

fn delays() -> impl Iterator<Item = Duration> {
    let first = Duration::from_millis(250);
    ExponentialBuilder::default()
        .with_min_delay(first)
        .with_max_delay(Duration::from_secs(30))
        .without_max_times()
        .build()
}

async fn again(
    watched: &Watched,
    what: &'static str,
    key: &str,
    error: &crate::cloud::CloudError,
    delay: Option<Duration>,
) {
    let delay = delay.unwrap_or(Duration::from_secs(30));
    events::failed(watched.bucket.name(), what, &watched.bucket.root().join(key), error, delay);
    sleep(delay).await;
}
