//! What a sweep costs and keeps: pages of manifests, and a listing that keeps nobody waiting.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::TimeDelta;
use futures::{StreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, path::Path,
};
use penstock_engine::cloud::{
    Bucket, ChangeStream, Cloud, CloudError, ErrorKind, EventBus, Item, Queue, Result, Stage, Table,
    stage::{Completion, CopySource, Metadata, ObjectHead, Part, Upload},
    table::{Consistency, Key, KeyNames, Outcome, Page, PageToken, Query, Range, Write},
};
use penstock_operators::model::FileState;
use penstock_tests::simulation::{
    PREFIX, Tamper, World,
    ledger::Lines,
    witness::{TRACKING, number},
};
use serde_json::json;

use super::{counts::Counts, simulate};

const SECOND: Duration = Duration::from_secs(1);
const NOW: [Duration; 1] = [Duration::ZERO];

/// Pages of completed manifests, how many are on each, and how many of those owe something.
const PAGES: usize = 20;
const PAGE: usize = 50;
const OWING: usize = 5;

/// What the sweep asks.
#[derive(Debug, Clone, PartialEq)]
enum Asked {
    /// For a page of completed manifests.
    Page { range: Range, number: usize },
    /// For the item of one of them.
    Manifest,
}

/// What is done to the sweep's cloud, and what was seen of it.
#[derive(Default)]
struct Seen {
    /// Whether there are very many completed manifests.
    many_manifests: bool,
    /// Whether the listing of a bucket never ends.
    endless_listing: bool,
    /// Whether objects with `denied` in their key may not be asked for.
    denies: AtomicBool,
    asked: Mutex<Vec<Asked>>,
    heads: AtomicUsize,
    heads_at_once: AtomicUsize,
    most_heads_at_once: AtomicUsize,
}

struct Watched {
    inner: Arc<dyn Cloud>,
    seen: Arc<Seen>,
}

#[async_trait]
impl Cloud for Watched {
    async fn table(&self, name: &str) -> Result<Arc<dyn Table>> {
        let inner = self.inner.table(name).await?;
        let is_watched = self.seen.many_manifests && name == TRACKING;
        Ok(if is_watched { Arc::new(ManyManifests { inner, seen: Arc::clone(&self.seen) }) } else { inner })
    }

    async fn change_stream(&self, table: &str) -> Result<Arc<dyn ChangeStream>> {
        self.inner.change_stream(table).await
    }

    async fn queue(&self, name: &str) -> Result<Arc<dyn Queue>> {
        self.inner.queue(name).await
    }

    async fn event_bus(&self, name: &str) -> Result<Arc<dyn EventBus>> {
        self.inner.event_bus(name).await
    }

    async fn bucket(&self, name: &str) -> Result<Bucket> {
        let inner = self.inner.bucket(name).await?;
        if name != "input" {
            return Ok(inner);
        }
        let watched = Arc::new(WatchedBucket { inner: inner.clone(), seen: Arc::clone(&self.seen) });
        Ok(Bucket { name: inner.name, store: Arc::clone(&watched) as Arc<dyn ObjectStore>, stage: watched })
    }
}

struct ManyManifests {
    inner: Arc<dyn Table>,
    seen: Arc<Seen>,
}

fn manifest(page: usize, at: usize) -> Item {
    let name = format!("many-{page}-{at}");
    let announced = (at >= OWING).then_some("2026-02-01T00:00:00.000Z");
    let manifest = json!({
        "date_prefix": "2026-02-01", "file_key": format!("MANIFEST#{name}.json"), "status": "completed", "schema_version": 1,
        "manifest_path": format!("s3://m/{name}.json"), "created_at": "2026-02-01T00:00:00.000Z",
        "updated_at": "2026-02-01T00:00:00.000Z", "settled_at": "2026-02-01T00:00:00.000Z", "announced_at": announced,
    });
    serde_dynamo::to_item(manifest).unwrap()
}

#[async_trait]
impl Table for ManyManifests {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn keys(&self) -> &KeyNames {
        self.inner.keys()
    }

    async fn get(&self, key: &Key, consistency: Consistency) -> Result<Option<Item>> {
        if key.sort.starts_with("MANIFEST#many-") {
            self.seen.asked.lock().unwrap().push(Asked::Manifest);
        }
        self.inner.get(key, consistency).await
    }

