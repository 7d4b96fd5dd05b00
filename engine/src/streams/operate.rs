//! What a person may do with the shards of a table: look at them from outside, free a lease, begin somewhere else, carry
//! the checkpoints over to another table of leases.
//!
//! What would be done is planned first, without I/O ([`plan_release`], [`plan_reset`], [`plan_import`]), so that it can be
//! shown; [`carry_out`] does one step by one conditional write. That write takes the lease away as well. So a reader that
//! has the shard loses it, whatever it is doing, can write no checkpoint any more (I7), and whoever takes the shard next
//! begins where the item says. A release writes nothing else. Where the item is to say something else, that goes over the
//! checkpoints that a living reader wrote meanwhile, for it is what was asked; but not over an end that it has reached.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use serde_dynamo::{AttributeValue, Item};

use super::{
    assignment::{LeaseFacts, Standing, StreamFacts},
    discovery::{Discovery, Pace},
    shard_graph::{CONFIRMATIONS, ShardGraph},
    shard_item::{ENDED, Ending, ShardItem, ShardStart},
};
use crate::{
    cloud::{
        ChangeStream, Result, Table,
        change_stream::{SequenceNumber, Shard, ShardId},
        table::{Carried, Condition, Consistency, Key, Query, Write, carry_out as carry, query_all},
    },
    leases::{COUNTER, LEASE_ATTRIBUTES, LeaseState, OWNER, TOKEN, holding},
};

/// So often a step is tried whose lease is renewed just then.
const TRIES: u32 = 5;

/// One shard, seen from outside.
#[derive(Debug, Clone, Serialize)]
pub struct SeenShard {
    /// The stream's ARN.
    pub arn: String,
    /// The shard.
    pub shard: ShardId,
    /// Whether the stream lists it.
    pub listed: bool,
    /// Whether it still takes changes, by the listing.
    pub open: bool,
    /// The first sequence number that it may hold, if it is listed.
    pub first: Option<SequenceNumber>,
    /// The last one, if it is listed and closed.
    pub last: Option<SequenceNumber>,
    /// Who holds its lease. Whether that one is alive can't be told by one look.
    pub owner: Option<String>,
    /// Where reading stands, if it has an item.
    pub item: Option<ShardItem>,
    /// Why it isn't read: what it waits for, or what is wrong with its item.
    pub reason: Option<String>,
}

impl SeenShard {
    /// One word for what it is doing.
    pub fn state(&self) -> &'static str {
        match (&self.item, &self.owner, &self.reason) {
            (Some(item), ..) if item.ended.is_some() => "ended",
            (_, Some(_), _) => "held",
            (_, None, Some(_)) => "waiting",
            (_, None, None) => "free",
        }
    }
}

/// Looks at all shards of a table's streams that are listed or have an item; oldest stream first.
pub async fn look(stream: Arc<dyn ChangeStream>, leases: &dyn Table) -> Result<Vec<SeenShard>> {
    let table = stream.table().to_owned();
    let discovery = Discovery::new(stream, table, Arc::new(Pace::of_describe()));
    let mut seen = Vec::new();
    for arn in discovery.streams().await? {
        let listing = discovery.list(&arn).await?;
        let items = query_all(leases, Query::partition(&arn).strong()).await?;
        let items = items.into_iter().filter_map(|item| Some((id_of(leases, &item)?, item))).collect();
        seen.extend(of_stream(&arn, &listing, items));
    }
    Ok(seen)
}

fn id_of(leases: &dyn Table, item: &Item) -> Option<ShardId> {
    match item.get(&leases.keys().sort) {
        Some(AttributeValue::S(id)) => Some(ShardId(id.clone())),
        _ => None,
    }
}

