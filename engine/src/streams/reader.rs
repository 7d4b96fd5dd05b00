//! Reads the records of one shard, page after page, and hands the pages to the shard's ledger.
//!
//! It knows how to go on after an expired iterator, a throttle, an outage or trimmed data, and when to wait. It decides
//! nothing about acks or checkpoints. The channel to the ledger holds one page, so a ledger that doesn't take more stops
//! the reading.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{AcquireError, OwnedSemaphorePermit, mpsc, watch},
    task::yield_now,
    time::{Instant, sleep_until, timeout},
};

use super::{
    assignment::ShardKey,
    consumer::Shared,
    events::{self, ReadResult},
    options::ChangeStreamOptions,
    shard_item::Gap,
    trimmed::{Loss, Step, on_loss},
};
use crate::{
    cloud::{
        CloudError, ErrorKind, Result,
        change_stream::{Change, IteratorStart, RecordPage, SequenceNumber, ShardIterator},
        limits::RECORD_PAGE_BYTES,
    },
    random,
    time::format_time,
};

/// A throttled shard is read at most so often from then on: 5 reads a second are what a shard allows.
const THROTTLED_INTERVAL: Duration = Duration::from_millis(200);

/// So long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where the cloud tells of news, an idle shard is read at most so often for it.
const NEWS_INTERVAL: Duration = Duration::from_millis(5);
/// So many empty pages in a row say that there is nothing newer.
const CAUGHT_UP_PAGES: u32 = 3;

/// The waits after failures: the first, doubling up to the second.
const FAILURE_WAIT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// What a reader has to say to the ledger.
#[derive(Debug)]
pub enum Fetched {
    /// A page, possibly empty.
    Page {
        /// The changes, in order.
        changes: Vec<Arc<Change>>,
        /// Page after page was empty, so there was nothing newer a moment ago.
        caught_up: bool,
        /// What the changes take of the room that this process has.
        room: OwnedSemaphorePermit,
    },
    /// Changes were trimmed away before they were read; reading goes on behind them.
    Gap(Gap),
    /// There is nothing more to read, now or later. With a gap: the shard vanished before its end was seen.
    End(Option<Gap>),
    /// Reading has stopped at a gap until a person decides.
    Stopped(Gap, String),
    /// The last request failed; it is tried again.
    Trouble(String),
}

/// The reader of one shard.
pub struct Reader {
    /// The shard.
    pub key: ShardKey,
    /// What it shares with the others of this worker.
    pub shared: Arc<Shared>,
    /// Whether the shard takes no more records: then an empty page is no reason to wait long.
    pub closed: bool,
    /// Where the next iterator is to begin.
    pub start: IteratorStart,
    /// The last change that was read, now or before.
    pub last_read: Option<SequenceNumber>,
    /// An iterator to begin with.
    pub iterator: Option<ShardIterator>,
    /// Whether everything from the shard's beginning is owed, so that it is a loss if that is gone.
    pub owed: bool,
    /// Empty pages in a row.
    pub empty_pages: u32,
    /// The average size of a record on the last page that had any.
    pub record_bytes: u64,
}

impl Reader {
    /// Reads until the end, or until nobody takes the pages any more.
    pub async fn run(mut self, pages: mpsc::Sender<Fetched>) {
        let mut wait = Waits::new(&self.shared.options, self.closed);
        let mut news = self.shared.stream.news();
        loop {
            let room = match self.room().await {
                Ok(Some(room)) => room,
                Ok(None) => {
                    let text = "what may be in flight is in flight: max_in_flight_bytes is used up by other shards";
                    if pages.send(Fetched::Trouble(text.to_owned())).await.is_err() {
                        return;
                    }
                    continue;
                }
                Err(_) => return,
            };
            let began = Instant::now();
            // What comes from here on is news for the wait after this page.
            if let Some(news) = &mut news {
                news.mark_unchanged();
            }
            let fetched = match self.fetch().await {
                Ok(page) => {
                    let empty = page.changes.is_empty();
                    let result = if empty { ReadResult::Empty } else { ReadResult::Data };
                    self.read(result, page.changes.len());
                    wait.after_page(began, empty);
                    let page = self.take(page, room);
                    if pages.send(page).await.is_err() {
                        return;
                    }
                    // The last page of a closed shard comes without an iterator, and may hold records (F1).
                    match self.iterator {
                        Some(_) => None,
                        None => Some(Fetched::End(None)),
                    }
                }
                Err(error) => {
                    drop(room);
                    self.on_error(error, &mut wait).await
                }
            };
            if let Some(fetched) = fetched {
                let last = matches!(fetched, Fetched::End(_) | Fetched::Stopped(..));
                if pages.send(fetched).await.is_err() || last {
                    return;
                }
            }
            tokio::select! {
                biased;
                () = pages.closed() => return,
                () = told(&mut news, began), if wait.is_idle => {}
                () = wait.over() => {}
            }
        }
    }

