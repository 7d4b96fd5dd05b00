//! Reading a value as a type, and finding all that is wrong with it rather than only the first.
//!
//! Serde stops at the first error. So each error is noted, what caused it is taken out of the value, and the value is
//! read again, until it reads or nothing more can be taken out. The messages are those of the types themselves.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    near::Hint,
    path::{Path, Step},
    problem::{Fault, Problem},
};

/// An error of serde with its path.
pub type PathError = serde_path_to_error::Error<serde_json::Error>;

/// Other ways in which a leaf may be read, by its path: YAML's `5` may be meant as text, and the text `"5"` as a number
/// where it came from a variable. Tried only if the type refuses the first way.
pub type Spellings = BTreeMap<Path, Value>;

/// The spellings of what stands below `head`, by their paths from there.
pub fn spellings_below(spellings: &Spellings, head: &Path) -> Spellings {
    let from = spellings.range(head.clone()..);
    from.map_while(|(path, value)| Some((path.below(head)?, value.clone()))).collect()
}

/// At most so many problems of one value are looked for.
const MAX_PROBLEMS: usize = 64;

/// At most so many leaves of one value are read in another way; each costs one more reading.
const MAX_RESPELLED: usize = 1000;

/// Reads `value` with `attempt`. Gives what was read after all that is wrong was taken out of it, if it then reads, and
/// what is wrong. `known` are names that are fields of the root too, for hints.
pub fn read<T>(
    value: &Value,
    spellings: &Spellings,
    known: &[&str],
    attempt: impl Fn(&Value) -> Result<T, PathError>,
) -> (Option<T>, Vec<Problem>) {
    let mut value = value.clone();
    let mut problems: Vec<Problem> = Vec::new();
    let mut respelled: Vec<Path> = Vec::new();
    loop {
        let error = match attempt(&value) {
            Ok(typed) => return (Some(typed), problems),
            Err(error) => error,
        };
        let (problem, path) = explain(&error, &value, known);
        let wrong_type = error.inner().to_string().starts_with("invalid type: ");
        let untried = respelled.len() < MAX_RESPELLED && !respelled.contains(&path);
        if wrong_type
            && untried
            && let Some(other) = spellings.get(&path)
            && let Some(leaf) = path.find_mut(&mut value)
        {
            *leaf = other.clone();
            respelled.push(path);
            continue;
        }
        // What was taken out is missing now; that is no news.
        let told = problems.iter().any(|told| told.path.below(&problem.path).is_some());
        if !told {
            problems.push(problem);
        }
        // A list is taken out whole: the indexes of what follows would change.
        if problems.len() == MAX_PROBLEMS || !path.before_lists().remove(&mut value) {
            return (None, problems);
        }
    }
}

/// What an error says, and the path of the entry to take out.
fn explain(error: &PathError, value: &Value, known: &[&str]) -> (Problem, Path) {
    let mut path = Path::from(error.path());
    let message = error.inner().to_string();
    if let Some((field, expected)) = names(&message, "unknown field `") {
        if path.steps().last() != Some(&Step::Key(field.clone())) {
            path = path.key(&field);
        }
        let known = if path.steps().len() == 1 { known } else { &[] };
        let hint = Hint::new(&field, expected.iter().map(String::as_str).chain(known.iter().copied()));
        return (Problem::key(path.clone(), Fault::UnknownField(hint)), path);
    }
    if let Some((field, _)) = names(&message, "missing field `") {
        return (Problem::key(path.key(field), Fault::Missing), path);
    }
    if let Some((variant, expected)) = names(&message, "unknown variant `") {
        let hint = Hint::new(&variant, expected);
        return (Problem::value(path.clone(), Fault::UnknownValue(variant, hint)), path);
    }
    if let Some(fault) = wrong_type(&message, path.find(value)) {
        return (Problem::value(path.clone(), fault), path);
    }
    // A check of the whole may name the field that it is about.
    if let (Some((field, rest)), true) = (message.split_once(": "), path.steps().is_empty())
        && value.get(field).is_some()
    {
        let path = path.key(field);
        return (Problem::value(path.clone(), Fault::Invalid(rest.to_owned())), path);
    }
    (Problem::value(path.clone(), Fault::Invalid(message)), path)
}

/// The names in backquotes of a message of serde that begins with `start`: the one it is about, and those it expects.
fn names(message: &str, start: &str) -> Option<(String, Vec<String>)> {
    let rest = message.strip_prefix(start)?;
    // The name itself may hold backquotes; what is expected never does.
    let (name, expected) = rest.rsplit_once("`, expected ").or_else(|| rest.rsplit_once('`'))?;
    Some((
        name.strip_suffix("`, there are no fields").unwrap_or(name).to_owned(),
        expected.split('`').skip(1).step_by(2).map(str::to_owned).collect(),
    ))
}

