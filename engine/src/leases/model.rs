//! Leases as a model, checked in every interleaving: three workers, a shard and the shard that continues it. A worker may
//! freeze, and thaw or not (which is how a crash looks to the others), or a write may be answered with an error, and land
//! later or never: two such faults in a run, between any two steps. One write at most is on its late way at a time.
//!
//! The steps are the model's; what is decided and written is the code's own ([`Observations::judge`], the writes of
//! [`decide`](super::decide), [`LeaseOptions::expiry`], [`StreamFacts::standing`]). Time goes by in ticks of half a lease.
//! Ages stop where they make no difference any more, tokens and counters are renumbered, and workers stand in the order of
//! what they know: so there is an end to the states, and the check is of all of them.

use std::{collections::BTreeMap, sync::LazyLock, time::Duration};

use serde_dynamo::{AttributeValue, Item};
use stateright::{Checker, Model, Property};
use tokio::time::Instant;

use super::{LeaseOptions, decide};
use crate::{
    cloud::{
        change_stream::{SequenceNumber, Shard, ShardId},
        table::{Condition, Key, KeyNames, Write},
    },
    leases::{
        COUNTER, LeaseState, OWNER, TOKEN,
        decide::{Holding, Observations},
    },
    streams::{
        assignment::{LeaseFacts, Standing, StreamFacts},
        shard_graph::{Listing, ShardGraph},
        shard_item::{Ending, ShardItem},
    },
};

const OPTIONS: LeaseOptions = LeaseOptions { length: Duration::from_secs(10), sole_process: false };
const TICK: Duration = Duration::from_secs(5);
/// No age counts beyond this many ticks: a lease of this age has expired for its holder, and is dead for who watched it.
const OLD: u8 = 2;
/// A shard is read to its end with so many checkpoints; the last one says that it has ended.
const END: u8 = 1;
/// A token that no item shows any more: it makes no difference which.
const STALE: u8 = 0;
/// Faults in a run.
const FAULTS: u8 = 2;
const WORKERS: usize = 3;
const SHARDS: usize = 2;
const CHECKPOINT: &str = "at";

/// What a model may be spoilt with, to show that it would find it.
#[derive(Clone, Copy)]
struct Rules {
    fence: fn(&str) -> Condition,
    /// Whether who sees a lease for the first time may believe that it has stood still for long.
    believes_first_sight: bool,
}

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Whether the second shard may be read, by whether the first has ended.
static MAY_READ_CHILD: LazyLock<[bool; 2]> = LazyLock::new(|| [false, true].map(may_read_child));

fn may_read_child(parent_ended: bool) -> bool {
    let shard = |id: &str, parent: Option<&str>| Shard {
        id: ShardId(id.to_owned()),
        parent: parent.map(|id| ShardId(id.to_owned())),
        start: SequenceNumber("1".to_owned()),
        end: parent.is_none().then(|| SequenceNumber("9".to_owned())),
    };
    let mut graph = ShardGraph::default();
    let listing = Listing { enabled: true, shards: vec![shard("0", None), shard("1", Some("0"))] };
    graph.observe(&listing, std::iter::empty());
    let item = ShardItem { ended: parent_ended.then_some(Ending::Read), ..ShardItem::default() };
    let leases = BTreeMap::from([(ShardId("0".to_owned()), LeaseFacts { state: LeaseState::Free, item })]);
    StreamFacts::new("arn", &graph, &leases).standing(&ShardId("1".to_owned())) == Standing::Ready
}

/// The item of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
struct Row {
    token: Option<u8>,
    counter: u8,
    at: u8,
}

impl Row {
    fn holding(self) -> Option<Holding> {
        decide::holding(&key(0), Some(&self.item())).unwrap()
    }

    fn item(self) -> Item {
        let mut item = Item::default();
        let mut set = |name: &str, value| item.inner_mut().insert(name.to_owned(), value);
        set(COUNTER, AttributeValue::N(self.counter.to_string()));
        set(CHECKPOINT, AttributeValue::N(self.at.to_string()));
        if let Some(token) = self.token {
            set(TOKEN, AttributeValue::S(token.to_string()));
            set(OWNER, AttributeValue::S("w".to_owned()));
        }
        item
    }

