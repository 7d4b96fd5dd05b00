//! Answers that are kept for a while: an open page costs the same however often it asks, and however many look.
//!
//! On one machine that only smooths out many readers. On AWS each reading is paid, so there the same view is made once in
//! [`DEAR`] at most, and never for more than a share of the time, by [`Cached`].

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    body::{Bytes, to_bytes},
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{Failure, cached::Cached};

/// A view of what has to be paid for is made anew after so long at the earliest.
pub const DEAR: Duration = Duration::from_secs(10);

/// So many views are kept; past that those that nobody waits for are forgotten.
const MOST: usize = 64;

/// The longest answer.
const MOST_BYTES: usize = 32 << 20;

/// The views that were made lately, by their address.
pub struct Kept {
    fresh: Duration,
    views: Mutex<BTreeMap<String, Arc<Cached<Bytes>>>>,
}

impl Kept {
    /// Views are made anew after `fresh` at the earliest.
    pub fn new(fresh: Duration) -> Self {
        Self { fresh, views: Mutex::default() }
    }

    fn view(&self, address: String) -> Arc<Cached<Bytes>> {
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        if views.len() >= MOST && !views.contains_key(&address) {
            views.retain(|_, view| Arc::strong_count(view) > 1);
        }
        Arc::clone(views.entry(address).or_insert_with(|| Arc::new(Cached::new(self.fresh))))
    }

    /// Something was changed from here: what was seen before is of no use.
    pub fn forget(&self) {
        self.views.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Answers with a view that is kept, or makes it. What isn't answered well is not kept.
pub async fn keep(State(kept): State<Arc<Kept>>, request: Request, next: Next) -> Response {
    let view = kept.view(request.uri().to_string());
    let made = view.get(|| async {
        let answer = next.run(request).await;
        if answer.status() != StatusCode::OK {
            return Err(answer);
        }
        let body = to_bytes(answer.into_body(), MOST_BYTES).await;
        body.map_err(|error| {
            let why = format!("the answer is longer than {MOST_BYTES} bytes: {error}");
            Failure::new(StatusCode::INTERNAL_SERVER_ERROR, why).into_response()
        })
    });
    match made.await {
        Ok(body) => {
            let kind = HeaderValue::from_static("application/json");
            ([(header::CONTENT_TYPE, kind)], Bytes::clone(&body)).into_response()
        }
        Err(answer) => answer,
    }
}

/// Forgets all views once something was done.
pub async fn forget(State(kept): State<Arc<Kept>>, request: Request, next: Next) -> Response {
    let answer = next.run(request).await;
    kept.forget();
    answer
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use axum::{
        Router,
        middleware::from_fn_with_state,
        routing::{get, post},
    };
    use penstock_engine::http;
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test]
    async fn a_view_is_made_once_for_all_who_look_until_something_is_done() {
        let (made, kept) = (Arc::new(AtomicU32::new(0)), Arc::new(Kept::new(Duration::from_secs(3600))));
        let count = Arc::clone(&made);
        let view = async move |request: Request| {
            let number = count.fetch_add(1, Ordering::Relaxed);
            let is_wrong = request.uri().query() == Some("wrong");
            (if is_wrong { StatusCode::NOT_FOUND } else { StatusCode::OK }, number.to_string())
        };
        let views = Router::new().route("/view", get(view)).layer(from_fn_with_state(Arc::clone(&kept), keep));
        let act =
            Router::new().route("/act", post(async || "done")).layer(from_fn_with_state(Arc::clone(&kept), forget));
        let (listener, address) = http::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let stop = CancellationToken::new();
        let server = tokio::spawn(http::serve(listener, views.merge(act), stop.clone()));
        let ask = async |path: &str| {
            let answer = reqwest::get(format!("http://{address}{path}")).await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        };

        let at_once = tokio::join!(ask("/view?a"), ask("/view?a"));
        assert_eq!(at_once, ((200, "0".to_owned()), (200, "0".to_owned())));
        assert_eq!(ask("/view?b").await, (200, "1".to_owned()), "another address is another view");
        assert_eq!(ask("/view?wrong").await, (404, "2".to_owned()));
        assert_eq!(ask("/view?wrong").await, (404, "3".to_owned()), "what failed is asked again");
        assert_eq!(ask("/view?a").await, (200, "0".to_owned()));
        let acted = reqwest::Client::new().post(format!("http://{address}/act")).send().await.unwrap();
        assert_eq!(acted.status().as_u16(), 200);
        assert_eq!(ask("/view?a").await, (200, "4".to_owned()), "what was done must be seen");
        stop.cancel();
        server.await.unwrap();
    }

    #[test]
    fn i9_the_views_that_are_kept_are_bounded() {
        let kept = Kept::new(DEAR);
        let waited_for = kept.view("/waited".to_owned());
        for number in 0..3 * MOST {
            kept.view(format!("/{number}"));
        }
        let views = kept.views.lock().unwrap();
        assert!(views.len() <= MOST, "{}", views.len());
        assert!(Arc::ptr_eq(&views["/waited"], &waited_for));
    }
}