    async fn write(&self, write: &Write) -> Result<Outcome> {
        self.inner.write(write).await
    }

    async fn query(&self, query: &Query) -> Result<Page> {
        if query.index.is_none() || query.partition != "completed" {
            return self.inner.query(query).await;
        }
        let page = query.start.as_ref().map_or(0, |token| number(&token.0, "page").unwrap() as usize);
        self.seen.asked.lock().unwrap().push(Asked::Page { range: query.range.clone(), number: page });
        let next = (page + 1 < PAGES).then(|| PageToken(serde_dynamo::to_item(json!({ "page": page + 1 })).unwrap()));
        Ok(Page { items: (0..PAGE).map(|at| manifest(page, at)).collect(), next })
    }
}

struct WatchedBucket {
    inner: Bucket,
    seen: Arc<Seen>,
}

impl std::fmt::Debug for WatchedBucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("watched")
    }
}

impl std::fmt::Display for WatchedBucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("watched")
    }
}

#[async_trait]
impl ObjectStore for WatchedBucket {
    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        self.inner.store.put_opts(at, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.store.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.inner.store.get_opts(at, options).await
    }

    fn delete_stream(
        &self,
        all: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.store.delete_stream(all)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let listed = self.inner.store.list(prefix);
        if self.seen.endless_listing { listed.chain(futures::stream::pending()).boxed() } else { listed }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.inner.store.copy_opts(from, to, options).await
    }
}

#[async_trait]
impl Stage for WatchedBucket {
    async fn begin(&self, key: &str, metadata: &Metadata) -> Result<Upload> {
        self.inner.stage.begin(key, metadata).await
    }

    async fn put_part(&self, upload: &Upload, number: u32, bytes: Bytes) -> Result<Part> {
        self.inner.stage.put_part(upload, number, bytes).await
    }

    async fn complete(&self, upload: &Upload, parts: &[Part]) -> Result<Completion> {
        self.inner.stage.complete(upload, parts).await
    }