    /// Room for a page, before it is asked for. None if there was none for a while.
    async fn room(&self) -> Result<Option<OwnedSemaphorePermit>, AcquireError> {
        let room = Arc::clone(&self.shared.room).acquire_many_owned(page_room(&self.shared.options));
        timeout(PATIENCE, room).await.ok().transpose()
    }

    /// How many records to ask for: not more than this shard's part of what may be in flight.
    fn limit(&self) -> usize {
        let (records, bytes) = self.shared.in_flight_share();
        let fitting = bytes.checked_div(self.record_bytes).map_or(records, |fitting| records.min(fitting as usize));
        self.shared.options.read_records.min(fitting).max(1)
    }

    async fn fetch(&mut self) -> Result<RecordPage> {
        let (arn, shard) = (&self.key.arn, &self.key.shard);
        let iterator = match self.iterator.take() {
            Some(iterator) => iterator,
            None => {
                patiently("GetShardIterator", &self.key, self.shared.stream.iterator(arn, shard, &self.start)).await?
            }
        };
        let page = patiently("GetRecords", &self.key, self.shared.stream.records(&iterator, self.limit())).await;
        if page.as_ref().is_err_and(|error| !needs_new_iterator(error)) {
            self.iterator = Some(iterator);
        }
        page
    }

    fn take(&mut self, page: RecordPage, mut room: OwnedSemaphorePermit) -> Fetched {
        let (changes, next) = (self.shared.rules.page)(page);
        let bytes: u64 = changes.iter().map(|change| change.size_bytes).sum();
        if let Some(last) = changes.last() {
            // After this one an iterator goes on where the pages went, whatever the checkpoint is (F11).
            self.start = IteratorStart::After(last.sequence.clone());
            self.last_read = Some(last.sequence.clone());
            self.record_bytes = bytes / changes.len() as u64;
        }
        drop(room.split(room.num_permits().saturating_sub(usize::try_from(bytes).unwrap_or(usize::MAX))));
        self.iterator = next;
        self.empty_pages = if changes.is_empty() { self.empty_pages.saturating_add(1) } else { 0 };
        // A page may be empty though records follow, and a closed shard says itself when it is at its end (F16).
        let caught_up = !self.closed && self.empty_pages >= CAUGHT_UP_PAGES;
        Fetched::Page { changes, caught_up, room }
    }

    async fn on_error(&mut self, error: CloudError, wait: &mut Waits) -> Option<Fetched> {
        let loss = match error.kind {
            ErrorKind::ExpiredIterator => {
                self.read(ReadResult::Expired, 0);
                wait.after_failure();
                return None;
            }
            // Asked for its very beginning: who doesn't know that number any more has trimmed it.
            ErrorKind::Invalid if matches!(self.start, IteratorStart::At(_)) => {
                self.read(ReadResult::Trimmed, 0);
                Loss::Trimmed
            }
            ErrorKind::TrimmedData => {
                self.read(ReadResult::Trimmed, 0);
                Loss::Trimmed
            }
            ErrorKind::NotFound => {
                self.read(ReadResult::Gone, 0);
                Loss::ShardGone
            }
            kind => {
                self.read(if kind == ErrorKind::Throttled { ReadResult::Throttled } else { ReadResult::Failed }, 0);
                if kind == ErrorKind::Throttled {
                    wait.throttled();
                }
                // Whatever it is, the shard is kept and the wait grows (F14, F15).
                wait.after_failure();
                return Some(Fetched::Trouble(error.to_string()));
            }
        };
        wait.after_failure();
        self.iterator = None;
        let found_at = format_time(self.shared.clock.now());
        match on_loss(self.shared.options.on_trimmed, loss, self.last_read.as_ref(), self.owed, found_at) {
            Step::BeginAgain => {
                self.start = IteratorStart::TrimHorizon;
                Some(Fetched::Trouble(error.to_string()))
            }
            Step::ReadOn(gap) => {
                self.start = IteratorStart::TrimHorizon;
                self.lost(&gap, "read on at the oldest record");
                (self.last_read, self.owed) = (None, false);
                Some(Fetched::Gap(gap))
            }
            Step::EndQuietly => Some(Fetched::End(None)),
            Step::End(gap) => Some(self.end(gap, error).await),
            Step::Stop(gap) => {
                self.lost(&gap, "stopped: set on_trimmed to skip or reconcile to go on");
                let text = format!("{error}; on_trimmed is stop: set it to skip or reconcile to go on behind the gap");
                Some(Fetched::Stopped(gap, text))
            }
        }
    }

