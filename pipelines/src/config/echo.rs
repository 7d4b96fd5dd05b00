//! A pipeline as it will be run, as a file again: variables put in, defaults filled in and marked, secrets masked.
//!
//! What is echoed is itself a pipeline's file; loaded, it is the same pipeline.

use std::fmt::Write;

use penstock_engine::units::format_duration;
use serde_json::{Map, Value, json};

use super::masked;
use crate::loader::Pipeline;

/// What is written behind a value that the file doesn't give.
const DEFAULT: &str = "default";

/// The normalised pipeline as JSON.
pub fn json(pipeline: &Pipeline) -> Value {
    without_nulls(masked("", &normalised(pipeline)))
}

/// What is null isn't there.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let fields = map.into_iter().filter(|(_, value)| !value.is_null());
            fields.map(|(name, value)| (name, without_nulls(value))).collect()
        }
        other => other,
    }
}

/// The normalised pipeline as YAML; each default is marked as one.
pub fn yaml(pipeline: &Pipeline) -> String {
    let mut out = String::new();
    if let Value::Object(fields) = json(pipeline) {
        write_map(&mut out, &fields, Some(&pipeline.given), 0);
    }
    out
}

fn normalised(pipeline: &Pipeline) -> Value {
    let mut sections: Map<String, Value> = Map::new();
    for section in ["sources", "transforms", "sinks"] {
        let Some(Value::Object(given)) = pipeline.given.get(section) else { continue };
        let nodes = given.keys().filter_map(|id| pipeline.graph.nodes.iter().find(|node| node.id == *id));
        let operators = nodes.map(|node| {
            let mut fields = Map::new();
            fields.insert("type".to_owned(), json!(node.type_name));
            if !node.inputs.is_empty() {
                let inputs: Vec<String> = node.inputs.iter().map(ToString::to_string).collect();
                fields.insert("inputs".to_owned(), json!(inputs));
            }
            if let Value::Object(options) = &node.options {
                fields.extend(options.clone());
            }
            if let Ok(running) = serde_json::to_value(&node.running) {
                fields.insert("running".to_owned(), running);
            }
            (node.id.clone(), Value::Object(fields))
        });
        sections.insert(section.to_owned(), operators.collect());
    }
    let mut all = Map::new();
    all.insert("pipeline".to_owned(), json!(pipeline.name));
    all.insert("env".to_owned(), json!(pipeline.env));
    all.insert("account".to_owned(), json!(pipeline.account));
    all.insert("services".to_owned(), json!(pipeline.services));
    all.insert("shutdown_limit".to_owned(), json!(format_duration(pipeline.shutdown_limit)));
    all.insert("resources".to_owned(), json!(pipeline.resources));
    all.extend(sections);
    if let Some(tests) = pipeline.given.get("tests").filter(|tests| !tests.is_null()) {
        all.insert("tests".to_owned(), tests.clone());
    }
    Value::Object(all)
}

fn write_map(out: &mut String, fields: &Map<String, Value>, given: Option<&Value>, depth: usize) {
    for (name, value) in fields {
        let told = given.and_then(|given| given.get(name));
        let mark = if told.is_none() { format!("  # {DEFAULT}") } else { String::new() };
        let indent = "  ".repeat(depth);
        // Writing to a String can't fail.
        let written = match value {
            Value::Object(inner) if !inner.is_empty() => {
                let written = writeln!(out, "{indent}{}:{mark}", scalar(&json!(name)));
                // Below something that is a default as a whole, each part needn't say so again.
                let told = if told.is_none() { Some(value) } else { told };
                write_map(out, inner, told, depth + 1);
                written
            }
            _ => writeln!(out, "{indent}{}: {}{mark}", scalar(&json!(name)), flow(value)),
        };
        debug_assert!(written.is_ok());
    }
}

/// A value on one line.
fn flow(value: &Value) -> String {
    match value {
        Value::Array(list) => format!("[{}]", list.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let field = |(name, value): (&String, &Value)| format!("{}: {}", scalar(&json!(name)), flow(value));
            let fields: Vec<String> = map.iter().map(field).collect();
            if fields.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", fields.join(", ")) }
        }
        other => scalar(other),
    }
}

/// Text is bare where nobody can take it for something else, else it is quoted as JSON does it, which YAML reads alike.
fn scalar(value: &Value) -> String {
    let Value::String(text) = value else { return value.to_string() };
    let first_is_letter = text.starts_with(|c: char| c.is_ascii_alphabetic());
    let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "_./-".contains(c));
    let is_word = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&text.to_lowercase().as_str());
    if first_is_letter && is_plain && !is_word {
        return text.clone();
    }
    json!(text.replace("${", "$${")).to_string()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::loader::{load, load_text};

    #[test]
    fn what_is_echoed_is_the_same_pipeline() {
        let registry = penstock_operators::registry();
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("ndjson-parquet.yaml");
        let pipeline = load(&file, &|_| None, &registry).unwrap();
        let text = yaml(&pipeline);
        let again = load_text(&file, &text, &|_| None, &registry).unwrap_or_else(|error| panic!("{error:?}\n{text}"));
        assert_eq!(json(&again), json(&pipeline));
        assert_eq!(again.graph.nodes.len(), pipeline.graph.nodes.len());
        assert!(text.contains("max_files: 200\n"), "what the file gives has no mark");
        assert!(text.contains("lease: \"10s\"  # default\n"), "what it doesn't give is filled in and marked:\n{text}");
    }

    #[test]
    fn text_that_could_be_something_else_is_quoted() {
        for text in ["no", "1.5", "5m", "a: b", "", "# x", "${VAR}", "- a", "2026-02-01"] {
            let shown = scalar(&json!(text));
            assert!(shown.starts_with('"'), "{text} became {shown}");
        }
        assert_eq!(scalar(&json!("${VAR}")), "\"$${VAR}\"");
        assert_eq!(scalar(&json!("landing/ndjson/")), "landing/ndjson/");
    }
}
