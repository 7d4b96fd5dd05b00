//! YAML as a tree in which every key and every value knows its place in the file.
//!
//! Parsing is bounded, so that no file, however made, costs more than a moment: bytes, nesting, nodes, and what aliases
//! expand to. A key that stands twice in one map is an error, never a silent last word.

use std::fmt;

use penstock_engine::graph::{Part, Path, Spellings, Step};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::{Number, Value};
use serde_saphyr::{DuplicateKeyPolicy, Location, Spanned};

/// Bytes of a pipeline's file.
pub const MAX_FILE_BYTES: u64 = 1 << 20;
/// Maps and lists within each other.
pub const MAX_DEPTH: usize = 32;
/// Maps, lists and leaves in the file.
pub const MAX_NODES: usize = 50_000;
/// What all aliases together may expand to.
const MAX_ALIASED_EVENTS: usize = 50_000;

/// A stretch of the file: where it begins, and how many characters it takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// The line, from 1; 0 if it isn't known.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// Characters, at least 1; it may reach over the line's end.
    pub width: usize,
    /// The first byte in the file, and the byte after the last, if they are known.
    bytes: Option<(usize, usize)>,
}

impl From<Location> for Place {
    fn from(location: Location) -> Self {
        let span = location.span();
        let bytes = span.byte_offset().zip(span.byte_len()).and_then(|(begin, len)| {
            let begin = usize::try_from(begin).ok()?;
            Some((begin, begin + usize::try_from(len).ok()?))
        });
        let number = |value: u64| usize::try_from(value).unwrap_or_default();
        let width = number(span.len()).max(1);
        Self { line: number(location.line()), column: number(location.column()), width, bytes }
    }
}

/// A value and its place.
#[derive(Debug, Clone)]
pub struct Tree {
    /// Where it stands.
    pub place: Place,
    /// What it is.
    pub shape: Shape,
    /// Another way to read it, for a type that refuses the first: a number as the text that was written, or the text
    /// of a variable as the number that it spells.
    pub spelling: Option<Value>,
}

/// What a value is.
#[derive(Debug, Clone)]
pub enum Shape {
    /// Nothing, `true`, a number: all leaves but text.
    Plain(Value),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Tree>),
    /// A map, in the order of the file.
    Map(Vec<Entry>),
}

/// An entry of a map.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// Where the key stands.
    pub place: Place,
    /// Its value.
    pub value: Tree,
}

/// Why a file is no tree.
#[derive(Debug, Clone, PartialEq)]
pub struct SyntaxError {
    /// Where.
    pub place: Place,
    /// What is wrong.
    pub message: String,
}

impl Tree {
    /// Parses a file's text.
    pub fn parse(text: &str) -> Result<Self, Vec<SyntaxError>> {
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! {
                max_depth: MAX_DEPTH,
                flow_nesting_limit: MAX_DEPTH,
                max_nodes: MAX_NODES,
                max_events: 4 * MAX_NODES,
                max_aliases: 1000,
                max_anchors: 1000,
                max_recorded_anchor_events: 4 * MAX_NODES,
                max_merge_keys: 1000,
                // One more than a file may hold, so that a second one is told as such.
                max_documents: 2,
            },
            alias_limits: serde_saphyr::alias_limits! {
                max_total_replayed_events: MAX_ALIASED_EVENTS,
                max_replay_stack_depth: 8,
            },
            // Told here, with the place of the first.
            duplicate_keys: DuplicateKeyPolicy::PassThrough,
            emit_comments: false,
            reject_unsupported_tags: true,
            strict_booleans: true,
            leading_zero_numbers_as_strings: true,
            underscored_numbers_as_strings: true,
            non_finite_float_policy: serde_saphyr::options::NonFiniteFloatPolicy::AsString,
        };
        let parsed: Spanned<Raw> =
            serde_saphyr::from_str_with_options(text, options).map_err(|error| vec![SyntaxError::from(&error)])?;
        let mut errors = Vec::new();
        let tree = finish(parsed, text, &mut errors);
        if errors.is_empty() { Ok(tree) } else { Err(errors) }
    }

    /// The same as JSON.
    pub fn to_value(&self) -> Value {
        match &self.shape {
            Shape::Plain(value) => value.clone(),
            Shape::Text(text) => Value::String(text.clone()),
            Shape::List(items) => items.iter().map(Self::to_value).collect(),
            Shape::Map(entries) => entries.iter().map(|entry| (entry.key.clone(), entry.value.to_value())).collect(),
        }
    }

    /// The other ways to read its leaves.
    pub fn spellings(&self) -> Spellings {
        let mut spellings = Spellings::new();
        self.walk(&Path::root(), &mut |path, leaf| {
            if let Some(spelling) = &leaf.spelling {
                spellings.insert(path.clone(), spelling.clone());
            }
        });
        spellings
    }

    fn walk(&self, path: &Path, visit: &mut impl FnMut(&Path, &Self)) {
        match &self.shape {
            Shape::Plain(_) | Shape::Text(_) => visit(path, self),
            Shape::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    item.walk(&path.index(index), visit);
                }
            }
            Shape::Map(entries) => {
                for entry in entries {
                    entry.value.walk(&path.key(&entry.key), visit);
                }
            }
        }
    }

    /// Calls `change` on each leaf with its path.
    pub fn for_each_leaf(&mut self, path: &Path, change: &mut impl FnMut(&Path, &mut Self)) {
        match &mut self.shape {
            Shape::Plain(_) | Shape::Text(_) => change(path, self),
            Shape::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    item.for_each_leaf(&path.index(index), change);
                }
            }
            Shape::Map(entries) => {
                for entry in entries {
                    let path = path.key(&entry.key);
                    entry.value.for_each_leaf(&path, change);
                }
            }
        }
    }

    /// Where what a path leads to stands. For what isn't there: the key of the innermost map that is.
    pub fn place(&self, path: &Path, part: Part) -> Place {
        let (mut tree, mut key) = (self, None);
        for step in path.steps() {
            let below = match (&tree.shape, step) {
                (Shape::Map(entries), Step::Key(name)) => {
                    entries.iter().find(|entry| entry.key == *name).map(|entry| (&entry.value, Some(entry.place)))
                }
                (Shape::List(items), Step::Index(index)) => items.get(*index).map(|item| (item, None)),
                _ => None,
            };
            match below {
                Some((value, place)) => (tree, key) = (value, place),
                None => return key.unwrap_or(tree.place),
            }
        }
        match part {
            Part::Key => key.unwrap_or(tree.place),
            Part::Value => match tree.shape {
                // A whole map or list is shown by its key.
                Shape::List(_) | Shape::Map(_) => key.unwrap_or(tree.place),
                // Nothing has no place of its own.
                Shape::Plain(Value::Null) => key.unwrap_or(tree.place),
                _ => tree.place,
            },
        }
    }
}

