//! The graph of a stream's shards, made from listings that may be inconsistent. No I/O.
//!
//! A listing may miss a shard, show a parent without its children, or a closed shard as open (F3, F4). So nothing is
//! concluded from one listing: what is missing counts as gone only when [`CONFIRMATIONS`] complete ones in a row lack it.
//! Whether a shard is closed is never taken from here: its reader learns that from its last page.

use std::collections::BTreeMap;

use crate::cloud::change_stream::{SequenceNumber, Shard, ShardId};

/// So many complete listings in a row must lack a shard before it counts as trimmed away.
pub const CONFIRMATIONS: u32 = 2;

/// So many listings in a row must show a closed shard without a child before that is called a hole (F5).
const HOLE_LISTINGS: u32 = 3;

/// A complete listing: every page of it was read.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Whether the stream still takes changes.
    pub enabled: bool,
    /// The shards.
    pub shards: Vec<Shard>,
}

/// What is known of the shards of one stream.
#[derive(Debug, Clone, Default)]
pub struct ShardGraph {
    nodes: BTreeMap<ShardId, Node>,
    /// Shards that are named (as parents, or by lease items) and not listed, and how many listings in a row lacked them.
    unlisted: BTreeMap<ShardId, u32>,
    enabled: bool,
    listings: u32,
}

/// A shard of the graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The shard that it continues.
    pub parent: Option<ShardId>,
    /// The first sequence number that it may hold: for order.
    pub start: SequenceNumber,
    /// Whether a listing showed it as closed.
    pub closed: bool,
    missing: u32,
    childless: u32,
}

/// What the listings say about a shard that is named as a parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It is there.
    Listed,
    /// It isn't, but that has to be confirmed by further listings.
    Unconfirmed,
    /// It is gone: trimmed away (F6).
    Gone,
}

