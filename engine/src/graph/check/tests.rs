use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::*;
use crate::{
    graph::{Build, Built, SubsetError, Surroundings},
    operator::{Context, Kind, OperatorError},
};

/// Declares a type of operator whose options are one queue, table or bucket by name, and a limit.
macro_rules! fake {
    ($type:ident, $name:literal, $role:ident, $input:expr, $outputs:expr, $uses:expr) => {
        #[derive(Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        struct $type {
            #[serde(default)]
            on: String,
            #[serde(default = "ten")]
            limit: u32,
        }

        #[async_trait]
        impl Build for $type {
            const NAME: &'static str = $name;
            const ABOUT: &'static str = "A fake.";
            const ROLE: Role = Role::$role;

            fn input() -> Option<Kind> {
                $input
            }

            fn outputs() -> Vec<(&'static str, Kind)> {
                $outputs
            }

            fn uses(&self) -> Vec<Use> {
                let uses: Vec<(&'static str, UseMode)> = $uses;
                uses.into_iter().map(|(kind, mode)| Use { mode, ..Use::shared(kind, &self.on, &[]) }).collect()
            }

            fn check(&self) -> Result<(), String> {
                if self.limit > 0 { Ok(()) } else { Err("limit: write at least 1".to_owned()) }
            }

            async fn build(self, _: Context) -> Result<Built, OperatorError> {
                Err(OperatorError::permanent("a fake is never built"))
            }
        }
    };
}

fn ten() -> u32 {
    10
}

const OBJECT: Kind = Kind::Value("object");

fake!(Queue, "queue", Source, None, vec![("out", Kind::Message)], vec![("queue", UseMode::Owned)]);
fake!(Stream, "stream", Source, None, vec![("out", Kind::Change)], vec![("change_stream", UseMode::Shared)]);
fake!(
    Parse,
    "parse",
    Transform,
    Some(Kind::Message),
    vec![("out", OBJECT), ("rejected", Kind::Value("reject"))],
    vec![]
);
fake!(Pass, "pass", Transform, Some(OBJECT), vec![("out", OBJECT)], vec![]);
fake!(Store, "store", Sink, Some(OBJECT), vec![], vec![("table", UseMode::Shared)]);
fake!(Any, "any", Transform, Some(Kind::Any), vec![("out", Kind::Any)], vec![]);
fake!(Sweep, "sweep", Sink, None, vec![], vec![]);

fn registry() -> Registry {
    let mut registry = Registry::default();
    registry.add::<Queue>().add::<Stream>().add::<Parse>().add::<Pass>().add::<Store>().add::<Sweep>();
    registry.add::<Any>();
    registry
}

fn resources() -> Resources {
    serde_json::from_value(json!({
        "queues": {"file-events": {}, "dlq": {}},
        "tables": {
            "files": {"partition_key": "p", "sort_key": "s", "stream": true},
            "metrics": {"partition_key": "p", "sort_key": "s"},
        },
    }))
    .unwrap()
}

fn node(section: Role, id: &str, type_name: &str, inputs: &[&str], options: Value) -> Declared {
    Declared {
        section,
        id: id.to_owned(),
        type_name: Some(type_name.to_owned()),
        inputs: inputs.iter().map(|input| (*input).to_owned()).collect(),
        running: Running::default(),
        options,
        spellings: Spellings::new(),
    }
}

fn source(id: &str) -> Declared {
    node(Role::Source, id, "queue", &[], json!({"on": "file-events"}))
}

fn parse(id: &str, inputs: &[&str]) -> Declared {
    node(Role::Transform, id, "parse", inputs, json!({}))
}

fn pass(id: &str, inputs: &[&str]) -> Declared {
    node(Role::Transform, id, "pass", inputs, json!({}))
}

fn sink(id: &str, inputs: &[&str]) -> Declared {
    node(Role::Sink, id, "store", inputs, json!({"on": "files"}))
}

fn good() -> Vec<Declared> {
    // Declared back to front: the plan turns it round.
    vec![sink("track", &["admit"]), pass("admit", &["landing"]), parse("landing", &["events"]), source("events")]
}

fn problems(declared: &[Declared]) -> Vec<String> {
    let problems = match check(declared, &resources(), &registry()) {
        Ok(plan) => plan.warnings,
        Err(problems) => problems,
    };
    let unread = |problem: &Problem| problem.fault == Fault::UnreadOutput("rejected".to_owned());
    problems.iter().filter(|problem| !unread(problem)).map(ToString::to_string).collect()
}

#[test]
fn what_takes_any_record_hands_on_the_kind_that_it_takes() {
    let any = |id: &str, input: &str| node(Role::Transform, id, "any", &[input], json!({}));
    let through = |input: &str| {
        vec![source("events"), any("first", input), any("second", "first"), parse("landing", &["second"])]
    };
    assert_eq!(problems(&[through("events"), vec![sink("track", &["landing"])]].concat()), Vec::<String>::new());
    let stream = node(Role::Source, "changes", "stream", &[], json!({"on": "files"}));
    let wrong = problems(&[through("changes"), vec![stream, sink("track", &["landing"])]].concat());
    assert!(wrong.iter().any(|problem| problem.contains("takes messages") && problem.contains("changes")), "{wrong:?}");
    // One that reads itself ends the look, and is told as a cycle.
    let circle =
        problems(&[source("events"), any("first", "second"), any("second", "first"), sink("track", &["second"])]);
    assert!(!circle.is_empty(), "{circle:?}");
}

