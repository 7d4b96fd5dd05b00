use std::path::Path as FilePath;

use serde_json::{Value, json};

use super::{fakes::registry, *};

const GOOD: &str = "\
pipeline: ndjson-parquet
env: ${PENSTOCK_ENV:-dev}
account: ${AWS_ACCOUNT_ID:-000000000000}
resources:
  buckets:
    input: {notify: {queue: file-events, prefix: landing/}}
  queues:
    file-events: {visibility: 1m, dead_letter: {queue: dlq, max_receives: 5}}
    dlq: {}
  tables:
    files: {partition_key: date_prefix, sort_key: file_key, stream: true}
  buses:
    etl: {rules: {ready: {pattern: {source: [etl.pipeline]}, targets: [queue: dlq]}}}
services:
  engine: [events, landing, track]
sources:
  events: {type: queue, queue: file-events}
transforms:
  landing:
    type: landing
    inputs: [events]
    max_files: 10
    running: {concurrency: 2}
sinks:
  track:
    type: track
    inputs: [landing]
    table: files
";

fn env(name: &str) -> Option<String> {
    match name {
        "FILES" => Some("12".to_owned()),
        "WORD" => Some("many".to_owned()),
        "YES" => Some("true".to_owned()),
        "RATIO" => Some("0.5".to_owned()),
        "LINES" => Some("a\nb".to_owned()),
        _ => None,
    }
}

fn load(text: &str) -> Result<Pipeline, LoadErrors> {
    load_text(FilePath::new("p.yaml"), text, &env, &registry())
}

/// The good pipeline with one part replaced.
fn with(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    GOOD.replacen(from, to, 1)
}

/// The first lines of all errors of the good pipeline with one part replaced.
fn errors(from: &str, to: &str) -> Vec<String> {
    let reports = load(&with(from, to)).unwrap_err().reports;
    let errors = reports.iter().filter(|report| report.severity == Severity::Error);
    errors.map(|report| report.render("p.yaml", false).lines().next().unwrap().to_owned()).collect()
}

#[test]
fn a_good_pipeline_loads_with_defaults_filled_in() {
    let pipeline = load(GOOD).unwrap();
    assert_eq!((pipeline.name.as_str(), pipeline.env.as_str()), ("ndjson-parquet", "dev"));
    assert_eq!(pipeline.naming.bucket("input"), "ndjson-parquet-input-dev-000000000000");
    assert_eq!(pipeline.shutdown_limit, Duration::from_secs(25));
    assert_eq!(pipeline.digest.len(), 64);
    assert_eq!(pipeline.services["engine"], ["events", "landing", "track"]);
    assert_eq!(pipeline.resources.queues["file-events"].visibility, Duration::from_secs(60));
    let landing = pipeline.graph.node("landing").unwrap();
    assert_eq!(
        landing.options,
        json!({"prefix": "landing/", "max_age": "5m", "max_files": 10, "fast": false, "ratio": null})
    );
    assert_eq!((landing.running.concurrency, landing.running.buffer_batches), (2, 4));
    let warnings: Vec<_> = pipeline.warnings.iter().map(|report| report.render("p.yaml", false)).collect();
    assert_eq!(
        warnings,
        [
            "p.yaml:19:3: warning: transforms.landing: nobody reads its output `rejected`: records there are dropped\n   \
          19 |   landing:\n      |   ^^^^^^^\n"
        ]
    );
}

#[test]
fn filled_in_options_load_to_the_same() {
    let options = load(GOOD).unwrap().graph.node("landing").unwrap().options.clone();
    let mut filled = String::new();
    for (name, value) in options.as_object().unwrap() {
        filled += &format!("    {name}: {value}\n");
    }
    let again = load(&with("    max_files: 10\n", &filled)).unwrap();
    assert_eq!(again.graph.node("landing").unwrap().options, options);
}

#[test]
fn an_error_shows_its_line_and_a_mark() {
    let errors = load(&with("max_files: 10", "max_flies: 10")).unwrap_err();
    let text = errors.to_string();
    assert_eq!(
        text.split_inclusive('\n').skip(3).take(3).collect::<String>(),
        "\np.yaml:22:5: transforms.landing.max_flies: unknown field, did you mean `max_files`?\n   22 |     max_flies: \
         10\n"
    );
    assert!(text.contains("      |     ^^^^^^^^^\n"), "{text}");
}