fn wrong_type(message: &str, found: Option<&Value>) -> Option<Fault> {
    let rest = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "))?;
    let (unexpected, expected) = rest.rsplit_once(", expected ")?;
    let expected = match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" if unexpected.starts_with("integer") => {
            format!("a whole number from 0 to {}", largest(expected))
        }
        "u8" | "u16" | "u32" | "u64" | "usize" | "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a string" => "text".to_owned(),
        "a boolean" => "`true` or `false`".to_owned(),
        "a sequence" => "a list".to_owned(),
        other if other.starts_with("struct ") => "a map".to_owned(),
        other => other.to_owned(),
    };
    let hint = match found {
        Some(Value::String(text)) if expected == "a list" => Some(format!("write `[{text}]`")),
        _ => None,
    };
    let found = match found {
        Some(Value::Null) => "nothing".to_owned(),
        Some(Value::Object(_)) => "a map".to_owned(),
        Some(Value::Array(_)) => "a list".to_owned(),
        Some(leaf) => format!("`{}`", leaf.as_str().map_or_else(|| leaf.to_string(), str::to_owned)),
        None => unexpected.to_owned(),
    };
    Some(Fault::WrongType { expected, found, hint })
}

fn largest(unsigned: &str) -> u64 {
    match unsigned {
        "u8" => u8::MAX.into(),
        "u16" => u16::MAX.into(),
        "u32" => u32::MAX.into(),
        _ => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde::Deserialize;
    use serde_json::json;

    use super::*;
    use crate::{cloud::resources::Resources, units};

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Options {
        queue: String,
        #[serde(default)]
        max_files: u32,
        #[serde(default)]
        ratio: Option<f64>,
        #[serde(default)]
        fast: bool,
        #[serde(default, with = "units::duration")]
        max_age: Duration,
        #[serde(default)]
        names: Vec<String>,
    }

    fn problems(value: Value) -> Vec<String> {
        let (_, problems) = options(value, &Spellings::new());
        problems.iter().map(ToString::to_string).collect()
    }

    fn options(value: Value, spellings: &Spellings) -> (Option<Options>, Vec<Problem>) {
        read(&value, spellings, &["inputs"], |value| serde_path_to_error::deserialize(value))
    }

    #[test]
    fn every_problem_is_found_in_one_reading() {
        assert_eq!(
            problems(json!({
                "max_flies": 1, "max_files": -1, "ratio": "x", "fast": 1, "max_age": "5 minutes", "names": "a", "inptus": [],
            })),
            [
                "max_flies: unknown field, did you mean `max_files`?",
                "max_files: expected a whole number from 0 to 4294967295, found `-1`",
                "ratio: expected a number, found `x`",
                "fast: expected `true` or `false`, found `1`",
                "max_age: `5 minutes` is not a duration: write a number with ms, s, m, h or d, e.g. `5m` or `1h30m`",
                "names: expected a list, found `a`: write `[a]`",
                "inptus: unknown field, did you mean `inputs`?",
                "queue: it is missing",
            ]
        );
    }

    #[test]
    fn a_required_value_that_is_wrong_is_told_once() {
        assert_eq!(problems(json!({"queue": ["a"]})), ["queue: expected text, found a list"]);
        assert_eq!(problems(json!({"queue": null})), ["queue: expected text, found nothing"]);
        assert_eq!(problems(json!("x")), ["expected a map, found `x`"]);
    }

    #[test]
    fn another_spelling_is_taken_only_where_the_type_asks_for_it() {
        let spellings = Spellings::from([
            (Path::root().key("queue"), json!("007")),
            (Path::root().key("max_files"), json!(12)),
            (Path::root().key("names").index(0), json!("1.10")),
        ]);
        let (read, problems) = options(json!({"queue": 7, "max_files": "12", "names": [1.1, "2"]}), &spellings);
        assert_eq!(problems, []);
        let read = read.unwrap();
        assert_eq!((read.queue.as_str(), read.max_files, read.names), ("007", 12, vec!["1.10".into(), "2".into()]));
    }

    #[test]
    fn names_with_backquotes_are_told_whole() {
        assert_eq!(
            problems(json!({"queue": "q", "a`b": 1})),
            ["\"a`b\": unknown field; known are `queue`, `max_files`, `ratio`, `fast`, `max_age`, `names`, `inputs`"]
        );
    }

    #[test]
    fn problems_deep_in_resources_have_their_place() {
        let value = json!({
            "queues": {"a": {"visibilty": "30s"}, "b": {"dead_letter": {"queue": "a"}}},
            "buses": {"etl": {"rules": {"ready": {"pattern": {}, "targets": [{"quue": "a"}]}}}},
            "tables": {"t": {"partition_key": "p", "sort_key": "s", "sort_type": "numbr"}},
        });
        let (_, problems) = read::<Resources>(&value, &Spellings::new(), &[], |v| serde_path_to_error::deserialize(v));
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            problems,
            [
                "queues.a.visibilty: unknown field, did you mean `visibility`?",
                "queues.b.dead_letter.max_receives: it is missing",
                "buses.etl.rules.ready.targets[0]: unknown value `quue`, did you mean `queue`?",
                "tables.t.sort_type: unknown value `numbr`, did you mean `number`?",
            ]
        );
    }
}