    fn of(item: &Item) -> Self {
        let number = |name: &str| match item.get(name) {
            Some(AttributeValue::N(text) | AttributeValue::S(text)) => text.parse().ok(),
            _ => None,
        };
        Self { token: number(TOKEN), counter: number(COUNTER).unwrap(), at: number(CHECKPOINT).unwrap() }
    }
}

fn key(shard: usize) -> Key {
    Key::new("arn", shard.to_string())
}

/// What a worker knows of a shard, or is about to do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Mine {
    /// Nothing, or what it has seen for how long: token, counter, ticks.
    Seen(Option<(u8, u8, u8)>),
    /// It has decided to take it, and the write is on its way: since so many ticks, by its own clock.
    Taking { write: Taking, age: u8 },
    /// It has it; the write that last renewed it began so many ticks ago. It read up to there.
    Held { token: u8, counter: u8, age: u8, at: u8 },
}

/// A write that takes a lease: what was seen, what the counter was, and its own token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Taking {
    seen: Option<(u8, u8)>,
    counter: u8,
    token: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Worker {
    frozen: bool,
    shards: [Mine; SHARDS],
}

/// A write that takes a lease and will be refused.
const DOOMED: Mine = Mine::Taking { write: Taking { seen: Some((STALE, 0)), counter: 0, token: STALE }, age: 0 };

const FRESH: Worker = Worker { frozen: false, shards: [Mine::Seen(None); SHARDS] };

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum LateWrite {
    Take(Taking),
    Renew { token: u8, counter: u8 },
    Checkpoint { token: u8, at: u8 },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    rows: [Row; SHARDS],
    workers: [Worker; WORKERS],
    /// A write that was answered with an error, and may still land.
    late: Option<(usize, LateWrite)>,
    /// Freezes and late writes that may still happen.
    faults_left: u8,
    /// What happened that never may.
    broken: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Action {
    Look(usize, usize),
    Take(usize, usize),
    Renew(usize, usize),
    Checkpoint(usize, usize),
    GiveBack(usize, usize),
    /// The same, but the answer is an error: the write lands later, or never.
    TakeLate(usize, usize),
    RenewLate(usize, usize),
    CheckpointLate(usize, usize),
    Land,
    Freeze(usize),
    Thaw(usize),
    Tick,
}

struct LeaseModel(Rules);

/// Whether a holder counts a lease as its own, the last renewal of which began so long ago.
fn is_held(age: u8) -> bool {
    *START + TICK * u32::from(age) < OPTIONS.expiry(*START)
}

fn taking(shard: usize, taking: Taking) -> Write {
    let seen = taking.seen.map(|(token, counter)| Holding {
        owner: "w".to_owned(),
        token: token.to_string(),
        counter: u64::from(counter),
    });
    let before = Row { counter: taking.counter, ..Row::default() }.item();
    decide::acquisition(&key(shard), seen.as_ref(), Some(&before), "w", &taking.token.to_string())
}

/// The counters of a write that takes a lease; where it begins to count is beside no other.
fn of_taking<'a>(write: &'a mut Taking, counters: &mut BTreeMap<u8, Vec<&'a mut u8>>) {
    write.counter = 0;
    if let Some((token, counter)) = &mut write.seen {
        counters.entry(*token).or_default().push(counter);
    }
}

/// Whether a late write may still be taken, now or later: what it has seen isn't over.
fn may_land(write: LateWrite, row: Row) -> bool {
    match write {
        LateWrite::Take(Taking { seen: None, .. }) => true,
        LateWrite::Take(Taking { seen: Some((token, counter)), .. }) | LateWrite::Renew { token, counter } => {
            row.token == Some(token) && row.counter == counter
        }
        LateWrite::Checkpoint { at, .. } => row.at == at,
    }
}

impl State {
    fn write(&mut self, shard: usize, write: &Write) -> bool {
        let names = KeyNames { partition: "scope".to_owned(), sort: "id".to_owned() };
        let before = self.rows[shard].item();
        let holds = write.condition.holds(Some(&before));
        if let Some(after) = write.apply(&names, Some(&before)).filter(|_| holds) {
            self.rows[shard] = Row::of(&after);
        }
        holds
    }

    fn checkpoint(&mut self, shard: usize, token: u8, at: u8, rules: Rules) -> bool {
        let as_seen = Condition::equals_number(CHECKPOINT, at);
        let write = Write::update(key(shard), (rules.fence)(&token.to_string()).and(as_seen));
        let before = self.rows[shard];
        let done = self.write(shard, &write.set_number(CHECKPOINT, at + 1));
        if done && before.token != Some(token) {
            self.broken = Some("I7: a checkpoint was written by another than the owner");
        }
        if done && shard == 1 && self.rows[0].at < END {
            self.broken = Some("I6: a child's checkpoint was written before its parent's end");
        }
        done
    }

