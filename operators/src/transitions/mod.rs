//! Who may write what, on which condition: the state machines of files and manifests (the output's is part of the
//! manifest's), as data.
//!
//! A [`Write`] says on which state it depends and what it makes of it, so whether it is allowed can be told by looking at
//! it alone: [`judge`] compares it with the table. Tests judge every write of their runs; the documents show the same
//! table, and a test compares them.

mod table;
#[cfg(test)]
mod tests;

use std::fmt;

use penstock_engine::cloud::{
    AttributeValue,
    table::{Action, Condition, Key, Write},
};

use crate::{
    attempt::SchemaItem,
    model::{FileState, MANIFEST_KEY_PREFIX, ManifestState, attribute},
};
pub use table::TRANSITIONS;

/// What kind of item a transition is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ItemKind {
    /// A file.
    File,
    /// A manifest.
    Manifest,
    /// The schema.
    Schema,
}

impl ItemKind {
    /// The kind of the item under a key.
    pub fn of(key: &Key) -> Self {
        if *key == SchemaItem::key() {
            Self::Schema
        } else if key.sort.starts_with(MANIFEST_KEY_PREFIX) {
            Self::Manifest
        } else {
            Self::File
        }
    }

    fn noun(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Manifest => "manifest",
            Self::Schema => "schema",
        }
    }
}

/// What a write must compare, besides the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// The attribute is as it was read: this value, or none.
    AsRead(&'static str),
    /// The attribute has this very value.
    Is(&'static str),
    /// The attribute is absent.
    None(&'static str),
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AsRead(name) => write!(f, "{name} as read"),
            Self::Is("token") => f.write_str("token mine"),
            Self::Is("commit") => f.write_str("this commit"),
            Self::Is("manifest_path") => f.write_str("manifest_path = M"),
            Self::Is(name) => write!(f, "this {name}"),
            Self::None(name) => write!(f, "no {name}"),
        }
    }
}

/// One transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// What it is called.
    pub name: &'static str,
    /// Of what.
    pub of: ItemKind,
    /// The states that it may start from; none of them: from no item.
    pub from: &'static [&'static str],
    /// The state that it leads to; `None`: it stays as it is.
    pub to: Option<&'static str>,
    /// The types of operator that may make it; `person` is somebody at the command line.
    pub by: &'static [&'static str],
    /// What its condition compares besides the state.
    pub guards: &'static [Guard],
    /// Attributes that it sets besides `status` and `updated_at`.
    pub sets: &'static [&'static str],
    /// Attributes that it may set.
    pub may_set: &'static [&'static str],
    /// Attributes that it removes.
    pub removes: &'static [&'static str],
    /// Attributes that it may remove.
    pub may_remove: &'static [&'static str],
    /// What must have happened before, which the write itself can't show.
    pub before: &'static str,
}

impl Transition {
    /// A line of the table in the documents.
    pub fn row(&self) -> String {
        let words = |words: &[&str]| words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" or ");
        let from = if self.from.is_empty() { "none".to_owned() } else { words(self.from) };
        let to = self.to.map_or("the same".to_owned(), |to| format!("`{to}`"));
        let by = self.by.iter().map(|by| format!("`{by}`")).collect::<Vec<_>>().join(", ");
        let guards = self.guards.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        let sets = self.sets.iter().map(|name| format!("+{name}"));
        let removes = self.removes.iter().map(|name| format!("−{name}"));
        let changes = sets.chain(removes).collect::<Vec<_>>().join(" ");
        let or_dash = |text: String| if text.is_empty() { "–".to_owned() } else { text };
        format!(
            "| {} | {} {from} → {to} | {by} | {} | {} | {} |",
            self.name,
            self.of.noun(),
            or_dash(guards),
            or_dash(changes),
            or_dash(self.before.to_owned())
        )
    }
}

/// The table, as the documents show it.
pub fn rows() -> String {
    let head =
        "| name | transition | by | besides the state | changes | before the write |\n|---|---|---|---|---|---|\n";
    TRANSITIONS.iter().fold(head.to_owned(), |text, transition| text + &transition.row() + "\n")
}

/// A write that the table doesn't have.
#[derive(Debug, thiserror::Error)]
#[error("{operator} may not write {}/{}: {reason}", key.partition, key.sort)]
pub struct Forbidden {
    /// The type of operator.
    pub operator: String,
    /// The item.
    pub key: Key,
    /// The nearest transition, and what is wrong with this one; for each transition that leads to the same state.
    pub reason: String,
}

/// The transition that this write of the tracking table is, made by an operator of this type.
///
/// # Errors
///
/// When there is none: says for each transition to the same state what is missing.
pub fn judge(operator: &str, write: &Write) -> Result<&'static Transition, Forbidden> {
    let facts = Facts::of(write);
    let mut reasons = Vec::new();
    for transition in TRANSITIONS.iter().filter(|transition| facts.leads_to(transition)) {
        match facts.misses(transition, operator) {
            None => return Ok(transition),
            Some(reason) => reasons.push(format!("{}: {reason}", transition.name)),
        }
    }
    let reason = if reasons.is_empty() {
        format!("no transition of a {} leads to `{}`", facts.kind.noun(), facts.to.unwrap_or("the same state"))
    } else {
        reasons.join("; ")
    };
    Err(Forbidden { operator: operator.to_owned(), key: write.key.clone(), reason })
}

