//! A model of leases, checked exhaustively: three workers, a shard and the one that continues it.
//!
//! The model keeps time, messages and crashes; every decision in it is the program's own: the writes and conditions of
//! [`leases::decide`], its judgement of what is dead, the expiry of the holder's options, and whether a shard may be read.
//! Writes travel for any time: they may land late, and their answers may be lost.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{LazyLock, Mutex},
    time::Duration,
};

use stateright::{Checker, HasDiscoveries, Model, Property};
use tokio::time::Instant;

use crate::{
    cloud::{
        AttributeValue, Item,
        change_stream::{SequenceNumber, Shard, ShardId},
        table::{Condition, Key, KeyNames, Write},
    },
    leases::{LeaseOptions, LeaseState, Observations, TOKEN, decide},
    streams::{
        assignment::{LeaseFacts, Standing, StreamFacts},
        shard_graph::{Listing, ShardGraph},
        shard_item::{CHECKPOINT, Ending, ShardItem},
    },
};

const ARN: &str = "arn";
const WORKERS: usize = 3;
/// The parent, and the child that goes on where it ends.
const SHARDS: [&str; 2] = ["shard-0", "shard-1"];

/// A tick of the model's clock is a second; a lease lives for three of them.
const LENGTH: u8 = 3;

/// When the model's clocks begin.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

fn options() -> LeaseOptions {
    LeaseOptions { length: secs(LENGTH), sole_process: false }
}

fn secs(ticks: u8) -> Duration {
    Duration::from_secs(ticks.into())
}

fn names() -> KeyNames {
    KeyNames { partition: "scope".into(), sort: "id".into() }
}

fn key(shard: usize) -> Key {
    Key::new(ARN, SHARDS[shard])
}

/// How much may happen in one run.
#[derive(Clone, Copy)]
struct Bounds {
    ticks: u8,
    acquisitions: u8,
    renewals: u8,
    commits: u8,
    crashes: u8,
}

struct Leases {
    bounds: Bounds,
    /// What must hold for a write under a lease.
    fence: fn(&str) -> Condition,
    /// How old the last renewal may be for the holder to count its lease as held.
    is_held: fn(age: u8) -> bool,
}

impl Leases {
    fn real(bounds: Bounds) -> Self {
        Self { bounds, fence: decide::fence, is_held }
    }
}

/// By the program's own margin: the holder stops before anybody else can call it dead.
fn is_held(age: u8) -> bool {
    *START + secs(age) < options().expiry(*START)
}

