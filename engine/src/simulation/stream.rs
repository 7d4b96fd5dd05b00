//! A change stream in memory, with shards that roll over, split and are trimmed, iterators that expire, listings that are
//! late, and requests that fail.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

use crate::cloud::{
    AttributeValue, ChangeStream, CloudError, ErrorKind, Item, Result,
    change_stream::{
        Change, ChangeKind, DescribeRequest, IteratorStart, RecordPage, SequenceNumber, Shard, ShardId, ShardIterator,
        StreamDescription,
    },
    table::Key,
};

/// A change stream that a test moves. Cheap to clone; clones are the same stream.
#[derive(Clone)]
pub struct FakeStream {
    table: &'static str,
    state: Arc<Mutex<State>>,
}

struct State {
    streams: Vec<Stream>,
    sequence: u64,
    shard_count: u32,
    page: usize,
    listing_page: usize,
    /// So many further pages are empty though records follow.
    empty_pages: u32,
    record_bytes: u64,
    started: Instant,
    failing: BTreeMap<&'static str, VecDeque<ErrorKind>>,
    /// Shards that so many further full listings don't show.
    hidden: BTreeMap<ShardId, u32>,
    calls: BTreeMap<&'static str, u64>,
}

struct Stream {
    arn: String,
    enabled: bool,
    shards: BTreeMap<ShardId, FakeShard>,
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

/// The attribute that holds a change's value.
const VALUE: &str = "value";

/// The value that a change of a [`FakeStream`] was put with.
///
/// # Panics
///
/// When it is a change of another stream.
pub fn value_of(change: &Change) -> u64 {
    let value = change.new.as_ref().and_then(|image| image.get(VALUE));
    match value {
        Some(AttributeValue::N(number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
            number.bytes().fold(0, |value, byte| value * 10 + u64::from(byte - b'0'))
        }
        _ => panic!("{change:?} has no value"),
    }
}

/// Hashes of keys go from 0 to this.
const HASHES: u32 = 1 << 16;

/// The sequence number of the `n`th change of a [`FakeStream`]; its first one is 101.
pub fn sequence(n: u64) -> SequenceNumber {
    // As long as real ones, and not comparable as text with shorter ones.
    SequenceNumber(format!("{}{n}", "1000000000000000"))
}

fn hash(key: &str) -> u32 {
    let hash = key.bytes().fold(7_u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte)));
    hash.wrapping_mul(40_503) % HASHES
}

impl FakeStream {
    /// One stream with one open shard, of table `t`.
    pub fn new() -> Self {
        Self::of("t")
    }

