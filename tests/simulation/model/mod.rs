//! The protocols as models, checked in every interleaving and to their end: [`manifests`], [`outputs`], [`settling`].
//!
//! The steps are the model's; what is decided and written is the pipeline's own pure code. Two things make an end of the
//! states. What can't be told apart by what may happen is one state: files, folds and workers stand in the order of what is
//! true of them, tokens are renumbered, what nobody can refer to any more is forgotten. And a step that touches nothing
//! which others see, or a write that is refused whatever comes, is taken at once.

mod manifests;
mod outputs;
mod settling;

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Debug,
    hash::Hash,
    sync::RwLock,
    time::Instant,
};

use chrono::{DateTime, Utc};
use penstock_engine::cloud::{
    Item,
    table::{Condition, KeyNames, Write},
};
use stateright::{Checker, Expectation, HasDiscoveries, Model, Path};

const DATE: &str = "2026-02-01";

/// What makes something of a write on its way to the table: a planted bug, by the name of the transition.
type Tamper = fn(&str, Write) -> Write;

/// The bug that makes a write depend on nothing.
fn without_condition(write: Write) -> Write {
    Write { condition: Condition::All(Vec::new()), ..write }
}

/// The bug that makes a write depend on the state before, and on nothing besides.
fn by_status_alone(status: &str, write: Write) -> Write {
    Write { condition: Condition::equals("status", status), ..write }
}

/// A token that nothing shows any more: it makes no difference which.
const NONE: u8 = 0;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_770_000_000, 0).unwrap()
}

/// What a write makes of an item: `None` if it is refused. A refusal by one's own earlier try is no refusal, as in
/// `carry_out`.
fn after(write: &Write, before: &Item) -> Option<Item> {
    let names = KeyNames { partition: "date_prefix".to_owned(), sort: "file_key".to_owned() };
    if write.condition.holds(Some(before)) {
        write.apply(&names, Some(before))
    } else {
        write.is_shown_by(Some(before)).then(|| before.clone())
    }
}

/// What the code's own writes make of the items, each worked out once.
struct Known<Asked, Answer>(RwLock<HashMap<Asked, Answer>>);

impl<Asked: Eq + Hash + Copy, Answer: Copy> Known<Asked, Answer> {
    fn new() -> Self {
        Self(RwLock::default())
    }

    fn get(&self, asked: Asked, work_out: impl FnOnce() -> Answer) -> Answer {
        if let Some(answer) = self.0.read().unwrap().get(&asked) {
            return *answer;
        }
        let answer = work_out();
        self.0.write().unwrap().insert(asked, answer);
        answer
    }
}

/// The least token that isn't in use.
fn unused(used: impl IntoIterator<Item = u8>) -> u8 {
    let used = used.into_iter().fold(0_u64, |used, token| used | 1 << token);
    (NONE + 1..=63).find(|token| used & 1 << token == 0).unwrap()
}

/// Checks all states of a model: what must always hold does, and what must be possible is.
fn check<M>(what: &str, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + PartialEq + Hash + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + Send + Sync + 'static,
{
    let properties = model.properties();
    let began = Instant::now();
    let checker = model.checker().threads(2).spawn_bfs().join();
    let (states, took) = (checker.unique_state_count(), began.elapsed());
    println!("{what}: {states} states in {:.1} s", took.as_secs_f64());
    for property in properties {
        let found = checker.discovery(property.name);
        match property.expectation {
            Expectation::Sometimes => assert!(found.is_some(), "{what}: never: {}", property.name),
            _ => assert!(found.is_none(), "{what}: {}: {:?}", property.name, found.map(Path::into_actions)),
        }
    }
    assert!(checker.is_done(), "{what}: it isn't checked to the end");
}

/// Checks that a model with a bug finds it: a property that has these words in its name doesn't hold.
fn finds<M>(what: &str, model: M, words: &str)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + PartialEq + Hash + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + Send + Sync + 'static,
{
    let always = model.properties().into_iter().filter(|property| property.expectation == Expectation::Always);
    let names: BTreeSet<&'static str> = always.map(|property| property.name).filter(|n| n.contains(words)).collect();
    assert!(!names.is_empty(), "no property speaks of `{words}`");
    let until = HasDiscoveries::AnyOf(names.clone());
    let checker = model.checker().threads(2).finish_when(until).spawn_bfs().join();
    println!("{what}: after {} states", checker.unique_state_count());
    assert!(names.into_iter().any(|name| checker.discovery(name).is_some()), "{what}: the model doesn't find it");
}
