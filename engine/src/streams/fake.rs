//! A change stream in memory, with shards that roll over, split and are trimmed, iterators that expire, listings that are
//! late, and requests that fail.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

use crate::cloud::{
    ChangeStream, CloudError, ErrorKind, Queue, Result,
    change_stream::{
        Change, ChangeKind, DescribeRequest, IteratorStart, RecordPage, SequenceNumber, Shard, ShardId, ShardIterator,
        StreamDescription,
    },
    queue::{Message, Outgoing, QueueDepth, Receipt},
    table::Key,
};

#[derive(Clone)]
pub(super) struct FakeStream(Arc<Mutex<State>>);

struct State {
    streams: Vec<Stream>,
    sequence: u64,
    shard_count: u32,
    page: usize,
    started: Instant,
    failing: BTreeMap<&'static str, VecDeque<ErrorKind>>,
    /// Shards that so many further full listings don't show.
    hidden: BTreeMap<ShardId, u32>,
    calls: BTreeMap<&'static str, u64>,
}

struct Stream {
    arn: String,
    enabled: bool,
    shards: Vec<FakeShard>,
}

struct FakeShard {
    id: ShardId,
    parent: Option<ShardId>,
    start: u64,
    closed: bool,
    range: Range<u32>,
    records: Vec<Arc<Change>>,
    trimmed: usize,
}

/// Hashes of keys go from 0 to this.
const HASHES: u32 = 1 << 16;

pub(super) fn sequence(n: u64) -> SequenceNumber {
    // As long as real ones, and not comparable as text with shorter ones.
    SequenceNumber(format!("{}{n}", "1000000000000000"))
}

fn hash(key: &str) -> u32 {
    let hash = key.bytes().fold(7_u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte)));
    hash.wrapping_mul(40_503) % HASHES
}

