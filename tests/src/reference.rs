//! What a line must become, by a strict parser that isn't ours.

use std::collections::{BTreeMap, HashMap};

use arrow::array::{Array, AsArray, RecordBatch};
use penstock_operators::convert::note::Note;
use serde_json::value::RawValue;

/// What a line is.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing but white space.
    Blank,
    /// A row: the text of its values by key, those that aren't null.
    Row(HashMap<String, String>),
    /// No row.
    Reject,
}

/// The verdict on a line without its line feed.
pub fn verdict(line: &[u8], first: bool, max_depth: usize) -> Verdict {
    let line = if first { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) } else { line };
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.iter().all(|byte| b" \t\r".contains(byte)) {
        return Verdict::Blank;
    }
    let Ok(text) = std::str::from_utf8(line) else { return Verdict::Reject };
    let Ok(object) = serde_json::from_str::<Pairs>(text) else { return Verdict::Reject };
    if depth(text) > max_depth {
        return Verdict::Reject;
    }
    let mut values = HashMap::new();
    for (key, value) in object.0 {
        let value = match value.get() {
            "null" => None,
            text if text.starts_with('"') => match serde_json::from_str(text) {
                Ok(text) => Some(text),
                Err(_) => return Verdict::Reject,
            },
            text => Some(text.to_owned()),
        };
        match value {
            Some(value) => values.insert(key, value),
            None => values.remove(&key),
        };
    }
    Verdict::Row(values)
}

/// An object's members in order, those included that occur again.
struct Pairs(Vec<(String, Box<RawValue>)>);

impl<'de> serde::Deserialize<'de> for Pairs {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Pairs;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// How deep valid JSON is nested.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth -= 1,
            _ => {}
        }
    }
    deepest
}

/// The rows of a batch of text: their cells that aren't null, by column.
pub fn rows_of(batch: &RecordBatch) -> Vec<BTreeMap<String, String>> {
    let schema = batch.schema();
    let columns: Vec<_> = schema.fields().iter().zip(batch.columns()).collect();
    let cells = |row: usize| {
        columns
            .iter()
            .filter(move |(_, column)| column.is_valid(row))
            .map(move |(field, column)| (field.name().clone(), column.as_string::<i32>().value(row).to_owned()))
    };
    (0..batch.num_rows()).map(|row| cells(row).collect()).collect()
}

/// The rejects among notes: where they are, and why.
pub fn rejects_of(notes: &[Note]) -> Vec<(u64, u64, String)> {
    notes
        .iter()
        .filter_map(|note| match note {
            Note::Reject(reject) => Some((reject.offset, reject.length, reject.reason.clone())),
            _ => None,
        })
        .collect()
}
