//! A tap from afar: `POST /tap` of a service whose folder isn't where the person is, as on AWS.
//!
//! Records are data, so this is off unless the process was started with it, and then for whoever has the token. Its answer
//! is the control socket's, a line of JSON for each part. A few at once, each for a while: one that was forgotten ends.

use std::{convert::Infallible, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use futures::stream;
use serde_json::json;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    Hands,
    events::TapRefused,
    protocol::{Line, MAX_ANSWER_BYTES, TapRequest},
    tapping::Tapping,
};
use crate::token::Token;

/// The path that is asked.
pub const PATH: &str = "/tap";

/// Taps at once.
const AT_ONCE: usize = 4;

/// How long one may last.
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// What serves taps.
#[derive(Clone)]
struct Taps {
    hands: Hands,
    /// Nobody is shown anything without it.
    token: Option<Token>,
    places: Arc<Semaphore>,
    stop: CancellationToken,
}

/// The route of taps. Without a token it says how to start the process so that it has one.
pub fn routes(hands: Hands, token: Option<Token>, stop: CancellationToken) -> Router {
    let taps = Taps { hands, token, places: Arc::new(Semaphore::new(AT_ONCE)), stop };
    Router::new().route(PATH, post(tap)).with_state(taps)
}

async fn tap(State(taps): State<Taps>, headers: HeaderMap, Json(request): Json<TapRequest>) -> Response {
    let (status, why) = match taps.open(&headers, &request) {
        Ok(open) => return answer(open),
        Err(refused) => refused,
    };
    TapRefused { operator: &request.operator, why: &why }.emit();
    (status, Json(json!({ "error": why }))).into_response()
}

/// A tap that is open.
struct Open {
    tapping: Tapping,
    until: Instant,
    stop: CancellationToken,
    is_over: bool,
    _place: OwnedSemaphorePermit,
}

impl Taps {
    fn open(&self, headers: &HeaderMap, request: &TapRequest) -> Result<Open, (StatusCode, String)> {
        let Some(token) = &self.token else {
            let why = "this process shows no records: start it with --allow-tap";
            return Err((StatusCode::FORBIDDEN, why.to_owned()));
        };
        token.admit(headers).map_err(|refused| (StatusCode::UNAUTHORIZED, refused.to_string()))?;
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| {
            (
                StatusCode::TOO_MANY_REQUESTS,
                format!("{AT_ONCE} look at records of this process already: try again later"),
            )
        })?;
        let tapping = Tapping::open(&self.hands, request);
        let tapping = tapping.map_err(|error| (StatusCode::BAD_REQUEST, format!("{error:#}")))?;
        let (until, stop) = (Instant::now() + LONGEST, self.stop.clone());
        Ok(Open { tapping, until, stop, is_over: false, _place: place })
    }
}

impl Open {
    async fn next(&mut self) -> Option<Line> {
        if self.is_over {
            return None;
        }
        let next = tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            next = timeout_at(self.until, self.tapping.next()) => next.unwrap_or_default(),
        };
        self.is_over = next.is_none();
        Some(next.unwrap_or_else(|| self.tapping.end()))
    }
}

/// Lines are made as they are read: who reads slowly misses records, and holds up nobody.
fn answer(open: Open) -> Response {
    let lines = stream::unfold(open, async |mut open| {
        let line = open.next().await?;
        let mut text = json!(line).to_string();
        text.push('\n');
        Some((Ok::<_, Infallible>(Bytes::from(text)), open))
    });
    let kind = HeaderValue::from_static("application/x-ndjson");
    ([(header::CONTENT_TYPE, kind)], Body::from_stream(lines)).into_response()
}

/// The other side: what a service far away shows.
pub struct Remote {
    answer: reqwest::Response,
    /// What came after the last whole line.
    rest: Vec<u8>,
}

impl Remote {
    /// Asks the service at `url` (`http://host:8650`) for records.
    pub async fn ask(url: &str, token: &str, request: &TapRequest) -> anyhow::Result<Self> {
        let address = format!("{}{PATH}", url.trim_end_matches('/'));
        let client = reqwest::Client::builder().connect_timeout(Duration::from_secs(10)).build()?;
        let asked = client.post(&address).bearer_auth(token).header(header::CONTENT_TYPE, "application/json");
        let answer = asked.body(serde_json::to_vec(request)?).send().await;
        let answer =
            answer.with_context(|| format!("{address} doesn't answer: is a service there, and its port open?"))?;
        let status = answer.status();
        if status == StatusCode::OK {
            return Ok(Self { answer, rest: Vec::new() });
        }
        let body = answer.text().await.with_context(|| format!("{address} answers {status}, and breaks off"))?;
        // Another server may say anything.
        let told = serde_json::from_str::<serde_json::Value>(&body).ok();
        match told.as_ref().and_then(|told| told["error"].as_str()) {
            Some(why) => bail!("{address}: {why}"),
            None => bail!("{address} answers {status}: no service of this release of penstock is there"),
        }
    }

    /// The next line; an error if the answer ends without its last one.
    pub async fn next_line(&mut self) -> anyhow::Result<Line> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return serde_json::from_slice(&line).context("a line of the service can't be understood");
            }
            if self.rest.len() as u64 > MAX_ANSWER_BYTES {
                bail!("a line of the service is longer than {MAX_ANSWER_BYTES} bytes");
            }
            match self.answer.chunk().await.context("the service went away")? {
                Some(chunk) => self.rest.extend_from_slice(&chunk),
                None => bail!("the service ended its answer in the middle"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use penstock_engine::cloud::local::{LocalCloud, LocalOptions};

    use super::*;
    use crate::loader::load;

    #[tokio::test]
    async fn only_few_who_have_the_token_look_and_only_where_that_is_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("ndjson-parquet.yaml");
        let pipeline = load(&file, &|_| None, &penstock_operators::registry()).unwrap();
        let naming = pipeline.naming.clone();
        let cloud = LocalCloud::open(dir.path(), naming, &pipeline.resources, LocalOptions::default()).unwrap();
        let hands = Hands::new(cloud, Arc::new(pipeline), None);
        let refused = |token: Option<&str>, places: usize, given: &'static str| {
            let token = token.map(|token| Token::new(token).unwrap());
            let (places, stop) = (Arc::new(Semaphore::new(places)), CancellationToken::new());
            let taps = Taps { hands: hands.clone(), token, places, stop };
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static(given))]);
            let request = serde_json::from_value(json!({ "operator": "fold" })).unwrap();
            taps.open(&headers, &request).err().map(|(status, why)| (status.as_u16(), why)).unwrap()
        };
        let (token, right) = (Some("0123456789abcdef"), "Bearer 0123456789abcdef");
        assert_eq!(refused(None, 1, right).0, 403);
        assert_eq!(refused(token, 1, "Bearer 0123456789abcdee").0, 401);
        // Strangers learn nothing of how busy it is.
        assert_eq!(refused(token, 0, "").0, 401);
        assert_eq!(refused(token, 0, right).0, 429);
        assert!(refused(token, 1, right).1.contains("no service runs there"), "all but the operator was there");
    }
}