/// What the item of a shard says.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
struct Stored {
    token: Option<u8>,
    owner: u8,
    counter: u8,
    checkpoint: u8,
    ended: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Holds {
    token: u8,
    counter: u8,
    /// How long ago its last renewal that succeeded was sent.
    age: u8,
    checkpoint: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Sees {
    token: u8,
    counter: u8,
    age: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
struct Worker {
    holds: [Option<Holds>; 2],
    sees: [Option<Sees>; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum What {
    /// From a holder that was seen dead, or from nobody.
    Acquire {
        seen: Option<(u8, u8)>,
    },
    Renew {
        counter: u8,
    },
    Commit {
        checkpoint: u8,
        ended: bool,
    },
    Release,
}

/// A write on its way. Its sender may have given it up.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Sent {
    worker: u8,
    shard: usize,
    token: u8,
    what: What,
    age: u8,
    awaited: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
struct State {
    items: [Option<Stored>; 2],
    workers: [Worker; WORKERS],
    /// In order, so that the same writes on their way are the same state.
    sent: Vec<Sent>,
    ticks: u8,
    tokens: u8,
    renewals: u8,
    commits: u8,
    crashes: u8,
    /// A write under a token took effect that isn't the item's any more.
    stranger_wrote: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Look {
        worker: usize,
        shard: usize,
    },
    Renew {
        worker: usize,
        shard: usize,
    },
    Commit {
        worker: usize,
        shard: usize,
        ended: bool,
    },
    Release {
        worker: usize,
        shard: usize,
    },
    /// It lands, and its sender learns of it if it still waits.
    Lands {
        sent: usize,
        answered: bool,
    },
    Crash {
        worker: usize,
    },
    Tick,
}

impl Stored {
    fn item(&self, shard: usize) -> Item {
        let mut item = Item::default();
        let text = |text: &str| AttributeValue::S(text.to_owned());
        item.insert("scope".into(), text(ARN));
        item.insert("id".into(), text(SHARDS[shard]));
        if let Some(token) = self.token {
            item.insert(TOKEN.into(), text(&token.to_string()));
            item.insert(decide::OWNER.into(), text(&self.owner.to_string()));
        }
        item.insert(decide::COUNTER.into(), AttributeValue::N(self.counter.to_string()));
        item.inner_mut().extend(self.shard_item(shard).encode());
        item
    }

    fn shard_item(&self, shard: usize) -> ShardItem {
        ShardItem {
            checkpoint: (self.checkpoint > 0).then(|| SequenceNumber(self.checkpoint.to_string())),
            ended: self.ended.then_some(Ending::Read),
            parents: if shard == 1 { vec![ShardId(SHARDS[0].into())] } else { Vec::new() },
            ..ShardItem::default()
        }
    }

    fn of(shard: usize, item: &Item) -> Self {
        let holding = decide::holding(&key(shard), Some(item)).unwrap();
        let read = ShardItem::decode(ARN, SHARDS[shard], item).unwrap();
        let Some(AttributeValue::N(counter)) = item.get(decide::COUNTER) else { panic!("no counter") };
        Self {
            token: holding.as_ref().map(|held| held.token.parse().unwrap()),
            owner: holding.map_or(0, |held| held.owner.parse().unwrap()),
            counter: counter.parse().unwrap(),
            checkpoint: read.checkpoint.map_or(0, |checkpoint| checkpoint.0.parse().unwrap()),
            ended: read.ended.is_some(),
        }
    }
}

/// What follows from what the items say: found out once.
type Known = LazyLock<Mutex<HashMap<([Option<Stored>; 2], usize), bool>>>;

fn remembered(known: &Known, of: ([Option<Stored>; 2], usize), find: impl FnOnce() -> bool) -> bool {
    if let Some(found) = known.lock().unwrap().get(&of) {
        return *found;
    }
    let found = find();
    known.lock().unwrap().insert(of, found);
    found
}

impl Leases {
    /// Whether a shard may be read, by the program's own rule (I6).
    fn is_ready(state: &State, shard: usize) -> bool {
        static KNOWN: Known = LazyLock::new(Mutex::default);
        remembered(&KNOWN, (state.items.clone(), shard), || Self::find_whether_ready(state, shard))
    }

    fn find_whether_ready(state: &State, shard: usize) -> bool {
        let mut graph = ShardGraph::default();
        let id = |n: usize| ShardId(SHARDS[n].to_owned());
        let number = |n: u64| SequenceNumber(n.to_string());
        let shards = vec![
            Shard { id: id(0), parent: None, start: number(1), end: Some(number(9)) },
            Shard { id: id(1), parent: Some(id(0)), start: number(10), end: None },
        ];
        graph.observe(&Listing { enabled: true, shards }, []);
        let mut leases = BTreeMap::new();
        for (n, stored) in state.items.iter().enumerate() {
            if let Some(stored) = stored {
                leases.insert(id(n), LeaseFacts { state: LeaseState::Free, item: stored.shard_item(n) });
            }
        }
        StreamFacts::new(ARN, &graph, &leases).standing(&id(shard)) == Standing::Ready
    }

    /// What a worker concludes from a look, by the program's own judgement.
    fn judge(sees: Option<&Sees>, shard: usize, stored: Option<&Stored>) -> LeaseState {
        let mut observed = Observations::new(10);
        let key = key(shard);
        let now = *START + secs(100);
        if let Some(sees) = sees {
            let seen = Stored { token: Some(sees.token), counter: sees.counter, ..Stored::default() };
            let holding = decide::holding(&key, Some(&seen.item(shard))).unwrap();
            let then = now - secs(sees.age);
            observed.judge(&key, holding.as_ref(), then, then, options().length);
        }
        let item = stored.map(|stored| stored.item(shard));
        let holding = decide::holding(&key, item.as_ref()).unwrap();
        observed.judge(&key, holding.as_ref(), now, now, options().length)
    }

    fn write(&self, state: &State, sent: &Sent) -> Write {
        let key = key(sent.shard);
        let token = sent.token.to_string();
        let before = state.items[sent.shard].as_ref().map(|stored| stored.item(sent.shard));
        match sent.what {
            What::Acquire { seen } => {
                let seen = seen.map(|(token, counter)| {
                    let seen = Stored { token: Some(token), counter, ..Stored::default() };
                    decide::holding(&key, Some(&seen.item(sent.shard))).unwrap().unwrap()
                });
                decide::acquisition(&key, seen.as_ref(), before.as_ref(), &sent.worker.to_string(), &token)
            }
            What::Renew { counter } => decide::renewal(&key, &token, counter.into()),
            What::Commit { checkpoint, ended } => {
                let write = Write::update(key, (self.fence)(&token)).set(CHECKPOINT, checkpoint.to_string());
                if ended { write.set("ended", "read") } else { write }
            }
            What::Release => decide::giving_back(&key, &token, true),
        }
    }

    fn land(&self, state: &mut State, at: usize, answered: bool) {
        let sent = state.sent.remove(at);
        let write = self.write(state, &sent);
        let before = state.items[sent.shard].as_ref().map(|stored| stored.item(sent.shard));
        let applied = write.condition.holds(before.as_ref());
        if applied {
            let by_holder = !matches!(sent.what, What::Acquire { .. });
            let token = state.items[sent.shard].as_ref().and_then(|stored| stored.token);
            state.stranger_wrote |= by_holder && token != Some(sent.token);
            let after = write.apply(&names(), before.as_ref()).unwrap();
            state.items[sent.shard] = Some(Stored::of(sent.shard, &after));
        }
        if !(sent.awaited && answered) {
            return;
        }
        let (counter, checkpoint) =
            state.items[sent.shard].as_ref().map_or((0, 0), |stored| (stored.counter, stored.checkpoint));
        let worker = &mut state.workers[usize::from(sent.worker)];
        let holds = &mut worker.holds[sent.shard];
        let is_mine = holds.as_ref().is_some_and(|holds| holds.token == sent.token);
        match sent.what {
            What::Acquire { .. } if applied => {
                *holds = Some(Holds { token: sent.token, counter, age: sent.age, checkpoint });
                worker.sees[sent.shard] = None;
            }
            What::Renew { counter } if applied && is_mine => {
                if let Some(holds) = holds {
                    (holds.counter, holds.age) = (counter + 1, sent.age);
                }
            }
            What::Commit { checkpoint, .. } if applied && is_mine => {
                if let Some(holds) = holds {
                    holds.checkpoint = checkpoint;
                }
            }
            // A refusal shows another's token: it is lost.
            What::Renew { .. } | What::Commit { .. } if !applied && is_mine => *holds = None,
            _ => {}
        }
    }

    /// Whether a fresh worker gets every shard, one after the other, when all others fall silent: nobody's marker keeps it
    /// from that for longer than a lease lives.
    fn can_be_rescued(&self, state: &State) -> bool {
        static KNOWN: Known = LazyLock::new(Mutex::default);
        // It depends on what the items say, and on nothing else.
        let silent = State { items: state.items.clone(), ..State::default() };
        remembered(&KNOWN, (silent.items.clone(), 0), || self.rescue(silent))
    }

    fn rescue(&self, mut state: State) -> bool {
        for shard in 0..SHARDS.len() {
            if state.items[shard].as_ref().is_some_and(|stored| stored.ended) {
                continue;
            }
            if !Self::is_ready(&state, shard) {
                return false;
            }
            let stored = state.items[shard].clone();
            let mut seen = None;
            if let LeaseState::Held { .. } = Self::judge(None, shard, stored.as_ref()) {
                let Some(Stored { token: Some(token), counter, .. }) = stored else { return false };
                let sees = Sees { token, counter, age: LENGTH };
                if !matches!(Self::judge(Some(&sees), shard, stored.as_ref()), LeaseState::Dead { .. }) {
                    return false;
                }
                seen = Some((token, counter));
            }
            for what in [What::Acquire { seen }, What::Commit { checkpoint: 99, ended: true }] {
                state.sent.push(Sent { worker: 0, shard, token: 200, what, age: 0, awaited: false });
                self.land(&mut state, 0, false);
            }
            if !state.items[shard].as_ref().is_some_and(|stored| stored.ended) {
                return false;
            }
        }
        true
    }
}

impl Model for Leases {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::default()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (worker, of) in state.workers.iter().enumerate() {
            for shard in 0..SHARDS.len() {
                let waits = state
                    .sent
                    .iter()
                    .any(|sent| sent.awaited && usize::from(sent.worker) == worker && sent.shard == shard);
                match &of.holds[shard] {
                    _ if waits => {}
                    None if !Self::is_ready(state, shard) => {}
                    None => actions.push(Action::Look { worker, shard }),
                    Some(holds) if (self.is_held)(holds.age) => {
                        if state.renewals < self.bounds.renewals {
                            actions.push(Action::Renew { worker, shard });
                        }
                        if state.commits < self.bounds.commits {
                            actions.push(Action::Commit { worker, shard, ended: shard == 0 });
                        }
                        actions.push(Action::Release { worker, shard });
                    }
                    Some(_) => {}
                }
            }
            if state.crashes < self.bounds.crashes && *of != Worker::default() {
                actions.push(Action::Crash { worker });
            }
        }
        for sent in 0..state.sent.len() {
            actions.push(Action::Lands { sent, answered: true });
            if state.sent[sent].awaited {
                actions.push(Action::Lands { sent, answered: false });
            }
        }
        if state.ticks < self.bounds.ticks {
            actions.push(Action::Tick);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let send = |state: &mut State, worker: usize, shard: usize, token: u8, what: What| {
            state.sent.push(Sent { worker: worker as u8, shard, token, what, age: 0, awaited: true });
        };
        match action {
            Action::Look { worker, shard } => {
                let stored = state.items[shard].clone();
                let sees = state.workers[worker].sees[shard].take();
                let judged = Self::judge(sees.as_ref(), shard, stored.as_ref());
                let now = stored.and_then(|stored| Some((stored.token?, stored.counter)));
                match judged {
                    LeaseState::Held { .. } => {
                        let (token, counter) = now?;
                        let before = sees.clone();
                        let same = sees.filter(|sees| (sees.token, sees.counter) == (token, counter));
                        let after = Some(same.unwrap_or(Sees { token, counter, age: 0 }));
                        if after == before {
                            return None;
                        }
                        state.workers[worker].sees[shard] = after;
                    }
                    LeaseState::Free | LeaseState::Dead { .. } if state.tokens < self.bounds.acquisitions => {
                        state.tokens += 1;
                        let token = state.tokens;
                        send(&mut state, worker, shard, token, What::Acquire { seen: now });
                    }
                    _ => return None,
                }
            }
            Action::Renew { worker, shard } => {
                let holds = state.workers[worker].holds[shard].clone()?;
                state.renewals += 1;
                send(&mut state, worker, shard, holds.token, What::Renew { counter: holds.counter });
            }
            Action::Commit { worker, shard, ended } => {
                let holds = state.workers[worker].holds[shard].clone()?;
                state.commits += 1;
                let what = What::Commit { checkpoint: holds.checkpoint + 1, ended };
                send(&mut state, worker, shard, holds.token, what);
            }
            Action::Release { worker, shard } => {
                let holds = state.workers[worker].holds[shard].take()?;
                send(&mut state, worker, shard, holds.token, What::Release);
            }
            Action::Lands { sent, answered } => self.land(&mut state, sent, answered),
            Action::Crash { worker } => {
                state.crashes += 1;
                state.workers[worker] = Worker::default();
                for sent in state.sent.iter_mut().filter(|sent| usize::from(sent.worker) == worker) {
                    sent.awaited = false;
                }
            }
            Action::Tick => {
                state.ticks += 1;
                let older = |age: &mut u8| *age = (*age + 1).min(LENGTH + 1);
                for worker in &mut state.workers {
                    for holds in worker.holds.iter_mut() {
                        if let Some(held) = holds {
                            older(&mut held.age);
                            // Expired before its own eyes: it is never renewed.
                            if !(self.is_held)(held.age) {
                                *holds = None;
                            }
                        }
                    }
                    worker.sees.iter_mut().flatten().for_each(|sees| older(&mut sees.age));
                }
                state.sent.iter_mut().for_each(|sent| older(&mut sent.age));
            }
        }
        state.sent.sort();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("at most one worker counts a shard as its own", |model: &Self, state: &State| {
                (0..SHARDS.len()).all(|shard| {
                    let holders = state.workers.iter().filter_map(|worker| worker.holds[shard].as_ref());
                    holders.filter(|holds| (model.is_held)(holds.age)).count() <= 1
                })
            }),
            Property::always("only the holder's writes take effect", |_, state: &State| !state.stranger_wrote),
            Property::always("no child is begun before its parent is done", |_, state: &State| {
                let ended = |shard: usize| state.items[shard].as_ref().is_some_and(|stored| stored.ended);
                state.items[1].is_none() || ended(0)
            }),
            Property::always(
                "no marker outlives its expiry, and no shard stays without an owner",
                |model: &Self, state| model.can_be_rescued(state),
            ),
            Property::sometimes("a shard is taken over from a dead holder", |_, state: &State| {
                state.sent.iter().any(|sent| matches!(sent.what, What::Acquire { seen: Some(_) }))
            }),
            Property::sometimes("a lease is renewed, taken over and committed under", |_, state: &State| {
                state.items[0].as_ref().is_some_and(|stored| stored.checkpoint >= 1 && stored.counter >= 3)
            }),
            Property::sometimes("the child is read", |_, state: &State| {
                state.items[1].as_ref().is_some_and(|stored| stored.checkpoint >= 1)
            }),
        ]
    }
}

/// So much may happen in an ordinary test run. That a worker crashes is in it: one that does nothing any more.
const BOUNDS: Bounds = Bounds { ticks: 3, acquisitions: 2, renewals: 1, commits: 2, crashes: 0 };

/// With `PENSTOCK_MODEL=large`, which takes many minutes: three takeovers, and workers that forget what they saw.
const LARGE: Bounds = Bounds { ticks: 5, acquisitions: 3, renewals: 2, commits: 2, crashes: 1 };

fn bounds() -> Bounds {
    if std::env::var("PENSTOCK_MODEL").is_ok_and(|size| size == "large") { LARGE } else { BOUNDS }
}

fn check(model: Leases, until: HasDiscoveries) -> impl Checker<Leases> {
    model.checker().threads(2).finish_when(until).spawn_bfs().join()
}

#[test]
fn i6_i7_f18_f23_a_shard_has_one_committer_no_marker_outlives_its_expiry_and_none_stays_without_owner() {
    let checker = check(Leases::real(bounds()), HasDiscoveries::AnyFailures);
    println!("{} states, {} of them unique", checker.state_count(), checker.unique_state_count());
    checker.assert_properties();
}

#[test]
fn f18_planted_a_write_without_the_token_is_found_by_the_model() {
    let checker =
        check(Leases { fence: |_| Condition::All(Vec::new()), ..Leases::real(BOUNDS) }, HasDiscoveries::AnyFailures);
    checker.assert_any_discovery("only the holder's writes take effect");
}

#[test]
fn f18_planted_a_holder_that_counts_on_its_lease_for_too_long_is_found_by_the_model() {
    let checker = check(Leases { is_held: |age| age <= LENGTH, ..Leases::real(BOUNDS) }, HasDiscoveries::AnyFailures);
    checker.assert_any_discovery("at most one worker counts a shard as its own");
}