fn of_stream(arn: &str, listing: &super::shard_graph::Listing, items: BTreeMap<ShardId, Item>) -> Vec<SeenShard> {
    let mut facts = BTreeMap::new();
    for (id, item) in &items {
        let key = Key::new(arn, id.0.as_str());
        let state = match holding(&key, Some(item)) {
            Ok(None) => LeaseState::Free,
            Ok(Some(held)) => LeaseState::Held { owner: held.owner, token: held.token },
            Err(error) => LeaseState::Unreadable { reason: error.to_string() },
        };
        let (state, item) = match ShardItem::decode(arn, &id.0, item) {
            Ok(item) => (state, item),
            Err(error) => (LeaseState::Unreadable { reason: error.to_string() }, ShardItem::default()),
        };
        facts.insert(id.clone(), LeaseFacts { state, item });
    }
    let mut graph = ShardGraph::default();
    // One listing as often as is needed to conclude from it: a person looks again if in doubt.
    (0..CONFIRMATIONS).for_each(|_| graph.observe(listing, facts.keys()));
    let stream = StreamFacts::new(arn, &graph, &facts);
    let listed: BTreeMap<&ShardId, &Shard> = listing.shards.iter().map(|shard| (&shard.id, shard)).collect();
    let one = |id: &ShardId| {
        let (shard, lease) = (listed.get(id), facts.get(id));
        let (owner, broken) = match lease.map(|lease| &lease.state) {
            Some(LeaseState::Held { owner, .. } | LeaseState::Dead { owner, .. }) => (Some(owner.clone()), None),
            Some(LeaseState::Unreadable { reason }) => (None, Some(reason.clone())),
            Some(LeaseState::Free) | None => (None, None),
        };
        let waiting = match stream.standing(id) {
            Standing::Waiting(reason) => Some(reason),
            Standing::Ready | Standing::Done => None,
        };
        SeenShard {
            arn: arn.to_owned(),
            shard: id.clone(),
            listed: shard.is_some(),
            open: shard.is_some_and(|shard| shard.end.is_none()),
            first: shard.map(|shard| shard.start.clone()),
            last: shard.and_then(|shard| shard.end.clone()),
            owner,
            item: lease.filter(|_| broken.is_none()).map(|lease| lease.item.clone()),
            reason: broken.or(waiting),
        }
    };
    stream.shards().into_iter().map(one).collect()
}

/// Where a shard is to be read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResetTo {
    /// From the oldest change that the stream still keeps.
    TrimHorizon,
    /// From the changes that come from now on.
    Latest,
    /// Behind this change.
    Sequence(SequenceNumber),
}

impl std::str::FromStr for ResetTo {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.to_ascii_uppercase().as_str() {
            "TRIM_HORIZON" => Ok(Self::TrimHorizon),
            "LATEST" => Ok(Self::Latest),
            digits if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Ok(Self::Sequence(SequenceNumber(digits.to_owned())))
            }
            _ => Err(format!("`{text}` is no place: write TRIM_HORIZON, LATEST or a sequence number")),
        }
    }
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The stream's ARN.
    pub arn: String,
    /// The shard.
    pub shard: ShardId,
    /// Who loses its lease by it.
    pub owner: Option<String>,
    /// Whether its item said that it has ended.
    pub ended: bool,
    /// What its item is to say; without it, what it says by then.
    pub after: Option<ShardItem>,
    /// What that means, for people.
    pub text: String,
}

/// Plans to free the lease of a shard, or of all that are held.
pub fn plan_release(seen: &[SeenShard], shard: Option<&ShardId>) -> std::result::Result<Vec<Step>, String> {
    let chosen = choose(seen, shard)?;
    let held = chosen.into_iter().filter(|seen| seen.owner.is_some());
    Ok(held.map(|seen| step(seen, None, "free its lease".to_owned())).collect())
}

/// Plans to read a shard, or all, from somewhere else.
///
/// # Errors
///
/// When that can't have the effect that is asked for; the text says why, and what to ask for instead.
pub fn plan_reset(
    seen: &[SeenShard],
    shard: Option<&ShardId>,
    to: &ResetTo,
    now_secs: i64,
) -> std::result::Result<Vec<Step>, String> {
    let chosen = choose(seen, shard)?;
    if let (ResetTo::Sequence(_), None) = (to, shard) {
        return Err("a sequence number belongs to one shard: name it with --shard".to_owned());
    }
    let ids: BTreeSet<_> = chosen.iter().map(|seen| (&seen.arn, &seen.shard)).collect();
    let mut steps = Vec::new();
    for one in chosen.into_iter().filter(|seen| seen.listed) {
        let before = one.item.clone().unwrap_or_default();
        // A shard of which a child has been begun counts as done, whatever its own item says.
        let begun = seen.iter().find(|other| {
            let item = other.item.as_ref();
            other.arn == one.arn
                && !ids.contains(&(&other.arn, &other.shard))
                && item.is_some_and(|item| item.has_started() && item.parents.contains(&one.shard))
        });
        if let Some(child) = begun {
            return Err(format!(
                "{} is done for good: its child {} has been begun; reset that too, or all shards at once",
                one.shard, child.shard
            ));
        }
        let fresh = ShardItem { parents: before.parents.clone(), known_secs: Some(now_secs), ..ShardItem::default() };
        let (after, text) = match to {
            ResetTo::TrimHorizon => (fresh, "read it from the oldest change kept".to_owned()),
            ResetTo::Latest if one.open => (
                ShardItem { start: ShardStart::Latest, known_secs: None, ..fresh },
                "read what comes from now on".to_owned(),
            ),
            ResetTo::Latest => {
                let children = before.children.clone();
                let ended = Some(Ending::BeforeStart);
                (ShardItem { ended, children, known_secs: None, ..fresh }, "never read it: it is closed".to_owned())
            }
            ResetTo::Sequence(sequence) => {
                let outside = one.first.as_ref().is_some_and(|first| sequence < first)
                    || one.last.as_ref().is_some_and(|last| sequence > last);
                if outside {
                    let last = one.last.as_ref().map_or("its end".to_owned(), ToString::to_string);
                    let first = one.first.as_ref().map_or("its beginning".to_owned(), ToString::to_string);
                    return Err(format!("{sequence} is not in {}, which goes from {first} to {last}", one.shard));
                }
                (ShardItem { checkpoint: Some(sequence.clone()), ..fresh }, format!("read it behind {sequence}"))
            }
        };
        steps.push(step(one, Some(after), text));
    }
    Ok(steps)
}

