use std::path::PathBuf;

use clap::{CommandFactory, Parser};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::loader::fakes::registry;

const GOOD: &str = "\
pipeline: p
resources: {queues: {q: {}}, tables: {t: {partition_key: p, sort_key: s}}}
services: {engine: [events, landing, track]}
sources: {events: {type: queue, queue: q}}
transforms: {landing: {type: landing, inputs: [events]}}
sinks: {track: {type: track, inputs: [landing], table: t}}
";

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn run(arguments: &[&str]) -> (anyhow::Result<Exit>, String) {
    let app = App { registry: registry().into(), env: Box::new(|_| None), colours: false };
    let cli = Cli::try_parse_from(["penstock"].iter().chain(arguments)).unwrap();
    let mut out = Vec::new();
    let exit = app.dispatch(&cli, &mut out);
    (exit, String::from_utf8(out).unwrap())
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
    assert!(Cli::command().render_help().to_string().contains("78 a pipeline's file is wrong"));
    let wrong = Cli::try_parse_from(["penstock", "--log", "a=b=c", "schema"]).unwrap_err();
    assert_eq!(wrong.exit_code(), 2);
}

#[test]
fn validate_tells_people() {
    let files = Files::new();
    let good = files.write("good.yaml", GOOD).display().to_string();
    let bad = files.write("bad.yaml", &GOOD.replace("table: t}", "tabel: t}")).display().to_string();
    let (exit, out) = run(&["validate", &good]);
    assert_eq!(exit.unwrap(), Exit::Ok);
    assert!(out.ends_with(&format!("\n{good}: valid: 1 warning; 3 operators in 1 service\n")), "{out}");
    assert_eq!(run(&["validate", "--deny-warnings", &good]).0.unwrap(), Exit::Config);
    let (exit, out) = run(&["validate", &good, &bad]);
    assert_eq!(exit.unwrap(), Exit::Config);
    assert!(
        out.contains("bad.yaml:6:49: sinks.track.tabel: unknown field, did you mean `table`?\n    6 | sinks:"),
        "{out}"
    );
    assert!(out.ends_with(&format!("\n{bad}: not valid: 2 errors, 1 warning\n")), "{out}");
}

#[test]
fn validate_tells_programs() {
    let files = Files::new();
    let bad = files.write("bad.yaml", &GOOD.replace("table: t}", "table: x}")).display().to_string();
    let (exit, out) = run(&["validate", "--json", &bad]);
    assert_eq!(exit.unwrap(), Exit::Config);
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(told[0]["ok"], json!(false));
    assert_eq!(
        told[0]["problems"][1],
        json!({"severity": "error", "code": "unknown_resource", "line": 6, "column": 56, "path": "sinks.track.table",
            "message": "there is no table `x` under `resources`; known are `t`"})
    );
}

#[test]
fn graph_draws_what_is_valid_and_refuses_the_rest() {
    let files = Files::new();
    let good = files.write("good.yaml", GOOD).display().to_string();
    let (exit, out) = run(&["graph", &good]);
    assert_eq!(exit.unwrap(), Exit::Ok);
    assert!(out.starts_with("flowchart LR\n  subgraph engine\n    events([\"events<br/>queue\"])\n"), "{out}");
    assert!(run(&["graph", &good, "--format", "dot"]).1.starts_with("digraph pipeline {\n"));
    let (exit, out) = run(&["graph", "none.yaml"]);
    assert_eq!((tell(&exit.unwrap_err()), out.as_str()), (Exit::Config, ""));
}

#[test]
fn schema_prints_json() {
    let (exit, out) = run(&["schema"]);
    assert_eq!(exit.unwrap(), Exit::Ok);
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["title"], "Penstock pipeline");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let error = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("while printing");
    assert_eq!(tell(&error), Exit::Ok);
    assert_eq!(tell(&anyhow::anyhow!("no")), Exit::Failed);
}