    fn may_read(&self, shard: usize) -> bool {
        let ended = |shard: usize| self.rows[shard].at == END;
        !ended(shard) && (shard == 0 || MAY_READ_CHILD[usize::from(ended(0))])
    }

    fn look(&mut self, worker: usize, shard: usize, rules: Rules) {
        let Mine::Seen(seen) = self.workers[worker].shards[shard] else { return };
        let row = self.rows[shard];
        let (key, shown) = (key(shard), row.holding());
        let mut observed = Observations::new(1);
        let now = *START + TICK * u32::from(seen.map_or(0, |(.., age)| age));
        if let Some((token, counter, _)) = seen {
            let before = Holding { owner: "w".to_owned(), token: token.to_string(), counter: u64::from(counter) };
            observed.judge(&key, Some(&before), *START, *START, OPTIONS.length);
        }
        let state = observed.judge(&key, shown.as_ref(), now, now, OPTIONS.length);
        let is_dead = matches!(state, LeaseState::Dead { .. }) || (rules.believes_first_sight && shown.is_some());
        self.workers[worker].shards[shard] = if is_dead || state == LeaseState::Free {
            let seen = row.token.map(|token| (token, row.counter));
            let write = Taking { seen, counter: row.counter, token: self.unused() };
            Mine::Taking { write, age: 0 }
        } else {
            let since = seen.filter(|(token, counter, _)| row.token == Some(*token) && row.counter == *counter);
            Mine::Seen(since.or(row.token.map(|token| (token, row.counter, 0))))
        };
    }

    fn unused(&self) -> u8 {
        let used = self.tokens();
        (STALE + 1..=u8::MAX).find(|token| !used.contains(token)).unwrap()
    }

    fn tokens(&self) -> Vec<u8> {
        let mut state = self.clone();
        let mut tokens = Vec::new();
        state.rename(|_, token| {
            tokens.push(token);
            token
        });
        tokens
    }

    /// Calls `rename` with each token, and the shard that it is of.
    fn rename(&mut self, mut rename: impl FnMut(usize, u8) -> u8) {
        for (shard, row) in self.rows.iter_mut().enumerate() {
            row.token = row.token.map(|token| rename(shard, token));
        }
        let of_taking = |shard: usize, write: &mut Taking, rename: &mut dyn FnMut(usize, u8) -> u8| {
            write.token = rename(shard, write.token);
            write.seen = write.seen.map(|(token, counter)| (rename(shard, token), counter));
        };
        for worker in &mut self.workers {
            for (shard, mine) in worker.shards.iter_mut().enumerate() {
                match mine {
                    Mine::Seen(None) => {}
                    Mine::Seen(Some((token, ..))) | Mine::Held { token, .. } => *token = rename(shard, *token),
                    Mine::Taking { write, .. } => of_taking(shard, write, &mut rename),
                }
            }
        }
        match &mut self.late {
            Some((shard, LateWrite::Take(write))) => of_taking(*shard, write, &mut rename),
            Some((shard, LateWrite::Renew { token, .. } | LateWrite::Checkpoint { token, .. })) => {
                *token = rename(*shard, *token);
            }
            None => {}
        }
    }

