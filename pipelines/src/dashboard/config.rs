//! The configuration as it runs: every option with its value, and which of them are defaults.

use axum::{Json, extract::State};
use penstock_engine::graph::{Node, Running};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Answer, Shared};

/// The configuration.
#[derive(Debug, Serialize)]
pub struct View {
    pipeline: String,
    env: String,
    file: String,
    digest: String,
    operators: Vec<OperatorView>,
    resources: Value,
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct OperatorView {
    id: String,
    type_name: String,
    inputs: Vec<String>,
    options: Vec<Opt>,
}

/// An option.
#[derive(Debug, PartialEq, Serialize)]
struct Opt {
    /// Its path, with points.
    name: String,
    value: Value,
    /// Whether the file says nothing of it.
    is_default: bool,
}

pub async fn get(State(dashboard): State<Shared>) -> Answer<View> {
    let pipeline = &dashboard.pipeline;
    let operator = |node: &Node| {
        let declared = pipeline.declared.get(&node.id);
        let mut options = Vec::new();
        flatten("", &node.options, declared, &mut options);
        options.extend(running(&node.running));
        OperatorView {
            id: node.id.clone(),
            type_name: node.type_name.clone(),
            inputs: node.inputs.iter().map(ToString::to_string).collect(),
            options,
        }
    };
    Ok(Json(View {
        pipeline: pipeline.name.clone(),
        env: pipeline.env.clone(),
        file: pipeline.path.display().to_string(),
        digest: pipeline.digest.clone(),
        operators: pipeline.graph.nodes.iter().map(operator).collect(),
        resources: serde_json::to_value(&pipeline.resources).map_err(anyhow::Error::from)?,
        warnings: pipeline.warnings.iter().map(|warning| format!("{}: {}", warning.path, warning.message)).collect(),
    }))
}

/// How the runtime runs it. The file's own words are gone by now: what is as by default counts as default.
fn running(running: &Running) -> Vec<Opt> {
    let (mut options, mut defaults) = (Vec::new(), Vec::new());
    for (running, options) in [(running, &mut options), (&Running::default(), &mut defaults)] {
        flatten("running", &json!(running), None, options);
    }
    for (option, default) in options.iter_mut().zip(&defaults) {
        option.is_default = option.value == default.value;
    }
    options
}

/// Names of options whose values nobody shows.
const SECRET: [&str; 4] = ["secret", "token", "password", "credential"];

fn flatten(name: &str, value: &Value, declared: Option<&Value>, options: &mut Vec<Opt>) {
    let below = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                flatten(&below(key), value, declared.and_then(|declared| declared.get(key)), options);
            }
        }
        value => {
            let is_secret = SECRET.iter().any(|secret| name.to_lowercase().contains(secret));
            let value = if is_secret { Value::from("…") } else { value.clone() };
            options.push(Opt { name: name.to_owned(), value, is_default: declared.is_none() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_file_says_is_told_from_defaults_and_secrets_are_not_shown() {
        let mut options = Vec::new();
        let filled = json!({"table": "t", "deep": {"a": 1, "b": 2}, "api_token": "x"});
        flatten("", &filled, Some(&json!({"table": "t", "deep": {"b": 2}, "api_token": "x"})), &mut options);
        let option = |name: &str, value: Value, is_default| Opt { name: name.to_owned(), value, is_default };
        let wanted = [
            option("table", "t".into(), false),
            option("deep.a", 1.into(), true),
            option("deep.b", 2.into(), false),
            option("api_token", "…".into(), false),
        ];
        assert_eq!(options, wanted);
    }
}
