//! Which shards this worker should take, and which one it should give away. No I/O, no clock.
//!
//! There is no leader. Every worker looks at the same leases and comes to the same plan: free shards go one after another
//! to whoever has the fewest. A worker that has too many gives one away itself, after reading it out: no shard is torn
//! from a living owner, so a hand-over never has two readers and leaves no marker that could be forgotten (F23, F24).

use std::collections::{BTreeMap, BTreeSet};

use super::{
    shard_graph::{Presence, ShardGraph},
    shard_item::ShardItem,
};
use crate::{cloud::change_stream::ShardId, leases::LeaseState};

/// So many rounds in a row must find the load uneven before a shard changes hands.
pub const UNEVEN_ROUNDS: u32 = 6;

/// A shard that nobody has taken for so many rounds is taken by whoever sees that, fair or not.
pub const OVERDUE_ROUNDS: u32 = 10;

/// A shard of a table's streams.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardKey {
    /// The stream's ARN.
    pub arn: String,
    /// The shard.
    pub shard: ShardId,
}

/// What is known of one stream.
#[derive(Debug, Clone)]
pub struct StreamFacts<'a> {
    /// Its ARN.
    pub arn: &'a str,
    /// Its shards.
    pub graph: &'a ShardGraph,
    /// Its lease items.
    pub leases: &'a BTreeMap<ShardId, LeaseFacts>,
    /// Shards of which a child has been begun.
    begun: BTreeSet<ShardId>,
}

/// What is known of one shard's lease.
#[derive(Debug, Clone)]
pub struct LeaseFacts {
    /// Who holds it.
    pub state: LeaseState,
    /// Where reading stands.
    pub item: ShardItem,
}

/// All that a plan depends on.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// This worker.
    pub me: &'a str,
    /// The table's streams, oldest first.
    pub streams: Vec<StreamFacts<'a>>,
    /// The workers that are there, whether they hold shards or not.
    pub workers: BTreeSet<String>,
    /// The shards that this worker reads, but for those that it is giving away.
    pub mine: BTreeSet<ShardKey>,
    /// Shards that this worker is giving away.
    pub giving: usize,
    /// For how many rounds each shard has been free to take.
    pub free_rounds: &'a BTreeMap<ShardKey, u32>,
    /// For how many rounds the load has been uneven.
    pub uneven_rounds: u32,
}

/// What to do now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Take these.
    pub take: Vec<ShardKey>,
    /// Give this one away: read it out, write its checkpoint, release it.
    pub give: Option<ShardKey>,
    /// Shards that nobody holds and anybody could: for the count of rounds.
    pub free: BTreeSet<ShardKey>,
    /// Why each shard that isn't read can't be read yet.
    pub waiting: BTreeMap<ShardKey, String>,
    /// Tombstones that have done their duty.
    pub buried: Vec<ShardKey>,
    /// Whether the load is uneven.
    pub uneven: bool,
}

/// Where a shard stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It needs no reader any more.
    Done,
    /// It has to wait, and why.
    Waiting(String),
    /// It may be read.
    Ready,
}

/// Decides what this worker should do.
pub fn plan(facts: &Facts<'_>) -> Plan {
    let mut plan = Plan::default();
    let mut counts: BTreeMap<&str, usize> = facts.workers.iter().map(|worker| (worker.as_str(), 0)).collect();
    let mut dead = BTreeSet::new();
    let mut free = Vec::new();
    let mut undrained: Option<&str> = None;
    for stream in &facts.streams {
        // One listing proves nothing: it may lack the very shard that isn't done.
        let mut all_done = !stream.graph.is_enabled() && !stream.graph.is_unsettled();
        for shard in stream.shards() {
            let key = ShardKey { arn: stream.arn.to_owned(), shard: shard.clone() };
            let lease = stream.leases.get(shard);
            let standing = match (undrained, stream.standing(shard)) {
                (Some(older), Standing::Ready) if !lease.is_some_and(|lease| lease.item.has_started()) => {
                    Standing::Waiting(format!("the table's older stream {older} is read to its end first"))
                }
                (_, standing) => standing,
            };
            all_done &= standing == Standing::Done;
            match (standing, lease.map(|lease| &lease.state)) {
                (Standing::Done, _) => {
                    if stream.is_buried(shard) {
                        plan.buried.push(key);
                    }
                }
                (_, _) if facts.mine.contains(&key) => {}
                (Standing::Waiting(reason), _) => {
                    plan.waiting.insert(key, reason);
                }
                (Standing::Ready, Some(LeaseState::Unreadable { reason })) => {
                    plan.waiting.insert(key, reason.clone());
                }
                (Standing::Ready, Some(LeaseState::Held { owner, .. })) => {
                    // One that shows my name and isn't mine is left over from before a restart: it has to die first.
                    if owner != facts.me {
                        *counts.entry(owner).or_default() += 1;
                    }
                }
                (Standing::Ready, state) => {
                    if let Some(LeaseState::Dead { owner, .. }) = state {
                        dead.insert(owner.as_str());
                    }
                    let start = stream.graph.get(shard).map(|node| node.start.clone());
                    free.push((start, key));
                }
            }
        }
        if !all_done && undrained.is_none() {
            undrained = Some(stream.arn);
        }
    }
    // A worker that let a lease die is gone, whatever else still carries its name.
    counts.retain(|worker, _| !dead.contains(worker));
    counts.insert(facts.me, facts.mine.len());
    plan.uneven = share(facts, &mut plan, &mut counts, free);
    plan
}