    async fn abort(&self, upload: &Upload) -> Result<()> {
        self.inner.stage.abort(upload).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectHead>> {
        self.seen.heads.fetch_add(1, Relaxed);
        let at_once = self.seen.heads_at_once.fetch_add(1, Relaxed) + 1;
        self.seen.most_heads_at_once.fetch_max(at_once, Relaxed);
        tokio::time::sleep(Duration::from_millis(100)).await;
        self.seen.heads_at_once.fetch_sub(1, Relaxed);
        if self.seen.denies.load(Relaxed) && key.contains("denied") {
            return Err(CloudError::new(ErrorKind::Denied, format!("HEAD of {key}"), "on purpose"));
        }
        self.inner.stage.head(key).await
    }

    async fn copy_from(&self, source: &CopySource, key: &str, metadata: &Metadata) -> Result<()> {
        self.inner.stage.copy_from(source, key, metadata).await
    }
}

/// A world whose sweep is watched, with both services.
async fn watched(seen: Seen) -> (World, Arc<Seen>) {
    let seen = Arc::new(seen);
    let watched = Arc::clone(&seen);
    let tamper: Tamper = Arc::new(move |operator: &str, inner: Arc<dyn Cloud>, _: &_| -> Arc<dyn Cloud> {
        if operator == "sweep" { Arc::new(Watched { inner, seen: Arc::clone(&watched) }) } else { inner }
    });
    let mut world = World::new(5, None, &[("sweep", "grace", json!("20s"))]).tampered(tamper);
    for service in ["engine", "worker"] {
        world.start(service, TimeDelta::zero(), None).await;
    }
    (world, seen)
}

/// Lands objects that no notification tells of.
fn land_silently(world: &mut World, names: impl IntoIterator<Item = String>) {
    for name in names {
        world.land(&format!("{PREFIX}2026-02-01/{name}.ndjson"), &Lines::Some(1, 0), &[]);
    }
}

fn completed(world: &World) -> usize {
    world.shared.all_files().iter().filter(|file| file.state() == Some(FileState::Completed)).count()
}

#[test]
fn i9_a_sweep_keeps_one_page_of_manifests_and_reads_old_ones_seldom() {
    simulate(async {
        let (_world, seen) = watched(Seen { many_manifests: true, ..Seen::default() }).await;
        tokio::time::sleep(SECOND * 30 * 13).await;
        let asked = seen.asked.lock().unwrap().clone();
        // What a page shows is done with before the next one is asked for.
        let of_a_page = asked.split(|asked| matches!(asked, Asked::Page { .. })).skip(1).collect::<Vec<_>>();
        assert!(of_a_page.len() > 10 * PAGES, "{} pages", of_a_page.len());
        for (page, manifests) in of_a_page.iter().enumerate() {
            assert_eq!(manifests.len(), OWING, "manifests of page {page} that owe something");
        }
        let ranges: Vec<&Range> = asked
            .iter()
            .filter_map(|asked| match asked {
                Asked::Page { range, number: 0 } => Some(range),
                _ => None,
            })
            .collect();
        assert_eq!(
            ranges[0],
            &Range::Between("2026-02-01".to_owned(), "9999-12-31".to_owned()),
            "a start has enough to do"
        );
        assert_eq!(ranges.iter().filter(|range| ***range == Range::All).count(), 1, "{ranges:?}");
    });
}

#[test]
fn i8_an_object_that_cannot_be_looked_up_keeps_no_later_one_from_landing_and_is_looked_at_again() {
    simulate(async {
        let (mut world, seen) = watched(Seen { denies: AtomicBool::new(true), ..Seen::default() }).await;
        land_silently(&mut world, ["a", "denied", "e", "f"].map(str::to_owned));
        tokio::time::sleep(SECOND * 200).await;
        assert_eq!(completed(&world), 3);
        seen.denies.store(false, Relaxed);
        tokio::time::sleep(SECOND * 200).await;
        assert_eq!(completed(&world), 4);
        assert_eq!(world.ledger.check(&world.shared), Vec::<String>::new());
    });
}

#[test]
fn a_listing_asks_the_bucket_only_for_what_no_item_knows_and_for_many_at_once() {
    simulate(async {
        let counts = Counts::default();
        let _guard = metrics::set_default_local_recorder(&counts);
        let (mut world, seen) = watched(Seen::default()).await;
        for number in 0..20 {
            world.land(&format!("{PREFIX}2026-02-01/told-{number}.ndjson"), &Lines::Some(1, 0), &NOW);
        }
        // One that is there twice, with an item for each version.
        tokio::time::sleep(SECOND * 60).await;
        world.land(&format!("{PREFIX}2026-02-01/told-1.ndjson"), &Lines::Some(2, 0), &NOW);
        tokio::time::sleep(SECOND * 140).await;
        assert_eq!((completed(&world), seen.heads.load(Relaxed)), (21, 0), "the table knows all of them");
        land_silently(&mut world, (0..100).map(|number| format!("silent-{number}")));
        tokio::time::sleep(SECOND * 200).await;
        assert_eq!((completed(&world), seen.heads.load(Relaxed)), (121, 100), "each was asked for once");
        assert_eq!(counts.get("penstock_swept_objects_total"), 100, "objects that no notification had told of");
        let at_once = seen.most_heads_at_once.load(Relaxed);
        assert!((8..=32).contains(&at_once), "{at_once} at once");
        assert_eq!(world.ledger.check(&world.shared), Vec::<String>::new());
    });
}

#[test]
fn i8_a_listing_that_takes_for_ever_keeps_nothing_else_waiting() {
    simulate(async {
        let (mut world, _) = watched(Seen { endless_listing: true, ..Seen::default() }).await;
        tokio::time::sleep(SECOND * 60).await;
        // Only a sweep publishes what the bus didn't take.
        world.shared.faults.lock().unwrap().bus_is_down = true;
        world.land(&format!("{PREFIX}2026-02-01/a.ndjson"), &Lines::Some(1, 0), &NOW);
        tokio::time::sleep(SECOND * 120).await;
        assert!(world.shared.all_manifests().iter().all(|manifest| manifest.announced_at.is_none()));
        world.shared.faults.lock().unwrap().bus_is_down = false;
        tokio::time::sleep(SECOND * 120).await;
        assert_eq!(world.ledger.check(&world.shared), Vec::<String>::new());
    });
}
