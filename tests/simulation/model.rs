//! The two protocols as models, checked in every interleaving: two folds and the sweep on three files, two workers on a
//! manifest; any of them may die, fall asleep and wake up as a zombie, or have a write land late, between any two steps.
//!
//! The steps are the model's; what is decided and written is the pipeline's own pure code.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    hash::{Hash, Hasher},
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use penstock_engine::cloud::{
    Item,
    table::{Key, KeyNames, Write},
};
use penstock_operators::{
    attempt::protocol::{self, AfterFailure, Limits, Next},
    fold::{protocol::is_member, writes},
    model::{Candidate, Commit, FileItem, FileState, FlushReason, ManifestItem, ManifestState, read_item, shard_of},
};
use stateright::{Checker, Expectation, Model, Property};

const DATE: &str = "2026-02-01";
const FILES: [&str; 3] = ["a", "b", "c"];
/// Manifests that may be begun, so that the model is finite.
const MANIFESTS: u8 = 2;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_770_000_000, 0).unwrap()
}

/// An item that can be compared and hashed: by its text. What it says is read once.
#[derive(Debug)]
struct Row {
    text: String,
    item: Item,
    file: Option<FileItem>,
    manifest: Option<ManifestItem>,
}

impl Row {
    fn new(key: &Key, item: &Item) -> Arc<Self> {
        let sorted: BTreeMap<_, _> = item.iter().collect();
        let is_manifest = key.sort.starts_with("MANIFEST#");
        Arc::new(Self {
            text: serde_json::to_string(&sorted).unwrap(),
            file: (!is_manifest).then(|| read_item("file", item).unwrap()),
            manifest: is_manifest.then(|| read_item("manifest", item).unwrap()),
            item: item.clone(),
        })
    }
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Row {}

impl Hash for Row {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Table(BTreeMap<(String, String), Arc<Row>>);

impl Table {
    fn row(&self, key: &Key) -> Option<&Row> {
        self.0.get(&(key.partition.clone(), key.sort.clone())).map(AsRef::as_ref)
    }

    /// Carries a write out; whether it was, and the item as it is then.
    fn write(&mut self, write: &Write) -> (bool, Option<&Row>) {
        let names = KeyNames { partition: "date_prefix".to_owned(), sort: "file_key".to_owned() };
        let before = self.row(&write.key).map(|row| &row.item);
        if !write.condition.holds(before) {
            // A refusal by one's own earlier try is an application, as in `carry_out`.
            return (write.is_shown_by(before), self.row(&write.key));
        }
        if let Some(item) = write.apply(&names, before) {
            self.put(&write.key, &item);
        }
        (true, self.row(&write.key))
    }

    fn put(&mut self, key: &Key, item: &Item) {
        self.0.insert((key.partition.clone(), key.sort.clone()), Row::new(key, item));
    }

    fn file(&self, file: &str) -> &FileItem {
        self.row(&Key::new(DATE, file)).and_then(|row| row.file.as_ref()).unwrap()
    }

