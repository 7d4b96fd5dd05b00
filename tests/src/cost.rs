//! What files cost: the requests that a run makes of the cloud, counted at the seam.
//!
//! [`run`] lands small files on a local cloud, lets the whole pipeline work in this process, and counts every request that
//! an operator makes. Whoever looks on from outside isn't counted.

use std::{collections::BTreeMap, fs, sync::Arc, time::Duration};

use async_trait::async_trait;
use penstock::{
    facts::{Facts, TRACKING_TABLE},
    home::Home,
    landing,
    loader::load,
    service::Service,
};
use penstock_engine::cloud::{
    Result, Table,
    tap::{Answer, Call, Request, TappedCloud, Witness},
};
use penstock_operators::{
    model::FileState,
    transitions::{ItemKind, Transition, judge},
};
use std::sync::{Mutex, PoisonError};

use crate::place::{DATE, INPUT_PREFIX, pipeline_file};

/// How long a run may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// The requests of a run.
#[derive(Debug, Default, Clone)]
pub struct Counts {
    /// Writes of the tracking table, by transition and outcome.
    pub transitions: BTreeMap<(&'static str, &'static str), u64>,
    /// Writes of files' items, whatever their outcome.
    pub file_writes: u64,
    /// Writes of any other item of the tracking table.
    pub other_writes: u64,
    /// Reads of the tracking table: gets, and pages of queries.
    pub reads: u64,
    /// Reads and writes of leases, which go by time and by manifest.
    pub lease_requests: u64,
    /// Entries put to the bus, by detail type.
    pub events: BTreeMap<String, u64>,
    /// Calls of PutEvents.
    pub event_calls: u64,
    /// Every other request, by its name.
    pub others: BTreeMap<&'static str, u64>,
}

/// Counts requests.
#[derive(Default)]
struct Counter(Mutex<Counts>);

#[async_trait]
impl Witness for Counter {
    async fn before(&self, _call: &Call<'_>) -> Result<()> {
        Ok(())
    }

    async fn after(&self, call: &Call<'_>, answer: &Answer) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_tracking = call.resource == TRACKING_TABLE;
        match &call.request {
            Request::Write(write) if is_tracking => {
                let outcome = match answer {
                    Answer::Done(_) => "applied",
                    Answer::Refused(_) => "refused",
                    Answer::Unknown => "unknown",
                    Answer::Failed => "failed",
                };
                let operators = ["track", "quarantine", "fold", "announce", "convert", "settle", "alert", "sweep"];
                let found = operators.iter().find_map(|operator| judge(operator, write).ok());
                let name = found.map_or("unknown", |found: &Transition| found.name);
                *counts.transitions.entry((name, outcome)).or_default() += 1;
                if ItemKind::of(&write.key) == ItemKind::File {
                    counts.file_writes += 1;
                } else {
                    counts.other_writes += 1;
                }
            }
            Request::Get(_) | Request::Query(_) if is_tracking => counts.reads += 1,
            Request::Get(_) | Request::Query(_) | Request::Write(_) => counts.lease_requests += 1,
            Request::PutEvents(events) => {
                counts.event_calls += 1;
                for event in *events {
                    *counts.events.entry(event.detail_type.clone()).or_default() += 1;
                }
            }
            other => *counts.others.entry(name_of(other)).or_default() += 1,
        }
    }
}

fn name_of(request: &Request<'_>) -> &'static str {
    match request {
        Request::Send(_) => "SendMessage",
        Request::Receive => "ReceiveMessage",
        Request::Delete(_) => "DeleteMessage",
        Request::Hide(_) => "ChangeMessageVisibility",
        Request::Begin(_) => "CreateMultipartUpload",
        Request::PutPart(_) => "UploadPart",
        Request::Complete(_) => "CompleteMultipartUpload",
        Request::Abort(_) => "AbortMultipartUpload",
        Request::Head(_) => "HeadObject",
        Request::Copy(_) => "CopyObject",
        Request::GetObject(_) => "GetObject",
        Request::PutObject { .. } => "PutObject",
        Request::List(_) => "ListObjects",
        Request::DeleteObject(_) => "DeleteObject",
        Request::Stream(_) => "streams",
        _ => "other",
    }
}

/// What a run came to.
#[derive(Debug)]
pub struct Cost {
    /// Files that were completed.
    pub files: u64,
    /// Manifests that they made.
    pub manifests: u64,
    /// How long it took.
    pub took: Duration,
    /// The requests.
    pub counts: Counts,
}

impl Cost {
    /// A count for each file.
    pub fn per_file(&self, count: u64) -> f64 {
        count as f64 / self.files as f64
    }

    /// Writes of the tracking table for each file: its own, and its share of its manifest's.
    pub fn writes_per_file(&self) -> f64 {
        self.per_file(self.counts.file_writes + self.counts.other_writes)
    }

    /// Reads of the tracking table for each file.
    pub fn reads_per_file(&self) -> f64 {
        self.per_file(self.counts.reads)
    }
}

/// Runs `files` small files through the pipeline, in manifests of `max_files`.
pub async fn run(files: usize, max_files: usize) -> anyhow::Result<Cost> {
    let dir = tempfile::tempdir()?;
    let folder = dir.path().join("files").join(DATE);
    fs::create_dir_all(&folder)?;
    for number in 0..files {
        fs::write(folder.join(format!("f-{number:06}.ndjson")), format!("{{\"id\":\"{number}\"}}\n"))?;
    }
    let registry = Arc::new(penstock::registry());
    let env = |name: &str| (name == "PENSTOCK_MAX_FILES").then(|| max_files.to_string());
    let pipeline = load(&pipeline_file(), &env, &registry)?;
    let cloud = dir.path().join("cloud");
    let home = Home::open_local(&cloud, &pipeline)?;
    let seen: Arc<dyn Table> = home.cloud().table(TRACKING_TABLE).await?;
    let counter = Arc::new(Counter::default());
    let witness = Arc::clone(&counter) as Arc<dyn Witness>;
    let home = home.through(|inner| Arc::new(TappedCloud::new(inner, "pipeline", witness)));
    let began = std::time::Instant::now();
    let service = Service::start_at(&pipeline, None, home, registry).await?;
    let bucket = landing::bucket_dir(&cloud, &pipeline, "input");
    let landings = landing::find(&dir.path().join("files").display().to_string(), INPUT_PREFIX)?;
    tokio::task::spawn_blocking(move || landings.iter().try_for_each(|file| landing::land(file, &bucket))).await??;
    let facts = loop {
        let facts = Facts::read(&*seen).await?;
        if facts.files(FileState::Completed) == files as u64 && facts.unfinished() == 0 {
            break facts;
        }
        anyhow::ensure!(began.elapsed() < PATIENCE, "not done in {PATIENCE:?}: {facts:?}");
        tokio::time::sleep(Duration::from_millis(250)).await;
    };
    let took = began.elapsed();
    service.stop().await;
    let counts = counter.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let manifests = facts.dates.values().flat_map(|date| date.manifests.values()).sum();
    Ok(Cost { files: files as u64, manifests, took, counts })
}