/// Hands out what is free, and finds out whether I have too many. Returns whether the load is uneven.
fn share<'a>(
    facts: &Facts<'a>,
    plan: &mut Plan,
    counts: &mut BTreeMap<&'a str, usize>,
    mut free: Vec<(Option<crate::cloud::change_stream::SequenceNumber>, ShardKey)>,
) -> bool {
    free.sort();
    let nothing_free = free.is_empty();
    for (_, key) in free {
        let overdue = facts.free_rounds.get(&key).is_some_and(|rounds| *rounds >= OVERDUE_ROUNDS);
        let poorest = counts.iter().min_by_key(|(worker, count)| (**count, **worker)).map(|(worker, _)| *worker);
        let taker = if overdue { facts.me } else { poorest.unwrap_or(facts.me) };
        *counts.entry(taker).or_default() += 1;
        plan.free.insert(key.clone());
        if taker == facts.me {
            plan.take.push(key);
        }
    }
    let richest = counts.iter().max_by_key(|(worker, count)| (**count, std::cmp::Reverse(**worker)));
    let poorest = counts.values().min().copied().unwrap_or(0);
    let Some((richest, most)) = richest else { return false };
    let uneven = nothing_free && *most >= poorest + 2;
    if uneven && *richest == facts.me && facts.giving == 0 && facts.uneven_rounds + 1 >= UNEVEN_ROUNDS {
        plan.give = facts.mine.last().cloned();
    }
    uneven
}

impl<'a> StreamFacts<'a> {
    /// What is known of the stream `arn`.
    pub fn new(arn: &'a str, graph: &'a ShardGraph, leases: &'a BTreeMap<ShardId, LeaseFacts>) -> Self {
        let begun = leases.iter().filter(|(_, lease)| lease.item.has_started());
        let parents = |(id, lease): (&ShardId, &LeaseFacts)| {
            lease
                .item
                .parents
                .iter()
                .cloned()
                .chain(graph.get(id).and_then(|node| node.parent.clone()))
                .collect::<Vec<_>>()
        };
        Self { arn, graph, leases, begun: begun.flat_map(parents).collect() }
    }

    /// All shards that are listed or have an item.
    pub fn shards(&self) -> BTreeSet<&ShardId> {
        self.graph.shards().map(|(id, _)| id).chain(self.leases.keys()).collect()
    }

    fn item(&self, shard: &ShardId) -> Option<&ShardItem> {
        self.leases.get(shard).map(|lease| &lease.item)
    }

    /// Where a shard stands: whether it may be read (I6).
    pub fn standing(&self, shard: &ShardId) -> Standing {
        if self.is_done(shard) {
            return Standing::Done;
        }
        // Its own beginning was only possible because its parents were done.
        if self.item(shard).is_some_and(ShardItem::has_started) {
            return Standing::Ready;
        }
        match self.parents(shard).into_iter().find_map(|parent| self.why_unfinished(&parent)) {
            Some(reason) => Standing::Waiting(reason),
            None => Standing::Ready,
        }
    }

    /// Whether nobody needs to read it any more: by its tombstone, or because a child has been begun (which outlives a
    /// tombstone that was removed too early, F7).
    fn is_done(&self, shard: &ShardId) -> bool {
        self.begun.contains(shard) || self.item(shard).is_some_and(|item| item.ended.is_some())
    }

    fn parents(&self, shard: &ShardId) -> BTreeSet<ShardId> {
        let listed = self.graph.get(shard).and_then(|node| node.parent.clone());
        let noted = self.item(shard).map(|item| item.parents.clone()).unwrap_or_default();
        listed.into_iter().chain(noted).collect()
    }

    fn why_unfinished(&self, parent: &ShardId) -> Option<String> {
        if self.is_done(parent) {
            return None;
        }
        match (self.leases.get(parent).map(|lease| &lease.state), self.graph.presence(parent)) {
            (Some(LeaseState::Held { owner, .. }), _) => Some(format!("its parent {parent} is still read by {owner}")),
            (Some(_), _) => Some(format!("its parent {parent} isn't read to its end, and nobody reads it")),
            (None, Presence::Listed) => Some(format!("its parent {parent} isn't read yet")),
            (None, Presence::Unconfirmed) => {
                Some(format!("its parent {parent} isn't listed; listing again to be sure"))
            }
            (None, Presence::Gone) => None,
        }
    }

    /// Whether a tombstone may go: nobody lists the shard any more, and every child has been begun or is gone too (F7).
    fn is_buried(&self, shard: &ShardId) -> bool {
        let Some(item) = self.item(shard) else { return false };
        item.ended.is_some()
            && self.graph.presence(shard) == Presence::Gone
            && item.children.iter().all(|child| match self.item(child) {
                Some(item) => item.has_started(),
                None => self.graph.presence(child) == Presence::Gone,
            })
    }
}