    fn manifest(&self, id: u8) -> Option<&ManifestItem> {
        self.row(&Key::new(DATE, format!("MANIFEST#m{id}.json"))).and_then(|row| row.manifest.as_ref())
    }
}

/// The least number that isn't in use: a token that nobody remembers may as well be drawn again, and the model stays
/// finite.
fn unused(used: impl IntoIterator<Item = u8>) -> u8 {
    let used: BTreeSet<u8> = used.into_iter().collect();
    (1..=u8::MAX).find(|token| !used.contains(token)).unwrap()
}

fn tokens_of(manifest: &ManifestItem) -> Vec<u8> {
    let commit = manifest.commit.as_ref().map(|commit| commit.token.clone());
    let tokens = [manifest.token.clone(), commit];
    tokens.into_iter().flatten().filter_map(|token| token.parse().ok()).collect()
}

// ---------------------------------------------------------------------------------------------------------------------

/// What a fold is about to do. It knows its token and the manifest that it works on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Fold {
    Idle,
    /// It holds the lease: resume what it finds, or assemble.
    Begin(u8),
    ReadJson(u8, u8),
    /// Claims the candidate with this number; these were claimed.
    Claim(u8, u8, usize, BTreeSet<String>),
    CreateJson(u8, u8, BTreeSet<String>),
    /// Releases those of these files that the JSON doesn't list.
    Release(u8, u8, BTreeSet<String>),
    Commit(u8, u8),
    Abandon(u8, u8),
    GiveBack(u8),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Folding {
    table: Table,
    jsons: BTreeMap<u8, BTreeSet<String>>,
    lease: Option<u8>,
    folds: [Fold; 2],
    /// What the sweep has judged to be a stray: the file, and the manifest's number.
    stray: Option<(String, u8)>,
    /// A claim that was answered with an error and is still on its way: of a file, for a manifest.
    late: Option<(String, u8)>,
    manifests: u8,
    /// Deaths, thefts from the living, and late writes that may still happen.
    budget: (u8, u8, u8),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum FoldAction {
    Step(usize),
    /// A claim lands, but late; its fold is told that it doesn't know.
    ClaimLate(usize),
    Die(usize),
    Land,
    Look(String),
    Sweep,
}

struct FoldModel;

impl Folding {
    fn token_of(fold: &Fold) -> Option<u8> {
        match fold {
            Fold::Idle => None,
            Fold::Begin(token)
            | Fold::ReadJson(token, _)
            | Fold::Claim(token, ..)
            | Fold::CreateJson(token, ..)
            | Fold::Release(token, ..)
            | Fold::Commit(token, _)
            | Fold::Abandon(token, _)
            | Fold::GiveBack(token) => Some(*token),
        }
    }

    /// Whether there is something to do for a fold.
    fn has_work(&self) -> bool {
        self.assembling().is_some()
            || FILES.iter().any(|file| self.table.file(file).state() == Some(FileState::Pending))
    }

    fn assembling(&self) -> Option<u8> {
        (0..self.manifests)
            .find(|id| self.table.manifest(*id).is_some_and(|manifest| manifest.status == ManifestState::Assembling))
    }

    fn path(id: u8) -> String {
        format!("s3://m/m{id}.json")
    }

    fn is_stray(&self, file: &FileItem) -> Option<u8> {
        let path = file.manifest_path.clone().filter(|_| file.state() == Some(FileState::Manifested))?;
        let id = (0..self.manifests).find(|id| Self::path(*id) == path)?;
        let manifest = self.table.manifest(id);
        let is_nobodys = manifest.is_none_or(|manifest| manifest.status == ManifestState::Abandoned);
        let is_unlisted = self.jsons.get(&id).is_some_and(|listed| !listed.contains(&file.file_key));
        (is_nobodys || is_unlisted).then_some(id)
    }

    fn step(&mut self, at: usize) {
        self.folds[at] = match self.folds[at].clone() {
            Fold::Idle => {
                let manifests = (0..self.manifests).filter_map(|id| self.table.manifest(id));
                let held = self.folds.iter().filter_map(Self::token_of).chain(self.lease);
                let token = unused(manifests.flat_map(tokens_of).chain(held));
                if self.lease.is_some_and(|held| self.folds.iter().any(|fold| Self::token_of(fold) == Some(held))) {
                    self.budget.1 -= 1;
                }
                self.lease = Some(token);
                Fold::Begin(token)
            }
            Fold::Begin(token) => self.begin(token),
            Fold::ReadJson(token, id) => match self.jsons.contains_key(&id) {
                true => {
                    let candidates = self.candidates(id).into_iter().map(|candidate| candidate.file_key);
                    Fold::Release(token, id, candidates.collect())
                }
                false => Fold::Claim(token, id, 0, BTreeSet::new()),
            },
            Fold::Claim(token, id, number, mut claimed) => {
                let Some(manifest) = self.table.manifest(id).cloned() else { return };
                match self.candidates(id).get(number).cloned() {
                    Some(candidate) => {
                        let (applied, row) = self.table.write(&writes::claim(&manifest, &candidate, "t"));
                        let item = row.and_then(|row| row.file.as_ref());
                        if item.is_some_and(|item| applied || is_member(item, &manifest)) {
                            claimed.insert(candidate.file_key);
                        }
                        Fold::Claim(token, id, number + 1, claimed)
                    }
                    None if claimed.is_empty() => Fold::Abandon(token, id),
                    None => Fold::CreateJson(token, id, claimed),
                }
            }
            Fold::CreateJson(token, id, claimed) => {
                self.jsons.entry(id).or_insert_with(|| claimed.clone());
                Fold::Release(token, id, claimed)
            }
            Fold::Release(token, id, mut claimed) => {
                let listed = &self.jsons[&id];
                match claimed.iter().find(|file| !listed.contains(*file)).cloned() {
                    Some(file) => {
                        self.table.write(&writes::release(&Key::new(DATE, &file), &Self::path(id), now()));
                        claimed.remove(&file);
                        Fold::Release(token, id, claimed)
                    }
                    None => Fold::Commit(token, id),
                }
            }
            Fold::Commit(token, id) => {
                let size = (self.jsons[&id].len(), 3);
                if let Some(manifest) = self.table.manifest(id).cloned() {
                    self.table.write(&writes::commit(&manifest, &token.to_string(), size, "etag", now()));
                }
                Fold::GiveBack(token)
            }
            Fold::Abandon(token, id) => {
                // The JSON is looked for once more: a zombie may have written it.
                if let (Some(manifest), false) = (self.table.manifest(id).cloned(), self.jsons.contains_key(&id)) {
                    let write = writes::abandon(&manifest, &token.to_string(), TimeDelta::days(30), now());
                    self.table.write(&write);
                }
                Fold::GiveBack(token)
            }
            Fold::GiveBack(token) => {
                self.lease = self.lease.filter(|held| *held != token);
                Fold::Idle
            }
        };
    }

    fn candidates(&self, id: u8) -> Vec<Candidate> {
        // A zombie still has the list that it began with.
        let manifest = self.table.manifest(id);
        let known = manifest.and_then(|manifest| manifest.candidates.clone());
        known.unwrap_or_else(|| FILES.iter().map(|file| Candidate::from(&fresh(file))).collect())
    }

    fn begin(&mut self, token: u8) -> Fold {
        if let Some(id) = self.assembling() {
            let Some(seen) = self.table.manifest(id).cloned() else { return Fold::GiveBack(token) };
            let (applied, _) = self.table.write(&writes::resume(&seen, &token.to_string(), now()));
            return if applied { Fold::ReadJson(token, id) } else { Fold::GiveBack(token) };
        }
        let pending = FILES.iter().map(|file| self.table.file(file));
        let candidates: Vec<Candidate> =
            pending.filter(|file| file.state() == Some(FileState::Pending)).map(Candidate::from).collect();
        if candidates.is_empty() || self.manifests == MANIFESTS {
            return Fold::GiveBack(token);
        }
        let id = self.manifests;
        self.manifests += 1;
        let place = (DATE, &*format!("m{id}"));
        let write =
            writes::assemble(place, &Self::path(id), FlushReason::Files, &candidates, &token.to_string(), now());
        self.table.write(&write.unwrap());
        Fold::ReadJson(token, id)
    }
}

/// A file that waits for a manifest.
fn fresh(file: &str) -> FileItem {
    serde_json::from_value(serde_json::json!({
        "date_prefix": DATE, "file_key": file, "status": FileState::Pending.status(shard_of(file)),
        "file_path": format!("s3://b/{file}"), "etag": "e", "pending_since": "2026-02-02T02:40:00.000Z",
    }))
    .unwrap()
}

impl Model for FoldModel {
    type State = Folding;
    type Action = FoldAction;

    fn init_states(&self) -> Vec<Folding> {
        let mut table = Table::default();
        for file in FILES {
            table.put(&Key::new(DATE, file), &serde_dynamo::to_item(fresh(file)).unwrap());
        }
        vec![Folding {
            table,
            jsons: BTreeMap::new(),
            lease: None,
            folds: [Fold::Idle, Fold::Idle],
            stray: None,
            late: None,
            manifests: 0,
            budget: (1, 1, 1),
        }]
    }

    fn actions(&self, state: &Folding, actions: &mut Vec<FoldAction>) {
        for (at, fold) in state.folds.iter().enumerate() {
            if *fold == Fold::Idle {
                let is_alive = |held: u8| state.folds.iter().any(|fold| Folding::token_of(fold) == Some(held));
                let may_take = state.lease.is_none_or(|held| !is_alive(held) || state.budget.1 > 0);
                // Where no more manifests may begin there is only what was left to resume.
                let has_work = state.assembling().is_some() || (state.has_work() && state.manifests < MANIFESTS);
                if may_take && has_work {
                    actions.push(FoldAction::Step(at));
                }
                continue;
            }
            actions.push(FoldAction::Step(at));
            if state.budget.0 > 0 {
                actions.push(FoldAction::Die(at));
            }
            if matches!(fold, Fold::Claim(_, id, number, _) if *number < state.candidates(*id).len())
                && state.budget.2 > 0
                && state.late.is_none()
            {
                actions.push(FoldAction::ClaimLate(at));
            }
        }
        if state.late.is_some() {
            actions.push(FoldAction::Land);
        }
        match &state.stray {
            Some(_) => actions.push(FoldAction::Sweep),
            None => actions.extend(
                FILES
                    .iter()
                    .filter(|file| state.is_stray(state.table.file(file)).is_some())
                    .map(|file| FoldAction::Look((*file).to_owned())),
            ),
        }
    }

    fn next_state(&self, state: &Folding, action: FoldAction) -> Option<Folding> {
        let mut next = state.clone();
        match action {
            FoldAction::Step(at) => next.step(at),
            FoldAction::Die(at) => {
                next.budget.0 -= 1;
                next.folds[at] = Fold::Idle;
            }
            FoldAction::ClaimLate(at) => {
                let Fold::Claim(token, id, number, claimed) = next.folds[at].clone() else { return None };
                next.budget.2 -= 1;
                next.late = Some((next.candidates(id)[number].file_key.clone(), id));
                next.folds[at] = Fold::Claim(token, id, number + 1, claimed);
            }
            FoldAction::Land => {
                let (file, id) = next.late.take()?;
                if let Some(manifest) = next.table.manifest(id).cloned() {
                    next.table.write(&writes::claim(&manifest, &Candidate::from(&fresh(&file)), "t"));
                }
            }
            FoldAction::Look(file) => {
                let id = next.is_stray(next.table.file(&file))?;
                next.stray = Some((file, id));
            }
            FoldAction::Sweep => {
                let (file, id) = next.stray.take()?;
                next.table.write(&writes::release(&Key::new(DATE, &file), &Folding::path(id), now()));
            }
        }
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::<Self>::always(
                "I2 what a committed manifest lists is claimed for it, and for nobody else",
                |_, state| {
                    let mut listed = BTreeSet::new();
                    (0..state.manifests).all(|id| {
                        let is_committed =
                            state.table.manifest(id).is_some_and(|manifest| manifest.status == ManifestState::Pending);
                        !is_committed
                            || state.jsons[&id].iter().all(|file| {
                                let item = state.table.file(file);
                                listed.insert(file.clone())
                                    && item.state() == Some(FileState::Manifested)
                                    && item.manifest_path == Some(Folding::path(id))
                            })
                    })
                },
            ),
            Property::<Self>::always(
                "I1 I8 when nothing is left to do, every file is in a committed manifest",
                |model, state| {
                    let mut actions = Vec::new();
                    model.actions(state, &mut actions);
                    // A sweep or a flush that can't begin a further manifest is the model's end, not the pipeline's.
                    !actions.is_empty()
                        || state.manifests == MANIFESTS
                        || FILES.iter().all(|file| {
                            let path = state.table.file(file).manifest_path.clone();
                            (0..state.manifests).any(|id| {
                                path.as_ref() == Some(&Folding::path(id))
                                    && state.jsons.get(&id).is_some_and(|listed| listed.contains(*file))
                                    && state.table.manifest(id).is_some_and(|m| m.status == ManifestState::Pending)
                            })
                        })
                },
            ),
            Property::<Self>::sometimes("a zombie's claim is swept", |_, state| state.stray.is_some()),
            Property::<Self>::sometimes("a manifest is abandoned", |_, state| {
                (0..state.manifests)
                    .any(|id| state.table.manifest(id).is_some_and(|m| m.status == ManifestState::Abandoned))
            }),
        ]
    }
}

// ---------------------------------------------------------------------------------------------------------------------

/// A manifest as somebody saw it.
type Seen = Arc<Row>;

/// What a worker is about to do; it knows its token, and the manifest as it last saw it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Worker {
    Idle,
    Look(u8),
    Begin(u8, Seen),
    Convert(u8, Seen),
    Record(u8, Seen),
    TakeOver(u8, Seen),
    CompleteOutput(u8, Seen),
    Complete(u8, Seen),
    Abort(u8),
    Fail(u8, Seen),
    GiveUp(u8, Seen),
    GiveBack(u8),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Converting {
    table: Table,
    staged: BTreeSet<u8>,
    visible: Option<u8>,
    is_lost: bool,
    lease: Option<u8>,
    workers: [Worker; 2],
    /// A record that was answered with an error, and is still on its way.
    late: Option<(u8, Seen)>,
    /// Deaths, thefts from the living, late writes, and conversions that fail.
    budget: (u8, u8, u8, u8),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum WorkerAction {
    Step(usize),
    RecordLate(usize),
    FailToConvert(usize),
    Die(usize),
    Land,
}

struct WorkerModel;

const LIMITS: Limits = Limits { max_attempts: 3, retry_wait: TimeDelta::zero() };

fn manifest_of(seen: &Seen) -> &ManifestItem {
    seen.manifest.as_ref().unwrap()
}

fn commit_of(token: u8) -> Commit {
    serde_json::from_value(serde_json::json!({
        "token": token.to_string(), "uploads": [], "report_key": format!("r{token}"),
        "rows": 3, "rejected_rows": 0, "failed_files": 0,
    }))
    .unwrap()
}

impl Converting {
    fn manifest(&self) -> &ManifestItem {
        self.table.manifest(0).unwrap()
    }

    fn token_of(worker: &Worker) -> Option<u8> {
        match worker {
            Worker::Idle => None,
            Worker::Look(token)
            | Worker::Begin(token, _)
            | Worker::Convert(token, _)
            | Worker::Record(token, _)
            | Worker::TakeOver(token, _)
            | Worker::CompleteOutput(token, _)
            | Worker::Complete(token, _)
            | Worker::Abort(token)
            | Worker::Fail(token, _)
            | Worker::GiveUp(token, _)
            | Worker::GiveBack(token) => Some(*token),
        }
    }

    fn write(&mut self, write: &Write) -> Option<Seen> {
        let (applied, _) = self.table.write(write);
        applied.then(|| self.seen())
    }

    fn seen(&self) -> Seen {
        Arc::clone(self.table.0.values().next().unwrap())
    }

    fn step(&mut self, at: usize) {
        let after = |written: Option<Seen>, token: u8, then: fn(u8, Seen) -> Worker| match written {
            Some(manifest) => then(token, manifest),
            None => Worker::GiveBack(token),
        };
        self.workers[at] = match self.workers[at].clone() {
            Worker::Idle => {
                let held = self.workers.iter().filter_map(Self::token_of).chain(self.lease);
                let late = self.late.iter().map(|(token, _)| *token);
                let outputs = self.staged.iter().copied().chain(self.visible);
                let token = unused(held.chain(late).chain(tokens_of(self.manifest())).chain(outputs));
                if self.lease.is_some_and(|held| self.workers.iter().any(|w| Self::token_of(w) == Some(held))) {
                    self.budget.1 -= 1;
                }
                self.lease = Some(token);
                Worker::Look(token)
            }
            Worker::Look(token) => match protocol::next(self.manifest(), now(), LIMITS) {
                Next::Nothing | Next::NotDue(_) => Worker::GiveBack(token),
                Next::Begin => Worker::Begin(token, self.seen()),
                Next::Complete => Worker::TakeOver(token, self.seen()),
                Next::GiveUp => Worker::GiveUp(token, self.seen()),
            },
            Worker::Begin(token, seen) => {
                let write = protocol::begin(manifest_of(&seen), &token.to_string(), now());
                after(self.write(&write), token, Worker::Convert)
            }
            Worker::Convert(token, manifest) => {
                self.staged.insert(token);
                Worker::Record(token, manifest)
            }
            Worker::Record(token, manifest) => {
                let write = record(token, &manifest);
                match self.write(&write) {
                    Some(manifest) => Worker::CompleteOutput(token, manifest),
                    None => Worker::Abort(token),
                }
            }
            Worker::Abort(token) => {
                self.staged.remove(&token);
                Worker::GiveBack(token)
            }
            Worker::TakeOver(token, seen) => {
                let write = protocol::take_over(manifest_of(&seen), &token.to_string(), now()).unwrap();
                after(self.write(&write), token, Worker::CompleteOutput)
            }
            Worker::CompleteOutput(token, manifest) => {
                let upload: u8 = manifest_of(&manifest).commit.as_ref().unwrap().token.parse().unwrap();
                if self.staged.remove(&upload) {
                    self.visible = Some(upload);
                }
                self.is_lost |= self.visible != Some(upload);
                Worker::Complete(token, manifest)
            }
            Worker::Complete(token, manifest) => {
                let manifest = manifest_of(&manifest);
                let commit = manifest.commit.clone().unwrap();
                let write = protocol::complete(manifest, &commit, &["out".to_owned()], now()).unwrap();
                self.write(&write);
                Worker::GiveBack(token)
            }
            Worker::Fail(token, manifest) => {
                let manifest = manifest_of(&manifest);
                let then = protocol::after_failure(manifest, now(), LIMITS);
                // Waits are the clock's business: here every retry is due at once.
                let then = if then == AfterFailure::Fail { then } else { AfterFailure::Retry(now()) };
                self.write(&protocol::fail(manifest, &token.to_string(), then, "x", now()));
                Worker::GiveBack(token)
            }
            Worker::GiveUp(token, seen) => {
                self.write(&protocol::give_up(manifest_of(&seen), now()));
                Worker::GiveBack(token)
            }
            Worker::GiveBack(token) => {
                self.lease = self.lease.filter(|held| *held != token);
                Worker::Idle
            }
        };
    }
}

fn record(token: u8, manifest: &Seen) -> Write {
    protocol::record(manifest_of(manifest), &token.to_string(), &commit_of(token), now()).unwrap()
}

impl Model for WorkerModel {
    type State = Converting;
    type Action = WorkerAction;

    fn init_states(&self) -> Vec<Converting> {
        let manifest: ManifestItem = serde_json::from_value(serde_json::json!({
            "date_prefix": DATE, "file_key": "MANIFEST#m0.json", "status": "pending", "schema_version": 1,
            "manifest_path": "s3://m/m0.json", "created_at": "t", "token": "fold", "file_count": 3,
        }))
        .unwrap();
        let mut table = Table::default();
        table.put(&manifest.key(), &serde_dynamo::to_item(&manifest).unwrap());
        vec![Converting {
            table,
            staged: BTreeSet::new(),
            visible: None,
            is_lost: false,
            lease: None,
            workers: [Worker::Idle, Worker::Idle],
            late: None,
            budget: (1, 2, 1, 1),
        }]
    }

    fn actions(&self, state: &Converting, actions: &mut Vec<WorkerAction>) {
        for (at, worker) in state.workers.iter().enumerate() {
            if *worker == Worker::Idle {
                let is_alive = |held: u8| state.workers.iter().any(|w| Converting::token_of(w) == Some(held));
                let may_take = state.lease.is_none_or(|held| !is_alive(held) || state.budget.1 > 0);
                if may_take && matches!(state.manifest().status, ManifestState::Pending | ManifestState::Processing) {
                    actions.push(WorkerAction::Step(at));
                }
                continue;
            }
            actions.push(WorkerAction::Step(at));
            if state.budget.0 > 0 {
                actions.push(WorkerAction::Die(at));
            }
            if matches!(worker, Worker::Record(..)) && state.budget.2 > 0 && state.late.is_none() {
                actions.push(WorkerAction::RecordLate(at));
            }
            if matches!(worker, Worker::Convert(..)) && state.budget.3 > 0 {
                actions.push(WorkerAction::FailToConvert(at));
            }
        }
        if state.late.is_some() {
            actions.push(WorkerAction::Land);
        }
    }

    fn next_state(&self, state: &Converting, action: WorkerAction) -> Option<Converting> {
        let mut next = state.clone();
        match action {
            WorkerAction::Step(at) => next.step(at),
            WorkerAction::Die(at) => {
                next.budget.0 -= 1;
                next.workers[at] = Worker::Idle;
            }
            WorkerAction::RecordLate(at) => {
                let Worker::Record(token, manifest) = next.workers[at].clone() else { return None };
                next.budget.2 -= 1;
                next.late = Some((token, manifest));
                // It doesn't know, so it drops nothing and leaves the rest to whoever has the lease next.
                next.workers[at] = Worker::GiveBack(token);
            }
            WorkerAction::FailToConvert(at) => {
                let Worker::Convert(token, manifest) = next.workers[at].clone() else { return None };
                next.budget.3 -= 1;
                next.workers[at] = Worker::Fail(token, manifest);
            }
            WorkerAction::Land => {
                let (token, manifest) = next.late.take()?;
                next.write(&record(token, &manifest));
            }
        }
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::<Self>::always("I7 what is visible is what was recorded", |_, state| {
                let recorded = state.manifest().commit.as_ref().map(|commit| commit.token.clone());
                state.visible.is_none_or(|token| recorded == Some(token.to_string()))
            }),
            Property::<Self>::always(
                "I1 a completed manifest's output is visible, and a recorded one is never lost",
                |_, state| {
                    !state.is_lost && (state.manifest().status != ManifestState::Completed || state.visible.is_some())
                },
            ),
            Property::<Self>::always("I4 a recorded commit is completed, whatever happens", |_, state| {
                let manifest = state.manifest();
                manifest.commit.is_none()
                    || matches!(manifest.status, ManifestState::Processing | ManifestState::Completed)
            }),
            Property::<Self>::always("I4 when nothing is left to do, the manifest is final", |model, state| {
                let mut actions = Vec::new();
                model.actions(state, &mut actions);
                !actions.is_empty()
                    || matches!(state.manifest().status, ManifestState::Completed | ManifestState::Failed)
            }),
            Property::<Self>::sometimes("somebody completes another's commit", |_, state| {
                let manifest = state.manifest();
                manifest.status == ManifestState::Completed
                    && manifest.commit.as_ref().is_some_and(|commit| Some(&commit.token) != manifest.token.as_ref())
            }),
            Property::<Self>::sometimes("it is given up", |_, state| state.manifest().status == ManifestState::Failed),
        ]
    }
}

/// How long a model is checked unless `PENSTOCK_MODELS=all` asks for all of it.
const LIMIT: Duration = Duration::from_secs(25);

/// Checks a model: to its end, or as far as the time goes.
fn check<M>(what: &str, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + PartialEq + Hash + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + Send + Sync + 'static,
{
    let is_whole = std::env::var("PENSTOCK_MODELS").is_ok_and(|models| models == "all");
    let properties = model.properties();
    let began = Instant::now();
    let builder = model.checker().threads(2);
    let checker = if is_whole { builder } else { builder.timeout(LIMIT) }.spawn_bfs().join();
    let is_done = is_whole || began.elapsed() < LIMIT;
    let states = checker.unique_state_count();
    println!("{what}: {states} states, {}", if is_done { "all of them" } else { "as far as time allowed" });
    let found = checker.discoveries();
    for property in properties {
        match property.expectation {
            Expectation::Sometimes => {
                assert!(!is_done || found.contains_key(property.name), "never: {}", property.name)
            }
            _ => assert!(!found.contains_key(property.name), "{}: {:?}", property.name, found[property.name]),
        }
    }
    assert!(states > 1000, "only {states} states");
}

#[test]
fn i1_i2_every_interleaving_of_two_folds_and_the_sweep() {
    check("the protocol of manifests", FoldModel);
}

#[test]
fn i1_i4_i7_every_interleaving_of_two_workers() {
    check("the protocol of outputs", WorkerModel);
}