    /// The same of a table that has this name in its cloud.
    pub fn of(table: &'static str) -> Self {
        let state = State {
            streams: Vec::new(),
            sequence: 100,
            shard_count: 0,
            page: 1000,
            // So few that nobody gets by with the first page.
            listing_page: 2,
            empty_pages: 0,
            record_bytes: 100,
            started: Instant::now(),
            failing: BTreeMap::new(),
            hidden: BTreeMap::new(),
            calls: BTreeMap::new(),
        };
        let stream = Self { table, state: Arc::new(Mutex::new(state)) };
        stream.enable();
        stream
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new stream with one open shard; the one before is closed.
    pub fn enable(&self) -> String {
        let mut state = self.state();
        for stream in &mut state.streams {
            stream.enabled = false;
            stream.shards.values_mut().for_each(|shard| shard.closed = true);
        }
        let arn = format!("arn:aws:dynamodb:eu-west-1:1:table/t/stream/{}", state.streams.len() + 1);
        state.streams.push(Stream { arn: arn.clone(), enabled: true, shards: BTreeMap::new() });
        state.add_shard(None, 0..HASHES);
        arn
    }

    /// The oldest stream is gone.
    pub fn forget_oldest(&self) {
        self.state().streams.remove(0);
    }

    /// A page holds at most so many records.
    pub fn set_page(&self, records: usize) {
        self.state().page = records;
    }

    /// The size of each change from now on; 100 bytes before.
    pub fn set_record_bytes(&self, bytes: u64) {
        self.state().record_bytes = bytes;
    }

    /// A listing has so many shards on a page; 2 before.
    pub fn set_listing_page(&self, shards: usize) {
        self.state().listing_page = shards;
    }

    /// The next pages are empty, whatever follows them.
    pub fn empty_pages(&self, pages: u32) {
        self.state().empty_pages = pages;
    }

    /// Those of the first keys whose changes go to this shard.
    pub fn key_of(&self, shard: &ShardId, keys: u64) -> Vec<String> {
        let state = self.state();
        let found = state.find(shard).map(|shard| shard.range.clone());
        let range = found.unwrap_or(0..0);
        (0..keys).map(|n| format!("key-{n}")).filter(|key| range.contains(&hash(key))).collect()
    }

    /// A change of the item `key`; [`value_of`] tells the value again.
    pub fn put(&self, key: &str, value: u64) {
        let mut state = self.state();
        state.sequence += 1;
        let (n, now) = (state.sequence, state.started.elapsed().as_secs());
        let mut image = Item::default();
        image.insert(VALUE.to_owned(), AttributeValue::N(value.to_string()));
        let change = Change {
            kind: ChangeKind::Insert,
            key: Key::new(key, "item"),
            old: None,
            new: Some(image),
            sequence: sequence(n),
            created_secs: 1_770_000_000 + now as i64,
            size_bytes: state.record_bytes,
            by_ttl: false,
        };
        let shard = state.newest().shards.values_mut().find(|shard| !shard.closed && shard.range.contains(&hash(key)));
        match shard {
            Some(shard) => shard.records.push(Arc::new(change)),
            None => panic!("the newest stream has no open shard for {key}"),
        }
    }

    /// The open shards of the newest stream.
    pub fn open_shards(&self) -> Vec<ShardId> {
        let mut state = self.state();
        state.newest().shards.values().filter(|shard| !shard.closed).map(|shard| shard.id.clone()).collect()
    }

    /// The ARN of the newest stream.
    pub fn arn(&self) -> String {
        self.state().newest().arn.clone()
    }

    /// Closes a shard, which goes on in so many children.
    pub fn split(&self, shard: &ShardId, parts: u32) -> Vec<ShardId> {
        let mut state = self.state();
        let Some(parent) = state.newest().shards.get_mut(shard) else {
            panic!("the newest stream has no shard {shard}")
        };
        parent.closed = true;
        let range = parent.range.clone();
        let size = (range.end - range.start).div_ceil(parts);
        let cut = |part: u32| (range.start + part * size).min(range.end);
        (0..parts).map(|part| state.add_shard(Some(shard.clone()), cut(part)..cut(part + 1))).collect()
    }

    /// All changes of a shard, by its id; trimmed ones too.
    pub fn records(&self, shard: &str) -> Vec<Arc<Change>> {
        let id = ShardId(shard.to_owned());
        self.state().find(&id).map(|shard| shard.records.clone()).unwrap_or_default()
    }

    /// Trims away the oldest records of a shard.
    pub fn trim(&self, shard: &ShardId, records: usize) {
        let mut state = self.state();
        let found = state.find_mut(shard);
        match found {
            Some(shard) => shard.trimmed = records.min(shard.records.len()),
            None => panic!("there is no shard {shard}"),
        }
    }

    /// The shard is trimmed away whole.
    pub fn forget(&self, shard: &ShardId) {
        for stream in &mut self.state().streams {
            stream.shards.remove(shard);
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

    /// How many requests of this kind were made.
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
        self.newest().shards.insert(id.clone(), shard);
        id
    }

    fn newest(&mut self) -> &mut Stream {
        match self.streams.last_mut() {
            Some(stream) => stream,
            None => panic!("all streams were forgotten"),
        }
    }

    fn find(&self, id: &ShardId) -> Option<&FakeShard> {
        self.streams.iter().rev().find_map(|stream| stream.shards.get(id))
    }

    fn find_mut(&mut self, id: &ShardId) -> Option<&mut FakeShard> {
        self.streams.iter_mut().rev().find_map(|stream| stream.shards.get_mut(id))
    }

    fn shard(&self, id: &ShardId) -> Result<&FakeShard> {
        self.find(id).ok_or_else(|| CloudError::new(ErrorKind::NotFound, format!("read of {id}"), "no such shard"))
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
        self.table
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
        let mut found: Vec<_> = stream.shards.values().filter(wanted).collect();
        let more = found.len() > state.listing_page;
        found.truncate(state.listing_page);
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
        let before =
            |wanted: &dyn Fn(&SequenceNumber) -> bool| found.records.partition_point(|change| wanted(&change.sequence));
        let at = match start {
            IteratorStart::TrimHorizon => found.trimmed,
            IteratorStart::Latest => found.records.len(),
            IteratorStart::At(sequence) => before(&|found| found < sequence),
            IteratorStart::After(sequence) => before(&|found| found <= sequence),
        };
        if at < found.trimmed {
            return Err(CloudError::new(ErrorKind::TrimmedData, format!("GetShardIterator of {shard}"), "trimmed"));
        }
        Ok(ShardIterator(format!("{shard}|{at}|{}", now.as_millis())))
    }

    async fn records(&self, iterator: &ShardIterator, limit: usize) -> Result<RecordPage> {
        let mut state = self.state();
        state.call("records")?;
        let empty = state.empty_pages > 0;
        state.empty_pages = state.empty_pages.saturating_sub(1);
        let (now, page) = (state.started.elapsed(), if empty { 0 } else { state.page });
        let Some((id, at, made)) = parse(iterator) else {
            return Err(CloudError::new(ErrorKind::Invalid, "GetRecords", format!("{iterator:?} is no iterator")));
        };
        if now - Duration::from_millis(made) > Duration::from_secs(15 * 60) {
            return Err(CloudError::new(ErrorKind::ExpiredIterator, "GetRecords", "expired"));
        }
        let shard = state.shard(&id)?;
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

fn parse(iterator: &ShardIterator) -> Option<(ShardId, usize, u64)> {
    let mut parts = iterator.0.split('|');
    Some((ShardId(parts.next()?.to_owned()), parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

impl Default for FakeStream {
    fn default() -> Self {
        Self::new()
    }
}