#[test]
fn a_good_pipeline_is_a_plan_in_order_with_defaults_filled_in() {
    let plan = check(&good(), &resources(), &registry()).unwrap();
    let ids: Vec<&str> = plan.graph.nodes.iter().map(|node| node.id.as_str()).collect();
    assert_eq!(ids, ["events", "landing", "admit", "track"]);
    assert_eq!(plan.graph.node("events").unwrap().options, json!({"on": "file-events", "limit": 10}));
    let warnings: Vec<_> = plan.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings, ["transforms.landing: nobody reads its output `rejected`: records there are dropped"]);
}

#[test]
fn each_fault_is_told_at_its_place() {
    let with = |index: usize, node: Declared| {
        let mut nodes = good();
        nodes[index] = node;
        problems(&nodes)
    };
    let also = |node: Declared| {
        let mut nodes = good();
        nodes.push(node);
        problems(&nodes)
    };
    assert_eq!(
        with(1, node(Role::Transform, "admit", "pas", &["landing"], json!({}))),
        ["transforms.admit.type: unknown type of operator `pas`, did you mean `pass`?"]
    );
    assert_eq!(
        with(1, Declared { type_name: None, ..pass("admit", &["landing"]) }),
        ["transforms.admit.type: it is missing"]
    );
    assert_eq!(
        with(1, Declared { section: Role::Sink, ..pass("admit", &["landing"]) }),
        ["sinks.admit: `pass` is a transform: move it from `sinks` to `transforms`"]
    );
    assert_eq!(
        with(1, pass("admit", &["landin"])),
        ["transforms.admit.inputs[0]: there is no operator `landin`, did you mean `landing`?"]
    );
    assert_eq!(
        with(1, pass("admit", &["landing", "landing.rejcted"])),
        ["transforms.admit.inputs[1]: `landing` has no output `rejcted`, did you mean `rejected`?"]
    );
    assert_eq!(
        with(1, pass("admit", &["landing", "landing.out"])),
        ["transforms.admit.inputs[1]: `landing.out` is listed twice: each record would come twice"]
    );
    assert_eq!(
        with(1, pass("admit", &["landing.rejected"])),
        [
            "transforms.admit.inputs[0]: `pass` takes objects, but `landing.rejected` gives rejects",
            "transforms.landing: nobody reads its output `out`: records there are dropped",
        ]
    );
    assert_eq!(
        with(3, Declared { inputs: vec!["track".to_owned()], ..source("events") }),
        ["sources.events.inputs: `queue` reads no other operator: remove `inputs`"]
    );
    assert_eq!(
        with(0, sink("track", &[])),
        [
            "sinks.track.inputs: a sink reads at least one output: list them, e.g. `inputs: [admit]`",
            "transforms.admit: nobody reads its output `out`: records there are dropped",
        ]
    );
    assert_eq!(also(node(Role::Sink, "sweep", "sweep", &[], json!({}))), [""; 0]);
    assert_eq!(
        also(Declared { section: Role::Transform, ..node(Role::Sink, "track", "sweep", &[], json!({})) }),
        [
            "transforms.track: the id `track` is taken by `sinks.track`: ids are unique across sources, transforms and \
             sinks",
            "transforms.track: `sweep` is a sink: move it from `transforms` to `sinks`",
        ]
    );
    assert_eq!(
        with(3, node(Role::Source, "events", "queue", &[], json!({"on": "file-event"}))),
        ["sources.events.on: there is no queue `file-event` under `resources`, did you mean `file-events`?"]
    );
    assert_eq!(
        also(node(Role::Source, "changes", "stream", &[], json!({"on": "metrics"})))[..1],
        ["sources.changes.on: the table `metrics` has no change stream: set `resources.tables.metrics.stream` to true"]
    );
    assert_eq!(
        also(source("robber"))[..1],
        ["sources.robber.on: the queue `file-events` is already read by `events`: two readers would rob each other"]
    );
    assert_eq!(
        with(1, node(Role::Transform, "admit", "pass", &["landing"], json!({"limit": "x", "inptus": 1}))),
        [
            "transforms.admit.limit: expected a whole number, found `x`",
            "transforms.admit.inptus: unknown field, did you mean `inputs`?",
        ]
    );
    assert_eq!(
        with(1, node(Role::Transform, "admit", "pass", &["landing"], json!({"limit": 0}))),
        ["transforms.admit.limit: write at least 1"]
    );
    assert_eq!(
        also(node(Role::Sink, "Sweep.1", "sweep", &[], json!({}))),
        ["sinks.\"Sweep.1\": an id is lower-case letters, digits and `_`, and begins with a letter"]
    );
}

