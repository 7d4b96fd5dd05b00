//! What every process of a simulation is watched by: its life and death, the faults of its requests, and the rules that
//! hold at every single moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use penstock_engine::{
    cloud::{
        AttributeValue, CloudError, ErrorKind, Item, Result,
        table::{Action, Key, Write},
        tap::{Answer, Call, Request, Witness},
    },
    simulation::Switch,
};
use penstock_operators::{
    model::{FileItem, FileState, ManifestItem, ManifestJson, ManifestState, attribute, read_item, text},
    transitions::{ItemKind, judge},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::Instant;

use crate::memory::MemoryCloud;

/// The tracking table's short name.
pub const TRACKING: &str = "sqs-file-tracking";

/// When a process is to die.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crash {
    /// At which point.
    pub point: String,
    /// After the effect, or before it.
    pub after: bool,
    /// At which time that the point is passed, from 1 on.
    pub nth: u64,
}

/// Whether a process does anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vital {
    /// It does.
    Alive,
    /// It is stopped, and may wake up again.
    Paused,
    /// It is dead.
    Dead,
}

/// What all processes of a simulation share.
pub struct Shared {
    /// The cloud under all decorators.
    pub cloud: Arc<MemoryCloud>,
    /// The dice.
    pub rng: Mutex<StdRng>,
    /// What was seen that may never be.
    pub violations: Mutex<Vec<String>>,
    /// How often each point between two effects was passed.
    pub points: Mutex<BTreeMap<String, u64>>,
    /// Every request and its answer, in order, if that is kept: for the comparison of runs.
    pub trace: Mutex<Option<Vec<String>>>,
    started: Instant,
    /// Queries of the tracking table that read a partition of it, which is a whole day.
    pub day_queries: Mutex<u64>,
    /// The faults of the moment.
    pub faults: Mutex<Faults>,
    /// Uploads named by commits of which it isn't known whether they landed, with the commit's token.
    unknown_uploads: Mutex<BTreeMap<String, (Key, String)>>,
}

/// Faults that a test switches on and off.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// The bus answers nothing but errors.
    pub bus_is_down: bool,
    /// A request of an object fails with this probability.
    pub objects: f64,
    /// A process dies at an effect with this probability.
    pub death: f64,
    /// The longest that a request takes.
    pub latency: Duration,
}

