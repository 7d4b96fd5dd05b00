//! Spans to a collector, by OTLP over HTTP with JSON: what the OpenTelemetry Collector, Jaeger, Tempo and AWS's distribution
//! of it take at `/v1/traces` (opentelemetry.io/docs/specs/otlp).
//!
//! A task of its own takes spans from a bounded queue and sends them some at a time. It never holds up who records: a queue
//! that is full, or a collector that is away, costs spans, and these are counted.
//!
//! It is small enough to be ours. OpenTelemetry's own SDK wants to make the ids and to end each span where it began, while here ids
//! are made from names and a trace is told by several processes; its queue doesn't say what it dropped; and it would
//! bring a second HTTP client.

use std::{fmt, str::FromStr, time::Duration};

use chrono::{DateTime, Utc};
use percent_encoding::percent_decode_str;
use reqwest::{
    Client, StatusCode, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
    redirect,
};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    events::{DropReason, SpansDropped, SpansSent},
    trace::{Role, Span, record_into},
};

/// Spans that wait to be sent, at most.
const QUEUE: usize = 2048;

/// Spans of one request, at most.
const BATCH: usize = 512;

/// A span waits at most so long for others.
const EVERY: Duration = Duration::from_secs(2);

/// A request takes at most so long.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// The waits between tries.
const WAITS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(9)];

/// What is left is sent within this time when the process stops.
const LAST_LIMIT: Duration = Duration::from_secs(3);

/// So much of an answer is read.
const ANSWER_BYTES: usize = 64 * 1024;

/// Where spans go.
#[derive(Clone)]
pub struct Collector {
    url: Url,
    headers: HeaderMap,
}

// Headers, and a password in an address, are secrets.
impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.url.host_str().unwrap_or_default(), self.url.path())
    }
}

impl FromStr for Collector {
    type Err = String;

    /// Reads a collector's base address, e.g. `http://localhost:4318`; the path of traces is added.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &dyn fmt::Display| format!("{why}: write a collector's address, like http://localhost:4318");
        let mut url = Url::parse(text).map_err(|error| wrong(&error))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(wrong(&"it is no address of HTTP"));
        }
        let path = format!("{}/v1/traces", url.path().trim_end_matches('/'));
        url.set_path(&path);
        Ok(Self { url, headers: HeaderMap::new() })
    }
}

impl Collector {
    /// The same with more headers, as `OTEL_EXPORTER_OTLP_HEADERS` has them: `name=value,…`, values percent-encoded. What is wrong is
    /// told without its value: it may be a secret.
    pub fn with_headers(mut self, text: &str) -> Result<Self, String> {
        for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or("a header is written as name=value")?;
            let name =
                HeaderName::from_str(name.trim()).map_err(|_| format!("`{}` is no name of a header", name.trim()))?;
            let value: Vec<u8> = percent_decode_str(value.trim()).collect();
            let mut value =
                HeaderValue::from_bytes(&value).map_err(|_| format!("the value of the header {name} can't be one"))?;
            value.set_sensitive(true);
            self.headers.insert(name, value);
        }
        Ok(self)
    }
}

/// Who records: attributes of the whole process, by OpenTelemetry's names.
pub type Resource = Vec<(&'static str, String)>;

/// Records all spans of this process, and sends them until `stop` is cancelled, and then what is left for a short while.
pub fn export(
    collector: Collector,
    resource: Resource,
    stop: CancellationToken,
) -> Result<impl Future<Output = ()> + Send, ExportError> {
    let (recorder, spans) = mpsc::channel(QUEUE);
    let sender = Sender::new(collector, resource)?;
    record_into(recorder).map_err(|_| ExportError::Twice)?;
    Ok(sender.run(spans, stop))
}

/// Why spans can't be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// There is no HTTP client, e.g. for want of the system's certificates.
    #[error("traces can't be sent: {0}")]
    Client(#[from] reqwest::Error),
    /// Something in this process exports already.
    #[error("this process exports its traces already")]
    Twice,
}

struct Sender {
    client: Client,
    collector: Collector,
    resource: Resource,
}

/// How a try ended.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// It was taken, but for so many spans.
    Taken { refused: usize },
    /// It may be taken later.
    Later(String),
    /// It never will be.
    Never(String),
}