    async fn end(&self, gap: Gap, error: CloudError) -> Fetched {
        match self.shared.discovery.is_there(&self.key.arn).await {
            Ok(there) => {
                self.lost(&gap, if there { "the shard is gone" } else { "its stream is gone" });
                Fetched::End(Some(gap))
            }
            // Not even that is certain: the next try will find out.
            Err(_) => Fetched::Trouble(error.to_string()),
        }
    }

    fn lost(&self, gap: &Gap, what: &str) {
        events::TrimmedGap { table: &self.shared.options.table, key: &self.key, gap, what }.emit();
    }

    fn read(&self, result: ReadResult, records: usize) {
        events::Read { table: &self.shared.options.table, key: &self.key, result, records }.emit();
    }
}

/// The bytes that are set aside for a page before it is read.
fn page_room(options: &ChangeStreamOptions) -> u32 {
    let most = options.max_in_flight_bytes.min(RECORD_PAGE_BYTES as u64);
    u32::try_from(most).unwrap_or(u32::MAX)
}

fn needs_new_iterator(error: &CloudError) -> bool {
    matches!(error.kind, ErrorKind::ExpiredIterator | ErrorKind::TrimmedData | ErrorKind::NotFound)
}

pub(super) async fn patiently<T>(
    operation: &str,
    key: &ShardKey,
    request: impl Future<Output = Result<T>>,
) -> Result<T> {
    timeout(PATIENCE, request).await.unwrap_or_else(|_| {
        let operation = format!("{operation} of shard {} of {}", key.shard, key.arn);
        Err(CloudError::new(ErrorKind::Unavailable, operation, format!("no answer within {} s", PATIENCE.as_secs())))
    })
}

/// Waits until there may be news, where the cloud can tell. A shard isn't read without a pause for it.
async fn told(news: &mut Option<watch::Receiver<u64>>, began: Instant) {
    if let Some(news) = news
        && news.changed().await.is_ok()
    {
        return sleep_until(began + NEWS_INTERVAL).await;
    }
    std::future::pending().await
}

/// When the next read may begin.
struct Waits {
    poll: (Duration, Duration),
    idle: Duration,
    failure: Duration,
    interval: Duration,
    until: Option<Instant>,
    closed: bool,
    /// The last page was empty: news may end the wait.
    is_idle: bool,
}

impl Waits {
    fn new(options: &ChangeStreamOptions, closed: bool) -> Self {
        let poll = (options.poll_min, options.poll_max);
        Self {
            poll,
            idle: poll.0,
            failure: FAILURE_WAIT.0,
            interval: Duration::ZERO,
            until: None,
            closed,
            is_idle: false,
        }
    }

    /// Records are followed by the next read at once (F16); empty pages by longer and longer waits.
    fn after_page(&mut self, began: Instant, empty: bool) {
        self.failure = FAILURE_WAIT.0;
        self.is_idle = empty && self.interval.is_zero();
        let floor = began + self.interval;
        if empty {
            self.until = Some(floor.max(Instant::now() + self.idle));
            self.idle = if self.closed { self.poll.0 } else { (self.idle * 2).min(self.poll.1) };
        } else {
            self.idle = self.poll.0;
            self.until = Some(floor);
        }
    }

    fn after_failure(&mut self) {
        self.is_idle = false;
        self.until = Some(Instant::now() + self.failure.mul_f64(0.75 + random::share() / 2.0));
        self.failure = (self.failure * 2).min(FAILURE_WAIT.1);
    }

    fn throttled(&mut self) {
        self.interval = THROTTLED_INTERVAL;
    }

    async fn over(&self) {
        match self.until {
            Some(until) if until > Instant::now() => sleep_until(until).await,
            // The runtime must get a turn between two reads that never wait.
            _ => yield_now().await,
        }
    }
}
