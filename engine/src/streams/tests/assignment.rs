//! The plan by itself: what it may never do, whatever workers have seen in whatever order.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use crate::{
    cloud::change_stream::{SequenceNumber, Shard, ShardId},
    leases::LeaseState,
    streams::{
        assignment::{Facts, LeaseFacts, OVERDUE_ROUNDS, Plan, ShardKey, StreamFacts, UNEVEN_ROUNDS, plan},
        shard_graph::{Listing, ShardGraph},
        shard_item::{Ending, ShardItem},
    },
};

const ARN: &str = "arn";

fn id(n: usize) -> ShardId {
    ShardId(format!("shardId-{n:04}"))
}

fn key(shard: &ShardId) -> ShardKey {
    ShardKey { arn: ARN.to_owned(), shard: shard.clone() }
}

fn held(owner: &str) -> LeaseState {
    LeaseState::Held { owner: owner.to_owned(), token: "t".to_owned() }
}

fn names(workers: usize) -> BTreeSet<String> {
    (0..workers).map(|n| format!("w{n}")).collect()
}

/// A shard as it really is.
struct Truth {
    parent: Option<usize>,
    closed: bool,
    listed: bool,
}

/// A worker's view.
#[derive(Default)]
struct View {
    graph: ShardGraph,
    mine: BTreeSet<ShardKey>,
    free_rounds: BTreeMap<ShardKey, u32>,
    uneven_rounds: u32,
    hidden: BTreeSet<usize>,
}

#[derive(Default)]
struct World {
    shards: Vec<Truth>,
    leases: BTreeMap<ShardId, LeaseFacts>,
    views: [View; 3],
}

impl World {
    fn is_done(&self, shard: usize) -> bool {
        self.leases.get(&id(shard)).is_some_and(|lease| lease.item.ended.is_some())
    }

    fn list(&mut self, worker: usize, hide: Option<usize>) {
        // A listing is late about a shard once, not for ever.
        let hide = hide.filter(|shard| self.views[worker].hidden.insert(*shard));
        let listed = self.shards.iter().enumerate().filter(|(n, shard)| shard.listed && Some(*n) != hide);
        let number = |n: usize| SequenceNumber((n + 1).to_string());
        let shards = listed.map(|(n, shard)| Shard {
            id: id(n),
            parent: shard.parent.map(id),
            start: number(n),
            end: shard.closed.then(|| number(n)),
        });
        let listing = Listing { enabled: true, shards: shards.collect() };
        let leases = self.leases.iter();
        let named =
            leases.flat_map(|(id, lease)| [id].into_iter().chain(&lease.item.parents).chain(&lease.item.children));
        self.views[worker].graph.observe(&listing, named);
    }

    fn plan(&self, worker: usize) -> Plan {
        let view = &self.views[worker];
        plan(&Facts {
            me: &format!("w{worker}"),
            streams: vec![StreamFacts::new(ARN, &view.graph, &self.leases)],
            workers: names(3),
            mine: view.mine.clone(),
            giving: 0,
            free_rounds: &view.free_rounds,
            uneven_rounds: view.uneven_rounds,
        })
    }

    fn round(&mut self, worker: usize) -> Result<(), TestCaseError> {
        if !self.views[worker].graph.is_known() {
            return Ok(());
        }
        let plan = self.plan(worker);
        for taken in &plan.take {
            let n = (0..self.shards.len()).find(|n| id(*n) == taken.shard).unwrap();
            prop_assert!(!self.is_done(n), "{} was read to its end before", taken.shard);
            if let Some(parent) = self.shards[n].parent {
                let parent_done = self.is_done(parent) || !self.shards[parent].listed;
                let begun = self.leases.get(&taken.shard).is_some_and(|lease| lease.item.has_started());
                prop_assert!(parent_done || begun, "I6: {} was taken before its parent", taken.shard);
            }
            let fresh = LeaseFacts { state: LeaseState::Free, item: ShardItem::default() };
            let lease = self.leases.entry(taken.shard.clone()).or_insert(fresh);
            prop_assert!(!matches!(lease.state, LeaseState::Held { .. }), "it was torn from a living owner");
            lease.state = held(&format!("w{worker}"));
            lease.item.parents = self.shards[n].parent.map(id).into_iter().collect();
            self.views[worker].mine.insert(taken.clone());
        }
        if let Some(given) = &plan.give {
            prop_assert!(self.views[worker].mine.remove(given));
            self.leases.get_mut(&given.shard).unwrap().state = LeaseState::Free;
        }
        for buried in &plan.buried {
            let n = (0..self.shards.len()).find(|n| id(*n) == buried.shard).unwrap();
            prop_assert!(!self.shards[n].listed, "F7: the tombstone of a listed shard was removed");
            self.leases.remove(&buried.shard);
        }
        let view = &mut self.views[worker];
        view.uneven_rounds = if plan.uneven { view.uneven_rounds + 1 } else { 0 };
        view.free_rounds =
            plan.free.iter().map(|key| (key.clone(), view.free_rounds.get(key).map_or(1, |n| n + 1))).collect();
        Ok(())
    }

