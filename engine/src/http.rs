//! Serving what can be seen of a process: `/health`, `/ready`, `/version` and `/metrics`, and pages that others add.
//!
//! A server that strangers may reach must not be held up by them: connections, header times, body sizes and answering times
//! are bounded. On a loopback address only requests for a loopback host are answered, so that no web page that a
//! person has open can reach it under a name of its own (DNS rebinding).

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{health::Phase, monitor::Monitor};

/// Connections at once; more wait to be accepted.
const CONNECTIONS: usize = 128;
/// How long the head of a request may take to come.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// The largest body of a request.
const BODY_BYTES: usize = 64 * 1024;
/// How long open requests may take once the process stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(3);

/// The routes that every service has.
pub fn routes(monitor: Monitor) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/version", get(version))
        .route("/metrics", get(metrics))
        .with_state(monitor)
}

/// It lives: 503 only while it stops, so that no load balancer sends more.
async fn health(State(monitor): State<Monitor>) -> Response {
    let phase = monitor.phase();
    let status = if phase == Phase::Stopping { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (status, Json(serde_json::json!({ "phase": phase }))).into_response()
}

/// Whether work goes on, and if not, why.
async fn ready(State(monitor): State<Monitor>) -> Response {
    let readiness = monitor.readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

async fn version(State(monitor): State<Monitor>) -> Response {
    Json(monitor.about()).into_response()
}

async fn metrics(State(monitor): State<Monitor>) -> Response {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], monitor.metrics()).into_response()
}

/// Puts the bounds around routes that are served at `address`.
pub fn bounded(routes: Router, address: SocketAddr) -> Router {
    routes
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .layer(from_fn(in_time))
        .layer(from_fn_with_state(address.ip(), for_this_host))
        .layer(from_fn(counted))
}

async fn in_time(request: Request, next: Next) -> Response {
    match timeout(ANSWER_LIMIT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => (StatusCode::GATEWAY_TIMEOUT, "the answer takes too long\n").into_response(),
    }
}

async fn for_this_host(State(address): State<IpAddr>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if address.is_loopback() && !is_loopback_host(host) {
        return (StatusCode::MISDIRECTED_REQUEST, "this server answers for localhost only\n").into_response();
    }
    next.run(request).await
}

/// Whether a `Host` header, with or without a port, names this machine alone.
fn is_loopback_host(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

async fn counted(request: Request, next: Next) -> Response {
    // The route's pattern, never the path: a stranger's paths must not become labels.
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let response = next.run(request).await;
    let status = response.status().as_str().to_owned();
    ::metrics::counter!("penstock_http_requests_total", "route" => route, "status" => status).increment(1);
    response
}

/// Listens; `127.0.0.1:0` takes any free port.
pub async fn listen(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Serves until `stop` is cancelled, and then what is open for a short while.
pub async fn serve(listener: TcpListener, routes: Router, stop: CancellationToken) {
    let (places, connections) = (Arc::new(Semaphore::new(CONNECTIONS)), TaskTracker::new());
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            accepted = accepted => accepted,
            () = stop.cancelled() => break,
        };
        let (Ok(place), Ok((stream, _))) = (place, accepted) else {
            // Too many open files, say: those that are open must get a chance to end.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (routes, stop) = (routes.clone(), stop.clone());
        connections.spawn(async move {
            let service = TowerToHyperService::new(routes.into_service::<hyper::body::Incoming>());
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT).max_buf_size(BODY_BYTES);
            let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "Connection ended early.");
            }
            drop(place);
        });
    }
    connections.close();
    if timeout(DRAIN_LIMIT, connections.wait()).await.is_err() {
        tracing::debug!(open = connections.len(), "Connections left open.");
    }
}

/// A plain answer with a body that nothing can misread.
pub fn plain(status: StatusCode, text: impl Into<Body>) -> Response {
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    (status, [(header::CONTENT_TYPE, kind)], text.into()).into_response()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Serves routes, sends each request and gives back what came.
    async fn answers(routes: Router, requests: &[&str]) -> Vec<String> {
        let (listener, address) = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, bounded(routes, address), stop.clone()));
        let mut answers = Vec::new();
        for request in requests {
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            answers.push(String::from_utf8_lossy(&answer).into_owned());
        }
        stop.cancel();
        server.await.unwrap();
        answers
    }

    fn request(line: &str, host: &str) -> String {
        format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
    }

    #[tokio::test]
    async fn a_name_that_leads_here_by_rebinding_is_refused() {
        let routes = Router::new().route("/", get(async || "here"));
        let hosts =
            ["localhost", "localhost:80", "127.0.0.1:1", "[::1]:2", "evil.example", "localhost.evil.example", ""];
        let requests: Vec<String> = hosts.iter().map(|host| request("GET /", host)).collect();
        let requests: Vec<&str> = requests.iter().map(String::as_str).collect();
        let answers = answers(routes, &requests).await;
        let served: Vec<bool> = answers.iter().map(|answer| answer.starts_with("HTTP/1.1 200")).collect();
        assert_eq!(served, [true, true, true, true, false, false, false], "{answers:?}");
    }

    #[tokio::test]
    async fn a_body_past_the_limit_is_refused() {
        let routes =
            Router::new().route("/", axum::routing::post(async |body: String| format!("{} bytes", body.len())));
        let post = |length: usize| {
            let head =
                format!("POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
            head + &"x".repeat(length)
        };
        let requests = [post(BODY_BYTES), post(BODY_BYTES + 1)];
        let answers = answers(routes, &[&requests[0], &requests[1]]).await;
        assert!(answers[0].starts_with("HTTP/1.1 200"), "{}", answers[0]);
        assert!(answers[1].starts_with("HTTP/1.1 413"), "{}", answers[1]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_hangs_is_given_up() {
        let routes = Router::new().route("/", get(std::future::pending::<()>));
        let answers = answers(routes, &[&request("GET /", "localhost")]).await;
        assert!(answers[0].starts_with("HTTP/1.1 504"), "{}", answers[0]);
    }
}