impl Shared {
    /// For this cloud, with dice from this seed.
    pub fn new(cloud: Arc<MemoryCloud>, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            cloud,
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            violations: Mutex::default(),
            points: Mutex::default(),
            trace: Mutex::default(),
            started: Instant::now(),
            day_queries: Mutex::default(),
            faults: Mutex::default(),
            unknown_uploads: Mutex::default(),
        })
    }

    /// A number below `most`.
    pub fn below(&self, most: u64) -> u64 {
        self.rng.lock().unwrap().random_range(0..most.max(1))
    }

    /// Whether what has this probability happens.
    pub fn chance(&self, probability: f64) -> bool {
        probability > 0.0 && self.rng.lock().unwrap().random::<f64>() < probability
    }

    fn violated(&self, call: &Call<'_>, rule: impl std::fmt::Display) {
        self.violations.lock().unwrap().push(format!("{call}: {rule}"));
    }

    /// The items of all manifests.
    pub fn all_manifests(&self) -> Vec<ManifestItem> {
        self.manifests()
    }

    /// The items of all files.
    pub fn all_files(&self) -> Vec<FileItem> {
        let items = self.items();
        items
            .iter()
            .filter(|item| {
                let part = |name: &str| text(item, name).unwrap_or_default().to_owned();
                FileItem::is_file_key(&Key::new(part(attribute::DATE_PREFIX), part(attribute::FILE_KEY)))
            })
            .map(|item| read_item("file", item).unwrap())
            .collect()
    }

    fn items(&self) -> Vec<Item> {
        self.cloud.memory_table(TRACKING).items()
    }

    fn manifests(&self) -> Vec<ManifestItem> {
        let items = self.items();
        items
            .iter()
            .filter(|item| text(item, attribute::FILE_KEY).is_some_and(|key| key.starts_with("MANIFEST#")))
            // A test may plant one that nobody can read.
            .filter_map(|item| read_item("manifest", item).ok())
            .collect()
    }

    /// The rules that a request must keep when it is made.
    fn check_before(&self, call: &Call<'_>) {
        match &call.request {
            Request::Write(write) if call.resource == TRACKING => match judge(call.caller, write) {
                Err(forbidden) => self.violated(call, forbidden),
                Ok(transition) if transition.name == "release" => self.check_release(call, write),
                Ok(_) => {}
            },
            Request::Complete(upload) if call.resource == "output" => {
                let is_recorded = self.manifests().iter().any(|manifest| {
                    manifest.commit.iter().any(|commit| commit.uploads.iter().any(|recorded| recorded.id == upload.id))
                });
                if !is_recorded {
                    self.violated(call, "an output is completed before it is recorded (I7)");
                }
            }
            Request::Abort(upload) => {
                let manifests = self.manifests();
                let is_recorded = manifests.iter().any(|manifest| {
                    manifest.status == ManifestState::Processing
                        && manifest.commit.iter().any(|commit| commit.uploads.iter().any(|known| known.id == upload.id))
                });
                let may_land = self.unknown_uploads.lock().unwrap().get(&upload.id).is_some_and(|(key, token)| {
                    manifests.iter().any(|manifest| {
                        manifest.key() == *key
                            && manifest.token.as_ref() == Some(token)
                            && manifest.status == ManifestState::Processing
                            && manifest.commit.is_none()
                    })
                });
                if is_recorded || may_land {
                    self.violated(call, "an output is dropped that is recorded, or may yet be (I1)");
                }
            }
            Request::Query(query) if call.resource == TRACKING && query.index.is_none() => {
                *self.day_queries.lock().unwrap() += 1;
            }
            Request::PutObject { key, create: false } if key.starts_with("manifests/") => {
                self.violated(call, "a manifest's JSON is written without a condition (I2, I3)");
            }
            Request::PutEvents(events) => {
                for event in events.iter().filter(|event| event.detail_type == "ManifestReady") {
                    let path = event.detail["manifest_path"].as_str().unwrap_or_default();
                    let known = self.manifests();
                    let manifest = known.iter().find(|manifest| manifest.manifest_path == path);
                    if manifest.is_none_or(|manifest| {
                        matches!(manifest.status, ManifestState::Assembling | ManifestState::Abandoned)
                    }) {
                        self.violated(call, "an event tells of a manifest that isn't committed");
                    }
                }
            }
            _ => {}
        }
    }

    /// A missing JSON is never "not listed".
    fn check_release(&self, call: &Call<'_>, write: &Write) {
        let item = self.items().into_iter().find(|item| {
            text(item, attribute::DATE_PREFIX) == Some(write.key.partition.as_str())
                && text(item, attribute::FILE_KEY) == Some(write.key.sort.as_str())
        });
        let Some(path) = item.as_ref().and_then(|item| text(item, attribute::MANIFEST_PATH)) else { return };
        // One that is for another manifest than the item bears will be refused.
        if !write.condition.holds(item.as_ref()) {
            return;
        }
        let Some(manifest) = self.manifests().into_iter().find(|manifest| manifest.manifest_path == path) else {
            return;
        };
        match self.json_of(&manifest) {
            None if manifest.status != ManifestState::Abandoned => {
                self.violated(call, "a claim is released while its manifest's JSON doesn't exist (I2)");
            }
            Some(json) if json.files.iter().any(|file| file.file_key == write.key.sort) => {
                self.violated(call, "a claim is released that its manifest's JSON lists (I1, I2)");
            }
            _ => {}
        }
    }

    fn json_of(&self, manifest: &ManifestItem) -> Option<ManifestJson> {
        let key = format!("manifests/{}/{}.json", manifest.date_prefix, manifest.id());
        let objects = self.cloud.memory_bucket("manifest").objects();
        objects.get(&key).map(|object| serde_json::from_slice(&object.content).unwrap())
    }

    /// The rules that hold after a request was carried out.
    fn check_after(&self, call: &Call<'_>, answer: &Answer) {
        match (&call.request, answer) {
            (Request::Write(_), Answer::Done(Some(item))) if call.resource == TRACKING => {
                self.check_ttl(call, item);
            }
            (Request::Write(write), Answer::Unknown) if call.resource == TRACKING => self.remember_uploads(write),
            (Request::Write(write), Answer::Refused(Some(item))) if call.resource == TRACKING => {
                let is_new = matches!(&write.action, Action::Put(_)) && ItemKind::of(&write.key) == ItemKind::Manifest;
                if is_new && !write.is_shown_by(Some(item)) {
                    self.violated(call, "the name of a manifest is taken");
                }
            }
            (Request::PutObject { key, .. }, Answer::Done(_)) if key.starts_with("manifests/") => {
                self.check_membership(call, key);
            }
            _ => {}
        }
    }

    /// Live work never expires.
    fn check_ttl(&self, call: &Call<'_>, item: &Item) {
        if !item.contains_key(attribute::TTL) {
            return;
        }
        let status = text(item, attribute::STATUS).unwrap_or_default();
        let is_final = FileState::parse(status).is_some_and(FileState::is_final)
            || matches!(
                ManifestState::parse(status),
                Some(ManifestState::Completed | ManifestState::Failed | ManifestState::Abandoned)
            );
        if !is_final {
            self.violated(call, format!("an item that is {status} has a ttl"));
        }
    }

    fn remember_uploads(&self, write: &Write) {
        let Action::Update { set, .. } = &write.action else { return };
        let Some(commit) = set.get("commit") else { return };
        let commit: penstock_operators::model::Commit = serde_dynamo::from_attribute_value(commit.clone()).unwrap();
        let mut known = self.unknown_uploads.lock().unwrap();
        for upload in commit.uploads {
            known.insert(upload.id, (write.key.clone(), commit.token.clone()));
        }
    }

    /// I2: what a new JSON lists is claimed for it.
    fn check_membership(&self, call: &Call<'_>, key: &str) {
        let bucket = self.cloud.memory_bucket("manifest");
        let Some(object) = bucket.objects().get(key).cloned() else { return };
        let json: ManifestJson = serde_json::from_slice(&object.content).unwrap();
        let path = format!("s3://{}/{key}", bucket.name());
        let claimed: BTreeSet<String> = self
            .items()
            .iter()
            .filter(|item| text(item, attribute::MANIFEST_PATH) == Some(&path))
            .filter_map(|item| read_item::<FileItem>("file", item).ok())
            .filter(|file| file.state() == Some(FileState::Manifested))
            .map(|file| file.file_key)
            .collect();
        if let Some(file) = json.files.iter().find(|file| !claimed.contains(&file.file_key)) {
            self.violated(call, format!("its JSON lists {}, which isn't claimed for it (I2)", file.file_key));
        }
    }
}