impl Sender {
    fn new(collector: Collector, resource: Resource) -> Result<Self, ExportError> {
        // Headers that are secrets must not follow a redirection elsewhere.
        let client = Client::builder().timeout(REQUEST_LIMIT).redirect(redirect::Policy::none()).build()?;
        Ok(Self { client, collector, resource })
    }

    async fn run(self, mut spans: mpsc::Receiver<Span>, stop: CancellationToken) {
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = fill(&mut batch, &mut spans) => {}
            }
            let Some(answer) = self.send(&batch, &stop).await else { break };
            told(batch.len(), &answer);
            batch.clear();
        }
        let until = Instant::now() + LAST_LIMIT;
        loop {
            while batch.len() < BATCH
                && let Ok(span) = spans.try_recv()
            {
                batch.push(span);
            }
            if batch.is_empty() {
                return;
            }
            let sent = timeout_at(until, self.try_once(&batch)).await;
            told(batch.len(), &sent.unwrap_or_else(|_| stopped()));
            batch.clear();
        }
    }

    /// Sends spans, with more tries if that may help. Nothing if the process stops between two tries; a try that is under
    /// way then is awaited, for it may have been taken.
    async fn send(&self, spans: &[Span], stop: &CancellationToken) -> Option<Answer> {
        let mut waits = WAITS.into_iter();
        loop {
            let too_late = async {
                stop.cancelled().await;
                sleep(LAST_LIMIT).await;
            };
            let answer = tokio::select! {
                biased;
                answer = self.try_once(spans) => answer,
                () = too_late => return Some(stopped()),
            };
            let Some(wait) = waits.next().filter(|_| matches!(answer, Answer::Later(_))) else { return Some(answer) };
            tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                () = sleep(wait) => {}
            }
        }
    }

    async fn try_once(&self, spans: &[Span]) -> Answer {
        let request = self.client.post(self.collector.url.clone()).headers(self.collector.headers.clone());
        let request = request.header(CONTENT_TYPE, "application/json");
        // The error would tell the address, which may hold a password.
        let answered = request.body(encode(&self.resource, spans).to_string()).send().await;
        let mut response = match answered {
            Ok(response) => response,
            Err(error) => return Answer::Later(error.without_url().to_string()),
        };
        let mut body = Vec::new();
        while body.len() < ANSWER_BYTES
            && let Ok(Some(chunk)) = response.chunk().await
        {
            body.extend_from_slice(&chunk);
        }
        judge(response.status(), &body)
    }
}

fn stopped() -> Answer {
    Answer::Later("the process stopped".to_owned())
}

/// Waits for a span, and then a little for more.
async fn fill(batch: &mut Vec<Span>, spans: &mut mpsc::Receiver<Span>) {
    if batch.is_empty() {
        match spans.recv().await {
            Some(span) => batch.push(span),
            None => return std::future::pending().await,
        }
    }
    let more = async {
        while batch.len() < BATCH
            && let Some(span) = spans.recv().await
        {
            batch.push(span);
        }
    };
    // That the time is over is how it mostly ends.
    timeout(EVERY, more).await.unwrap_or_default();
}

fn told(spans: usize, answer: &Answer) {
    let (dropped, why, error) = match answer {
        Answer::Taken { refused } => (*refused, DropReason::Refused, None),
        Answer::Later(error) => (spans, DropReason::Unreachable, Some(error.as_str())),
        Answer::Never(error) => (spans, DropReason::Refused, Some(error.as_str())),
    };
    SpansSent { taken: spans.saturating_sub(dropped), error }.emit();
    if dropped > 0 {
        SpansDropped { spans: dropped, why }.emit();
    }
}

/// What a collector's answer means. By the specification 429, 502, 503 and 504 may be tried again, and nothing else.
fn judge(status: StatusCode, body: &[u8]) -> Answer {
    if status.is_success() {
        let answer: Value = serde_json::from_slice(body).unwrap_or_default();
        let refused = &answer["partialSuccess"]["rejectedSpans"];
        // A 64-bit number is a text in JSON, to some.
        let refused = refused.as_u64().or_else(|| refused.as_str()?.parse().ok()).unwrap_or_default();
        return Answer::Taken { refused: usize::try_from(refused).unwrap_or(usize::MAX) };
    }
    let told: String = String::from_utf8_lossy(body).chars().take(300).collect();
    let error = format!("{status}: {told}");
    if [429, 502, 503, 504].contains(&status.as_u16()) { Answer::Later(error) } else { Answer::Never(error) }
}