impl FakeStream {
    /// One stream with one open shard.
    pub fn new() -> Self {
        let state = State {
            streams: Vec::new(),
            sequence: 100,
            shard_count: 0,
            page: 1000,
            started: Instant::now(),
            failing: BTreeMap::new(),
            hidden: BTreeMap::new(),
            calls: BTreeMap::new(),
        };
        let stream = Self(Arc::new(Mutex::new(state)));
        stream.enable();
        stream
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// A new stream with one open shard; the one before is closed.
    pub fn enable(&self) -> String {
        let mut state = self.state();
        for stream in &mut state.streams {
            stream.enabled = false;
            stream.shards.iter_mut().for_each(|shard| shard.closed = true);
        }
        let arn = format!("arn:aws:dynamodb:eu-west-1:1:table/t/stream/{}", state.streams.len() + 1);
        state.streams.push(Stream { arn: arn.clone(), enabled: true, shards: Vec::new() });
        state.add_shard(None, 0..HASHES);
        arn
    }

    /// The oldest stream is gone.
    pub fn forget_oldest(&self) {
        self.state().streams.remove(0);
    }

    pub fn set_page(&self, records: usize) {
        self.state().page = records;
    }

    /// Those of the first keys whose changes go to this shard.
    pub fn key_of(&self, shard: &ShardId, keys: u64) -> Vec<String> {
        let range = self.state().shard(shard).unwrap().range.clone();
        (0..keys).map(|n| format!("key-{n}")).filter(|key| range.contains(&hash(key))).collect()
    }

    /// A change of the item `key`; `value` goes into its sort key, so that a test knows it again.
    pub fn put(&self, key: &str, value: u64) {
        let mut state = self.state();
        state.sequence += 1;
        let (n, now) = (state.sequence, state.started.elapsed().as_secs());
        let change = Change {
            kind: ChangeKind::Insert,
            key: Key::new(key, value.to_string()),
            old: None,
            new: None,
            sequence: sequence(n),
            created_secs: 1_770_000_000 + now as i64,
            size_bytes: 100,
            by_ttl: false,
        };
        let shards = &mut state.streams.last_mut().unwrap().shards;
        let shard = shards.iter_mut().find(|shard| !shard.closed && shard.range.contains(&hash(key))).unwrap();
        shard.records.push(Arc::new(change));
    }

    /// The open shards of the newest stream.
    pub fn open_shards(&self) -> Vec<ShardId> {
        let state = self.state();
        state
            .streams
            .last()
            .unwrap()
            .shards
            .iter()
            .filter(|shard| !shard.closed)
            .map(|shard| shard.id.clone())
            .collect()
    }

    pub fn arn(&self) -> String {
        self.state().streams.last().unwrap().arn.clone()
    }

    /// Closes a shard, which goes on in so many children.
    pub fn split(&self, shard: &ShardId, parts: u32) -> Vec<ShardId> {
        let mut state = self.state();
        let shards = &mut state.streams.last_mut().unwrap().shards;
        let parent = shards.iter_mut().find(|found| found.id == *shard).unwrap();
        parent.closed = true;
        let range = parent.range.clone();
        let size = (range.end - range.start).div_ceil(parts);
        let cut = |part: u32| (range.start + part * size).min(range.end);
        (0..parts).map(|part| state.add_shard(Some(shard.clone()), cut(part)..cut(part + 1))).collect()
    }

    /// Trims away the oldest records of a shard.
    pub fn trim(&self, shard: &ShardId, records: usize) {
        let mut state = self.state();
        let shard = state.shard(shard).unwrap();
        shard.trimmed = records.min(shard.records.len());
    }

    /// The shard is trimmed away whole.
    pub fn forget(&self, shard: &ShardId) {
        for stream in &mut self.state().streams {
            stream.shards.retain(|found| found.id != *shard);
        }
    }

    /// The next requests of this kind (`records`, `iterator`, `describe`, `streams`) fail.
    pub fn fail(&self, operation: &'static str, kind: ErrorKind, times: usize) {
        self.state().failing.entry(operation).or_default().extend(std::iter::repeat_n(kind, times));
    }

    /// The next full listings don't show the shard; once for each shard.
    pub fn hide(&self, shard: &ShardId, listings: u32) {
        self.state().hidden.entry(shard.clone()).or_insert(listings);
    }

    pub fn calls(&self, operation: &'static str) -> u64 {
        self.state().calls.get(operation).copied().unwrap_or(0)
    }
}

impl State {
    fn add_shard(&mut self, parent: Option<ShardId>, range: Range<u32>) -> ShardId {
        self.shard_count += 1;
        let id = ShardId(format!("shardId-{:04}", self.shard_count));
        let start = self.sequence + 1;
        let (records, trimmed) = (Vec::new(), 0);
        let shard = FakeShard { id: id.clone(), parent, start, closed: false, range, records, trimmed };
        self.streams.last_mut().unwrap().shards.push(shard);
        id
    }

    fn shard(&mut self, id: &ShardId) -> Result<&mut FakeShard> {
        let found = self.streams.iter_mut().flat_map(|stream| &mut stream.shards).find(|shard| shard.id == *id);
        found.ok_or_else(|| CloudError::new(ErrorKind::NotFound, format!("read of {id}"), "no such shard"))
    }

