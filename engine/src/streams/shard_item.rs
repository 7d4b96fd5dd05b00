//! What a shard's lease item says besides who holds it: where reading stands, and how the shard ended.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use serde_dynamo::{AttributeValue, Item};

use crate::cloud::{
    CloudError, ErrorKind, Result,
    change_stream::{SequenceNumber, ShardId},
};

/// The last sequence number whose effects, and those of all before it, are durable.
pub const CHECKPOINT: &str = "checkpoint";
/// Where reading starts as long as there is no checkpoint. Every item of a shard that was ever opened has it.
pub const START: &str = "start";
const OPENED_SECS: &str = "opened_secs";
const KNOWN_SECS: &str = "known_secs";
const PARENTS: &str = "parents";
const CHILDREN: &str = "children";
/// Why nobody needs to read it any more.
pub const ENDED: &str = "ended";
const GAP: &str = "gap";

/// A shard's place in its life, as its lease item has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShardItem {
    /// The last sequence number whose effects, and those of all before it, are durable.
    pub checkpoint: Option<SequenceNumber>,
    /// Where reading starts as long as there is no checkpoint.
    pub start: ShardStart,
    /// When a shard that starts at its latest record was first opened, in seconds since the epoch.
    pub opened_secs: Option<i64>,
    /// When it was last certain that nothing of the shard was lost though it has no checkpoint: when it became known that
    /// it is to be read, or when its reader was at its end; in seconds since the epoch.
    pub known_secs: Option<i64>,
    /// The shards that it continues.
    pub parents: Vec<ShardId>,
    /// The shards that continue it; known once it has ended.
    pub children: Vec<ShardId>,
    /// Why nobody needs to read it any more. The item is then a tombstone: without it the shard would be read again (F7).
    pub ended: Option<Ending>,
    /// The last gap that trimmed data left.
    pub gap: Option<Gap>,
}

/// Where reading starts as long as there is no checkpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShardStart {
    /// At the oldest record kept.
    #[default]
    TrimHorizon,
    /// After the newest one: only for shards that were there when the table was first read (F8).
    Latest,
}

/// Why nobody needs to read a shard any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It was closed, and read to its end.
    Read,
    /// It was closed before the table was first read, and that was to start at the latest record.
    BeforeStart,
    /// It vanished before it was read to its end.
    Gone,
}

/// Changes that were trimmed away before they were read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The last change read before it; none if none was.
    pub from: Option<SequenceNumber>,
    /// The first change read after it, once there is one.
    pub to: Option<SequenceNumber>,
    /// When it was found: for people.
    pub found_at: String,
    /// What was decided: `stop`, `skip` or `reconcile`.
    pub policy: String,
}

impl ShardItem {
    /// The names of its attributes.
    pub const ATTRIBUTES: [&'static str; 8] =
        [CHECKPOINT, START, OPENED_SECS, KNOWN_SECS, PARENTS, CHILDREN, ENDED, GAP];

    /// Whether something of it has been read for good, so that its parents must have been done.
    pub fn has_started(&self) -> bool {
        self.checkpoint.is_some() || self.ended.is_some()
    }

    /// Reads an item of scope `arn`.
    pub fn decode(arn: &str, shard: &str, item: &Item) -> Result<Self> {
        let reader = Reader { arn, shard, item };
        let seconds = |name: &'static str| {
            let text = reader.number(name)?;
            text.map(|text| text.parse().map_err(|_| reader.malformed(name))).transpose()
        };
        let start = match reader.string(START)?.as_deref() {
            None | Some("trim_horizon") => ShardStart::TrimHorizon,
            Some("latest") => ShardStart::Latest,
            Some(_) => return Err(reader.malformed(START)),
        };
        let ended = match reader.string(ENDED)?.as_deref() {
            None => None,
            Some("read") => Some(Ending::Read),
            Some("before_start") => Some(Ending::BeforeStart),
            Some("gone") => Some(Ending::Gone),
            Some(_) => return Err(reader.malformed(ENDED)),
        };
        let gap = match item.get(GAP) {
            None => None,
            Some(AttributeValue::M(map)) => Some(decode_gap(map).ok_or_else(|| reader.malformed(GAP))?),
            Some(_) => return Err(reader.malformed(GAP)),
        };
        Ok(Self {
            checkpoint: reader.string(CHECKPOINT)?.map(SequenceNumber),
            start,
            opened_secs: seconds(OPENED_SECS)?,
            known_secs: seconds(KNOWN_SECS)?,
            parents: reader.ids(PARENTS)?,
            children: reader.ids(CHILDREN)?,
            ended,
            gap,
        })
    }

