//! Traces: one for each manifest, from the first notification to the last file settled, told to a collector.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use penstock_operators::model::FileState;
use penstock_tests::{PATIENCE, place::pipeline_file};
use serde_json::Value;

use super::{line, lines, place};

/// A collector that keeps what it is sent. It lives as long as the tests.
#[derive(Clone)]
struct Collector {
    address: SocketAddr,
    bodies: Arc<Mutex<Vec<Value>>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let collector = Self { address: listener.local_addr().unwrap(), bodies: Arc::default() };
        let kept = collector.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let kept = kept.clone();
                thread::spawn(move || kept.serve(stream.unwrap()));
            }
        });
        collector
    }

    fn serve(&self, stream: TcpStream) {
        let mut from = BufReader::new(stream);
        loop {
            let (mut length, mut line) = (0, String::new());
            loop {
                line.clear();
                if from.read_line(&mut line).unwrap_or(0) == 0 {
                    return;
                }
                let header = line.trim_end().to_ascii_lowercase();
                if header.starts_with("post") {
                    assert!(header.starts_with("post /v1/traces "), "{header}");
                }
                if let Some(value) = header.strip_prefix("content-length: ") {
                    length = value.parse().unwrap();
                }
                if header.is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            from.read_exact(&mut body).unwrap();
            self.bodies.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
            from.get_mut()
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
                .unwrap();
        }
    }

    fn spans(&self) -> Vec<Value> {
        let of = |body: &Value| body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().clone();
        self.bodies.lock().unwrap().iter().flat_map(of).collect()
    }
}

fn attribute<'a>(span: &'a Value, name: &str) -> &'a Value {
    let attributes = span["attributes"].as_array().unwrap();
    &attributes.iter().find(|attribute| attribute["key"] == name).unwrap_or_else(|| panic!("{name} of {span}"))["value"]
}

fn nanos(span: &Value, name: &str) -> u64 {
    span[name].as_str().unwrap().parse().unwrap()
}

#[test]
fn a_manifest_is_one_trace_from_notification_to_settling_and_logs_bear_its_id() {
    let collector = Collector::start();
    let place = place().with("MAX_FILES", 2);
    let address = format!("http://{}", collector.address);
    let running = place.serve(&["--otlp", &address]);
    for name in ["a", "b", "c", "d"] {
        place.drop_into_input(&format!("{name}.ndjson"), lines(name, 25).1 + "no json\n");
    }
    place.wait_for_facts("four completed files", PATIENCE, |facts| {
        facts.files(FileState::Completed) == 4 && facts.unfinished() == 0
    });
    running.terminate();
    let ended = running.wait(Duration::from_secs(30)).expect_code(0);

    // What was recorded last is sent before the process ends.
    let spans = collector.spans();
    let wholes: Vec<&Value> = spans.iter().filter(|span| span["name"] == "manifest").collect();
    assert_eq!(wholes.len(), 2, "{spans:?}");
    for whole in wholes {
        let of: Vec<&Value> = spans.iter().filter(|span| span["traceId"] == whole["traceId"]).collect();
        let mut names: Vec<&str> = of.iter().map(|span| span["name"].as_str().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, ["announce", "assemble", "complete", "convert", "gather", "manifest", "settle"]);
        for step in of.iter().filter(|span| span["name"] != "manifest") {
            assert_eq!(step["parentSpanId"], whole["spanId"], "{step}");
            assert!(nanos(step, "startTimeUnixNano") >= nanos(whole, "startTimeUnixNano"), "{step} is before {whole}");
            assert!(nanos(step, "endTimeUnixNano") >= nanos(step, "startTimeUnixNano"), "{step}");
        }
        assert!(whole.get("parentSpanId").is_none());
        assert_eq!(attribute(whole, "penstock.rows")["intValue"], "50");
        assert_eq!(attribute(whole, "penstock.rejected_rows")["intValue"], "2");
        let gather = of.iter().find(|span| span["name"] == "gather").unwrap();
        assert_eq!(nanos(gather, "startTimeUnixNano"), nanos(whole, "startTimeUnixNano"), "it begins with a file");
        assert_eq!(gather["events"].as_array().unwrap().len(), 2, "each file is told");
        let id = attribute(whole, "penstock.manifest")["stringValue"].as_str().unwrap();
        assert_eq!(whole["traceId"], penstock_engine::telemetry::trace::trace_id(id));
        let mut logged = ended.err.lines().filter(|line| line.contains(id));
        assert!(logged.clone().count() >= 5, "{}", ended.err);
        let bare = logged.find(|line| !line.contains("trace_id"));
        assert_eq!(bare, None, "a line that names the manifest doesn't bear its trace");
        assert!(ended.err.contains(whole["traceId"].as_str().unwrap()));
    }
    let resource = &collector.bodies.lock().unwrap()[0]["resourceSpans"][0]["resource"];
    assert_eq!(attribute(resource, "service.name")["stringValue"], "ndjson-parquet-all");
}

#[test]
fn a_collector_that_is_away_holds_nothing_up_and_what_it_missed_is_counted() {
    // Nobody listens there.
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let place = place().with("MAX_AGE", "1s");
    let running = place.serve(&["--otlp", &format!("http://{gone}")]);
    place.drop_into_input("a.ndjson", line("a"));
    place.wait_for_facts("a completed file", PATIENCE, |facts| {
        facts.files(FileState::Completed) == 1 && facts.unfinished() == 0
    });
    running.terminate();
    let ended = running.wait(Duration::from_secs(30)).expect_code(0);
    let told = ended.err.lines().find(|line| line.contains("Spans of traces dropped."));
    assert!(told.is_some_and(|line| line.contains("unreachable")), "{}", ended.err);
    assert_eq!(place.hourly_rows("all")[0]["penstock_trace_spans_dropped_total"], 7.0);
}

#[test]
fn what_is_no_collector_is_said_without_its_secrets() {
    let place = place();
    let refused = place.start_pipeline(&["--otlp", "localhost:4317"]).wait(PATIENCE).expect_code(2);
    assert!(refused.err.contains("like http://localhost:4318"), "{}", refused.err);
    let mut command = place.command(&["run"]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318").env("OTEL_EXPORTER_OTLP_HEADERS", "a b=secret");
    let ended = command.arg(pipeline_file()).arg("--local").arg(place.cloud()).output().unwrap();
    let told = String::from_utf8_lossy(&ended.stderr);
    assert!(told.contains("OTEL_EXPORTER_OTLP_HEADERS") && !told.contains("secret"), "{told}");
}
