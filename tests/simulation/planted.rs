//! Bugs that are planted on purpose: each patches one decision on its way to the cloud, and each must be found.
//!
//! A simulation that finds nothing is worth nothing; these say what it is worth.

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, path::Path,
};
use penstock_engine::cloud::{
    AttributeValue, Bucket, ChangeStream, Cloud, EventBus, Item, Queue, Result, Table,
    event_bus::Event,
    table::{Action, Condition, Consistency, Key, KeyNames, Outcome, Page, Query, Write},
};
use penstock_operators::{
    model::{AttemptReport, Candidate, Commit, FileItem, ManifestJson, read_item, text},
    transitions::judge,
};
use penstock_tests::simulation::{Tamper, witness::TRACKING};
use serde_json::json;

use super::seeds::{Plan, run};

/// The bugs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    JsonIsOverwritten,
    ReleaseWithoutJson,
    AbortWhileUnknown,
    JsonBeforeClaims,
    UnconditionalRelease,
    SettleWithoutState,
    NamesBySecond,
    EventBeforeCommit,
    CompleteBeforeRecord,
    OwnRetryIsRefused,
    TtlOnLiveItems,
    IndexShowsNothing,
}

/// A cloud with a bug in what one type of operator asks of it.
struct Buggy {
    inner: Arc<dyn Cloud>,
    operator: String,
    bug: Bug,
}

#[async_trait]
impl Cloud for Buggy {
    async fn table(&self, name: &str) -> Result<Arc<dyn Table>> {
        let inner = self.inner.table(name).await?;
        if name != TRACKING {
            return Ok(inner);
        }
        let (cloud, operator) = (Arc::clone(&self.inner), self.operator.clone());
        Ok(Arc::new(BuggyTable { inner, cloud, operator, bug: self.bug }))
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
        let bucket = self.inner.bucket(name).await?;
        if self.bug != Bug::JsonIsOverwritten {
            return Ok(bucket);
        }
        Ok(Bucket { store: Arc::new(Overwriting(bucket.store)), ..bucket })
    }
}

struct BuggyTable {
    inner: Arc<dyn Table>,
    cloud: Arc<dyn Cloud>,
    operator: String,
    bug: Bug,
}

impl BuggyTable {
    fn name_of(&self, write: &Write) -> &'static str {
        judge(&self.operator, write).map_or("", |transition| transition.name)
    }

    async fn candidates(&self, item: &Item) -> Vec<FileItem> {
        let candidates = item.get("candidates").cloned().unwrap();
        let candidates: Vec<Candidate> = serde_dynamo::from_attribute_value(candidates).unwrap();
        let date = text(item, "date_prefix").unwrap().to_owned();
        let mut files = Vec::new();
        for candidate in candidates {
            let key = Key::new(&date, &candidate.file_key);
            if let Ok(Some(item)) = self.inner.get(&key, Consistency::Strong).await {
                files.push(read_item("file", &item).unwrap());
            }
        }
        files
    }

    /// What the bug does instead of, or besides, what was asked.
    async fn write_with_bug(&self, write: &Write) -> Result<Outcome> {
        let name = self.name_of(write);
        let mut write = write.clone();
        match (self.bug, name) {
            (Bug::UnconditionalRelease, "release") => write.condition = Condition::absent("nothing"),
            (Bug::SettleWithoutState, "settle as completed") => write.condition = Condition::absent("nothing"),
            (Bug::TtlOnLiveItems, "track") => write = write.set_number("ttl", 1_800_000_000),
            (Bug::NamesBySecond, "assemble") => {
                // batch-0007-20260202-024000-7f3a9c.json: without what tells two of a second apart.
                let name = write.key.sort.trim_start_matches("MANIFEST#").trim_end_matches(".json").to_owned();
                let parts: Vec<&str> = name.split('-').collect();
                let short = format!("batch-0001-{}-{}", parts[2], parts[3]);
                write.key.sort = format!("MANIFEST#{short}.json");
                if let Action::Put(item) = &write.action
                    && let Some(path) = text(item, "manifest_path")
                {
                    let path = path.replace(&name, &short);
                    write = write.set("manifest_path", path);
                }
            }
            (Bug::CompleteBeforeRecord, "record the commit") => {
                let commit = commit_of(&write);
                let report = self.cloud.bucket("manifest").await?.store;
                let report = report.get_opts(&Path::from(commit.report_key), GetOptions::default()).await;
                if let Ok(found) = report
                    && let Ok(bytes) = found.bytes().await
                {
                    let report: AttemptReport = serde_json::from_slice(&bytes).unwrap();
                    let stage = self.cloud.bucket("output").await?.stage;
                    for part in report.parts {
                        stage.complete(&part.upload, &part.parts).await?;
                    }
                }
            }
            _ => {}
        }
        let outcome = self.inner.write(&write).await?;
        match (self.bug, name, &outcome) {
            (Bug::AbortWhileUnknown, "record the commit", Outcome::Unknown(_)) => {
                let stage = self.cloud.bucket("output").await?.stage;
                for upload in commit_of(&write).uploads {
                    stage.abort(&upload).await?;
                }
            }
            (Bug::OwnRetryIsRefused, "record the commit", Outcome::Unknown(_)) => {
                // Tries again, and takes the refusal by its own first try for somebody else's.
                if let Outcome::Refused(_) = self.inner.write(&write).await? {
                    return Ok(Outcome::Refused(None));
                }
            }
            (Bug::JsonBeforeClaims, "assemble", Outcome::Applied(Some(item))) => {
                let files = self.candidates(item).await;
                let id = text(item, "file_key").unwrap().trim_start_matches("MANIFEST#").trim_end_matches(".json");
                let date = text(item, "date_prefix").unwrap();
                let json = ManifestJson::new(id, date, chrono::Utc::now(), &files);
                let store = self.cloud.bucket("manifest").await?.store;
                let body = serde_json::to_vec(&json).unwrap();
                let path = Path::from(format!("manifests/{date}/{id}.json"));
                store.put_opts(&path, body.into(), PutMode::Create.into()).await.ok();
            }
            (Bug::EventBeforeCommit, "assemble", Outcome::Applied(Some(item))) => {
                let event = Event {
                    source: "etl.pipeline".to_owned(),
                    detail_type: "ManifestReady".to_owned(),
                    detail: json!({
                        "manifest_path": text(item, "manifest_path"), "date_prefix": text(item, "date_prefix"),
                        "file_count": 1, "file_key": text(item, "file_key"), "timestamp": "",
                    }),
                    time: chrono::Utc::now(),
                };
                self.cloud.event_bus("etl").await?.put(&[event]).await.ok();
            }
            _ => {}
        }
        Ok(outcome)
    }
}