    /// The same state as every other one that can't be told from it by what may happen.
    fn canonical(mut self) -> Self {
        // Nothing that is known of a shard that has ended makes a difference: no checkpoint passes its last one.
        for shard in 0..SHARDS {
            if self.rows[shard].at < END {
                continue;
            }
            self.rows[shard] = Row { at: END, ..Row::default() };
            self.workers.iter_mut().for_each(|worker| worker.shards[shard] = Mine::Seen(None));
            self.late = self.late.filter(|(of, _)| *of != shard);
        }
        // A token can come to be shown only while a write that takes the lease with it is on its way.
        let mut shown: Vec<(usize, u8)> = Vec::new();
        let coming = |mine: &Mine| if let Mine::Taking { write, .. } = mine { Some(write.token) } else { None };
        for shard in 0..SHARDS {
            shown.extend(self.rows[shard].token.map(|token| (shard, token)));
            shown.extend(self.workers.iter().filter_map(|worker| coming(&worker.shards[shard])).map(|t| (shard, t)));
        }
        if let Some((shard, LateWrite::Take(write))) = self.late {
            shown.push((shard, write.token));
        }
        self.rename(|shard, token| if shown.contains(&(shard, token)) { token } else { STALE });
        for shard in 0..SHARDS {
            let row = self.rows[shard];
            for worker in &mut self.workers {
                match &mut worker.shards[shard] {
                    // Whatever else is shown when it looks the next time, it begins to watch anew.
                    Mine::Seen(seen) if seen.is_some_and(|(t, c, _)| row.token != Some(t) || row.counter != c) => {
                        *seen = None;
                    }
                    // What it has seen is over, so its write will be refused: whatever else it says.
                    Mine::Taking { write: Taking { seen: Some((t, c)), .. }, .. }
                        if row.token != Some(*t) || row.counter != *c =>
                    {
                        worker.shards[shard] = DOOMED;
                    }
                    _ => {}
                }
            }
        }
        let rows = self.rows;
        self.late = self.late.filter(|(shard, write)| may_land(*write, rows[*shard]));
        // Tokens by where they stand, once the workers stand in the order of what they know without them.
        let mut plain = self.clone();
        plain.rename(|_, token| u8::from(token != STALE));
        let mut order: Vec<usize> = (0..WORKERS).collect();
        order.sort_by_key(|worker| plain.workers[*worker]);
        self.workers = std::array::from_fn(|at| self.workers[order[at]]);
        let mut names: BTreeMap<u8, u8> = BTreeMap::from([(STALE, STALE)]);
        self.rename(|_, token| {
            let next = names.len() as u8;
            *names.entry(token).or_insert(next)
        });
        self.shift_counters();
        self
    }

    /// Counters only matter beside those of the same token.
    fn shift_counters(&mut self) {
        for shard in 0..SHARDS {
            let mut counters: BTreeMap<u8, Vec<&mut u8>> = BTreeMap::new();
            let row = &mut self.rows[shard];
            counters.entry(row.token.unwrap_or(STALE)).or_default().push(&mut row.counter);
            for worker in &mut self.workers {
                match &mut worker.shards[shard] {
                    Mine::Seen(None) => {}
                    Mine::Seen(Some((token, counter, _))) | Mine::Held { token, counter, .. } => {
                        counters.entry(*token).or_default().push(counter);
                    }
                    Mine::Taking { write, .. } => of_taking(write, &mut counters),
                }
            }
            match self.late.as_mut().filter(|(of, _)| *of == shard) {
                Some((_, LateWrite::Take(write))) => of_taking(write, &mut counters),
                Some((_, LateWrite::Renew { token, counter })) => counters.entry(*token).or_default().push(counter),
                Some((_, LateWrite::Checkpoint { .. })) | None => {}
            }
            for (token, counters) in counters {
                let least = counters.iter().map(|counter| **counter).min().unwrap_or(0);
                counters.into_iter().for_each(|counter| *counter = if token == STALE { 0 } else { *counter - least });
            }
        }
    }

    /// One tick passes, on every clock. Who is awake lets go of what has expired.
    fn tick(&mut self) {
        for worker in &mut self.workers {
            for mine in &mut worker.shards {
                match mine {
                    Mine::Seen(None) | Mine::Taking { write: Taking { token: STALE, .. }, .. } => {}
                    Mine::Seen(Some((.., age))) | Mine::Taking { age, .. } | Mine::Held { age, .. } => {
                        *age = (*age + 1).min(OLD);
                    }
                }
                if !worker.frozen && matches!(mine, Mine::Held { age, .. } if !is_held(*age)) {
                    *mine = Mine::Seen(None);
                }
            }
        }
    }

