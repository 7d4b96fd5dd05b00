//! A watch on a real folder, with a queue and a ledger in memory.

use std::{
    collections::HashSet,
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::Mutex,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use object_store::{ObjectStore, PutMode, PutPayload};
use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::cloud::{
    CloudError, ErrorKind, Result, Stage,
    local::bucket::{RecentEtags, Stamp},
    queue::{Message, Outgoing, QueueDepth, Receipt},
    stage::{Metadata, TOKEN},
};

/// Keeps what it is sent, unless it is down.
#[derive(Default)]
struct Sent {
    messages: Mutex<Vec<String>>,
    down: AtomicBool,
}

#[async_trait]
impl Queue for Sent {
    fn name(&self) -> &str {
        "file-events"
    }

    async fn send(&self, messages: &[Outgoing]) -> Result<Vec<Result<()>>> {
        assert!((1..=10).contains(&messages.len()), "{} messages in a batch", messages.len());
        if self.down.load(Ordering::Acquire) {
            return Err(CloudError::new(ErrorKind::Unavailable, "send to file-events", "down"));
        }
        let mut sent = self.messages.lock().unwrap();
        sent.extend(messages.iter().map(|message| message.body.clone()));
        Ok(messages.iter().map(|_| Ok(())).collect())
    }

    async fn receive(&self, _: usize, _: Duration) -> Result<Vec<Message>> {
        Ok(Vec::new())
    }

    async fn delete(&self, _: &[Receipt]) -> Result<Vec<Result<()>>> {
        Ok(Vec::new())
    }

    async fn set_visibility(&self, _: &Receipt, _: Duration) -> Result<()> {
        Ok(())
    }

    fn visibility_timeout(&self) -> Duration {
        Duration::from_secs(30)
    }

    async fn depth(&self) -> Result<QueueDepth> {
        Ok(QueueDepth::default())
    }
}

/// A bucket with a queue and a ledger that outlive a watch.
struct Scene {
    folder: TempDir,
    queue: Arc<Sent>,
    ledger: Arc<MemoryLedger>,
    with_events: bool,
}

impl Scene {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), queue: Arc::default(), ledger: Arc::default(), with_events: true }
    }

    fn bucket(&self) -> FolderBucket {
        FolderBucket::at(self.folder.path(), "input", Arc::<RecentEtags>::default()).unwrap()
    }

    /// Starts a watch that needs only 300 ms of standing still, and waits until it has seen what is there.
    async fn watch(&self) -> WatchHandle {
        let handle = self.watch_unsettled();
        handle.settled().await;
        handle
    }

    fn watch_unsettled(&self) -> WatchHandle {
        self.watched().start(self.with_events, &CancellationToken::new())
    }

    fn watched(&self) -> Watched {
        let still = Duration::from_millis(300);
        Watched {
            bucket: self.bucket(),
            prefix: "landing/".to_owned(),
            queue: self.queue.clone(),
            ledger: self.ledger.clone(),
            clock: Clock::system(),
            pace: Pace { still, poll: Duration::from_millis(100), ..Pace::default() },
        }
    }

    fn path(&self, key: &str) -> PathBuf {
        let path = self.folder.path().join(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    /// Puts a file that looks as if it had been there for long.
    fn put_old(&self, key: &str, content: &str) {
        let path = self.path(key);
        fs::write(&path, content).unwrap();
        set_mtime(&path, SystemTime::now() - Duration::from_secs(60));
    }

    /// What was announced: keys and etags, in order.
    fn landed(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let object = |body: &String| {
            let record = serde_json::from_str::<Value>(body).unwrap()["Records"][0].clone();
            (text(&record["s3"]["object"]["key"]), text(&record["s3"]["object"]["eTag"]))
        };
        self.queue.messages.lock().unwrap().iter().map(object).collect()
    }

    fn keys(&self) -> Vec<String> {
        self.landed().into_iter().map(|(key, _)| key).collect()
    }

    /// Waits, not for ever, until as many objects as expected were announced.
    async fn expect(&self, count: usize) -> Vec<String> {
        eventually(|| self.landed().len() >= count).await;
        let keys = self.keys();
        assert_eq!(keys.len(), count, "{keys:?}");
        keys
    }
}

fn set_mtime(path: &Path, time: SystemTime) {
    fs::File::options().append(true).open(path).unwrap().set_modified(time).unwrap();
}

async fn eventually(mut holds: impl FnMut() -> bool) {
    let since = std::time::Instant::now();
    while !holds() {
        assert!(since.elapsed() < Duration::from_secs(20), "waited 20 s in vain");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_scan_looks_only_at_what_the_ledger_does_not_know() {
    let scene = Scene::new();
    for key in ["landing/changed", "landing/known"] {
        scene.put_old(key, "old");
    }
    scene.watch().await.stop().await;
    scene.put_old("landing/changed", "newer");
    scene.put_old("landing/new", "");
    let stamp = |key: &str| Stamp::of(&fs::symlink_metadata(scene.path(key)).unwrap());
    let page = ["landing/changed", "landing/known", "landing/new"].map(|key| (key.into(), stamp(key)));
    let unknown = scene.watched().unknown(page.into()).await.unwrap();
    assert_eq!(unknown, ["landing/changed".into(), "landing/new".into()] as [Arc<str>; 2]);
}

#[tokio::test]
async fn a_file_copied_in_lands_once_as_s3_says_it() {
    let scene = Scene::new();
    let handle = scene.watch().await;
    fs::write(scene.path("landing/2026-02-01/red flower.ndjson"), "{}\n").unwrap();
    assert_eq!(scene.expect(1).await, ["landing/2026-02-01/red+flower.ndjson"]);
    // Something after it, to show that nothing more came of the first.
    fs::write(scene.path("landing/z"), "").unwrap();
    scene.expect(2).await;
    let body: Value = serde_json::from_str(&scene.queue.messages.lock().unwrap()[0]).unwrap();
    let record = &body["Records"][0];
    let etag = scene.bucket().stamp_and_etag("landing/2026-02-01/red flower.ndjson").unwrap().1;
    assert_eq!(record["eventSource"], "aws:s3");
    assert_eq!(record["eventName"], "ObjectCreated:Put");
    assert_eq!(record["awsRegion"], "local");
    assert!(record["eventVersion"].as_str().unwrap().starts_with("2."));
    assert!(chrono::DateTime::parse_from_rfc3339(record["eventTime"].as_str().unwrap()).is_ok());
    assert_eq!(record["s3"]["bucket"]["name"], "input");
    assert_eq!(record["s3"]["bucket"]["arn"], "arn:aws:s3:::input");
    assert_eq!(record["s3"]["object"]["size"], 3);
    assert_eq!(record["s3"]["object"]["eTag"], etag);
    let sequencer = record["s3"]["object"]["sequencer"].as_str().unwrap();
    assert!(sequencer.bytes().all(|byte| byte.is_ascii_hexdigit()));
    handle.stop().await;
}

#[tokio::test]
async fn only_objects_below_the_prefix_land() {
    let scene = Scene::new();
    let handle = scene.watch().await;
    for key in ["other/a", "landing/.hidden", "landing/.git/a", "landing/a.tmp", "landing/a.part", "landing/a~"] {
        fs::write(scene.path(key), "x").unwrap();
    }
    std::os::unix::fs::symlink(scene.path("other/a"), scene.path("landing/link")).unwrap();
    fs::write(scene.path("landing/last"), "x").unwrap();
    fs::rename(scene.path("landing/a.tmp"), scene.path("landing/a")).unwrap();
    let mut keys = scene.expect(2).await;
    keys.sort();
    assert_eq!(keys, ["landing/a", "landing/last"]);
    handle.stop().await;
}

#[tokio::test]
async fn a_restart_lands_what_came_meanwhile_and_nothing_twice() {
    let scene = Scene::new();
    scene.put_old("landing/a", "a");
    scene.watch().await.stop().await;
    assert_eq!(scene.keys(), ["landing/a"]);
    scene.put_old("landing/b", "b");
    scene.watch().await.stop().await;
    assert_eq!(scene.keys(), ["landing/a", "landing/b"]);
    // Touched, or copied again, it is the same object; changed, it is a new version.
    set_mtime(&scene.path("landing/a"), SystemTime::now() - Duration::from_secs(30));
    scene.put_old("landing/b", "B");
    scene.watch().await.stop().await;
    assert_eq!(scene.keys(), ["landing/a", "landing/b", "landing/b"]);
    scene.watch().await.stop().await;
    assert_eq!(scene.landed().len(), 3);
}

#[tokio::test]
async fn changed_content_lands_again_and_the_same_does_not() {
    let scene = Scene::new();
    let handle = scene.watch().await;
    let path = scene.path("landing/a");
    for (content, expected) in [("one", 1), ("two", 2), ("two", 2), ("one", 3)] {
        let other = scene.path("elsewhere/a");
        fs::write(&other, content).unwrap();
        fs::copy(&other, &path).unwrap();
        // The marker lands after the copy was looked at: both wait alike.
        let seen = scene.ledger.get("landing/a").await.unwrap().map(|landed| landed.stamp);
        eventually(|| scene.keys().iter().filter(|key| *key == "landing/a").count() >= expected).await;
        let copied = crate::cloud::local::bucket::Stamp::of(&fs::metadata(&path).unwrap());
        let ledger = scene.ledger.clone();
        let since = std::time::Instant::now();
        while ledger.get("landing/a").await.unwrap().map(|landed| landed.stamp) != Some(copied) {
            assert!(since.elapsed() < Duration::from_secs(20), "the ledger still has {seen:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(scene.landed().len(), expected, "{content}");
    }
    let landed = scene.landed();
    assert_ne!(landed[0].1, landed[1].1);
    assert_eq!(landed[0].1, landed[2].1);
    let sequencer = |at: usize| {
        let body: Value = serde_json::from_str(&scene.queue.messages.lock().unwrap()[at]).unwrap();
        body["Records"][0]["s3"]["object"]["sequencer"].as_str().unwrap().to_owned()
    };
    assert!(sequencer(0) < sequencer(1) && sequencer(1) < sequencer(2));
    handle.stop().await;
}

#[tokio::test]
async fn a_slow_writer_lands_when_it_is_done() {
    let scene = Scene::new();
    scene.path("landing/a");
    let handle = scene.watch().await;
    let mut file = fs::File::create(scene.path("landing/a")).unwrap();
    for _ in 0..4 {
        file.write_all(b"{}\n").unwrap();
        // Longer than a file must stand still that nobody watches.
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert_eq!(scene.keys(), Vec::<String>::new(), "half a file has landed");
    }
    drop(file);
    scene.expect(1).await;
    let body: Value = serde_json::from_str(&scene.queue.messages.lock().unwrap()[0]).unwrap();
    assert_eq!(body["Records"][0]["s3"]["object"]["size"], 12);
    handle.stop().await;
}

#[tokio::test]
async fn new_folders_are_watched_with_what_is_in_them() {
    let scene = Scene::new();
    let handle = scene.watch().await;
    let mut expected = HashSet::new();
    for folder in 0..20 {
        // Made and filled faster than any watch could be set up, then added to.
        for key in ["a", "b/c", "b/d/e"] {
            let key = format!("landing/{folder}/{key}");
            fs::write(scene.path(&key), &key).unwrap();
            expected.insert(key);
        }
    }
    fs::create_dir_all(scene.folder.path().join("elsewhere/moved/deep")).unwrap();
    fs::write(scene.path("elsewhere/moved/deep/file"), "x").unwrap();
    fs::rename(scene.path("elsewhere/moved"), scene.path("landing/moved")).unwrap();
    expected.insert("landing/moved/deep/file".to_owned());
    scene.expect(expected.len()).await;
    for folder in 0..20 {
        let key = format!("landing/{folder}/b/d/late");
        fs::write(scene.path(&key), &key).unwrap();
        expected.insert(key);
    }
    let keys = scene.expect(expected.len()).await;
    assert_eq!(keys.into_iter().collect::<HashSet<_>>(), expected);
    handle.stop().await;
}

#[tokio::test]
async fn a_deleted_object_may_land_again() {
    let scene = Scene::new();
    let handle = scene.watch().await;
    for round in 1..=2 {
        fs::write(scene.path("landing/day/a"), "x").unwrap();
        scene.expect(round).await;
        eventually_async(|| async { scene.ledger.get("landing/day/a").await.unwrap().is_some() }).await;
        fs::rename(scene.path("landing/day"), scene.folder.path().join("away")).unwrap();
        eventually_async(|| async { scene.ledger.get("landing/day/a").await.unwrap().is_none() }).await;
        fs::remove_dir_all(scene.folder.path().join("away")).unwrap();
    }
    // Deleted while nobody watches.
    fs::write(scene.path("landing/b"), "x").unwrap();
    scene.expect(3).await;
    handle.settled().await;
    handle.stop().await;
    fs::remove_file(scene.path("landing/b")).unwrap();
    scene.watch().await.stop().await;
    assert_eq!(scene.ledger.get("landing/b").await.unwrap(), None);
}

async fn eventually_async<F: Future<Output = bool>>(mut holds: impl FnMut() -> F) {
    let since = std::time::Instant::now();
    while !holds().await {
        assert!(since.elapsed() < Duration::from_secs(20), "waited 20 s in vain");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn writes_through_the_bucket_land_too() {
    let scene = Scene::new();
    let handle = scene.watch().await;
    let bucket = scene.bucket();
    let put = |key: &'static str, mode: PutMode| {
        let bucket = bucket.clone();
        async move { bucket.put_opts(&key.into(), PutPayload::from_static(b"x"), mode.into()).await.unwrap() }
    };
    put("landing/put", PutMode::Overwrite).await;
    put("landing/create", PutMode::Create).await;
    let metadata = Metadata::from([(TOKEN.to_owned(), "t".to_owned())]);
    let upload = bucket.begin("landing/new/staged", &metadata).await.unwrap();
    let part = bucket.put_part(&upload, 1, Bytes::from_static(b"x")).await.unwrap();
    bucket.complete(&upload, &[part]).await.unwrap();
    // A hard link is no write: nobody closes it.
    scene.put_old("elsewhere/a", "x");
    fs::hard_link(scene.path("elsewhere/a"), scene.path("landing/linked")).unwrap();
    let mut keys = scene.expect(4).await;
    keys.sort();
    assert_eq!(keys, ["landing/create", "landing/linked", "landing/new/staged", "landing/put"]);
    handle.stop().await;
}

#[tokio::test]
async fn without_events_files_land_once_they_stand_still() {
    let scene = Scene { with_events: false, ..Scene::new() };
    let handle = scene.watch().await;
    let mut file = fs::File::create(scene.path("landing/slow")).unwrap();
    scene.put_old("landing/old", "x");
    assert_eq!(scene.expect(1).await, ["landing/old"]);
    for _ in 0..10 {
        file.write_all(b"{}\n").unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(scene.landed().len(), 1, "half a file has landed");
    drop(file);
    scene.expect(2).await;
    fs::write(scene.path("landing/future"), "x").unwrap();
    set_mtime(&scene.path("landing/future"), SystemTime::now() + Duration::from_secs(3600));
    assert_eq!(scene.expect(3).await[2], "landing/future");
    handle.stop().await;
}

#[tokio::test]
async fn a_queue_that_is_down_delays_and_loses_nothing() {
    let scene = Scene::new();
    scene.queue.down.store(true, Ordering::Release);
    for number in 0..25 {
        scene.put_old(&format!("landing/{number}"), &number.to_string());
    }
    let handle = scene.watch_unsettled();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!handle.is_settled());
    scene.queue.down.store(false, Ordering::Release);
    handle.settled().await;
    let keys: HashSet<_> = scene.keys().into_iter().collect();
    assert_eq!((keys.len(), scene.landed().len()), (25, 25));
    handle.stop().await;
}

#[tokio::test]
async fn the_ledger_tells_the_bucket_etags_without_reading() {
    let scene = Scene::new();
    scene.put_old("landing/a", "a");
    scene.watch().await.stop().await;
    let bucket = scene.bucket();
    let stamp = crate::cloud::local::bucket::Stamp::of(&fs::metadata(scene.path("landing/a")).unwrap());
    assert_eq!(bucket.etags().get("landing/a", &stamp), None);
    let handle = Watch::start(
        bucket.clone(),
        "landing/",
        scene.queue.clone(),
        scene.ledger.clone(),
        Clock::system(),
        &CancellationToken::new(),
    );
    handle.settled().await;
    assert_eq!(bucket.etags().get("landing/a", &stamp), Some(scene.landed()[0].1.clone()));
    handle.stop().await;
}
