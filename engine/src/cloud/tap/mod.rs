//! A decorator that shows each request to a [`Witness`] before it is made, and again with its answer.
//!
//! What an operator does to the world is exactly the requests that it makes of the seam. So a witness can record them,
//! count them, hold one up, refuse it, or never let it through: then whoever made it is as good as dead, at exactly that
//! point between two effects. Tests are made of this; no operator knows of it.

mod objects;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use serde_dynamo::Item;

use self::objects::TappedStore;
use super::{
    Bucket, ChangeStream, Cloud, EventBus, Queue, Result, Stage, Table,
    change_stream::{DescribeRequest, IteratorStart, RecordPage, ShardId, ShardIterator, StreamDescription},
    event_bus::Event,
    queue::{Message, Outgoing, QueueDepth, Receipt},
    stage::{Completion, CopySource, Metadata, ObjectHead, Part, Upload},
    table::{Consistency, Key, KeyNames, Outcome, Page, Query, Write},
};

/// One request.
#[derive(Debug, Clone)]
pub enum Request<'a> {
    /// A read of an item.
    Get(&'a Key),
    /// A conditional write.
    Write(&'a Write),
    /// A page of a query.
    Query(&'a Query),
    /// Messages are sent.
    Send(&'a [Outgoing]),
    /// Messages are received.
    Receive,
    /// Messages are deleted.
    Delete(&'a [Receipt]),
    /// A message is hidden for longer, or given back.
    Hide(&'a Receipt),
    /// Events are put.
    PutEvents(&'a [Event]),
    /// A staged output is begun.
    Begin(&'a str),
    /// A part of one is put.
    PutPart(&'a Upload),
    /// One is completed.
    Complete(&'a Upload),
    /// One is dropped.
    Abort(&'a Upload),
    /// An object is looked at.
    Head(&'a str),
    /// An object is copied to this key.
    Copy(&'a str),
    /// An object is read.
    GetObject(&'a str),
    /// An object is written; only if there is none, or in any case.
    PutObject {
        /// Its key.
        key: &'a str,
        /// Whether it must not be there yet.
        create: bool,
    },
    /// Objects are listed.
    List(&'a str),
    /// An object is deleted.
    DeleteObject(&'a str),
    /// Anything that is asked of a change stream.
    Stream(&'static str),
}

impl Request<'_> {
    /// Whether it changes anything outside of the one who makes it.
    pub fn is_effect(&self) -> bool {
        !matches!(
            self,
            Self::Get(_)
                | Self::Query(_)
                | Self::Receive
                | Self::Head(_)
                | Self::GetObject(_)
                | Self::List(_)
                | Self::Stream(_)
        )
    }

    /// Its name, with the key that it is about.
    fn words(&self) -> (&'static str, String) {
        let key = |key: &Key| format!("{}/{}", key.partition, key.sort);
        match self {
            Self::Get(at) => ("get", key(at)),
            Self::Write(write) => ("write", key(&write.key)),
            Self::Query(query) => ("query", query.partition.clone()),
            Self::Send(messages) => ("send", messages.len().to_string()),
            Self::Receive => ("receive", String::new()),
            Self::Delete(receipts) => ("delete", receipts.len().to_string()),
            Self::Hide(_) => ("hide", String::new()),
            Self::PutEvents(events) => {
                ("put_events", events.iter().map(|event| event.detail_type.as_str()).collect::<Vec<_>>().join(" "))
            }
            Self::Begin(key) => ("begin", (*key).to_owned()),
            Self::PutPart(upload) => ("put_part", upload.key.clone()),
            Self::Complete(upload) => ("complete", upload.key.clone()),
            Self::Abort(upload) => ("abort", upload.key.clone()),
            Self::Head(key) => ("head", (*key).to_owned()),
            Self::Copy(key) => ("copy", (*key).to_owned()),
            Self::GetObject(key) => ("get_object", (*key).to_owned()),
            Self::PutObject { key, .. } => ("put_object", (*key).to_owned()),
            Self::List(prefix) => ("list", (*prefix).to_owned()),
            Self::DeleteObject(key) => ("delete_object", (*key).to_owned()),
            Self::Stream(what) => (what, String::new()),
        }
    }
}

/// A request, and who makes it of what.
#[derive(Debug, Clone)]
pub struct Call<'a> {
    /// Who makes it: the name that the tap was given.
    pub caller: &'a str,
    /// The short name of the resource.
    pub resource: &'a str,
    /// The request.
    pub request: Request<'a>,
}

impl fmt::Display for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, about) = self.request.words();
        write!(f, "{}: {name} {}", self.caller, self.resource)?;
        if about.is_empty() { Ok(()) } else { write!(f, " {about}") }
    }
}

/// How a request ended.
#[derive(Debug, Clone)]
pub enum Answer {
    /// It was carried out. For a write, the item as it is now.
    Done(Option<Item>),
    /// A write's condition didn't hold; the item as it is.
    Refused(Option<Item>),
    /// It isn't known whether it happened.
    Unknown,
    /// It failed, and had no effect as far as is known.
    Failed,
}

/// Sees every request.
#[async_trait]
pub trait Witness: Send + Sync {
    /// Before the request is made. It may wait; an error is the request's answer, and then it isn't made.
    async fn before(&self, call: &Call<'_>) -> Result<()>;

    /// After it was answered, and before the caller learns the answer. It may wait.
    async fn after(&self, call: &Call<'_>, answer: &Answer);
}

/// A cloud whose every request, by one caller, is shown to a witness.
pub struct TappedCloud {
    inner: Arc<dyn Cloud>,
    caller: Arc<str>,
    witness: Arc<dyn Witness>,
}

impl TappedCloud {
    /// Shows what `caller` asks of `inner` to `witness`.
    pub fn new(inner: Arc<dyn Cloud>, caller: impl Into<Arc<str>>, witness: Arc<dyn Witness>) -> Self {
        Self { inner, caller: caller.into(), witness }
    }

    fn tap(&self, resource: &str) -> Tap {
        Tap { caller: Arc::clone(&self.caller), resource: resource.into(), witness: Arc::clone(&self.witness) }
    }
}

/// Who asks what, and who sees it.
#[derive(Clone)]
struct Tap {
    caller: Arc<str>,
    resource: Arc<str>,
    witness: Arc<dyn Witness>,
}

impl Tap {
    /// A request with an answer that says no more than whether it was carried out.
    async fn through<T, E: From<super::CloudError>>(
        &self,
        request: Request<'_>,
        made: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let call = Call { caller: &self.caller, resource: &self.resource, request };
        self.witness.before(&call).await?;
        let result = made.await;
        let answer = if result.is_ok() { Answer::Done(None) } else { Answer::Failed };
        self.witness.after(&call, &answer).await;
        result
    }
}

#[async_trait]
impl Cloud for TappedCloud {
    async fn table(&self, name: &str) -> Result<Arc<dyn Table>> {
        Ok(Arc::new(Tapped { inner: self.inner.table(name).await?, tap: self.tap(name) }))
    }

    async fn change_stream(&self, table: &str) -> Result<Arc<dyn ChangeStream>> {
        Ok(Arc::new(Tapped { inner: self.inner.change_stream(table).await?, tap: self.tap(table) }))
    }

    async fn queue(&self, name: &str) -> Result<Arc<dyn Queue>> {
        Ok(Arc::new(Tapped { inner: self.inner.queue(name).await?, tap: self.tap(name) }))
    }

    async fn event_bus(&self, name: &str) -> Result<Arc<dyn EventBus>> {
        Ok(Arc::new(Tapped { inner: self.inner.event_bus(name).await?, tap: self.tap(name) }))
    }

    async fn bucket(&self, name: &str) -> Result<Bucket> {
        let bucket = self.inner.bucket(name).await?;
        let tap = self.tap(name);
        Ok(Bucket {
            name: bucket.name,
            store: Arc::new(TappedStore { inner: bucket.store, tap: tap.clone() }),
            stage: Arc::new(Tapped { inner: bucket.stage, tap }),
        })
    }
}

struct Tapped<T: ?Sized> {
    inner: Arc<T>,
    tap: Tap,
}

#[async_trait]
impl Table for Tapped<dyn Table> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn keys(&self) -> &KeyNames {
        self.inner.keys()
    }

    async fn get(&self, key: &Key, consistency: Consistency) -> Result<Option<Item>> {
        self.tap.through(Request::Get(key), self.inner.get(key, consistency)).await
    }

    async fn write(&self, write: &Write) -> Result<Outcome> {
        let call = Call { caller: &self.tap.caller, resource: &self.tap.resource, request: Request::Write(write) };
        self.tap.witness.before(&call).await?;
        let result = self.inner.write(write).await;
        let answer = match &result {
            Ok(Outcome::Applied(item)) => Answer::Done(item.clone()),
            Ok(Outcome::Refused(item)) => Answer::Refused(item.clone()),
            Ok(Outcome::Unknown(_)) => Answer::Unknown,
            Err(_) => Answer::Failed,
        };
        self.tap.witness.after(&call, &answer).await;
        result
    }

    async fn query(&self, query: &Query) -> Result<Page> {
        self.tap.through(Request::Query(query), self.inner.query(query)).await
    }
}

#[async_trait]
impl Queue for Tapped<dyn Queue> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn send(&self, messages: &[Outgoing]) -> Result<Vec<Result<()>>> {
        self.tap.through(Request::Send(messages), self.inner.send(messages)).await
    }

    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Message>> {
        self.tap.through(Request::Receive, self.inner.receive(max, wait)).await
    }

    async fn delete(&self, receipts: &[Receipt]) -> Result<Vec<Result<()>>> {
        self.tap.through(Request::Delete(receipts), self.inner.delete(receipts)).await
    }

    async fn set_visibility(&self, receipt: &Receipt, timeout: Duration) -> Result<()> {
        self.tap.through(Request::Hide(receipt), self.inner.set_visibility(receipt, timeout)).await
    }

    async fn give_back(&self, message: &Message) -> Result<()> {
        self.tap.through(Request::Hide(&message.receipt), self.inner.give_back(message)).await
    }

    fn visibility_timeout(&self) -> Duration {
        self.inner.visibility_timeout()
    }

    async fn depth(&self) -> Result<QueueDepth> {
        self.inner.depth().await
    }
}

#[async_trait]
impl EventBus for Tapped<dyn EventBus> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn check(&self) -> Result<()> {
        self.inner.check().await
    }

    async fn put(&self, events: &[Event]) -> Result<Vec<Result<String>>> {
        self.tap.through(Request::PutEvents(events), self.inner.put(events)).await
    }
}

#[async_trait]
impl Stage for Tapped<dyn Stage> {
    async fn begin(&self, key: &str, metadata: &Metadata) -> Result<Upload> {
        self.tap.through(Request::Begin(key), self.inner.begin(key, metadata)).await
    }

    async fn put_part(&self, upload: &Upload, number: u32, bytes: Bytes) -> Result<Part> {
        self.tap.through(Request::PutPart(upload), self.inner.put_part(upload, number, bytes)).await
    }

    async fn complete(&self, upload: &Upload, parts: &[Part]) -> Result<Completion> {
        self.tap.through(Request::Complete(upload), self.inner.complete(upload, parts)).await
    }

    async fn abort(&self, upload: &Upload) -> Result<()> {
        self.tap.through(Request::Abort(upload), self.inner.abort(upload)).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectHead>> {
        self.tap.through(Request::Head(key), self.inner.head(key)).await
    }

    async fn copy_from(&self, source: &CopySource, key: &str, metadata: &Metadata) -> Result<()> {
        self.tap.through(Request::Copy(key), self.inner.copy_from(source, key, metadata)).await
    }
}

#[async_trait]
impl ChangeStream for Tapped<dyn ChangeStream> {
    fn table(&self) -> &str {
        self.inner.table()
    }

    async fn streams(&self) -> Result<Vec<String>> {
        self.tap.through(Request::Stream("streams"), self.inner.streams()).await
    }

    async fn describe(&self, arn: &str, request: DescribeRequest) -> Result<StreamDescription> {
        self.tap.through(Request::Stream("describe"), self.inner.describe(arn, request)).await
    }

    async fn iterator(&self, arn: &str, shard: &ShardId, start: &IteratorStart) -> Result<ShardIterator> {
        self.tap.through(Request::Stream("iterator"), self.inner.iterator(arn, shard, start)).await
    }

    async fn records(&self, iterator: &ShardIterator, limit: usize) -> Result<RecordPage> {
        self.tap.through(Request::Stream("records"), self.inner.records(iterator, limit)).await
    }
}