#[test]
fn impossible_running_is_told() {
    let mut nodes = good();
    nodes[0].running = Running { concurrency: 0, buffer_batches: 0, ..Running::default() };
    nodes[0].running.retry.max_attempts = 0;
    nodes[0].running.retry.initial_wait = Duration::from_secs(60);
    assert_eq!(
        problems(&nodes),
        [
            "sinks.track.running.concurrency: at least 1 instance must run",
            "sinks.track.running.buffer_batches: at least 1 batch must have room",
            "sinks.track.running.retry.max_attempts: the first try counts: write at least 1",
            "sinks.track.running.retry.initial_wait: the first wait is longer than `max_wait`",
        ]
    );
}

#[test]
fn loops_are_named() {
    let mut nodes = good();
    nodes.extend([pass("a", &["landing", "c"]), pass("b", &["a"]), pass("c", &["b"]), pass("self", &["self"])]);
    assert_eq!(
        problems(&nodes),
        [
            "transforms.a.inputs[1]: operators read each other in a loop: a → b → c → a",
            "transforms.self.inputs[0]: operators read each other in a loop: self → self",
        ]
    );
}

#[test]
fn all_problems_are_told_together() {
    let declared = [
        node(Role::Source, "events", "queu", &[], json!({"on": "x"})),
        parse("landing", &["event"]),
        sink("track", &["landing", "landing.rejected"]),
    ];
    assert_eq!(
        problems(&declared),
        [
            "sources.events.type: unknown type of operator `queu`, did you mean `queue`?",
            "transforms.landing.inputs[0]: there is no operator `event`, did you mean `events`?",
            "sinks.track.inputs[1]: `store` takes objects, but `landing.rejected` gives rejects",
        ]
    );
}

#[test]
fn a_service_is_a_subset_that_no_input_crosses() {
    let graph = check(&good(), &resources(), &registry()).unwrap().graph;
    let ids = |graph: &Graph| graph.nodes.iter().map(|node| node.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&graph.subset(&["landing", "events"]).unwrap()), ["events", "landing"]);
    assert_eq!(graph.subset(&["land"]).unwrap_err(), SubsetError::Unknown("land".to_owned()));
    assert_eq!(
        graph.subset(&["admit"]).unwrap_err().to_string(),
        "`admit` reads `landing` of another service: services are joined by queues and tables, never by inputs"
    );
}

#[test]
fn drawings_show_services_resources_and_outputs() {
    let mut nodes = good();
    nodes.extend([pass("worker", &["landing"]), sink("other", &["worker"])]);
    let mut resources = resources();
    resources.buckets = serde_json::from_value(json!({"input": {"notify": {"queue": "file-events"}}})).unwrap();
    let registry = registry();
    let graph = check(&nodes, &resources, &registry).unwrap().graph;
    let services = BTreeMap::from([("engine".to_owned(), vec!["events".to_owned(), "landing".to_owned()])]);
    let around = Surroundings { registry: &registry, resources: &resources, services: &services };
    assert_eq!(
        graph.to_mermaid(&around),
        r#"flowchart LR
  subgraph engine
    events(["events<br/>queue"])
    landing["landing<br/>parse"]
  end
  admit["admit<br/>pass"]
  track[/"track<br/>store"/]
  worker["worker<br/>pass"]
  other[/"other<br/>store"/]
  BUCKET__input[("bucket input")]
  QUEUE__file_events[("queue file-events")]
  TABLE__files[("table files")]
  events --> landing
  landing --> admit
  admit --> track
  landing --> worker
  worker --> other
  BUCKET__input -.-> QUEUE__file_events
  QUEUE__file_events -.-> events
  other -.- TABLE__files
  track -.- TABLE__files
"#
    );
    assert_eq!(
        graph.to_dot(&around),
        r#"digraph pipeline {
  rankdir=LR;
  node [fontname="sans-serif"];
  subgraph "cluster_engine" {
    label="engine";
    "events" [label="events\nqueue", shape=ellipse];
    "landing" [label="landing\nparse", shape=box];
  }
  "admit" [label="admit\npass", shape=box];
  "track" [label="track\nstore", shape=parallelogram];
  "worker" [label="worker\npass", shape=box];
  "other" [label="other\nstore", shape=parallelogram];
  "BUCKET__input" [label="bucket input", shape=cylinder];
  "QUEUE__file_events" [label="queue file-events", shape=cylinder];
  "TABLE__files" [label="table files", shape=cylinder];
  "events" -> "landing";
  "landing" -> "admit";
  "admit" -> "track";
  "landing" -> "worker";
  "worker" -> "other";
  "BUCKET__input" -> "QUEUE__file_events" [style=dotted];
  "QUEUE__file_events" -> "events" [style=dotted];
  "other" -> "TABLE__files" [style=dotted, dir=none];
  "track" -> "TABLE__files" [style=dotted, dir=none];
}
"#
    );
}