/// The name of a point between two effects.
pub fn point_of(call: &Call<'_>) -> String {
    let (caller, resource) = (call.caller, call.resource);
    match &call.request {
        Request::Write(write) if resource == TRACKING => {
            let name = judge(caller, write).map_or("forbidden", |transition| transition.name);
            format!("{caller}: {name}")
        }
        Request::Write(write) => {
            let gives_back = matches!(&write.action, Action::Delete)
                || matches!(&write.action, Action::Update { remove, .. } if remove.iter().any(|name| name == "token"));
            let sets = |name: &str| matches!(&write.action, Action::Update { set, .. } if set.contains_key(name));
            let what = if gives_back {
                "give back"
            } else if sets("owner") {
                "take"
            } else if sets("checkpoint") {
                "checkpoint under"
            } else {
                "renew or keep"
            };
            let scope = write.key.partition.split(':').next().unwrap_or_default();
            format!("{caller}: {what} lease {scope}")
        }
        Request::Send(_) => format!("{caller}: send to {resource}"),
        Request::Delete(_) => format!("{caller}: delete from {resource}"),
        Request::Hide(_) => format!("{caller}: hide in {resource}"),
        Request::PutEvents(events) => {
            format!("{caller}: put {}", events.first().map_or("nothing", |event| event.detail_type.as_str()))
        }
        Request::Begin(_) => format!("{caller}: begin an output"),
        Request::PutPart(_) => format!("{caller}: put a part"),
        Request::Complete(_) => format!("{caller}: complete an output"),
        Request::Abort(_) => format!("{caller}: abort an output"),
        Request::Copy(_) => format!("{caller}: copy to {resource}"),
        Request::PutObject { key, .. } => {
            format!("{caller}: put {}", key.split('/').next().unwrap_or_default())
        }
        Request::DeleteObject(key) => format!("{caller}: delete {}", key.split('/').next().unwrap_or_default()),
        _ => format!("{caller}: read"),
    }
}