fn commit_of(write: &Write) -> Commit {
    let Action::Update { set, .. } = &write.action else { panic!("no update") };
    serde_dynamo::from_attribute_value(set["commit"].clone()).unwrap()
}

#[async_trait]
impl Table for BuggyTable {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn keys(&self) -> &KeyNames {
        self.inner.keys()
    }

    async fn get(&self, key: &Key, consistency: Consistency) -> Result<Option<Item>> {
        let item = self.inner.get(key, consistency).await?;
        // Takes one that is being assembled for one that isn't there.
        let is_assembling = |item: &Item| item.get("status") == Some(&AttributeValue::S("assembling".to_owned()));
        let is_blind = self.bug == Bug::ReleaseWithoutJson && self.operator == "sweep";
        Ok(item.filter(|item| !is_blind || !is_assembling(item)))
    }

    async fn write(&self, write: &Write) -> Result<Outcome> {
        self.write_with_bug(write).await
    }

    async fn query(&self, query: &Query) -> Result<Page> {
        // A fold that relies on the stream alone. That the index is read behind iterators is a test of `bootstrap.rs`.
        let is_of_pending = query.index.is_some() && query.partition.starts_with("pending#");
        if self.bug == Bug::IndexShowsNothing && self.operator == "fold" && is_of_pending {
            return Ok(Page { items: Vec::new(), next: None });
        }
        self.inner.query(query).await
    }
}

#[derive(Debug)]
struct Overwriting(Arc<dyn ObjectStore>);

impl std::fmt::Display for Overwriting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "overwriting {}", self.0)
    }
}

#[async_trait]
impl ObjectStore for Overwriting {
    async fn put_opts(&self, at: &Path, payload: PutPayload, _: PutOptions) -> object_store::Result<PutResult> {
        self.0.put_opts(at, payload, PutOptions::default()).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.0.get_opts(at, options).await
    }

    fn delete_stream(
        &self,
        all: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.0.delete_stream(all)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}

fn planted(bug: Bug) -> Plan {
    let tamper: Tamper = Arc::new(move |operator: &str, inner: Arc<dyn Cloud>, _: &_| -> Arc<dyn Cloud> {
        Arc::new(Buggy { inner, operator: operator.to_owned(), bug })
    });
    Plan { tamper: Some(tamper), ..Plan::default() }
}

/// Some seed finds it, and says it in such words.
fn is_found(what: &str, plan: &Plan, words: &str) {
    for seed in 0..40 {
        let Err(wrong) = run(seed, plan) else { continue };
        assert!(wrong.contains(words), "{what} was found in other words: {wrong}");
        println!("{what}: found by seed {seed}");
        return;
    }
    panic!("{what} was not found by 40 seeds");
}

macro_rules! planted_bugs {
    ($($name:ident: $bug:ident, $words:literal;)*) => {
        $(
            #[test]
            fn $name() {
                is_found(stringify!($name), &planted(Bug::$bug), $words);
            }
        )*
    };
}

planted_bugs! {
    planted_a_manifests_json_is_overwritten: JsonIsOverwritten, "written without a condition";
    planted_a_release_while_the_json_does_not_exist_yet: ReleaseWithoutJson, "a claim is released";
    planted_uploads_aborted_while_the_commit_is_unknown: AbortWhileUnknown, "is dropped that is recorded, or may yet be";
    planted_a_manifest_written_before_claiming: JsonBeforeClaims, "which isn't claimed for it";
    planted_an_unconditional_release: UnconditionalRelease, "it depends on no state";
    planted_settling_without_the_state_before: SettleWithoutState, "it depends on no state";
    planted_names_by_the_second: NamesBySecond, "the name of a manifest is taken";
    planted_an_event_before_the_commit: EventBeforeCommit, "that isn't committed";
    planted_outputs_completed_before_they_are_recorded: CompleteBeforeRecord, "completed before it is recorded";
    planted_an_own_retry_read_as_refused: OwnRetryIsRefused, "is dropped that is recorded";
    planted_a_ttl_on_live_items: TtlOnLiveItems, "may not set ttl";
    planted_a_fold_to_which_the_index_shows_nothing: IndexShowsNothing, "is pending#";
}

#[test]
fn planted_a_listing_that_lands_expired_items_again() {
    let plan = Plan { options: vec![("sweep", "lookback", json!("60d"))], a_month_passes: true, ..Plan::default() };
    is_found("a lookback beyond the ttl", &plan, "expired");
}
