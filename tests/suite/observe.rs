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
pub fn address(running: &Running) -> String {
    wait_for("the address", PATIENCE, || {
        let log = running.log();
        let (_, rest) = log.split_once("http://")?;
        rest.split_once('/').map(|(address, _)| address.to_owned())
    })
}

/// Status and body of an answer.
pub fn get(address: &str, path: &str) -> (u16, String) {
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

/// Status and body of an answer to something that changes the pipeline.
fn post(address: &str, path: &str, token: Option<&str>, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let length = body.len();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{token}Content-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

#[test]
fn a_dashboard_only_shows_unless_it_was_started_to_act_and_the_token_is_given() {
    const TOKEN: &str = "0123456789abcdef0123";
    let place = place().with("MAX_AGE", "1h").with("ACTION_TOKEN", TOKEN);
    let running = place.serve(&["--listen", "127.0.0.1:0"]);
    let only_shows = address(&running);
    let (_, text) = lines("a", 5);
    place.drop_into_input("a.ndjson", text);
    place.wait_for_facts("a pending file", PATIENCE, |facts| facts.files(FileState::Pending) == 1);
    assert_eq!(post(&only_shows, "/api/flush", Some(TOKEN), "{}").0, 403);
    running.terminate();
    running.wait(Duration::from_secs(30)).expect_code(0);

    let running = place.serve(&["--listen", "127.0.0.1:0", "--allow-actions"]);
    let address = address(&running);
    let letters = |queue: &str| format!(r#"{{"selection":{{"letters":{{"queue":"{queue}"}}}},"act":true}}"#);
    for (path, body) in [("/api/flush", "{}"), ("/api/redrive", &letters("dlq"))] {
        assert_eq!(post(&address, path, None, body).0, 401, "{path}");
        assert_eq!(post(&address, path, Some("0123456789abcdef0124"), body).0, 401, "{path}");
    }
    assert_eq!(place.facts().files(FileState::Pending), 1, "a refused flush does nothing");
    let (status, answer) = post(&address, "/api/redrive", Some(TOKEN), &letters("file-events"));
    assert!(status == 400 && answer.contains("holds no dead letters; these do: dlq"), "{answer}");
    let (status, answer) = post(&address, "/api/redrive", Some(TOKEN), &letters("dlq"));
    assert!(status == 200 && answer.ends_with("[]"), "{answer}");
    wait_for("a flush with the token", PATIENCE, || {
        // The fold may still be reading the index.
        let (status, _) = post(&address, "/api/flush", Some(TOKEN), "{}");
        assert_eq!(status, 200);
        (place.facts().files(FileState::Completed) == 1).then_some(())
    });

    let overview: Value = serde_json::from_str(&get(&address, "/api/overview.json").1).unwrap();
    assert_eq!(overview["totals"]["files"]["completed"], 1);
    assert_eq!(overview["actions_allowed"], true);
    let fold = overview["operators"].as_array().unwrap().iter().find(|operator| operator["id"] == "fold").unwrap();
    assert_eq!(fold["state"]["state"], "running");
    let config: Value = serde_json::from_str(&get(&address, "/api/config.json").1).unwrap();
    let fold = config["operators"].as_array().unwrap().iter().find(|operator| operator["id"] == "fold").unwrap();
    let is_default = |name: &str| {
        fold["options"].as_array().unwrap().iter().find(|option| option["name"] == name).unwrap()["is_default"].clone()
    };
    assert_eq!((is_default("max_age"), is_default("lease")), (false.into(), true.into()));
    for path in ["/", "/manifests/2026-02-01/x", "/assets/app.js", "/api/shards.json"] {
        let mut stream = TcpStream::connect(&address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        assert!(answer.contains("content-security-policy: default-src 'none'; script-src 'self'"), "{path}");
    }
    assert!(!running.log().contains(TOKEN), "the token is in the log");
    running.terminate();
    running.wait(Duration::from_secs(30)).expect_code(0);
}

#[test]
fn actions_need_a_token_that_cannot_be_guessed() {
    let place = place();
    let refused = place.start_pipeline(&["--allow-actions"]).wait(PATIENCE).expect_code(1);
    assert!(refused.err.contains("PENSTOCK_ACTION_TOKEN"), "{}", refused.err);
    let place = place.with("ACTION_TOKEN", "short");
    let refused = place.start_pipeline(&["--allow-actions"]).wait(PATIENCE).expect_code(1);
    assert!(refused.err.contains("at least 16"), "{}", refused.err);
}

#[test]
fn a_failed_file_is_redriven_from_the_dashboard_as_by_the_command_and_shown_first() {
    const TOKEN: &str = "0123456789abcdef0123";
    let place = place().with("MAX_AGE", "1s").with("ACTION_TOKEN", TOKEN);
    place.write("files", "eu/bad.ndjson", "no json\n".repeat(3));
    place.run_until_idle("files").expect_code(3);
    let running = place.serve(&["--listen", "127.0.0.1:0", "--allow-actions"]);
    let address = address(&running);
    let story: Value =
        serde_json::from_str(&get(&address, "/api/file.json?date=2026-02-01&key=eu/bad.ndjson").1).unwrap();
    let file = &story["files"][0];
    assert!(file["item"]["error_message"].as_str().unwrap().contains("the first is line 1"), "{file}");
    assert_eq!(file["next"]["is_final"], true);
    assert_eq!(get(&address, "/api/file.json?date=2026-02-01&key=none").0, 404);
    assert_eq!(get(&address, "/files/2026-02-01/eu/bad.ndjson").0, 200);

    let selection = r#"{"files":[{"date":"2026-02-01","file_key":"eu/bad.ndjson"}]}"#;
    let ask = |act: bool| {
        let (status, answer) =
            post(&address, "/api/redrive", Some(TOKEN), &format!(r#"{{"selection":{selection},"act":{act}}}"#));
        assert_eq!(status, 200, "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str::<Value>(body).unwrap()[0]["outcome"].as_str().unwrap().to_owned()
    };
    assert_eq!(ask(false), "would");
    assert_eq!(place.facts().files(FileState::Failed), 1, "showing does nothing");
    assert_eq!(ask(true), "redriven");
    // It fails again, in another manifest: it really was redriven.
    wait_for("its second manifest", PATIENCE, || (place.manifests().len() == 2).then_some(()));
    running.terminate();
    running.wait(Duration::from_secs(30)).expect_code(0);
}

#[test]
fn a_demo_that_serves_shows_what_it_made_and_takes_its_token() {
    let place = place();
    let cloud = place.cloud().display().to_string();
    let demo = ["demo", "--files", "60", "--lines", "20", "--dir", &cloud, "--serve", "--listen", "127.0.0.1:0"];
    let running = place.start(&demo);
    let told = wait_for("the end of the demo", PATIENCE, || {
        running.out().lines().find(|line| line.starts_with("Dashboard: ")).map(str::to_owned)
    });
    let address = told.split("http://").nth(1).unwrap().split('/').next().unwrap();
    let token = told.split(' ').next_back().unwrap();
    let overview: Value = serde_json::from_str(&get(address, "/api/overview.json").1).unwrap();
    assert_eq!((&overview["totals"]["files"]["failed"], &overview["actions_allowed"]), (&4.into(), &true.into()));
    let selection = r#"{"selection":{"date":{"date":"2026-02-01","state":"failed"}}}"#;
    let (status, answer) = post(address, "/api/redrive", Some(token), selection);
    assert!(status == 200 && answer.matches(r#""outcome":"would""#).count() == 4, "{answer}");
    // Commands work beside it, and a second demo leaves its folder alone.
    let second = place.run(&["demo", "--files", "1", "--dir", &cloud]).expect_code(1);
    assert!(second.err.contains("runs a demo in"), "{}", second.err);
    running.terminate();
    running.wait(Duration::from_secs(30)).expect_code(0);
}