impl ShardGraph {
    /// Takes in a complete listing. `named` are the shards that lease items speak of: it counts when one isn't listed.
    pub fn observe<'a>(&mut self, listing: &Listing, named: impl IntoIterator<Item = &'a ShardId>) {
        self.enabled = listing.enabled;
        self.listings = self.listings.saturating_add(1);
        for node in self.nodes.values_mut() {
            node.missing += 1;
        }
        for shard in &listing.shards {
            self.add(shard);
        }
        self.nodes.retain(|_, node| node.missing < CONFIRMATIONS);
        let parents = self.nodes.values().filter_map(|node| node.parent.clone());
        let unlisted = parents.chain(named.into_iter().cloned()).filter(|id| !self.nodes.contains_key(id));
        let counted = |id| {
            let count = self.unlisted.get(&id).map_or(1, |count| count.saturating_add(1));
            (id, count)
        };
        self.unlisted = unlisted.map(counted).collect();
        let parents: Vec<_> = self.nodes.values().filter_map(|node| node.parent.clone()).collect();
        for (id, node) in &mut self.nodes {
            node.childless = if node.closed && !parents.contains(id) { node.childless + 1 } else { 0 };
        }
    }

    /// Adds a shard that was found by itself, e.g. as a child.
    pub fn add(&mut self, shard: &Shard) {
        let fresh = Node { parent: None, start: shard.start.clone(), closed: false, missing: 0, childless: 0 };
        let node = self.nodes.entry(shard.id.clone()).or_insert(fresh);
        node.missing = 0;
        // What was once said holds: a listing may know less than an earlier one.
        node.parent = node.parent.take().or_else(|| shard.parent.clone());
        node.closed |= shard.end.is_some();
    }

    /// The shards, by id.
    pub fn shards(&self) -> impl Iterator<Item = (&ShardId, &Node)> {
        self.nodes.iter()
    }

    /// A shard.
    pub fn get(&self, id: &ShardId) -> Option<&Node> {
        self.nodes.get(id)
    }

    /// The shards that continue this one.
    pub fn children<'a>(&'a self, id: &'a ShardId) -> impl Iterator<Item = &'a ShardId> {
        self.nodes.iter().filter(move |(_, node)| node.parent.as_ref() == Some(id)).map(|(id, _)| id)
    }

    /// Whether a shard is there, gone, or not to be found for now.
    pub fn presence(&self, id: &ShardId) -> Presence {
        if self.nodes.contains_key(id) {
            return Presence::Listed;
        }
        // One that no listing could have lacked yet may be younger than the last of them.
        match self.unlisted.get(id) {
            Some(lacked) if *lacked >= CONFIRMATIONS => Presence::Gone,
            _ => Presence::Unconfirmed,
        }
    }

    /// Whether it would pay to list again soon, because something is missing that may only be late.
    pub fn is_unsettled(&self) -> bool {
        self.listings < CONFIRMATIONS
            || self.nodes.values().any(|node| node.missing > 0)
            || self.unlisted.values().any(|count| *count < CONFIRMATIONS)
            || self.enabled && self.nodes.values().any(|node| node.childless > 0)
    }

    /// Whether the stream still takes changes.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Whether a complete listing was ever seen.
    pub fn is_known(&self) -> bool {
        self.listings > 0
    }

    /// Closed shards of an enabled stream that no listed shard continues: each is a hole in the listing (F4, F5).
    pub fn holes(&self) -> impl Iterator<Item = &ShardId> {
        self.nodes.iter().filter(|(_, node)| self.enabled && node.childless >= HOLE_LISTINGS).map(|(id, _)| id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(id: &str, parent: Option<&str>, closed: bool) -> Shard {
        let id_of = |text: &str| ShardId(text.to_owned());
        let number = |text: &str| SequenceNumber(text.to_owned());
        Shard { id: id_of(id), parent: parent.map(id_of), start: number("100"), end: closed.then(|| number("200")) }
    }

    fn listing(shards: &[Shard]) -> Listing {
        Listing { enabled: true, shards: shards.to_vec() }
    }

    fn id(text: &str) -> ShardId {
        ShardId(text.to_owned())
    }

    /// Everything in a child would have waited for ever for a parent that the stream no longer keeps.
    #[test]
    fn f6_an_unknown_parent_is_gone_once_two_listings_lack_it() {
        let mut graph = ShardGraph::default();
        let child = shard("b", Some("a"), false);
        graph.observe(&listing(std::slice::from_ref(&child)), []);
        assert_eq!(graph.presence(&id("a")), Presence::Unconfirmed);
        assert!(graph.is_unsettled());
        graph.observe(&listing(&[child]), []);
        assert_eq!(graph.presence(&id("a")), Presence::Gone);
        assert!(!graph.is_unsettled());
    }

    /// A child would have been read before the rest of its parent, because one listing was late.
    #[test]
    fn f4_a_parent_that_one_listing_lacks_is_still_there() {
        let mut graph = ShardGraph::default();
        let (parent, child) = (shard("a", None, true), shard("b", Some("a"), false));
        graph.observe(&listing(&[parent.clone(), child.clone()]), []);
        graph.observe(&listing(std::slice::from_ref(&child)), []);
        assert_eq!(graph.presence(&id("a")), Presence::Listed);
        graph.observe(&listing(&[parent, child.clone()]), []);
        graph.observe(&listing(std::slice::from_ref(&child)), []);
        assert_eq!(graph.presence(&id("a")), Presence::Listed, "the count begins anew when it is back");
        graph.observe(&listing(std::slice::from_ref(&child)), []);
        assert_eq!(graph.presence(&id("a")), Presence::Unconfirmed, "as a parent it is confirmed once more");
        graph.observe(&listing(&[child]), []);
        assert_eq!(graph.presence(&id("a")), Presence::Gone);
    }

    /// Shards that one listing leaves out would have been given up, with all that they hold.
    #[test]
    fn f4_what_one_listing_knew_is_not_forgotten_because_the_next_knows_less() {
        let mut graph = ShardGraph::default();
        graph.observe(&listing(&[shard("a", None, true), shard("b", Some("a"), false)]), []);
        graph.observe(&listing(&[shard("a", None, false), shard("b", None, false)]), []);
        assert_eq!(graph.get(&id("b")).unwrap().parent, Some(id("a")));
        assert!(graph.get(&id("a")).unwrap().closed);
        assert_eq!(graph.children(&id("a")).collect::<Vec<_>>(), [&id("b")]);
    }

    /// All changes after the close would have been missed without a word, until somebody restarts the service.
    #[test]
    fn f5_a_closed_shard_without_a_child_is_a_hole_when_that_lasts() {
        let mut graph = ShardGraph::default();
        let closed = shard("a", None, true);
        for _ in 0..2 {
            graph.observe(&listing(std::slice::from_ref(&closed)), []);
            assert_eq!(graph.holes().count(), 0);
        }
        graph.observe(&listing(std::slice::from_ref(&closed)), []);
        assert_eq!(graph.holes().collect::<Vec<_>>(), [&id("a")]);
        graph.observe(&listing(&[closed.clone(), shard("b", Some("a"), false)]), []);
        assert_eq!(graph.holes().count(), 0);
        for _ in 0..3 {
            graph.observe(&Listing { enabled: false, shards: vec![closed.clone()] }, []);
        }
        assert_eq!(graph.holes().count(), 0, "a disabled stream's last shards have no children");
    }

    /// The tombstone or lease of a new shard would have been removed, and the shard read twice.
    #[test]
    fn f7_a_shard_that_is_younger_than_the_last_listing_is_not_gone() {
        let mut graph = ShardGraph::default();
        for _ in 0..5 {
            graph.observe(&listing(&[shard("a", None, false)]), []);
        }
        assert_eq!(graph.presence(&id("b")), Presence::Unconfirmed);
        graph.observe(&listing(&[shard("a", None, false)]), [&id("b")]);
        assert_eq!(graph.presence(&id("b")), Presence::Unconfirmed);
        graph.observe(&listing(&[shard("a", None, false)]), [&id("b")]);
        assert_eq!(graph.presence(&id("b")), Presence::Gone);
        graph.observe(&listing(&[shard("b", Some("a"), false)]), [&id("b")]);
        assert_eq!(graph.presence(&id("b")), Presence::Listed);
    }
}