/// The life of one process.
pub struct Life {
    shared: Arc<Shared>,
    name: String,
    vital: Switch<Vital>,
    crash: Mutex<Option<Crash>>,
    /// It doesn't die there, but sleeps for so long.
    sleep: Option<Duration>,
    /// Whether it fell asleep and is to be woken up.
    is_falling_asleep: AtomicBool,
    passed: Mutex<BTreeMap<String, u64>>,
}

impl Life {
    /// A new one, which may be planned to die; or, if `sleep` is given, to fall asleep there.
    pub fn new(shared: Arc<Shared>, name: String, crash: Option<Crash>, sleep: Option<Duration>) -> Arc<Self> {
        let vital = Switch::new(Vital::Alive);
        let (crash, is_falling_asleep) = (Mutex::new(crash), AtomicBool::new(false));
        Arc::new(Self { shared, name, vital, crash, sleep, is_falling_asleep, passed: Mutex::default() })
    }

    /// Pauses it, wakes it up, or ends it. What is dead stays dead.
    pub fn set(&self, vital: Vital) {
        if self.vital() != Vital::Dead {
            self.vital.set(vital);
        }
    }

    /// How it is.
    pub fn vital(&self) -> Vital {
        self.vital.get()
    }

    /// Waits while it is paused; for ever if it is dead.
    async fn gate(&self) {
        if let Some(sleep) = self.sleep.filter(|_| self.is_falling_asleep.swap(false, Ordering::Relaxed)) {
            tokio::time::sleep(sleep).await;
            self.set(Vital::Alive);
        }
        if self.vital.wait_for(|vital| vital != Vital::Paused).await == Vital::Dead {
            std::future::pending().await
        }
    }

    fn trace(&self, call: &Call<'_>, answer: &Answer) {
        if let Some(trace) = &mut *self.shared.trace.lock().unwrap() {
            let ended = match answer {
                Answer::Done(_) => "done",
                Answer::Refused(_) => "refused",
                Answer::Unknown => "unknown",
                Answer::Failed => "failed",
            };
            trace.push(format!("{:?} {} {call} {ended}", self.shared.started.elapsed(), self.name));
        }
    }

    /// Dies if this is where it is to.
    fn pass(&self, point: &str, after: bool) {
        let nth = if after {
            self.passed.lock().unwrap().get(point).copied().unwrap_or_default()
        } else {
            let mut passed = self.passed.lock().unwrap();
            let count = passed.entry(point.to_owned()).or_default();
            *count += 1;
            *count
        };
        let is_planned = self.crash.lock().unwrap().as_ref() == Some(&Crash { point: point.to_owned(), after, nth });
        let death = self.shared.faults.lock().unwrap().death;
        if is_planned && self.sleep.is_some() {
            self.is_falling_asleep.store(true, Ordering::Relaxed);
            self.set(Vital::Paused);
        } else if is_planned || self.shared.chance(death) {
            self.set(Vital::Dead);
        }
    }
}

#[async_trait]
impl Witness for Life {
    async fn before(&self, call: &Call<'_>) -> Result<()> {
        self.gate().await;
        let faults = self.shared.faults.lock().unwrap().clone();
        if !faults.latency.is_zero() {
            let most = faults.latency.as_millis() as u64;
            let wait = self.shared.below(most + 1);
            tokio::time::sleep(Duration::from_millis(wait)).await;
            self.gate().await;
        }
        let fails = match &call.request {
            Request::PutEvents(_) => faults.bus_is_down,
            Request::PutObject { .. } | Request::GetObject(_) | Request::List(_) => self.shared.chance(faults.objects),
            _ => false,
        };
        if fails {
            return Err(CloudError::new(ErrorKind::Unavailable, call.to_string(), "down on purpose"));
        }
        if call.request.is_effect() {
            let point = point_of(call);
            self.pass(&point, false);
            self.gate().await;
            *self.shared.points.lock().unwrap().entry(point).or_default() += 1;
        }
        self.shared.check_before(call);
        Ok(())
    }

    async fn after(&self, call: &Call<'_>, answer: &Answer) {
        self.shared.check_after(call, answer);
        self.trace(call, answer);
        if call.request.is_effect() {
            self.pass(&point_of(call), true);
        }
        self.gate().await;
    }
}

/// The number in an attribute of an item.
pub fn number(item: &Item, name: &str) -> Option<i64> {
    match item.get(name) {
        Some(AttributeValue::N(number)) => number.parse().ok(),
        _ => None,
    }
}