    /// All its attributes, as a new item has them.
    pub fn encode(&self) -> BTreeMap<String, AttributeValue> {
        let string = |text: &str| AttributeValue::S(text.to_owned());
        let ids = |ids: &[ShardId]| {
            (!ids.is_empty()).then(|| AttributeValue::L(ids.iter().map(|id| AttributeValue::S(id.0.clone())).collect()))
        };
        let start = match self.start {
            ShardStart::TrimHorizon => "trim_horizon",
            ShardStart::Latest => "latest",
        };
        let ended = self.ended.map(Ending::text);
        [
            (CHECKPOINT, self.checkpoint.as_ref().map(|sequence| string(&sequence.0))),
            (START, Some(string(start))),
            (OPENED_SECS, self.opened_secs.map(|secs| AttributeValue::N(secs.to_string()))),
            (KNOWN_SECS, self.known_secs.map(|secs| AttributeValue::N(secs.to_string()))),
            (PARENTS, ids(&self.parents)),
            (CHILDREN, ids(&self.children)),
            (ENDED, ended.map(string)),
            (GAP, self.gap.as_ref().map(encode_gap)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
    }

    /// What an update has to set and to remove to make an item that says `self` say `after`.
    pub fn changes_to(&self, after: &Self) -> (BTreeMap<String, AttributeValue>, Vec<String>) {
        let before = self.encode();
        let mut set = after.encode();
        let remove = before.keys().filter(|name| !set.contains_key(*name)).cloned().collect();
        set.retain(|name, value| before.get(name) != Some(value));
        (set, remove)
    }

    /// The checkpoint as an attribute.
    pub fn checkpoint_value(&self) -> Option<AttributeValue> {
        self.checkpoint.as_ref().map(|sequence| AttributeValue::S(sequence.0.clone()))
    }
}

impl Ending {
    /// Its text in items, logs and metrics.
    pub fn text(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::BeforeStart => "before_start",
            Self::Gone => "gone",
        }
    }
}

fn encode_gap(gap: &Gap) -> AttributeValue {
    let string = |text: &str| Some(AttributeValue::S(text.to_owned()));
    let fields = [
        ("from", gap.from.as_ref().and_then(|sequence| string(&sequence.0))),
        ("to", gap.to.as_ref().and_then(|sequence| string(&sequence.0))),
        ("found_at", string(&gap.found_at)),
        ("policy", string(&gap.policy)),
    ];
    AttributeValue::M(fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
}

fn decode_gap(map: &HashMap<String, AttributeValue>) -> Option<Gap> {
    let string = |name: &str| match map.get(name) {
        Some(AttributeValue::S(text)) => Some(text.clone()),
        _ => None,
    };
    let (found_at, policy) = (string("found_at")?, string("policy")?);
    Some(Gap { from: string("from").map(SequenceNumber), to: string("to").map(SequenceNumber), found_at, policy })
}

struct Reader<'a> {
    arn: &'a str,
    shard: &'a str,
    item: &'a Item,
}

impl Reader<'_> {
    fn malformed(&self, attribute: &str) -> CloudError {
        let operation = format!("reading the lease item of shard {} of {}", self.shard, self.arn);
        let text =
            format!("its attribute `{attribute}` can't be read: repair it, or delete the item to read the shard anew");
        CloudError::new(ErrorKind::Invalid, operation, text)
    }