    fn crash(&mut self, worker: usize) {
        for taken in std::mem::take(&mut self.views[worker]).mine {
            let owner = format!("w{worker}");
            self.leases.get_mut(&taken.shard).unwrap().state = LeaseState::Dead { owner, token: "t".into() };
        }
    }

    /// The reader of a shard gets on, to the end if it is closed.
    fn read(&mut self, n: usize) {
        let (done, closed) = (self.is_done(n), self.shards[n].closed);
        let children = (0..self.shards.len()).filter(|child| self.shards[*child].parent == Some(n)).map(id).collect();
        let Some(lease) = self.leases.get_mut(&id(n)) else { return };
        if done || !matches!(lease.state, LeaseState::Held { .. }) {
            return;
        }
        lease.item.checkpoint = Some(SequenceNumber("7".into()));
        if closed {
            (lease.item.ended, lease.item.children, lease.state) = (Some(Ending::Read), children, LeaseState::Free);
            self.views.iter_mut().for_each(|view| {
                view.mine.remove(&key(&id(n)));
            });
        }
    }
}

proptest! {
    /// Any interleaving of listings (late ones too), splits, trims, crashes, takeovers and rounds keeps I6 and F7.
    #[test]
    fn i6_f2_f7_no_plan_takes_a_shard_before_its_parent_or_twice_and_every_open_shard_comes_to_an_owner(
        steps in prop::collection::vec((0_u8..12, any::<usize>(), 0_usize..3), 1..200)
    ) {
        let mut world = World::default();
        world.shards.push(Truth { parent: None, closed: false, listed: true });
        for (what, n, worker) in steps {
            let n = n % world.shards.len();
            match what {
                0 if !world.shards[n].closed && world.shards.len() < 40 => {
                    world.shards[n].closed = true;
                    for _ in 0..1 + worker {
                        world.shards.push(Truth { parent: Some(n), closed: false, listed: true });
                    }
                }
                // Only what is closed is ever trimmed away, and its ancestors before it.
                1 => {
                    let oldest = world.shards[n].parent.is_none_or(|parent| !world.shards[parent].listed);
                    if world.shards[n].closed && oldest {
                        world.shards[n].listed = false;
                    }
                }
                2 => world.crash(worker),
                3 => world.list(worker, Some(n)),
                4 | 5 => world.list(worker, None),
                6..=8 => world.round(worker)?,
                _ => world.read(n),
            }
        }
        // From here on nothing goes wrong any more: every open shard comes into somebody's hands.
        for _ in 0..60 {
            for worker in 0..3 {
                world.list(worker, None);
                world.round(worker)?;
            }
            (0..world.shards.len()).for_each(|n| world.read(n));
        }
        for (n, shard) in world.shards.iter().enumerate().filter(|(_, shard)| !shard.closed) {
            let is_held = world.leases.get(&id(n)).is_some_and(|lease| matches!(lease.state, LeaseState::Held { .. }));
            prop_assert!(is_held, "{} of {:?} has no owner", id(n), shard.parent);
        }
    }

    /// Workers with the same view share out what is free: each shard to one of them, as evenly as can be. Else they would
    /// run for the same shards, and leave others to nobody.
    #[test]
    fn f24_all_workers_come_to_the_same_plan(shards in 0_usize..30, workers in 1_usize..6, owned in prop::collection::vec(0_usize..6, 0..20)) {
        let mut graph = ShardGraph::default();
        let number = SequenceNumber("1".into());
        let total = shards + owned.len();
        let listed = (0..total).map(|n| Shard { id: id(n), parent: None, start: number.clone(), end: None });
        graph.observe(&Listing { enabled: true, shards: listed.collect() }, []);
        let mut leases = BTreeMap::new();
        let mut mine: BTreeMap<String, BTreeSet<ShardKey>> = BTreeMap::new();
        for (n, owner) in owned.iter().enumerate() {
            let owner = format!("w{}", owner % workers);
            leases.insert(id(n), LeaseFacts { state: held(&owner), item: ShardItem::default() });
            mine.entry(owner).or_default().insert(key(&id(n)));
        }
        // Tombstones weigh nothing.
        for n in 0..50 {
            let item = ShardItem { ended: Some(Ending::Read), ..ShardItem::default() };
            leases.insert(ShardId(format!("old-{n}")), LeaseFacts { state: LeaseState::Free, item });
        }
        let mut taken = BTreeSet::new();
        let mut counts = Vec::new();
        for worker in names(workers) {
            let mine = mine.remove(&worker).unwrap_or_default();
            let before = mine.len();
            let plan = plan(&Facts {
                me: &worker,
                streams: vec![StreamFacts::new(ARN, &graph, &leases)],
                workers: names(workers),
                mine,
                giving: 0,
                free_rounds: &BTreeMap::new(),
                uneven_rounds: 0,
            });
            counts.push((before, before + plan.take.len()));
            for shard in plan.take {
                prop_assert!(taken.insert(shard), "two workers want one shard");
            }
        }
        prop_assert_eq!(taken.len(), shards);
        let poorest = counts.iter().map(|(_, after)| *after).min().unwrap();
        for (before, after) in counts {
            prop_assert!(after <= poorest + 1 || after == before, "a worker with enough took more");
        }
    }
}