#[test]
fn each_error_has_its_line_and_says_what_to_do() {
    let mut untold = Vec::new();
    for (from, to, told) in [
        ("pipeline: ndjson-parquet\n", "", "p.yaml:1:1: pipeline: it is missing"),
        (
            "pipeline: ndjson",
            "pipeline: NDJSON",
            "p.yaml:1:11: pipeline: `NDJSON-parquet` can't be part of a resource's name: write lower-case letters, digits \
             and `-`, a letter first",
        ),
        (
            "${AWS_ACCOUNT_ID:-000000000000}",
            "12",
            "p.yaml:3:10: account: `12` is not the id of an AWS account: write its 12 digits",
        ),
        ("sinks:", "sink:", "p.yaml:24:1: sink: unknown field, did you mean `sinks`?"),
        (
            "visibility: 1m",
            "visibility: 5 minutes",
            "p.yaml:8:31: resources.queues.file-events.visibility: `5 minutes` is not a duration: write a number with ms, \
             s, m, h or d, e.g. `5m` or `1h30m`",
        ),
        (
            "visibility: 1m",
            "visibility: 60",
            "p.yaml:8:31: resources.queues.file-events.visibility: `60` is not a duration: write a number with ms, s, m, h \
             or d, e.g. `5m` or `1h30m`",
        ),
        (
            "visibility: 1m",
            "visibility: 13h",
            "p.yaml:8:31: resources.queues.file-events.visibility: a message stays hidden for at most 12h",
        ),
        (
            "visibility: 1m",
            "retention: 30d",
            "p.yaml:8:30: resources.queues.file-events.retention: a message is kept for 1m to 14d",
        ),
        (
            "{queue: dlq, max_receives: 5}",
            "{queue: dql, max_receives: 5}",
            "p.yaml:8:56: resources.queues.file-events.dead_letter.queue: there is no queue `dql` under `resources`, did \
             you mean `dlq`?",
        ),
        (
            "{queue: dlq, max_receives: 5}",
            "{queue: file-events, max_receives: 0}",
            "p.yaml:8:56: resources.queues.file-events.dead_letter.queue: a queue can't be its own dead-letter queue",
        ),
        (
            "notify: {queue: file-events",
            "notify: {queue: file-evnts",
            "p.yaml:6:29: resources.buckets.input.notify.queue: there is no queue `file-evnts` under `resources`, did you \
             mean `file-events`?",
        ),
        (
            "targets: [queue: dlq]",
            "targets: [queue: dlx]",
            "p.yaml:13:79: resources.buses.etl.rules.ready.targets[0].queue: there is no queue `dlx` under `resources`, did \
             you mean `dlq`?",
        ),
        (
            "{source: [etl.pipeline]}",
            "etl.pipeline",
            "p.yaml:13:36: resources.buses.etl.rules.ready.pattern: expected an event pattern: a map, e.g. `{source: \
             [etl.pipeline]}`",
        ),
        (
            "sort_key: file_key",
            "sort_key: date_prefix",
            "p.yaml:11:51: resources.tables.files.sort_key: the sort key is the partition key: name another attribute",
        ),
        (
            "    input: ",
            "    input-of-a-pipeline-with-a-long-name: ",
            "p.yaml:6:5: resources.buckets.input-of-a-pipeline-with-a-long-name: its full name \
             `ndjson-parquet-input-of-a-pipeline-with-a-long-name-dev-000000000000` has 68 characters: at most 63 are \
             allowed",
        ),
        (
            "[events, landing, track]",
            "[events, landing, trak]",
            "p.yaml:15:29: services.engine[2]: there is no operator `trak`, did you mean `track`?",
        ),
        (
            "[events, landing, track]",
            "[events, landing, track, landing]",
            "p.yaml:15:36: services.engine[3]: `landing` is listed twice here: an operator is in one service",
        ),
        (
            "[events, landing, track]",
            "[events, landing]",
            "p.yaml:25:3: sinks.track: no service runs `track`: list it under one of `services`",
        ),
        (
            "[events, landing, track]",
            "[events, landing]\n  worker: [track]",
            "p.yaml:28:14: sinks.track.inputs[0]: `landing` runs in the service `engine`, `track` in `worker`: services are \
             joined by queues and tables, never by inputs",
        ),
        (
            "type: track",
            "type: trakc",
            "p.yaml:26:11: sinks.track.type: unknown type of operator `trakc`, did you mean `track`?",
        ),
        ("    type: track\n", "", "p.yaml:25:3: sinks.track.type: it is missing"),
        (
            "inputs: [landing]",
            "inputs: landing",
            "p.yaml:27:13: sinks.track.inputs: expected a list, found `landing`: write `[landing]`",
        ),
        (
            "inputs: [landing]",
            "inputs: [landin]",
            "p.yaml:27:14: sinks.track.inputs[0]: there is no operator `landin`, did you mean `landing`?",
        ),
        (
            "inputs: [landing]",
            "inputs: [landing.rejected]",
            "p.yaml:27:14: sinks.track.inputs[0]: `track` takes objects, but `landing.rejected` gives rejects",
        ),
        (
            "inputs: [events]",
            "inputs: [events, landing]",
            "p.yaml:21:22: transforms.landing.inputs[1]: `landing` takes messages, but `landing` gives objects",
        ),
        (
            "table: files",
            "table: file",
            "p.yaml:28:12: sinks.track.table: there is no table `file` under `resources`, did you mean `files`?",
        ),
        ("    table: files\n", "", "p.yaml:25:3: sinks.track.table: it is missing"),
        (
            "max_files: 10",
            "max_files: ${WORD}",
            "p.yaml:22:16: transforms.landing.max_files: expected a whole number, found `many`",
        ),
        (
            "max_files: 10",
            "max_files: ${NOT_SET}",
            "p.yaml:22:16: transforms.landing.max_files: the environment variable `NOT_SET` is not set: set it, or write \
             `${NOT_SET:-default}`",
        ),
        (
            "max_files: 10",
            "prefix: ${LINES}",
            "p.yaml:22:13: transforms.landing.prefix: the environment variable `LINES` holds a line break: values are one \
             line",
        ),
        ("max_files: 10", "max_files: 0", "p.yaml:22:16: transforms.landing.max_files: write at least 1"),
        (
            "{concurrency: 2}",
            "{concurency: 2}",
            "p.yaml:23:15: transforms.landing.running.concurency: unknown field, did you mean `concurrency`?",
        ),
        (
            "{concurrency: 2}",
            "{concurrency: 0}",
            "p.yaml:23:28: transforms.landing.running.concurrency: at least 1 instance must run",
        ),
        (
            "  events: {type: queue, queue: file-events}",
            "  events: 5",
            "p.yaml:17:11: sources.events: expected a map with `type` and the operator's options",
        ),
        (
            "services:\n",
            "shutdown_limit: 2m\nservices:\n",
            "p.yaml:14:17: shutdown_limit: 2m can't be kept: write more than 0s and less than 2m, after which ECS kills a task",
        ),
        (
            "    type: track\n",
            "    type: track\n    type: track\n",
            "p.yaml:27:5: the key `type` stands twice in one map, first in line 26",
        ),
    ] {
        let errors = errors(from, to);
        if !errors.iter().any(|error| error == told) {
            untold.push(format!("instead of\n{told}\nwas told\n{}\n", errors.join("\n")));
        }
    }
    assert!(untold.is_empty(), "{}", untold.join("\n"));
}