fn choose<'a>(seen: &'a [SeenShard], shard: Option<&ShardId>) -> std::result::Result<Vec<&'a SeenShard>, String> {
    let chosen: Vec<_> = seen.iter().filter(|seen| shard.is_none_or(|shard| seen.shard == *shard)).collect();
    match shard {
        Some(shard) if chosen.is_empty() => Err(format!("there is no shard {shard}: `penstock shards` lists them")),
        _ => Ok(chosen),
    }
}

fn step(seen: &SeenShard, after: Option<ShardItem>, text: String) -> Step {
    let ended = has_ended(seen);
    Step { arn: seen.arn.clone(), shard: seen.shard.clone(), owner: seen.owner.clone(), ended, after, text }
}

fn has_ended(seen: &SeenShard) -> bool {
    seen.item.as_ref().is_some_and(|item| item.ended.is_some())
}

/// How a step ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Stepped {
    /// The item says so now, and its lease is free.
    Done,
    /// It was renewed or written again and again meanwhile: try again.
    Busy,
    /// It has been read to its end since it was planned, so that the plan may be another now: look again.
    Ended,
}

/// Carries a step out: by one write, on the condition that the lease is as it was just read.
pub async fn carry_out(leases: &dyn Table, step: &Step) -> Result<Stepped> {
    let Some(after) = &step.after else { return free(leases, &step.arn, &step.shard.0).await };
    let key = Key::new(step.arn.as_str(), step.shard.0.as_str());
    for _ in 0..TRIES {
        let item = leases.get(&key, Consistency::Strong).await?;
        // An item that can't be read doesn't say that its shard has ended, and is repaired by this.
        let says = |item| ShardItem::decode(&step.arn, &step.shard.0, item).is_ok_and(|item| item.ended.is_some());
        if !step.ended && item.as_ref().is_some_and(says) {
            return Ok(Stepped::Ended);
        }
        match carry(leases, &freeing(&key, item.as_ref(), after)).await? {
            Carried::Applied(_) => return Ok(Stepped::Done),
            Carried::Refused(_) => {}
        }
    }
    Ok(Stepped::Busy)
}

/// The write that makes an item say `after` and frees its lease.
fn freeing(key: &Key, before: Option<&Item>, after: &ShardItem) -> Write {
    let seen = |name: &str| Condition::as_read(name, before.and_then(|item| item.get(name)));
    let condition = seen(TOKEN).and(seen(COUNTER)).and(seen(ENDED));
    let mut write = Write::update(key.clone(), condition).remove(OWNER).remove(TOKEN);
    let set = after.encode();
    let known = |name: &String| ShardItem::ATTRIBUTES.contains(&name.as_str());
    let gone = before.into_iter().flat_map(|item| item.keys()).filter(|name| known(name) && !set.contains_key(*name));
    for name in gone {
        write = write.remove(name.clone());
    }
    set.into_iter().fold(write, |write, (name, value)| write.set_value(name, value))
}

/// The checkpoints of a table, as a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// The layout of the file.
    pub schema_version: u32,
    /// The table whose changes are read.
    pub table: String,
    /// When it was made: for people.
    pub exported_at: String,
    /// The shards that have an item.
    pub shards: Vec<ExportedShard>,
}

/// One shard of an [`Export`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportedShard {
    /// The stream's ARN.
    pub arn: String,
    /// The shard.
    pub shard: ShardId,
    /// Where reading stands.
    pub item: ShardItem,
}