    fn apply(&mut self, action: Action, rules: Rules) {
        match action {
            Action::Look(worker, shard) => self.look(worker, shard, rules),
            Action::Take(worker, shard) => {
                let Mine::Taking { write, age } = self.workers[worker].shards[shard] else { return };
                let taken = self.write(shard, &taking(shard, write));
                let Row { counter, at, .. } = self.rows[shard];
                let held = Mine::Held { token: write.token, counter, age, at };
                self.workers[worker].shards[shard] = if taken && is_held(age) { held } else { Mine::Seen(None) };
            }
            Action::TakeLate(worker, shard) => {
                let Mine::Taking { write, .. } = self.workers[worker].shards[shard] else { return };
                self.late = Some((shard, LateWrite::Take(write)));
                self.workers[worker].shards[shard] = Mine::Seen(None);
                self.faults_left -= 1;
            }
            Action::Renew(worker, shard) => {
                let Mine::Held { token, counter, at, .. } = self.workers[worker].shards[shard] else { return };
                let mut counter = counter;
                // Refused by an own earlier try that landed after all: it goes on from there.
                let renewed = (0..2).any(|_| {
                    let renewed = self.write(shard, &decide::renewal(&key(shard), &token.to_string(), counter.into()));
                    counter = self.rows[shard].counter;
                    renewed
                });
                self.workers[worker].shards[shard] =
                    if renewed { Mine::Held { token, counter, age: 0, at } } else { Mine::Seen(None) };
            }
            Action::RenewLate(worker, shard) => {
                let Mine::Held { token, counter, .. } = self.workers[worker].shards[shard] else { return };
                self.late = Some((shard, LateWrite::Renew { token, counter }));
                self.faults_left -= 1;
            }
            Action::Checkpoint(worker, shard) => {
                let Mine::Held { token, counter, age, at } = self.workers[worker].shards[shard] else { return };
                // A refusal that shows what was to be written is an own earlier try's, as long as the token is.
                let done = self.checkpoint(shard, token, at, rules)
                    || (self.rows[shard].token == Some(token) && self.rows[shard].at == at + 1);
                self.workers[worker].shards[shard] =
                    if done { Mine::Held { token, counter, age, at: at + 1 } } else { Mine::Seen(None) };
            }
            Action::CheckpointLate(worker, shard) => {
                let Mine::Held { token, at, .. } = self.workers[worker].shards[shard] else { return };
                self.late = Some((shard, LateWrite::Checkpoint { token, at }));
                self.faults_left -= 1;
            }
            Action::GiveBack(worker, shard) => {
                let Mine::Held { token, .. } = self.workers[worker].shards[shard] else { return };
                self.write(shard, &decide::giving_back(&key(shard), &token.to_string(), true));
                self.workers[worker].shards[shard] = Mine::Seen(None);
            }
            Action::Land => match self.late.take() {
                Some((shard, LateWrite::Take(write))) => {
                    self.write(shard, &taking(shard, write));
                }
                Some((shard, LateWrite::Renew { token, counter })) => {
                    self.write(shard, &decide::renewal(&key(shard), &token.to_string(), counter.into()));
                }
                Some((shard, LateWrite::Checkpoint { token, at })) => {
                    self.checkpoint(shard, token, at, rules);
                }
                None => {}
            },
            Action::Freeze(worker) => {
                self.workers[worker].frozen = true;
                self.faults_left -= 1;
            }
            Action::Thaw(worker) => {
                // It sees at once that time has passed (`Lease::is_held`); what it had sent is on its way.
                self.workers[worker].frozen = false;
                for mine in &mut self.workers[worker].shards {
                    if matches!(mine, Mine::Held { age, .. } if !is_held(*age)) {
                        *mine = Mine::Seen(None);
                    }
                }
            }
            Action::Tick => self.tick(),
        }
    }

    /// What a worker that is awake may do.
    fn steps(&self, worker: usize, actions: &mut Vec<Action>) {
        for shard in 0..SHARDS {
            match self.workers[worker].shards[shard] {
                Mine::Seen(_) if self.may_read(shard) => actions.push(Action::Look(worker, shard)),
                Mine::Seen(_) => {}
                Mine::Taking { .. } => actions.push(Action::Take(worker, shard)),
                Mine::Held { at, .. } => {
                    actions.extend([Action::Renew, Action::GiveBack].map(|step| step(worker, shard)));
                    if at < END {
                        actions.push(Action::Checkpoint(worker, shard));
                    }
                }
            }
        }
    }

    /// Whether the passing of time changes nothing any more.
    fn is_at_rest(&self) -> bool {
        let mut later = self.clone();
        later.tick();
        later.canonical() == *self
    }