/// The body of a request.
fn encode(resource: &[(&'static str, String)], spans: &[Span]) -> Value {
    let resource: Vec<Value> =
        resource.iter().map(|(name, text)| json!({ "key": name, "value": { "stringValue": text } })).collect();
    json!({ "resourceSpans": [{
        "resource": { "attributes": resource },
        "scopeSpans": [{
            "scope": { "name": "penstock", "version": env!("CARGO_PKG_VERSION") },
            "spans": spans.iter().map(encode_span).collect::<Vec<_>>(),
        }],
    }] })
}

fn encode_span(span: &Span) -> Value {
    let kind = match span.role {
        Role::Internal => 1,
        Role::Producer => 4,
        Role::Consumer => 5,
    };
    let attributes = span.attributes.iter().map(|(name, value)| json!({ "key": name, "value": encode_value(value) }));
    let events = span.moments.iter().map(|(at, what)| json!({ "timeUnixNano": nanos(at), "name": what }));
    let mut encoded = json!({
        "traceId": span.trace_id,
        "spanId": span.id,
        "name": span.name,
        "kind": kind,
        "startTimeUnixNano": nanos(&span.started_at),
        "endTimeUnixNano": nanos(&span.ended_at),
        "attributes": attributes.collect::<Vec<_>>(),
        "events": events.collect::<Vec<_>>(),
        "status": match &span.error {
            Some(error) => json!({ "code": 2, "message": error }),
            None => json!({ "code": 1 }),
        },
    });
    if let Some(parent) = &span.parent_id {
        encoded["parentSpanId"] = parent.clone().into();
    }
    encoded
}

fn encode_value(value: &Value) -> Value {
    match value {
        Value::Bool(flag) => json!({ "boolValue": flag }),
        Value::Number(number) if number.is_f64() => json!({ "doubleValue": number }),
        // 64-bit numbers are texts.
        Value::Number(number) => json!({ "intValue": number.to_string() }),
        Value::String(text) => json!({ "stringValue": text }),
        other => json!({ "stringValue": other.to_string() }),
    }
}

/// Nanoseconds since the epoch, as a text.
fn nanos(at: &DateTime<Utc>) -> String {
    at.timestamp_nanos_opt().unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::{Router, http, routing::post};
    use chrono::TimeZone;

    use super::*;

    fn span(number: u32) -> Span {
        let at = Utc.timestamp_opt(1_700_000_000, number).unwrap();
        Span::step("batch-1", "convert", &number.to_string(), at, at)
    }

    /// A collector that keeps what it gets, and answers with these statuses in turn, then with 200.
    async fn collector(statuses: &[u16]) -> (Collector, Arc<Mutex<Vec<Value>>>) {
        let (got, mut statuses) = (Arc::new(Mutex::new(Vec::new())), statuses.to_vec());
        statuses.reverse();
        let (kept, statuses) = (Arc::clone(&got), Arc::new(Mutex::new(statuses)));
        let take = async move |headers: http::HeaderMap, body: String| {
            let status = statuses.lock().unwrap().pop().unwrap_or(200);
            if status == 200 {
                assert_eq!(headers["content-type"], "application/json");
                assert_eq!(headers["x-key"], "a b");
                kept.lock().unwrap().push(serde_json::from_str(&body).unwrap());
                // What it has taken isn't known at once.
                sleep(Duration::from_millis(50)).await;
            }
            (http::StatusCode::from_u16(status).unwrap(), "{}")
        };
        let (listener, address) = crate::http::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let routes = Router::new().route("/base/v1/traces", post(take));
        tokio::spawn(crate::http::serve(listener, routes, CancellationToken::new()));
        let collector: Collector = format!("http://{address}/base/").parse().unwrap();
        (collector.with_headers("x-key=a%20b").unwrap(), got)
    }

    fn spans_in(got: &Mutex<Vec<Value>>) -> Vec<Value> {
        let of = |body: &Value| body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().clone();
        got.lock().unwrap().iter().flat_map(of).collect()
    }

    #[test]
    fn spans_are_written_as_the_specification_says() {
        let at = Utc.timestamp_opt(1_700_000_000, 5).unwrap();
        let span = Span::step("batch-1", "convert", "1", at, at)
            .as_role(Role::Consumer)
            .with("rows", 7_u64)
            .with("ratio", 0.5)
            .with("late", false)
            .with("date", "2026-02-01")
            .with_moments([(at, "a.ndjson".to_owned())])
            .failed(Some("no".to_owned()));
        let body = encode(&[("service.name", "engine".to_owned())], std::slice::from_ref(&span));
        let wanted = json!({ "resourceSpans": [{
            "resource": { "attributes": [{ "key": "service.name", "value": { "stringValue": "engine" } }] },
            "scopeSpans": [{
                "scope": { "name": "penstock", "version": env!("CARGO_PKG_VERSION") },
                "spans": [{
                    "traceId": span.trace_id,
                    "spanId": span.id,
                    "name": "convert",
                    "kind": 5,
                    "startTimeUnixNano": "1700000000000000005",
                    "endTimeUnixNano": "1700000000000000005",
                    "attributes": [
                        { "key": "rows", "value": { "intValue": "7" } },
                        { "key": "ratio", "value": { "doubleValue": 0.5 } },
                        { "key": "late", "value": { "boolValue": false } },
                        { "key": "date", "value": { "stringValue": "2026-02-01" } },
                    ],
                    "events": [{ "timeUnixNano": "1700000000000000005", "name": "a.ndjson" }],
                    "status": { "code": 2, "message": "no" },
                    "parentSpanId": span.parent_id,
                }],
            }],
        }] });
        assert_eq!(body, wanted);
    }

    #[tokio::test]
    async fn a_collector_that_is_away_for_a_moment_gets_all_and_what_is_left_at_the_end_too() {
        let (collector, got) = collector(&[503]).await;
        let sender = Sender::new(collector, Vec::new()).unwrap();
        let (recorder, spans) = mpsc::channel(QUEUE);
        let stop = CancellationToken::new();
        let running = tokio::spawn(sender.run(spans, stop.clone()));
        for number in 0..600 {
            recorder.try_send(span(number)).unwrap();
        }
        let first = async {
            while spans_in(&got).len() < BATCH {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(20), first).await.expect("the first batch is tried again");
        // Its answer may still be on the way: what was taken isn't sent a second time.
        stop.cancel();
        running.await.unwrap();
        assert_eq!(spans_in(&got).len(), 600);
    }

    #[test]
    fn an_answer_says_whether_to_try_again() {
        let judged = |status: u16, body: &str| judge(StatusCode::from_u16(status).unwrap(), body.as_bytes());
        assert_eq!(judged(200, ""), Answer::Taken { refused: 0 });
        assert_eq!(judged(200, r#"{"partialSuccess":{"rejectedSpans":"3"}}"#), Answer::Taken { refused: 3 });
        assert_eq!(judged(200, r#"{"partialSuccess":{"rejectedSpans":2}}"#), Answer::Taken { refused: 2 });
        for status in [429, 502, 503, 504] {
            assert!(matches!(judged(status, "no"), Answer::Later(_)), "{status}");
        }
        for status in [302, 400, 401, 413, 500] {
            assert!(matches!(judged(status, "no"), Answer::Never(_)), "{status}");
        }
    }

    #[test]
    fn a_collector_is_an_address_and_its_secrets_are_not_told() {
        let collector: Collector = "https://me:secret@host:4318/base/".parse().unwrap();
        assert_eq!(collector.url.path(), "/base/v1/traces");
        let collector = collector.with_headers("authorization=Basic%20secret, x=y").unwrap();
        assert_eq!(collector.headers["authorization"], "Basic secret");
        assert!(!format!("{collector:?}").contains("secret"), "{collector:?}");
        for wrong in ["localhost:4318", "ftp://host", "", "http://"] {
            assert!(wrong.parse::<Collector>().unwrap_err().contains("like http://localhost:4318"), "{wrong}");
        }
        let wrong = collector.with_headers("x y=secret").unwrap_err();
        assert!(wrong.contains("`x y`") && !wrong.contains("secret"), "{wrong}");
    }
}
