//! A service seen from outside: health, readiness, metrics, and the rows that stay.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use penstock_operators::model::FileState;
use penstock_tests::{PATIENCE, place::Place, program::Running, wait_for};
use serde_json::Value;

use super::{lines, place};

/// The address that a service says it listens on.
fn address(running: &Running) -> String {
    wait_for("the address", PATIENCE, || {
        let log = running.log();
        let (_, rest) = log.split_once("http://")?;
        rest.split_once('/').map(|(address, _)| address.to_owned())
    })
}

/// Status and body of an answer.
fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// The sum of a metric over its labels.
fn metric(text: &str, name: &str) -> f64 {
    let samples = penstock_engine::telemetry::exposition::parse(text);
    samples.iter().filter(|sample| sample.name == name).map(|sample| sample.value).sum()
}

fn convert_one(place: &Place) {
    let (_, text) = lines("a", 25);
    place.drop_into_input("a.ndjson", text + "no json\n");
    place.wait_for_facts("a completed file", PATIENCE, |facts| {
        facts.files(FileState::Completed) == 1 && facts.unfinished() == 0
    });
}

#[test]
fn i10_what_a_service_did_is_told_to_prometheus_to_cloudwatch_and_to_its_table() {
    let place = place().with("MAX_AGE", "1s");
    let running = place.serve(&["--listen", "127.0.0.1:0", "--emf"]);
    let address = address(&running);
    assert_eq!(get(&address, "/health").0, 200);
    let (status, ready) = get(&address, "/ready");
    assert_eq!((status, ready.contains(r#""ready":true"#)), (200, true), "{ready}");
    let version: Value = serde_json::from_str(&get(&address, "/version").1).unwrap();
    assert_eq!((&version["pipeline"], &version["service"]), (&"ndjson-parquet".into(), &"all".into()));
    assert_eq!(get(&address, "/nothing").0, 404);

    convert_one(&place);
    let text = wait_for("the settled file's metric", PATIENCE, || {
        let (_, text) = get(&address, "/metrics");
        (metric(&text, "penstock_files_settled_total") == 1.0).then_some(text)
    });
    assert_eq!(metric(&text, "penstock_rows_total"), 25.0);
    assert_eq!(metric(&text, "penstock_rejected_rows_total"), 1.0);
    assert_eq!(metric(&text, "penstock_convert_seconds_count"), 1.0);
    assert!(text.contains(r#"penstock_queue_messages{queue="file-events",state="visible"}"#), "{text}");
    assert!(text.contains(r#"penstock_component_buffer_capacity_batches{component_id="fold"} 4"#), "{text}");
    assert!(metric(&text, "penstock_component_sent_events_total") > 0.0);
    assert!(text.contains("# HELP penstock_rows_total Rows of completed manifests."), "metrics are described");

    running.terminate();
    let ended = running.wait(Duration::from_secs(30)).expect_code(0);
    let told: Vec<Value> = ended.out.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let rows: f64 = told.iter().filter_map(|line| line.get("penstock_rows_total")?.as_f64()).sum();
    assert_eq!(rows, 25.0, "{}", ended.out);
    let manifest = ended.err.lines().find(|line| line.contains("Manifest settled.")).unwrap();
    let manifest: Value = serde_json::from_str(manifest).unwrap();
    let name = manifest["manifest"].as_str().unwrap();
    assert_eq!(manifest["trace_id"], penstock_engine::telemetry::trace::trace_id(name));
    let committed = ended.err.lines().find(|line| line.contains("Manifest committed.")).unwrap();
    assert!(committed.contains(manifest["trace_id"].as_str().unwrap()), "one trace from commit to settling");
    let rows = place.hourly_rows("all");
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["penstock_rows_total"], 25.0);
}