    /// Whether all is read in the end once nothing goes wrong any more: nobody freezes, nothing lands late.
    fn heals(&self, rules: Rules) -> bool {
        let mut state = self.clone();
        let mut steps = Vec::new();
        for _ in 0..12 {
            if state.rows.iter().all(|row| row.at == END) {
                return true;
            }
            for worker in (0..WORKERS).filter(|worker| !self.workers[*worker].frozen) {
                // Looks, takes, and reads on.
                for _ in 0..4 {
                    steps.clear();
                    state.steps(worker, &mut steps);
                    steps.retain(|step| !matches!(step, Action::GiveBack(_, shard) if state.may_read(*shard)));
                    steps.drain(..).for_each(|step| state.apply(step, rules));
                }
            }
            state.tick();
        }
        false
    }
}

impl Model for LeaseModel {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let (rows, workers) = ([Row::default(); SHARDS], [FRESH; WORKERS]);
        vec![State { rows, workers, late: None, faults_left: FAULTS, broken: None }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for worker in 0..WORKERS {
            if state.workers[worker].frozen {
                actions.push(Action::Thaw(worker));
                continue;
            }
            state.steps(worker, actions);
            if state.faults_left == 0 {
                continue;
            }
            actions.push(Action::Freeze(worker));
            for shard in 0..SHARDS {
                match state.workers[worker].shards[shard] {
                    Mine::Taking { .. } => actions.push(Action::TakeLate(worker, shard)),
                    Mine::Seen(_) => {}
                    Mine::Held { .. } => {
                        actions.extend([Action::RenewLate, Action::CheckpointLate].map(|step| step(worker, shard)));
                    }
                }
            }
        }
        if state.late.is_some() {
            actions.push(Action::Land);
        }
        actions.push(Action::Tick);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        next.apply(action, self.0);
        let next = next.canonical();
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::<Self>::always("I7 no two workers count a shard as theirs at the same time", |_, state| {
                let counts = |shard: usize| {
                    let holds =
                        |worker: &&Worker| matches!(worker.shards[shard], Mine::Held { age, .. } if is_held(age));
                    state.workers.iter().filter(holds).count()
                };
                (0..SHARDS).all(|shard| counts(shard) <= 1)
            }),
            Property::<Self>::always(
                "I6 I7 only the owner commits, and no child before its parent's end",
                |_, state| state.broken.is_none(),
            ),
            // From every state time alone leads to one of rest, and that is in the model: looking there is enough.
            Property::<Self>::always("every marker expires: no shard stays without an owner", |model, state| {
                !state.is_at_rest() || state.heals(model.0)
            }),
            Property::<Self>::sometimes("both shards are read to their end", |_, state| {
                state.rows.iter().all(|row| row.at == END)
            }),
            Property::<Self>::sometimes("a lease of a frozen worker is taken over", |_, state| {
                let is_zombie = |mine: &Mine| matches!(mine, Mine::Held { token: STALE, .. });
                state.workers.iter().any(|worker| worker.frozen && worker.shards.iter().any(is_zombie))
            }),
        ]
    }
}

const RIGHT: Rules = Rules { fence: decide::fence, believes_first_sight: false };

/// Checks all states. The names of the properties that don't hold.
fn wrong(rules: Rules) -> Vec<&'static str> {
    let checker = LeaseModel(rules).checker().threads(2).spawn_bfs().join();
    let wrong = |property: &Property<LeaseModel>| checker.discovery(property.name).is_some();
    let always = |property: &Property<LeaseModel>| property.expectation == stateright::Expectation::Always;
    let properties = LeaseModel(rules).properties();
    if !properties.iter().any(|property| always(property) && wrong(property)) {
        assert!(checker.is_done(), "it isn't checked to the end");
        properties.iter().filter(|property| !always(property)).for_each(|property| {
            assert!(wrong(property), "never: {}", property.name);
        });
    }
    properties.iter().filter(|property| always(property) && wrong(property)).map(|property| property.name).collect()
}

#[test]
fn i6_i7_every_interleaving_of_three_workers_on_two_generations_of_shards() {
    assert_eq!(wrong(RIGHT), Vec::<&str>::new());
}

#[test]
fn the_model_finds_a_takeover_at_first_sight() {
    let found = wrong(Rules { believes_first_sight: true, ..RIGHT });
    assert!(found.iter().any(|name| name.contains("no two workers")), "{found:?}");
}

#[test]
fn the_model_finds_a_checkpoint_without_the_fence() {
    let found = wrong(Rules { fence: |_| Condition::All(Vec::new()), ..RIGHT });
    assert!(found.iter().any(|name| name.contains("only the owner commits")), "{found:?}");
}
