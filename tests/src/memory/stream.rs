//! Change streams in memory: shards that end, split and are trimmed; streams that are disabled and enabled anew.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use penstock_engine::{
    cloud::{
        ChangeStream, CloudError, ErrorKind, Item, Result,
        change_stream::{
            Change, ChangeKind, DescribeRequest, IteratorStart, RecordPage, SequenceNumber, Shard, ShardId,
            ShardIterator, StreamDescription,
        },
        limits::RECORDS_PER_PAGE,
        table::Key,
    },
    time::Clock,
};

use super::lock;

/// Sequence numbers grow a digit after a thousand, so that who compares them as text learns it early.
const BASE: u128 = 999_999_999_999_999_999_000;

/// The change streams of a table.
pub struct MemoryStream {
    table: String,
    clock: Clock,
    shards: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    streams: Vec<One>,
    sequence: u128,
    shard_count: usize,
    /// Streams that there ever were: no ARN is given twice.
    stream_count: usize,
}

struct One {
    arn: String,
    enabled: bool,
    shards: Vec<OneShard>,
}

struct OneShard {
    id: ShardId,
    parent: Option<ShardId>,
    /// The keys' hashes that it takes, the last excluded.
    hashes: (u64, u64),
    start: u128,
    end: Option<u128>,
    /// Records up to here are gone.
    trimmed: u128,
    records: VecDeque<(u128, Arc<Change>)>,
}

impl State {
    fn new_shard(&mut self, parent: Option<ShardId>, hashes: (u64, u64)) -> OneShard {
        self.shard_count += 1;
        OneShard {
            id: ShardId(format!("shardId-{:08}", self.shard_count)),
            parent,
            hashes,
            start: self.sequence + 1,
            end: None,
            trimmed: self.sequence,
            records: VecDeque::new(),
        }
    }

    fn new_stream(&mut self, table: &str, shards: usize) {
        let width = u64::MAX / shards as u64;
        let shards = (0..shards as u64)
            .map(|at| {
                let last = if at + 1 == shards as u64 { u64::MAX } else { (at + 1) * width };
                self.new_shard(None, (at * width, last))
            })
            .collect();
        let arn = format!("arn:memory:{table}/stream/{}", self.stream_count);
        self.stream_count += 1;
        self.streams.push(One { arn, enabled: true, shards });
    }

    fn find(&self, arn: &str, shard: &ShardId) -> Result<&OneShard> {
        let stream = self.streams.iter().find(|stream| stream.arn == arn);
        let shard = stream.and_then(|stream| stream.shards.iter().find(|found| found.id == *shard));
        shard.ok_or_else(|| CloudError::new(ErrorKind::NotFound, format!("shard of {arn}"), "it isn't there"))
    }
}

impl MemoryStream {
    pub(super) fn new(table: &str, clock: Clock, shards: usize) -> Self {
        let mut state = State { sequence: BASE, ..State::default() };
        state.new_stream(table, shards);
        Self { table: table.to_owned(), clock, shards, state: Mutex::new(state) }
    }

    pub(super) fn append(&self, kind: ChangeKind, key: &Key, old: Option<Item>, new: Option<Item>, by_ttl: bool) {
        let mut state = lock(&self.state);
        state.sequence += 1;
        let sequence = state.sequence;
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let hash = hasher.finish();
        let change = Change {
            kind,
            key: key.clone(),
            old,
            new,
            sequence: number(sequence),
            created_secs: self.clock.now().timestamp(),
            size_bytes: 300,
            by_ttl,
        };
        let Some(stream) = state.streams.last_mut().filter(|stream| stream.enabled) else { return };
        let takes = |shard: &&mut OneShard| {
            shard.end.is_none() && shard.hashes.0 <= hash && (hash < shard.hashes.1 || hash == u64::MAX)
        };
        if let Some(shard) = stream.shards.iter_mut().find(takes) {
            shard.records.push_back((sequence, Arc::new(change.clone())));
        }
    }

    /// How many records of the newest stream come after what is done of their shards; per shard, where there are any.
    pub fn lag(&self, done: impl Fn(&str, &ShardId) -> Option<SequenceNumber>) -> Vec<(ShardId, usize)> {
        let state = lock(&self.state);
        let Some(stream) = state.streams.last() else { return Vec::new() };
        let left = |shard: &OneShard| {
            let done = done(&stream.arn, &shard.id).map_or(shard.trimmed, |at| parse(&at.0));
            shard.records.iter().filter(|(sequence, _)| *sequence > done).count()
        };
        let all = stream.shards.iter().map(|shard| (shard.id.clone(), left(shard)));
        all.filter(|(_, left)| *left > 0).collect()
    }

    /// Ends an open shard, which its children follow: one, or two that split it.
    pub fn roll(&self, which: usize, split: bool) {
        let mut state = lock(&self.state);
        let end = state.sequence;
        let Some(stream) = state.streams.last_mut() else { return };
        let mut open: Vec<_> = stream.shards.iter_mut().filter(|shard| shard.end.is_none()).collect();
        if open.is_empty() {
            return;
        }
        let at = which % open.len();
        let shard = &mut open[at];
        shard.end = Some(end.max(shard.start));
        let (id, (first, last)) = (shard.id.clone(), shard.hashes);
        let middle = first + (last - first) / 2;
        let parts = if split { vec![(first, middle), (middle, last)] } else { vec![(first, last)] };
        let children: Vec<_> = parts.into_iter().map(|part| state.new_shard(Some(id.clone()), part)).collect();
        if let Some(stream) = state.streams.last_mut() {
            stream.shards.extend(children);
        }
    }

