//! The dashboard: what a person sees of a running pipeline, served by the process itself.
//!
//! Three static files (a page, a style, a script), compiled in, and an API of views under `/api/`. Each view is a type; a
//! handler gathers facts, with a bound on how many, and the view is made of them. Nothing comes from another
//! origin, so it works offline, and the content security policy allows nothing else. It only shows, unless it was started
//! with actions allowed; then each action needs the token.

mod actions;
mod cached;
mod config;
mod dead_letters;
mod files;
pub mod history;
mod kept;
mod manifests;
mod overview;
mod pending;
mod rejects;
mod shards;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use penstock_engine::{
    cloud::{CloudError, Item},
    graph::Registry,
    monitor::Monitor,
    operator::OperatorError,
};
use penstock_operators::model::read_item;
use serde::{Serialize, de::DeserializeOwned};

use cached::Cached;
pub use history::History;
use kept::Kept;

use crate::{
    facts::{COUNTED_ITEMS, Facts, TRACKING_TABLE, queue_depths},
    home::Home,
    loader::Pipeline,
    token::Token,
};

/// Counts are read anew after so long at the earliest, and never more than a twentieth of the time: on one machine, and
/// where readings are paid.
const COUNTS_FRESH: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What the pages are made of.
pub struct Dashboard {
    pipeline: Arc<Pipeline>,
    registry: Arc<Registry>,
    home: Home,
    monitor: Monitor,
    history: Arc<History>,
    token: Option<Token>,
    counts: Cached<Facts>,
    queues: Cached<BTreeMap<String, penstock_engine::cloud::queue::QueueDepth>>,
    kept: Arc<Kept>,
}

impl Dashboard {
    /// A dashboard of a pipeline that runs in this process. With a token actions are allowed to whoever has it.
    pub fn new(
        pipeline: Arc<Pipeline>,
        registry: Arc<Registry>,
        home: Home,
        monitor: Monitor,
        history: Arc<History>,
        token: Option<Token>,
    ) -> Self {
        let is_dear = home.local().is_none();
        let (counts_fresh, fresh) =
            if is_dear { (COUNTS_FRESH.1, kept::DEAR) } else { (COUNTS_FRESH.0, Duration::ZERO) };
        Self {
            pipeline,
            registry,
            home,
            monitor,
            history,
            token,
            counts: Cached::new(counts_fresh),
            queues: Cached::new(counts_fresh.min(kept::DEAR)),
            kept: Arc::new(Kept::new(fresh)),
        }
    }

    /// The counts of the table; many who look at once cause one reading.
    async fn counts(&self) -> Result<Arc<Facts>, Failure> {
        self.counts
            .get(|| async {
                let table = self.home.cloud().table(TRACKING_TABLE).await?;
                Ok(Facts::read_at_most(&*table, COUNTED_ITEMS).await?)
            })
            .await
    }

    async fn queues(&self) -> Result<Arc<BTreeMap<String, penstock_engine::cloud::queue::QueueDepth>>, Failure> {
        let names = self.pipeline.resources.queues.keys();
        self.queues.get(|| async { Ok(queue_depths(&**self.home.cloud(), names).await?) }).await
    }

    /// The short name that an operator's option gives to a resource, e.g. the bucket of manifests.
    fn option(&self, name: &str) -> Option<&str> {
        self.pipeline.graph.nodes.iter().find_map(|node| node.options.get(name)?.as_str())
    }
}

/// The routes of the dashboard: its pages and its API.
pub fn routes(dashboard: Arc<Dashboard>) -> Router {
    let mut routes = Router::new();
    for page in [
        "/",
        "/shards",
        "/pending",
        "/manifests",
        "/manifests/{date}/{id}",
        "/files",
        "/files/{date}/{*key}",
        "/rejects",
        "/dead-letters",
        "/config",
    ] {
        routes = routes.route(page, get(async || asset(include_str!("assets/index.html"), "text/html; charset=utf-8")));
    }
    routes
        .route("/assets/style.css", get(async || asset(include_str!("assets/style.css"), "text/css; charset=utf-8")))
        .route("/assets/app.js", get(async || asset(include_str!("assets/app.js"), JAVASCRIPT)))
        .route("/assets/dom.js", get(async || asset(include_str!("assets/dom.js"), JAVASCRIPT)))
        .route("/assets/drawing.js", get(async || asset(include_str!("assets/drawing.js"), JAVASCRIPT)))
        .route("/assets/icon.svg", get(async || asset(include_str!("assets/icon.svg"), "image/svg+xml")))
        .route("/api/process.json", get(overview::process))
        .route("/api/overview.json", get(overview::get))
        .route("/api/history.json", get(history))
        .route("/api/pending.json", get(pending::get))
        .route("/api/dead-letters.json", get(dead_letters::list))
        .route("/api/config.json", get(config::get))
        .merge(readings(&dashboard.kept))
        .merge(actions(&dashboard.kept))
        .with_state(dashboard)
        .layer(from_fn(guarded))
}

/// The views for which tables and buckets are read each time.
fn readings(kept: &Arc<Kept>) -> Router<Shared> {
    Router::new()
        .route("/api/shards.json", get(shards::get))
        .route("/api/manifests.json", get(manifests::list))
        .route("/api/manifest.json", get(manifests::one))
        .route("/api/files.json", get(files::search))
        .route("/api/file.json", get(files::story))
        .route("/api/rejects.json", get(rejects::list))
        .route("/api/rejected-lines.json", get(rejects::sample))
        .layer(from_fn_with_state(Arc::clone(kept), kept::keep))
}

fn actions(kept: &Arc<Kept>) -> Router<Shared> {
    Router::new()
        .route("/api/redrive", post(actions::redrive))
        .route("/api/flush", post(pending::flush))
        .layer(from_fn_with_state(Arc::clone(kept), kept::forget))
}

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

fn asset(text: &'static str, kind: &'static str) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static(kind))], text).into_response()
}

async fn history(State(dashboard): State<Shared>) -> Answer<history::View> {
    Ok(Json(dashboard.history.view()))
}

/// Nothing but what this process serves may be loaded, run or asked, and no other page may frame it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

async fn guarded(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in [
        ("content-security-policy", POLICY),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cache-control", "no-store"),
    ] {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

type Shared = Arc<Dashboard>;
type Answer<T> = Result<Json<T>, Failure>;

/// Why a request isn't answered.
#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    message: String,
}

impl Failure {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    fn missing(what: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("there is no {what}"))
    }
}

#[derive(Serialize)]
struct FailureView {
    error: String,
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, Json(FailureView { error: self.message })).into_response()
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}"))
    }
}

impl From<CloudError> for Failure {
    fn from(error: CloudError) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

impl From<OperatorError> for Failure {
    fn from(error: OperatorError) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

impl From<object_store::Error> for Failure {
    fn from(error: object_store::Error) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

/// Reads an item; one that can't be read is told, and keeps no other from being shown.
fn read_or_tell<T: DeserializeOwned>(what: &'static str, item: &Item, unreadable: &mut Vec<String>) -> Option<T> {
    match read_item(what, item) {
        Ok(read) => Some(read),
        Err(error) => {
            unreadable.push(error.to_string());
            None
        }
    }
}

/// The first `most` characters of a text.
fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
