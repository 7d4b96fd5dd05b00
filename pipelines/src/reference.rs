//! The references in `docs/`: of a pipeline's file, from the types that read it, and of the commands, from their arguments.
//!
//! Nobody writes them by hand, so they say what the program does.

use clap::{Command, CommandFactory};
use penstock_engine::graph::{OperatorType, Registry, Role};
use serde_json::{Map, Value};

use crate::{cli::Cli, loader::schema};

/// The reference of a pipeline's file.
pub fn yaml(registry: &Registry) -> String {
    let schema = schema(registry);
    let mut text =
        "# Reference of a pipeline's file\n\nMade by `penstock reference yaml`. `${VAR}`, `${VAR:-default}` and \
                    `${VAR:?message}` may stand in any value. Durations are written like `90s`, `5m`, `2h`, sizes like \
                    `64MiB`. Unknown fields are errors.\n\n## The file\n\n"
            .to_owned();
    let mut named = Vec::new();
    text.push_str(&fields(&schema["properties"], &schema["required"], &mut named));
    for (role, words) in [(Role::Source, "Sources"), (Role::Transform, "Transforms"), (Role::Sink, "Sinks")] {
        text.push_str(&format!("\n## {words}\n"));
        for known in registry.types().filter(|known| known.role() == role) {
            text.push_str(&operator(known, &schema, &mut named));
        }
    }
    text.push_str("\n## Types\n");
    // A type may name others, which are then told after it.
    let mut told: Vec<String> = Vec::new();
    while let Some(name) = named.iter().find(|name| !told.contains(name)).cloned() {
        text.push_str(&definition(&name, &schema["$defs"][&name], &mut named));
        told.push(name);
    }
    text
}

fn operator(known: &dyn OperatorType, schema: &Value, named: &mut Vec<String>) -> String {
    let of = &schema["$defs"][format!("{}_{}", known.role().noun(), known.name())];
    let takes = known.input().map_or("nothing".to_owned(), |kind| kind.to_string());
    let gives: Vec<String> = known.outputs().iter().map(|(name, kind)| format!("{kind} (`{name}`)")).collect();
    let gives = if gives.is_empty() { "nothing".to_owned() } else { gives.join(", ") };
    let mut properties = of["properties"].clone();
    if let Some(properties) = properties.as_object_mut() {
        properties.shift_remove("type");
    }
    format!(
        "\n### `{}`\n\n{} Takes {takes}; gives {gives}.\n\n{}",
        known.name(),
        known.about(),
        fields(&properties, &of["required"], named)
    )
}

fn definition(name: &str, of: &Value, named: &mut Vec<String>) -> String {
    let about = of["description"].as_str().map(one_line).unwrap_or_default();
    let body = if of["properties"].is_object() {
        fields(&of["properties"], &of["required"], named)
    } else {
        let values: Vec<String> = branches(of)
            .map(|branch| {
                let about =
                    branch["description"].as_str().map(|about| format!(": {}", one_line(about))).unwrap_or_default();
                let value = match &branch["properties"] {
                    Value::Object(properties) => {
                        properties.keys().map(|key| format!("`{{ {key}: … }}`")).collect::<Vec<_>>().join(", ")
                    }
                    _ => type_of(branch, named),
                };
                format!("- {value}{about}\n")
            })
            .collect();
        if values.is_empty() { format!("{}\n", type_of(of, named)) } else { values.concat() }
    };
    format!("\n### {name}\n\n{about}\n\n{body}")
}

/// A table of fields.
fn fields(properties: &Value, required: &Value, named: &mut Vec<String>) -> String {
    let nothing = Map::new();
    let mut table = "| field | type | default | meaning |\n|---|---|---|---|\n".to_owned();
    for (name, of) in properties.as_object().unwrap_or(&nothing) {
        let is_required = required.as_array().is_some_and(|required| required.iter().any(|each| each == name));
        let default = match of.get("default") {
            _ if is_required => "required".to_owned(),
            None | Some(Value::Null) => String::new(),
            Some(Value::Object(fields)) if fields.is_empty() => String::new(),
            Some(Value::Array(items)) if items.is_empty() => String::new(),
            Some(Value::String(text)) => format!("`{text}`"),
            Some(value) => format!("`{value}`"),
        };
        let about = of["description"].as_str().map(one_line).unwrap_or_default();
        table.push_str(&format!("| `{name}` | {} | {default} | {about} |\n", type_of(of, named)));
    }
    table
}

fn branches(of: &Value) -> impl Iterator<Item = &Value> {
    ["oneOf", "anyOf"].into_iter().filter_map(|key| of[key].as_array()).flatten()
}

