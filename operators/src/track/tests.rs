//! Notifications and listings against a real table.

use std::sync::Arc;

use penstock_engine::cloud::{
    Cloud,
    local::{LocalCloud, LocalOptions},
    resources::{BucketSpec, IndexSpec, Naming, Resources, TableSpec},
    table::{Query, query_all},
};
use penstock_engine::streams::Common;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::model::STATUS_INDEX;

const DAY_MS: i64 = 24 * 3600 * 1000;

struct Place {
    _dir: tempfile::TempDir,
    cloud: Arc<LocalCloud>,
    tracker: Tracker,
}

async fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let index = IndexSpec { hash: "status".to_owned(), range: "date_prefix".to_owned() };
    let table = TableSpec {
        name: None,
        partition_key: "date_prefix".to_owned(),
        sort_key: "file_key".to_owned(),
        sort_type: Default::default(),
        indexes: [(STATUS_INDEX.to_owned(), index)].into(),
        ttl: None,
        stream: false,
    };
    let resources = Resources {
        tables: [("files".to_owned(), table)].into(),
        buckets: [("input".to_owned(), BucketSpec::default())].into(),
        ..Resources::default()
    };
    let naming = Naming { pipeline: "p".to_owned(), env: "e".to_owned(), account: "0".to_owned() };
    let cloud = LocalCloud::open(dir.path(), naming.clone(), &resources, LocalOptions::default()).unwrap();
    let context = Context {
        id: "track".to_owned(),
        naming,
        cloud: Arc::clone(&cloud) as Arc<dyn Cloud>,
        clock: Clock::system(),
        worker: "w".to_owned(),
        sole_process: true,
        streams: Common::default(),
        stop: CancellationToken::new(),
    };
    let options = TrackOptions {
        table: "files".to_owned(),
        input: "input".to_owned(),
        input_prefix: "in/".to_owned(),
        ttl_days: 30,
    };
    let tracker = Tracker::open(&options, &context).await.unwrap();
    Place { _dir: dir, cloud, tracker }
}

impl Place {
    async fn files(&self) -> Vec<FileItem> {
        let table = self.cloud.table("files").await.unwrap();
        let mut files = Vec::new();
        for shard in 0..crate::model::SHARDS {
            let query = Query::index(STATUS_INDEX, FileState::Pending.status(shard));
            for item in query_all(&*table, query).await.unwrap() {
                files.push(read_item("file", &item).unwrap());
            }
        }
        files
    }

    /// Puts an object and returns what tells of it.
    async fn put(&self, key: &str, content: &str, sequencer: Option<&str>, event_ms: i64) -> ObjectEvent {
        let path = self.cloud.bucket_dir("input").unwrap().join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        let bucket = self.cloud.bucket("input").await.unwrap();
        let head = bucket.stage.head(key).await.unwrap().unwrap();
        ObjectEvent {
            bucket: bucket.name,
            key: key.to_owned(),
            size_bytes: head.size_bytes,
            etag: Some(head.etag),
            sequencer: sequencer.map(str::to_owned),
            version_id: None,
            event_ms,
            reason: None,
        }
    }
}

#[tokio::test]
async fn i1_a_listing_of_an_undated_key_finds_the_file_that_a_notification_made_around_midnight() {
    let midnight = 20_000 * DAY_MS;
    for (notified, listed) in [(midnight, midnight - 1), (midnight - 1, midnight), (midnight, midnight)] {
        let place = place().await;
        let event = place.put("in/undated.ndjson", "{}\n", Some("01"), notified).await;
        place.tracker.track(&event, &Target::Pending).await.unwrap();
        let listing = ObjectEvent { sequencer: None, event_ms: listed, ..event };
        place.tracker.track(&listing, &Target::Pending).await.unwrap();
        assert_eq!(place.files().await.len(), 1, "notified {notified}, listed {listed}");
    }
}

#[tokio::test]
async fn defect_16_the_same_name_in_two_folders_is_two_files() {
    let place = place().await;
    for key in ["in/2026-02-01/eu/a.ndjson", "in/2026-02-01/us/a.ndjson", "in/x/2026-02-01/eu/a.ndjson"] {
        let event = place.put(key, "{}\n", Some("01"), 0).await;
        for _ in 0..2 {
            place.tracker.track(&event, &Target::Pending).await.unwrap();
        }
    }
    let mut keys: Vec<String> = place.files().await.into_iter().map(|file| file.file_key).collect();
    keys.sort();
    assert_eq!(keys, ["eu/a.ndjson", "in/x/2026-02-01/eu/a.ndjson", "us/a.ndjson"]);
}

#[tokio::test]
async fn a_newer_version_replaces_a_pending_file_and_an_older_one_does_nothing() {
    let place = place().await;
    let first = place.put("in/2026-02-01/a.ndjson", "{}\n", Some("01"), 0).await;
    let second = place.put("in/2026-02-01/a.ndjson", "{\"a\":1}\n", Some("02"), 0).await;
    for event in [&second, &first, &second] {
        place.tracker.track(event, &Target::Pending).await.unwrap();
    }
    let files = place.files().await;
    assert_eq!(files.len(), 1);
    assert_eq!((&files[0].etag, files[0].size_bytes), (&second.etag, 8));
}