    fn string(&self, attribute: &str) -> Result<Option<String>> {
        match self.item.get(attribute) {
            None => Ok(None),
            Some(AttributeValue::S(text)) => Ok(Some(text.clone())),
            Some(_) => Err(self.malformed(attribute)),
        }
    }

    fn number(&self, attribute: &str) -> Result<Option<String>> {
        match self.item.get(attribute) {
            None => Ok(None),
            Some(AttributeValue::N(text)) => Ok(Some(text.clone())),
            Some(_) => Err(self.malformed(attribute)),
        }
    }

    fn ids(&self, attribute: &str) -> Result<Vec<ShardId>> {
        let Some(value) = self.item.get(attribute) else { return Ok(Vec::new()) };
        let AttributeValue::L(values) = value else { return Err(self.malformed(attribute)) };
        let id = |value: &AttributeValue| match value {
            AttributeValue::S(id) => Ok(ShardId(id.clone())),
            _ => Err(self.malformed(attribute)),
        };
        values.iter().map(id).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::{option, prelude::*};

    use super::*;
    use crate::cloud::table::{Condition, Key, KeyNames, Write};

    fn sequence() -> impl Strategy<Value = SequenceNumber> {
        "[0-9]{1,40}".prop_map(SequenceNumber)
    }

    fn shards() -> impl Strategy<Value = Vec<ShardId>> {
        prop::collection::vec("shardId-[0-9]{3}-[0-9a-f]{4}".prop_map(ShardId), 0..3)
    }

    fn gap() -> impl Strategy<Value = Gap> {
        (option::of(sequence()), option::of(sequence()), prop_oneof![Just("skip"), Just("stop"), Just("reconcile")])
            .prop_map(|(from, to, policy)| Gap { from, to, found_at: "2026-02-01".into(), policy: policy.into() })
    }

    fn item() -> impl Strategy<Value = ShardItem> {
        let start = prop_oneof![Just(ShardStart::TrimHorizon), Just(ShardStart::Latest)];
        let ended = prop_oneof![Just(Ending::Read), Just(Ending::BeforeStart), Just(Ending::Gone)];
        let times = (option::of(any::<i64>()), option::of(any::<i64>()));
        let parts = (option::of(sequence()), start, times, shards(), shards());
        (parts, option::of(ended), option::of(gap())).prop_map(
            |((checkpoint, start, (opened_secs, known_secs), parents, children), ended, gap)| ShardItem {
                checkpoint,
                start,
                opened_secs,
                known_secs,
                parents,
                children,
                ended,
                gap,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_put_reads_back(before in item(), after in item()) {
            let names = KeyNames { partition: "scope".into(), sort: "id".into() };
            let key = Key::new("arn", "shard");
            let put = Write::put(key.clone(), Item::from(before.encode().into_iter().collect::<HashMap<_, _>>()),
                                 Condition::absent("scope"));
            let stored = put.apply(&names, None).unwrap();
            prop_assert_eq!(&ShardItem::decode("arn", "shard", &stored).unwrap(), &before);

            let (set, remove) = before.changes_to(&after);
            let update = set.into_iter().fold(Write::update(key, Condition::All(vec![])), |w, (n, v)| w.set_value(n, v));
            let update = remove.into_iter().fold(update, Write::remove);
            let stored = update.apply(&names, Some(&stored)).unwrap();
            prop_assert_eq!(&ShardItem::decode("arn", "shard", &stored).unwrap(), &after);

            let text = serde_json::to_string(&after).unwrap();
            prop_assert_eq!(&serde_json::from_str::<ShardItem>(&text).unwrap(), &after, "as an export has it");
            prop_assert!(after.encode().keys().all(|name| ShardItem::ATTRIBUTES.contains(&name.as_str())));
        }
    }

    #[test]
    fn an_item_that_cannot_be_read_is_named() {
        let mut item = Item::default();
        item.insert("checkpoint".into(), AttributeValue::N("7".into()));
        let error = ShardItem::decode("arn:aws:x", "shardId-1", &item).unwrap_err().to_string();
        assert!(error.contains("shardId-1") && error.contains("arn:aws:x") && error.contains("checkpoint"), "{error}");
    }
}