/// What a write says of itself.
struct Facts<'a> {
    kind: ItemKind,
    /// The states on which it depends, without shards; `None` if it depends on none.
    from: Option<Vec<&'a str>>,
    from_nothing: bool,
    to: Option<&'a str>,
    sets: Vec<&'a str>,
    removes: Vec<&'a str>,
    compared: Vec<Compared<'a>>,
}

/// One comparison, which must hold for the write to happen.
enum Compared<'a> {
    Is(&'a str),
    None(&'a str),
}

impl<'a> Facts<'a> {
    fn of(write: &'a Write) -> Self {
        let mut facts = Self {
            kind: ItemKind::of(&write.key),
            from: None,
            from_nothing: false,
            to: None,
            sets: Vec::new(),
            removes: Vec::new(),
            compared: Vec::new(),
        };
        facts.take_condition(&write.condition);
        let mut take = |name: &'a String, value: &'a AttributeValue| match (name.as_str(), value) {
            (attribute::STATUS, AttributeValue::S(status)) => facts.to = Some(word(status)),
            (name, _) => facts.sets.push(name),
        };
        match &write.action {
            Action::Put(item) => item.iter().for_each(|(name, value)| take(name, value)),
            Action::Update { set, .. } => set.iter().for_each(|(name, value)| take(name, value)),
            Action::Delete => facts.to = Some("deleted"),
        }
        if let Action::Update { remove, .. } = &write.action {
            facts.removes = remove.iter().map(String::as_str).collect();
        }
        facts
    }

    /// Only what every way to fulfil the condition demands counts; of alternatives, none does.
    fn take_condition(&mut self, condition: &'a Condition) {
        let text = |value: &'a AttributeValue| match value {
            AttributeValue::S(text) => Some(word(text)),
            _ => None,
        };
        match condition {
            Condition::Absent(name) if name == attribute::FILE_KEY || name == attribute::DATE_PREFIX => {
                self.from_nothing = true;
            }
            Condition::Absent(name) => self.compared.push(Compared::None(name)),
            Condition::Equals(name, value) if name == attribute::STATUS => {
                self.from = text(value).map(|state| vec![state]);
            }
            Condition::In(name, values) if name == attribute::STATUS => {
                self.from = values.iter().map(text).collect();
            }
            Condition::Equals(name, _) | Condition::In(name, _) => self.compared.push(Compared::Is(name)),
            Condition::All(all) => all.iter().for_each(|condition| self.take_condition(condition)),
            Condition::Any(_) => {}
        }
    }

    fn leads_to(&self, transition: &Transition) -> bool {
        // A write that keeps the state may say so or not.
        let same = |to: &str| transition.from.contains(&to);
        self.kind == transition.of
            && match (self.to, transition.to) {
                (None, None) => true,
                (Some(to), Some(wanted)) => to == wanted,
                (Some(to), None) => same(to),
                (None, Some(_)) => false,
            }
    }

    /// What this write lacks to be that transition.
    fn misses(&self, transition: &Transition, operator: &str) -> Option<String> {
        if !transition.by.contains(&operator) {
            return Some(format!("only {} may", transition.by.join(", ")));
        }
        match (&self.from, self.from_nothing) {
            _ if self.kind == ItemKind::Schema => {}
            (None, true) if transition.from.is_empty() => {}
            (Some(states), false) if states.iter().all(|state| transition.from.contains(state)) => {}
            (None, false) => return Some("it depends on no state".to_owned()),
            (states, _) => return Some(format!("it may not start from {states:?}")),
        }
        for guard in transition.guards {
            let holds = self.compared.iter().any(|compared| match (guard, compared) {
                (Guard::Is(name) | Guard::AsRead(name), Compared::Is(seen)) => name == seen,
                (Guard::None(name) | Guard::AsRead(name), Compared::None(seen)) => name == seen,
                _ => false,
            });
            // An absent schema item is its version as read.
            let is_new_schema = self.kind == ItemKind::Schema && self.from_nothing;
            if !holds && !is_new_schema {
                return Some(format!("it doesn't compare: {guard}"));
            }
        }
        let has = |names: &[&str], name: &str| names.contains(&name);
        if let Some(name) = transition.sets.iter().find(|name| !has(&self.sets, name)) {
            return Some(format!("it doesn't set {name}"));
        }
        if let Some(name) = transition.removes.iter().find(|name| !has(&self.removes, name)) {
            return Some(format!("it doesn't remove {name}"));
        }
        let known = [attribute::UPDATED_AT, attribute::DATE_PREFIX, attribute::FILE_KEY];
        let may_set = |name: &str| has(transition.sets, name) || has(transition.may_set, name) || known.contains(&name);
        if let Some(name) = self.sets.iter().find(|name| !may_set(name)) {
            return Some(format!("it may not set {name}"));
        }
        let may_remove = |name: &str| has(transition.removes, name) || has(transition.may_remove, name);
        self.removes.iter().find(|name| !may_remove(name)).map(|name| format!("it may not remove {name}"))
    }
}

/// A status without its shard.
fn word(status: &str) -> &str {
    status.split_once('#').map_or(status, |(word, _)| word)
}

/// Every state of a kind of item, in the order in which they are passed.
pub fn states(kind: ItemKind) -> Vec<&'static str> {
    match kind {
        ItemKind::File => FileState::ALL.map(FileState::as_str).to_vec(),
        ItemKind::Manifest => ManifestState::ALL.map(ManifestState::as_str).to_vec(),
        ItemKind::Schema => Vec::new(),
    }
}
