//! Asking which shards there are. DescribeStream allows few calls, so that all that this process makes share one pace.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Mutex,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{events, shard_graph::Listing};
use crate::cloud::{
    ChangeStream, CloudError, ErrorKind, Result,
    change_stream::{DescribeRequest, Shard, ShardId, StreamDescription},
};

/// DescribeStream allows 10 calls a second for an account; this leaves as much for others.
const DESCRIBE_INTERVAL: Duration = Duration::from_millis(200);

/// So long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// So often the children of a shard that has ended are asked for.
const CHILD_TRIES: u32 = 10;

/// Spaces calls out: one shared by all that make them.
#[derive(Debug)]
pub struct Pace {
    interval: Duration,
    next: Mutex<Option<Instant>>,
}

impl Pace {
    /// At most one call in each interval.
    pub fn new(interval: Duration) -> Self {
        Self { interval, next: Mutex::new(None) }
    }

    /// The pace of DescribeStream.
    pub fn of_describe() -> Self {
        Self::new(DESCRIBE_INTERVAL)
    }

    /// Waits for the next turn. Turns are given in the order of asking.
    pub async fn turn(&self) {
        let at = {
            let mut next = self.next.lock().await;
            let at = next.unwrap_or_else(Instant::now).max(Instant::now());
            *next = Some(at + self.interval);
            at
        };
        sleep_until(at).await;
    }
}

/// What a shard has been followed by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Children {
    /// These shards.
    Found(Vec<Shard>),
    /// Nothing: the stream is disabled, or gone.
    None,
    /// Nothing yet, though there should be: a hole in the listing (F5). They are found by a later listing.
    Missing,
}

/// Lists the shards of a table's streams.
#[derive(Clone)]
pub struct Discovery {
    stream: Arc<dyn ChangeStream>,
    /// The table as metrics and logs name it.
    table: String,
    pace: Arc<Pace>,
}

impl Discovery {
    /// Lists shards of `stream`, at the given pace. Metrics and logs call its table `table`: in a pipeline that is its short
    /// name, as everywhere else there, and not the one that it has on AWS.
    pub fn new(stream: Arc<dyn ChangeStream>, table: String, pace: Arc<Pace>) -> Self {
        Self { stream, table, pace }
    }

    /// The ARNs of the table's streams, oldest first.
    pub async fn streams(&self) -> Result<Vec<String>> {
        let answer = timeout(PATIENCE, self.stream.streams()).await;
        answer.unwrap_or_else(|_| Err(no_answer(format!("listing the streams of table {}", self.stream.table()))))
    }

    /// All pages of a stream's shards (F3). A failure of one page fails the listing: a part of it proves nothing.
    pub async fn list(&self, arn: &str) -> Result<Listing> {
        let mut listing = Listing::default();
        let mut request = DescribeRequest::default();
        loop {
            let page = self.describe(arn, request.clone()).await?;
            listing.enabled = page.enabled;
            listing.shards.extend(page.shards);
            match page.last_evaluated {
                Some(last) if request.after.as_ref() == Some(&last) => {
                    let text = format!("its pages don't end: the page after {last} ends at {last}");
                    return Err(CloudError::new(ErrorKind::Unavailable, format!("listing the shards of {arn}"), text));
                }
                Some(last) => request.after = Some(last),
                None => return Ok(listing),
            }
        }
    }

    /// The children of a shard that was read to its end.
    ///
    /// They may be late in the listing: asked for several times, and then looked for in the full one.
    pub async fn children(&self, arn: &str, parent: &ShardId) -> Result<Children> {
        let mut wait = Duration::from_millis(50);
        for _ in 0..CHILD_TRIES {
            let request = DescribeRequest { after: None, children_of: Some(parent.clone()) };
            match self.describe(arn, request).await {
                Ok(page) if page.shards.iter().any(|shard| is_child(shard, parent)) => {
                    return Ok(Children::Found(
                        page.shards.into_iter().filter(|shard| is_child(shard, parent)).collect(),
                    ));
                }
                Ok(page) if !page.enabled => return Ok(Children::None),
                Ok(_) => {}
                Err(error) if error.kind == ErrorKind::NotFound => return Ok(Children::None),
                Err(error) if error.is_transient() => {}
                Err(error) => return Err(error),
            }
            sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(1));
        }
        let listing = self.list(arn).await?;
        let found: Vec<_> = listing.shards.into_iter().filter(|shard| is_child(shard, parent)).collect();
        Ok(if found.is_empty() { Children::Missing } else { Children::Found(found) })
    }

    /// Whether the stream itself is still there: tells a shard that is gone from a stream that is (F13).
    pub async fn is_there(&self, arn: &str) -> Result<bool> {
        match self.describe(arn, DescribeRequest::default()).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn describe(&self, arn: &str, request: DescribeRequest) -> Result<StreamDescription> {
        self.pace.turn().await;
        let answer = timeout(PATIENCE, self.stream.describe(arn, request)).await;
        let answer = answer.unwrap_or_else(|_| Err(no_answer(format!("DescribeStream of {arn}"))));
        events::Described { table: &self.table, error: answer.as_ref().err() }.emit();
        answer
    }
}

fn is_child(shard: &Shard, parent: &ShardId) -> bool {
    shard.parent.as_ref() == Some(parent)
}

fn no_answer(operation: String) -> CloudError {
    CloudError::new(ErrorKind::Unavailable, operation, format!("no answer within {} s", PATIENCE.as_secs()))
}