/// A plan for `me`, when the others hold so many shards each and so many are free.
fn simple(me: &str, holds: &[(&str, usize)], free: usize, free_rounds: u32, uneven_rounds: u32) -> Plan {
    let mut leases = BTreeMap::new();
    let mut mine = BTreeSet::new();
    let mut n = 0;
    for (owner, count) in holds {
        for _ in 0..*count {
            leases.insert(id(n), LeaseFacts { state: held(owner), item: ShardItem::default() });
            if *owner == me {
                mine.insert(key(&id(n)));
            }
            n += 1;
        }
    }
    for n in n..n + free {
        leases.insert(id(n), LeaseFacts { state: LeaseState::Free, item: ShardItem::default() });
    }
    let rounds = leases.keys().map(|shard| (key(shard), free_rounds)).collect();
    plan(&Facts {
        me,
        streams: vec![StreamFacts::new(ARN, &ShardGraph::default(), &leases)],
        workers: holds.iter().map(|(owner, _)| (*owner).to_owned()).collect(),
        mine,
        giving: 0,
        free_rounds: &rounds,
        uneven_rounds,
    })
}

/// Workers would have taken shards from each other in turn, each time repeating what had no checkpoint.
#[test]
fn f24_a_shard_is_given_away_only_when_the_load_stays_uneven_and_by_the_richest_alone() {
    let patient = UNEVEN_ROUNDS - 1;
    let holds = [("a", 3), ("b", 1), ("c", 3)];
    assert_eq!(simple("a", &holds, 0, 0, patient - 1).give, None);
    assert!(simple("a", &holds, 0, 0, patient).give.is_some());
    assert_eq!(simple("c", &holds, 0, 0, patient).give, None, "one at a time");
    assert_eq!(simple("a", &[("a", 2), ("b", 1)], 0, 0, 100).give, None, "that is as even as it gets");
    assert_eq!(simple("a", &holds, 1, 0, 100).give, None, "first what is free");
}

#[test]
fn a_free_shard_that_its_taker_leaves_alone_is_taken_by_another() {
    let holds = [("a", 2), ("b", 0)];
    assert!(simple("a", &holds, 1, 0, 0).take.is_empty());
    assert_eq!(simple("a", &holds, 1, OVERDUE_ROUNDS, 0).take.len(), 1);
}