impl From<&serde_saphyr::Error> for SyntaxError {
    fn from(error: &serde_saphyr::Error) -> Self {
        use serde_saphyr::Error;
        let error = error.without_snippet();
        let place = error.location().map(Place::from).unwrap_or_default();
        let mut error = error;
        while let Error::AliasError { error: inner, .. } = error {
            error = inner;
        }
        let message = match error {
            Error::Budget { .. }
            | Error::AliasReplayLimitExceeded { .. }
            | Error::AliasReplayStackDepthExceeded { .. }
            | Error::AliasExpansionLimitExceeded { .. }
            | Error::AliasReplayCounterOverflow { .. } => format!(
                "the file is larger than a pipeline can be: at most {MAX_DEPTH} levels of nesting, {MAX_NODES} values, \
                 {MAX_ALIASED_EVENTS} of them by aliases"
            ),
            Error::MultipleDocuments { .. } => "a file holds one pipeline: remove what follows `---`".to_owned(),
            other => {
                let rendered = other.render_with_options(serde_saphyr::render_options! {
                    snippets: serde_saphyr::SnippetMode::Off,
                });
                format!("not valid YAML: {}", without_place(&rendered))
            }
        };
        Self { place, message }
    }
}

/// The message without the place that the parser adds; ours stands before the message.
fn without_place(message: &str) -> &str {
    let message = message.lines().next().unwrap_or_default();
    message.rfind(" at line ").map_or(message, |end| &message[..end])
}

/// A value as the parser gives it.
enum Raw {
    Plain(Value),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Plain(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Plain(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Plain(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Plain(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Plain(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Number::from_f64(value).map_or_else(|| Raw::Text(value.to_string()), |number| Raw::Plain(number.into())))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Raw::Map(map))
    }
}

/// Adds what the parser leaves out: duplicate keys, and how numbers were written.
fn finish(raw: Spanned<Raw>, text: &str, errors: &mut Vec<SyntaxError>) -> Tree {
    let place = Place::from(raw.defined);
    let (shape, spelling) = match raw.value {
        Raw::Text(text) => (Shape::Text(text), None),
        Raw::Plain(Value::Null) => (Shape::Plain(Value::Null), None),
        Raw::Plain(value) => {
            let written = place.bytes.and_then(|(begin, end)| text.get(begin..end)).map(str::trim);
            let spelling = written.map_or_else(|| value.to_string(), str::to_owned);
            (Shape::Plain(value), Some(Value::String(spelling)))
        }
        Raw::List(items) => (Shape::List(items.into_iter().map(|item| finish(item, text, errors)).collect()), None),
        Raw::Map(raw_entries) => {
            let mut entries: Vec<Entry> = Vec::with_capacity(raw_entries.len());
            let mut places = std::collections::HashMap::new();
            for (key, value) in raw_entries {
                let place = Place::from(key.defined);
                match places.get(&key.value) {
                    None => {
                        places.insert(key.value.clone(), place.line);
                        entries.push(Entry { key: key.value, place, value: finish(value, text, errors) });
                    }
                    Some(first) => {
                        let message = format!("the key `{}` stands twice in one map, first in line {first}", key.value);
                        errors.push(SyntaxError { place, message });
                    }
                }
            }
            (Shape::Map(entries), None)
        }
    };
    Tree { place, shape, spelling }
}

#[cfg(test)]
mod tests;
