//! Where reading a shard begins. No I/O.

use super::{
    options::StartAt,
    shard_graph::ShardGraph,
    shard_item::{Ending, ShardItem, ShardStart},
};
use crate::cloud::{
    change_stream::{IteratorStart, SequenceNumber, ShardId},
    limits::STREAM_RETENTION_HOURS,
};

/// How much older than a shard's opening a change may seem and still belong behind it. AWS refuses requests from clocks
/// that are further off, so no host's clock can make a change be skipped.
const OPENING_MARGIN_SECS: i64 = 15 * 60;

/// Where to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Position {
    /// At the oldest record kept.
    TrimHorizon,
    /// After the newest: nothing was ever read of this shard.
    Latest,
    /// Meant to start at the latest record, and was opened before without reaching a checkpoint: whatever came since has
    /// to be read, so it begins at the oldest record and passes over the changes older than this.
    TrimHorizonFrom {
        /// Seconds since the epoch.
        secs: i64,
    },
    /// Behind this change.
    After(SequenceNumber),
}

impl Position {
    /// Where a shard with this item is read from.
    pub fn of(item: &ShardItem) -> Self {
        match (&item.checkpoint, item.start, item.opened_secs) {
            (Some(checkpoint), ..) => Self::After(checkpoint.clone()),
            (None, ShardStart::TrimHorizon, _) => Self::TrimHorizon,
            (None, ShardStart::Latest, None) => Self::Latest,
            (None, ShardStart::Latest, Some(opened)) => Self::TrimHorizonFrom { secs: opened - OPENING_MARGIN_SECS },
        }
    }

    /// What to ask the stream for.
    pub fn iterator_start(&self) -> IteratorStart {
        match self {
            Self::TrimHorizon | Self::TrimHorizonFrom { .. } => IteratorStart::TrimHorizon,
            Self::Latest => IteratorStart::Latest,
            Self::After(sequence) => IteratorStart::After(sequence.clone()),
        }
    }

    /// Changes older than this, in seconds since the epoch, are passed over.
    pub fn pass_over_before_secs(&self) -> Option<i64> {
        match self {
            Self::TrimHorizonFrom { secs } => Some(*secs),
            _ => None,
        }
    }
}

/// Whether the beginning of a shard may have been trimmed away though it was to be read: it has no checkpoint, and it is
/// longer than the stream keeps a change that it is known.
pub fn may_be_trimmed(item: &ShardItem, now_secs: i64) -> bool {
    let kept_secs = STREAM_RETENTION_HOURS * 3600;
    item.checkpoint.is_none()
        && item.start == ShardStart::TrimHorizon
        && item.known_secs.is_some_and(|known| now_secs.saturating_sub(known) > kept_secs)
}

/// The items to make at the very first start of a table, before anything is read.
///
/// LATEST holds for the shards that are there now and for no other (F8): the open ones begin at their latest record, the
/// closed ones are not read at all, and every shard without an item, so every later one, begins at its oldest record.
pub fn items_at_first_start(start: StartAt, graph: &ShardGraph) -> Vec<(ShardId, ShardItem)> {
    if start == StartAt::TrimHorizon {
        return Vec::new();
    }
    let item = |id: &ShardId, closed: bool, parent: &Option<ShardId>| ShardItem {
        start: if closed { ShardStart::TrimHorizon } else { ShardStart::Latest },
        ended: closed.then_some(Ending::BeforeStart),
        parents: parent.iter().cloned().collect(),
        children: if closed { graph.children(id).cloned().collect() } else { Vec::new() },
        ..ShardItem::default()
    };
    // An open shard with children is a closed one that the listing is late about.
    let is_closed = |id: &ShardId, closed: bool| closed || graph.children(id).next().is_some() || !graph.is_enabled();
    graph.shards().map(|(id, node)| (id.clone(), item(id, is_closed(id, node.closed), &node.parent))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cloud::change_stream::Shard, streams::shard_graph::Listing};

    /// The first changes of each later shard would have been lost.
    #[test]
    fn f8_latest_holds_for_the_shards_of_the_first_start_only() {
        let id = |text: &str| ShardId(text.to_owned());
        let shard = |name: &str, parent: Option<&str>, closed: bool| Shard {
            id: id(name),
            parent: parent.map(id),
            start: SequenceNumber("1".into()),
            end: closed.then(|| SequenceNumber("2".into())),
        };
        let mut graph = ShardGraph::default();
        graph.observe(
            &Listing { enabled: true, shards: vec![shard("a", None, true), shard("b", Some("a"), false)] },
            [],
        );
        let items = items_at_first_start(StartAt::Latest, &graph);
        assert_eq!(items[0].1.ended, Some(Ending::BeforeStart));
        assert_eq!(Position::of(&items[1].1), Position::Latest);
        // The child of b has no item at the first start, and so none that says LATEST.
        assert_eq!(Position::of(&ShardItem::default()), Position::TrimHorizon);
        assert!(items_at_first_start(StartAt::TrimHorizon, &graph).is_empty());
    }

    #[test]
    fn a_shard_that_was_opened_at_its_latest_record_never_skips_what_came_since() {
        let opened = ShardItem { start: ShardStart::Latest, opened_secs: Some(10_000), ..ShardItem::default() };
        assert_eq!(Position::of(&opened), Position::TrimHorizonFrom { secs: 9_100 });
        assert_eq!(Position::of(&opened).iterator_start(), IteratorStart::TrimHorizon);
        let moved = ShardItem { checkpoint: Some(SequenceNumber("7".into())), ..opened };
        assert_eq!(Position::of(&moved), Position::After(SequenceNumber("7".into())));
    }
}