#[test]
fn all_problems_are_told_in_the_order_of_the_file() {
    let text = GOOD
        .replacen("visibility: 1m", "visibilty: 1m", 1)
        .replacen("queue: file-events}", "queue: files}", 1)
        .replacen("max_files: 10", "max_files: many\n    max_age: soon", 1)
        .replacen("table: files", "tabel: files", 1);
    let reports = load(&text).unwrap_err().reports;
    let told: Vec<_> = reports.iter().map(|report| (report.line.unwrap(), report.code, report.path.as_str())).collect();
    assert_eq!(
        told,
        [
            (8, "unknown_field", "resources.queues.file-events.visibilty"),
            (17, "unknown_resource", "sources.events.queue"),
            (19, "unread_output", "transforms.landing"),
            (22, "wrong_type", "transforms.landing.max_files"),
            (23, "invalid", "transforms.landing.max_age"),
            (26, "missing", "sinks.track.table"),
            (29, "unknown_field", "sinks.track.tabel"),
        ]
    );
}

#[test]
fn variables_become_what_the_type_asks_for() {
    let options = |to: &str| load(&with("max_files: 10", to)).unwrap().graph.node("landing").unwrap().options.clone();
    assert_eq!(options("max_files: ${FILES}")["max_files"], json!(12));
    assert_eq!(options("max_files: \"${FILES}\"")["max_files"], json!(12));
    assert_eq!(options("fast: ${YES}")["fast"], json!(true));
    assert_eq!(options("ratio: ${RATIO}")["ratio"], json!(0.5));
    // Text stays text, whatever it spells.
    assert_eq!(options("prefix: ${FILES}")["prefix"], json!("12"));
    assert_eq!(options("prefix: 1.10")["prefix"], json!("1.10"));
    assert_eq!(options("max_age: ${FILES}m")["max_age"], json!("12m"));
    assert_eq!(
        errors("max_files: 10", "max_files: \"10\""),
        ["p.yaml:22:16: transforms.landing.max_files: expected a whole number, found `10`"]
    );
    assert_eq!(load(&with("${AWS_ACCOUNT_ID:-000000000000}", "123456789012")).unwrap().account, "123456789012");
}