    /// Trims everything there is: records, and shards that have ended.
    pub fn trim(&self) {
        let mut state = lock(&self.state);
        let sequence = state.sequence;
        for stream in &mut state.streams {
            stream.shards.retain(|shard| shard.end.is_none());
            for shard in &mut stream.shards {
                shard.trimmed = sequence;
                shard.records.clear();
            }
        }
        let last = state.streams.len() - 1;
        let mut at = 0;
        state.streams.retain(|stream| {
            at += 1;
            at - 1 == last || !stream.shards.is_empty()
        });
    }

    /// Disables the stream; what happens from then on is in no stream.
    pub fn disable(&self) {
        let mut state = lock(&self.state);
        let end = state.sequence;
        if let Some(stream) = state.streams.last_mut() {
            stream.enabled = false;
            for shard in stream.shards.iter_mut().filter(|shard| shard.end.is_none()) {
                shard.end = Some(end.max(shard.start));
            }
        }
    }

    /// Enables it again, under a new ARN.
    pub fn enable(&self) {
        let mut state = lock(&self.state);
        if state.streams.last().is_none_or(|stream| !stream.enabled) {
            let shards = self.shards;
            state.new_stream(&self.table, shards);
        }
    }
}

fn number(sequence: u128) -> SequenceNumber {
    SequenceNumber(sequence.to_string())
}

fn parse(text: &str) -> u128 {
    text.parse().unwrap_or_default()
}

#[async_trait]
impl ChangeStream for MemoryStream {
    fn table(&self) -> &str {
        &self.table
    }

    async fn streams(&self) -> Result<Vec<String>> {
        Ok(lock(&self.state).streams.iter().map(|stream| stream.arn.clone()).collect())
    }

    async fn describe(&self, arn: &str, request: DescribeRequest) -> Result<StreamDescription> {
        let state = lock(&self.state);
        let Some(stream) = state.streams.iter().find(|stream| stream.arn == arn) else {
            return Err(CloudError::new(ErrorKind::NotFound, format!("description of {arn}"), "it isn't there"));
        };
        let is_wanted = |shard: &&OneShard| {
            request.after.as_ref().is_none_or(|after| shard.id > *after)
                && request.children_of.as_ref().is_none_or(|parent| shard.parent.as_ref() == Some(parent))
        };
        let shards = stream.shards.iter().filter(is_wanted).map(|shard| Shard {
            id: shard.id.clone(),
            parent: shard.parent.clone(),
            start: number(shard.start),
            end: shard.end.map(number),
        });
        Ok(StreamDescription { enabled: stream.enabled, shards: shards.collect(), last_evaluated: None })
    }

    async fn iterator(&self, arn: &str, shard: &ShardId, start: &IteratorStart) -> Result<ShardIterator> {
        let state = lock(&self.state);
        let found = state.find(arn, shard)?;
        let after = match start {
            IteratorStart::TrimHorizon => found.trimmed,
            IteratorStart::Latest => state.sequence,
            IteratorStart::At(at) => parse(&at.0).saturating_sub(1),
            IteratorStart::After(at) => parse(&at.0),
        };
        if after < found.trimmed && after + 1 > found.start {
            return Err(CloudError::new(ErrorKind::TrimmedData, format!("iterator of {shard}"), "trimmed"));
        }
        Ok(ShardIterator(format!("{arn}|{}|{after}", shard.0)))
    }

    async fn records(&self, iterator: &ShardIterator, limit: usize) -> Result<RecordPage> {
        let mut parts = iterator.0.split('|');
        let (arn, id, after) = match (parts.next(), parts.next(), parts.next()) {
            (Some(arn), Some(id), Some(after)) => (arn, ShardId(id.to_owned()), parse(after)),
            _ => return Err(CloudError::new(ErrorKind::Invalid, "records", "no iterator of this stream")),
        };
        if limit == 0 || limit > RECORDS_PER_PAGE {
            return Err(CloudError::new(
                ErrorKind::Invalid,
                format!("records of {id}"),
                "asks for too few or too many",
            ));
        }
        let state = lock(&self.state);
        let shard = state.find(arn, &id)?;
        if after < shard.trimmed && after + 1 > shard.start {
            return Err(CloudError::new(ErrorKind::TrimmedData, format!("records of {id}"), "trimmed"));
        }
        let mut page = RecordPage::default();
        let mut last = after;
        for (sequence, change) in shard.records.iter().filter(|(sequence, _)| *sequence > after).take(limit) {
            page.changes.push(Arc::clone(change));
            last = *sequence;
        }
        let is_over = shard.end.is_some() && shard.records.back().is_none_or(|(sequence, _)| *sequence <= last);
        page.next = (!is_over).then(|| ShardIterator(format!("{arn}|{}|{last}", id.0)));
        Ok(page)
    }
}