/// The layout that this code writes and reads.
const EXPORT_SCHEMA: u32 = 1;

/// What to keep of a table's shards.
pub fn export(table: &str, seen: &[SeenShard], exported_at: String) -> Export {
    let shards = seen.iter().filter_map(|seen| {
        Some(ExportedShard { arn: seen.arn.clone(), shard: seen.shard.clone(), item: seen.item.clone()? })
    });
    Export { schema_version: EXPORT_SCHEMA, table: table.to_owned(), exported_at, shards: shards.collect() }
}

/// Plans to make the items say what an export says, where they don't already.
///
/// # Errors
///
/// When the export is of another layout or table; or when none of its streams is there, so that it would have no effect.
pub fn plan_import(export: &Export, table: &str, seen: &[SeenShard]) -> std::result::Result<Vec<Step>, String> {
    if export.schema_version != EXPORT_SCHEMA {
        return Err(format!("its schema_version is {}, and this program reads {EXPORT_SCHEMA}", export.schema_version));
    }
    if export.table != table {
        return Err(format!("it is of table {}, and not of {table}", export.table));
    }
    let streams: BTreeSet<&String> = seen.iter().map(|seen| &seen.arn).collect();
    if !export.shards.is_empty() && !export.shards.iter().any(|shard| streams.contains(&shard.arn)) {
        return Err(
            "the table has none of its streams any more: a stream that was enabled anew has other shards".to_owned()
        );
    }
    let mut steps = Vec::new();
    for shard in &export.shards {
        let now = seen.iter().find(|seen| seen.arn == shard.arn && seen.shard == shard.shard);
        if now.and_then(|now| now.item.as_ref()) == Some(&shard.item) {
            continue;
        }
        let text = match &shard.item.checkpoint {
            _ if shard.item.ended.is_some() => "it has ended".to_owned(),
            Some(checkpoint) => format!("read it behind {checkpoint}"),
            None => "read it from its start".to_owned(),
        };
        let owner = now.and_then(|now| now.owner.clone());
        let (ended, after) = (now.is_some_and(has_ended), Some(shard.item.clone()));
        steps.push(Step { arn: shard.arn.clone(), shard: shard.shard.clone(), owner, ended, after, text });
    }
    Ok(steps)
}

/// Frees any lease that isn't a shard's: a flush, a manifest, the sweep. An item that says no more than that goes with it.
pub async fn free(leases: &dyn Table, scope: &str, id: &str) -> Result<Stepped> {
    let key = Key::new(scope, id);
    for _ in 0..TRIES {
        let Some(item) = leases.get(&key, Consistency::Strong).await? else { return Ok(Stepped::Done) };
        if item.get(TOKEN).is_none() {
            return Ok(Stepped::Done);
        }
        let condition = Condition::as_read(TOKEN, item.get(TOKEN)).and(Condition::as_read(COUNTER, item.get(COUNTER)));
        let keys = [&leases.keys().partition, &leases.keys().sort];
        let says_more = item.keys().any(|name| !LEASE_ATTRIBUTES.contains(&name.as_str()) && !keys.contains(&name));
        let write = if says_more {
            Write::update(key.clone(), condition).remove(OWNER).remove(TOKEN)
        } else {
            Write::delete(key.clone(), condition)
        };
        match carry(leases, &write).await? {
            Carried::Applied(_) => return Ok(Stepped::Done),
            Carried::Refused(_) => {}
        }
    }
    Ok(Stepped::Busy)
}

/// One lease of any scope, as `leases list` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct SeenLease {
    /// The scope.
    pub scope: String,
    /// Its id.
    pub id: String,
    /// Who holds it; whether that one is alive can't be told by one look.
    pub owner: Option<String>,
    /// How often it was taken and renewed: if it stands still between two looks, its holder doesn't renew it.
    pub counter: Option<u64>,
    /// The whole item.
    pub item: Item,
}

/// The leases of a scope.
pub async fn leases_of(table: &dyn Table, scope: &str) -> Result<Vec<SeenLease>> {
    let items = query_all(table, Query::partition(scope).strong()).await?;
    let one = |item: Item| {
        let id = id_of(table, &item).map(|id| id.0).unwrap_or_default();
        let holding = holding(&Key::new(scope, id.as_str()), Some(&item)).ok().flatten();
        let (owner, counter) = holding.map_or((None, None), |held| (Some(held.owner), Some(held.counter)));
        SeenLease { scope: scope.to_owned(), id, owner, counter, item }
    };
    Ok(items.into_iter().map(one).collect())
}