    fn call(&mut self, operation: &'static str) -> Result<()> {
        *self.calls.entry(operation).or_default() += 1;
        match self.failing.get_mut(operation).and_then(VecDeque::pop_front) {
            Some(kind) => Err(CloudError::new(kind, operation, "the fake was told to fail")),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl ChangeStream for FakeStream {
    fn table(&self) -> &str {
        "t"
    }

    async fn streams(&self) -> Result<Vec<String>> {
        let mut state = self.state();
        state.call("streams")?;
        Ok(state.streams.iter().map(|stream| stream.arn.clone()).collect())
    }

    async fn describe(&self, arn: &str, request: DescribeRequest) -> Result<StreamDescription> {
        let mut state = self.state();
        state.call("describe")?;
        let full = request.children_of.is_none();
        let mut hidden = Vec::new();
        if full && request.after.is_none() {
            for (id, left) in &mut state.hidden {
                if *left > 0 {
                    *left -= 1;
                    hidden.push(id.clone());
                }
            }
        }
        let Some(stream) = state.streams.iter().find(|stream| stream.arn == arn) else {
            return Err(CloudError::new(ErrorKind::NotFound, "DescribeStream", format!("no stream {arn}")));
        };
        let wanted = |shard: &&FakeShard| match &request.children_of {
            Some(parent) => shard.parent.as_ref() == Some(parent),
            None => request.after.as_ref().is_none_or(|after| shard.id > *after) && !hidden.contains(&shard.id),
        };
        // Pages of two, so that nobody gets by with the first.
        let mut found: Vec<_> = stream.shards.iter().filter(wanted).collect();
        let more = found.len() > 2;
        found.truncate(2);
        let shards = found.into_iter().map(|shard| Shard {
            id: shard.id.clone(),
            parent: shard.parent.clone(),
            start: sequence(shard.start),
            end: shard.closed.then(|| shard.records.last().map_or(sequence(shard.start), |last| last.sequence.clone())),
        });
        let shards: Vec<_> = shards.collect();
        let last_evaluated = shards.last().filter(|_| more).map(|shard| shard.id.clone());
        Ok(StreamDescription { enabled: stream.enabled, shards, last_evaluated })
    }

    async fn iterator(&self, _arn: &str, shard: &ShardId, start: &IteratorStart) -> Result<ShardIterator> {
        let mut state = self.state();
        state.call("iterator")?;
        let now = state.started.elapsed();
        let found = state.shard(shard)?;
        let after =
            |sequence: &SequenceNumber| found.records.iter().filter(|change| change.sequence <= *sequence).count();
        let at = match start {
            IteratorStart::TrimHorizon => found.trimmed,
            IteratorStart::Latest => found.records.len(),
            IteratorStart::At(sequence) => found.records.iter().filter(|change| change.sequence < *sequence).count(),
            IteratorStart::After(sequence) => after(sequence),
        };
        if at < found.trimmed {
            return Err(CloudError::new(ErrorKind::TrimmedData, format!("GetShardIterator of {shard}"), "trimmed"));
        }
        Ok(ShardIterator(format!("{shard}|{at}|{}", now.as_millis())))
    }

    async fn records(&self, iterator: &ShardIterator, limit: usize) -> Result<RecordPage> {
        let mut state = self.state();
        state.call("records")?;
        let (now, page) = (state.started.elapsed(), state.page);
        let parts: Vec<&str> = iterator.0.split('|').collect();
        let (at, made): (usize, u64) = (parts[1].parse().unwrap(), parts[2].parse().unwrap());
        if now - Duration::from_millis(made) > Duration::from_secs(15 * 60) {
            return Err(CloudError::new(ErrorKind::ExpiredIterator, "GetRecords", "expired"));
        }
        let shard = state.shard(&ShardId(parts[0].to_owned()))?;
        if at < shard.trimmed {
            return Err(CloudError::new(ErrorKind::TrimmedData, format!("GetRecords of {}", shard.id), "trimmed"));
        }
        let to = (at + limit.min(page)).min(shard.records.len());
        let changes = shard.records[at..to].to_vec();
        let end = shard.closed && to == shard.records.len();
        let next = (!end).then(|| ShardIterator(format!("{}|{to}|{}", shard.id, now.as_millis())));
        Ok(RecordPage { changes, next })
    }
}

/// A queue that keeps what is sent to it.
#[derive(Clone, Default)]
pub(super) struct FakeQueue(Arc<Mutex<Vec<String>>>);

impl FakeQueue {
    pub fn bodies(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

#[async_trait]
impl Queue for FakeQueue {
    fn name(&self) -> &str {
        "dlq"
    }

    async fn send(&self, messages: &[Outgoing]) -> Result<Vec<Result<()>>> {
        self.0.lock().unwrap().extend(messages.iter().map(|message| message.body.clone()));
        Ok(messages.iter().map(|_| Ok(())).collect())
    }

    async fn receive(&self, _max: usize, _wait: Duration) -> Result<Vec<Message>> {
        Ok(Vec::new())
    }

    async fn delete(&self, receipts: &[Receipt]) -> Result<Vec<Result<()>>> {
        Ok(receipts.iter().map(|_| Ok(())).collect())
    }

    async fn set_visibility(&self, _receipt: &Receipt, _timeout: Duration) -> Result<()> {
        Ok(())
    }

    fn visibility_timeout(&self) -> Duration {
        Duration::from_secs(30)
    }

    async fn depth(&self) -> Result<QueueDepth> {
        Ok(QueueDepth::default())
    }
}