/// The words for a type; what it names is noted, to be told too.
fn type_of(of: &Value, named: &mut Vec<String>) -> String {
    if let Some(reference) = of["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap_or(reference);
        if ["source", "transform", "sink"].contains(&name) {
            return format!("a {name}");
        }
        if !named.iter().any(|known| known == name) {
            named.push(name.to_owned());
        }
        return format!("[{name}](#{})", name.to_lowercase());
    }
    if let Some(value) = of.get("const") {
        return format!("`{}`", value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    if let Some(values) = of["enum"].as_array() {
        let words: Vec<String> =
            values.iter().map(|value| format!("`{}`", value.as_str().unwrap_or_default())).collect();
        return words.join(", ");
    }
    let of_branches: Vec<String> =
        branches(of).filter(|branch| branch["type"] != "null").map(|branch| type_of(branch, named)).collect();
    if !of_branches.is_empty() {
        return of_branches.join(" or ");
    }
    let plain = match &of["type"] {
        Value::String(name) => name.as_str(),
        Value::Array(names) => names.iter().filter_map(Value::as_str).find(|name| *name != "null").unwrap_or("any"),
        _ => "any",
    };
    match plain {
        "array" => format!("list of {}", type_of(&of["items"], named)),
        "object" if of["additionalProperties"].is_object() => {
            format!("map to {}", type_of(&of["additionalProperties"], named))
        }
        "object" => "map".to_owned(),
        "string" => "text".to_owned(),
        other => other.to_owned(),
    }
}

/// Text as it fits into a cell.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

/// The reference of the commands.
pub fn cli() -> String {
    let mut root = Cli::command();
    root.build();
    let mut text = "# Reference of the commands\n\nMade by `penstock reference cli`.\n\n".to_owned();
    if let Some(codes) = root.get_after_help() {
        text.push_str(&format!("{codes}.\n"));
    }
    text.push_str("\n## Every command\n\n");
    let global = |argument: &&clap::Arg| argument.is_global_set();
    text.push_str(&arguments(root.get_arguments().filter(global)));
    for command in root.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help") {
        text.push_str(&one(command, "penstock", 2));
    }
    text
}

fn one(command: &Command, before: &str, depth: usize) -> String {
    let name = format!("{before} {}", command.get_name());
    let about = command.get_about().map(|about| one_line(&about.to_string())).unwrap_or_default();
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let mut text = format!("\n{} `{name}`\n\n{about}.\n\n```text\n{usage}\n```\n\n", "#".repeat(depth));
    let own = command.get_arguments().filter(|argument| !argument.is_global_set() && !argument.is_hide_set());
    text.push_str(&arguments(own));
    for below in command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help") {
        text.push_str(&one(below, &name, depth + 1));
    }
    text
}

/// A table of arguments; help and version aside.
fn arguments<'a>(all: impl Iterator<Item = &'a clap::Arg>) -> String {
    let mut rows = Vec::new();
    for argument in all.filter(|argument| !matches!(argument.get_id().as_str(), "help" | "version")) {
        let value = argument.get_value_names().and_then(|names| names.first()).map(ToString::to_string);
        let takes = argument.get_action().takes_values();
        let name = match (argument.get_long(), value) {
            (Some(long), Some(value)) if takes => format!("--{long} {value}"),
            (Some(long), _) => format!("--{long}"),
            (None, Some(value)) => value,
            (None, None) => argument.get_id().to_string(),
        };
        let mut about = argument.get_help().map(|help| one_line(&help.to_string())).unwrap_or_default();
        let defaults: Vec<String> =
            argument.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
        if takes && !defaults.is_empty() {
            about.push_str(&format!(" Default: `{}`.", defaults.join(", ")));
        }
        let env = argument.get_env().map(|env| format!("`{}`", env.to_string_lossy())).unwrap_or_default();
        rows.push(format!("| `{name}` | {env} | {about} |\n"));
    }
    if rows.is_empty() {
        return String::new();
    }
    format!("| argument | variable | meaning |\n|---|---|---|\n{}", rows.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_and_every_command_is_told() {
        let registry = crate::registry();
        let text = yaml(&registry);
        for known in registry.types() {
            assert!(text.contains(&format!("### `{}`", known.name())), "{} is missing", known.name());
        }
        assert!(text.contains("| `max_age` | text | `5m` |"), "{text}");
        let text = cli();
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            assert!(
                text.contains(&format!("## `penstock {}`", command.get_name())),
                "{} is missing",
                command.get_name()
            );
        }
        assert!(text.contains("| `--local DIR` | `PENSTOCK_LOCAL` |"), "{text}");
    }

    #[test]
    fn what_a_type_names_is_told_too() {
        let text = yaml(&crate::registry());
        let links = text.match_indices("](#").map(|(at, _)| text[at + 3..].split(')').next().unwrap_or_default());
        let headings: Vec<String> =
            text.lines().filter_map(|line| line.strip_prefix("### ")).map(str::to_lowercase).collect();
        let lost: Vec<&str> = links.filter(|link| !headings.iter().any(|heading| heading == link)).collect();
        assert_eq!(lost, Vec::<&str>::new());
    }
}