#[test]
fn files_that_are_no_pipelines_are_told_so() {
    let told = |text: &str| load(text).unwrap_err().to_string();
    assert_eq!(told(""), "p.yaml:1:1: the file is empty: a pipeline begins with `pipeline: its-name`\n");
    assert_eq!(
        told("- a\n"),
        "p.yaml:1:1: expected a map: a pipeline begins with `pipeline: its-name`\n    1 | - a\n      | ^\n"
    );
    assert_eq!(
        told("pipeline: p\n"),
        "p.yaml:1:1: the pipeline has no operators: declare some under `sources`, `transforms` and `sinks`\n    1 | \
         pipeline: p\n      | ^\n"
    );
}

#[test]
fn files_are_bounded_and_must_be_text() {
    let folder = tempfile::tempdir().unwrap();
    let told = |bytes: &[u8]| {
        let path = folder.path().join("p.yaml");
        std::fs::write(&path, bytes).unwrap();
        let errors = super::load(&path, &env, &registry()).unwrap_err();
        errors.reports[0].message.clone()
    };
    assert_eq!(told(&vec![b'#'; 2 << 20]), "it is larger than 1048576 bytes: no pipeline is");
    assert_eq!(told(b"a: 1\nb: \xff\n"), "it is not UTF-8, in line 2");
    let errors = super::load(&folder.path().join("none.yaml"), &env, &registry()).unwrap_err();
    assert!(errors.to_string().contains("none.yaml: it can't be read: "), "{errors}");
}

#[test]
fn what_steers_a_terminal_is_not_printed() {
    let told = load(&with("table: files", "\"a\\e[31m\": files")).unwrap_err().to_string();
    assert!(!told.contains('\x1b'), "{told:?}");
}

#[test]
fn the_schema_has_a_branch_for_every_type() {
    let registry = registry();
    let schema = schema(&registry);
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(schema["required"], json!(["pipeline"]));
    assert_eq!(schema["additionalProperties"], json!(false));
    for known in registry.types() {
        let role = known.role();
        assert_eq!(
            schema["properties"][role.section()]["additionalProperties"]["$ref"],
            format!("#/$defs/{}", role.noun())
        );
        let branches = schema["$defs"][role.noun()]["allOf"].as_array().unwrap();
        let name = format!("{}_{}", role.noun(), known.name());
        let branch =
            branches.iter().find(|branch| branch["if"]["properties"]["type"]["const"] == known.name()).unwrap();
        assert_eq!(branch["then"]["$ref"], format!("#/$defs/{name}"));
        let definition = &schema["$defs"][&name];
        assert_eq!(definition["additionalProperties"], json!(false));
        assert_eq!(definition["properties"]["type"]["const"], known.name());
        assert!(definition["properties"]["running"].is_object());
        assert_eq!(definition["properties"]["inputs"].is_object(), known.input().is_some());
    }
    let landing = &schema["$defs"]["transform_landing"];
    assert_eq!(landing["required"], json!(["type", "inputs"]));
    assert_eq!(landing["properties"]["max_files"]["description"], "How many files at most.");
    assert_eq!(landing["properties"]["max_files"]["type"], json!(["integer", "string"]));
    assert_eq!(landing["properties"]["max_files"]["default"], json!(200));
    assert_eq!(landing["properties"]["max_age"]["default"], json!("5m"));
    assert_eq!(landing["properties"]["ratio"]["type"], json!(["number", "null", "string"]));
    assert_eq!(schema["$defs"]["sink_track"]["required"], json!(["type", "inputs", "table"]));
}

#[test]
fn every_type_refuses_unknown_fields_as_its_schema_says() {
    for registry in [registry(), crate::registry()] {
        for known in registry.types() {
            let error = known.check(&json!({"no_such_field": 1})).err().map(|error| error.to_string());
            let refused = error.as_ref().is_some_and(|error| error.contains("unknown field `no_such_field`"));
            assert!(refused, "{}: {error:?}", known.name());
        }
    }
}

#[test]
fn every_reference_of_the_schema_leads_somewhere() {
    fn visit(value: &Value, root: &Value) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(reference)) = map.get("$ref") {
                    let pointer = reference.strip_prefix('#').unwrap();
                    assert!(root.pointer(pointer).is_some(), "{reference}");
                }
                map.values().for_each(|value| visit(value, root));
            }
            Value::Array(list) => list.iter().for_each(|value| visit(value, root)),
            _ => {}
        }
    }
    let schema = schema(&registry());
    visit(&schema, &schema);
}
