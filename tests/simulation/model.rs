//! The two protocols as models, checked in every interleaving: two folds and the sweep on three files, two workers on a
//! manifest; any of them may die, fall asleep and wake up as a zombie, or have a write land late, between any two steps.
//!
//! The steps are the model's; what is decided and written is the pipeline's own pure code.

use std::collections::{BTreeMap, BTreeSet};

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
use stateright::{Checker, Model, Property};

const DATE: &str = "2026-02-01";
const FILES: [&str; 3] = ["a", "b", "c"];
/// Manifests that may be begun, so that the model is finite.
const MANIFESTS: u8 = 3;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_770_000_000, 0).unwrap()
}

/// A table whose items can be compared and hashed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
struct Table(BTreeMap<(String, String), String>);

impl Table {
    fn get(&self, key: &Key) -> Option<Item> {
        self.0.get(&(key.partition.clone(), key.sort.clone())).map(|text| serde_json::from_str(text).unwrap())
    }

    /// Carries a write out; whether it was, and the item as it is then.
    fn write(&mut self, write: &Write) -> (bool, Option<Item>) {
        let names = KeyNames { partition: "date_prefix".to_owned(), sort: "file_key".to_owned() };
        let before = self.get(&write.key);
        if !write.condition.holds(before.as_ref()) {
            // A refusal by one's own earlier try is an application, as in `carry_out`.
            return (write.is_shown_by(before.as_ref()), before);
        }
        let after = write.apply(&names, before.as_ref());
        if let Some(item) = &after {
            self.put(&write.key, item);
        }
        (true, after)
    }

    fn put(&mut self, key: &Key, item: &Item) {
        let sorted: BTreeMap<_, _> = item.iter().collect();
        self.0.insert((key.partition.clone(), key.sort.clone()), serde_json::to_string(&sorted).unwrap());
    }

    fn file(&self, file: &str) -> FileItem {
        read_item("file", &self.get(&Key::new(DATE, file)).unwrap()).unwrap()
    }

    fn manifest(&self, id: u8) -> Option<ManifestItem> {
        let key = Key::new(DATE, format!("MANIFEST#m{id}.json"));
        self.get(&key).map(|item| read_item("manifest", &item).unwrap())
    }
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
    tokens: u8,
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
    fn holds(&self, token: u8) -> bool {
        self.lease == Some(token)
    }

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
                self.tokens += 1;
                if self.lease.is_some_and(|held| self.folds.iter().any(|fold| Self::token_of(fold) == Some(held))) {
                    self.budget.1 -= 1;
                }
                self.lease = Some(self.tokens);
                Fold::Begin(self.tokens)
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
                let Some(manifest) = self.table.manifest(id) else { return };
                match self.candidates(id).get(number).cloned() {
                    Some(candidate) => {
                        let (applied, item) = self.table.write(&writes::claim(&manifest, &candidate, "t"));
                        let item: Option<FileItem> = item.map(|item| read_item("file", &item).unwrap());
                        if item.is_some_and(|item| applied || is_member(&item, &manifest)) {
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
                if let Some(manifest) = self.table.manifest(id) {
                    self.table.write(&writes::commit(&manifest, &token.to_string(), size, "etag", now()));
                }
                Fold::GiveBack(token)
            }
            Fold::Abandon(token, id) => {
                // The JSON is looked for once more: a zombie may have written it.
                if let (Some(manifest), false) = (self.table.manifest(id), self.jsons.contains_key(&id)) {
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
        let known = manifest.and_then(|manifest| manifest.candidates);
        known.unwrap_or_else(|| FILES.iter().map(|file| Candidate::from(&fresh(file))).collect())
    }

    fn begin(&mut self, token: u8) -> Fold {
        if let Some(id) = self.assembling() {
            let Some(seen) = self.table.manifest(id) else { return Fold::GiveBack(token) };
            let (applied, _) = self.table.write(&writes::resume(&seen, &token.to_string(), now()));
            return if applied { Fold::ReadJson(token, id) } else { Fold::GiveBack(token) };
        }
        let pending = FILES.iter().map(|file| self.table.file(file));
        let candidates: Vec<Candidate> = pending
            .filter(|file| file.state() == Some(FileState::Pending))
            .map(|file| Candidate::from(&file))
            .collect();
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
            tokens: 0,
            manifests: 0,
            budget: (1, 2, 1),
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
                    .filter(|file| state.is_stray(&state.table.file(file)).is_some())
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
                if let Some(manifest) = next.table.manifest(id) {
                    next.table.write(&writes::claim(&manifest, &Candidate::from(&fresh(&file)), "t"));
                }
            }
            FoldAction::Look(file) => {
                let id = next.is_stray(&next.table.file(&file))?;
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
                            let path = state.table.file(file).manifest_path;
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

/// What a worker is about to do; it knows its token, and the manifest as it last saw it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Worker {
    Idle,
    Look(u8),
    Begin(u8, String),
    Convert(u8, String),
    Record(u8, String),
    TakeOver(u8, String),
    CompleteOutput(u8, String),
    Complete(u8, String),
    Abort(u8),
    Fail(u8, String),
    GiveUp(u8, String),
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
    late: Option<(u8, String)>,
    tokens: u8,
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

const LIMITS: Limits = Limits { max_attempts: 4, retry_wait: TimeDelta::zero() };

fn text_of(manifest: &ManifestItem) -> String {
    let value = serde_json::to_value(manifest).unwrap();
    serde_json::to_string(&value).unwrap()
}

fn manifest_of(text: &str) -> ManifestItem {
    serde_json::from_str(text).unwrap()
}

fn commit_of(token: u8) -> Commit {
    serde_json::from_value(serde_json::json!({
        "token": token.to_string(), "uploads": [], "report_key": format!("r{token}"),
        "rows": 3, "rejected_rows": 0, "failed_files": 0,
    }))
    .unwrap()
}

impl Converting {
    fn manifest(&self) -> ManifestItem {
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

    fn write(&mut self, write: &Write) -> Option<String> {
        let (applied, item) = self.table.write(write);
        let item = item.filter(|_| applied)?;
        Some(text_of(&read_item("manifest", &item).unwrap()))
    }

    fn step(&mut self, at: usize) {
        let after = |written: Option<String>, token: u8, then: fn(u8, String) -> Worker| match written {
            Some(manifest) => then(token, manifest),
            None => Worker::GiveBack(token),
        };
        self.workers[at] = match self.workers[at].clone() {
            Worker::Idle => {
                self.tokens += 1;
                if self.lease.is_some_and(|held| self.workers.iter().any(|w| Self::token_of(w) == Some(held))) {
                    self.budget.1 -= 1;
                }
                self.lease = Some(self.tokens);
                Worker::Look(self.tokens)
            }
            Worker::Look(token) => {
                let manifest = self.manifest();
                match protocol::next(&manifest, now(), LIMITS) {
                    Next::Nothing | Next::NotDue(_) => Worker::GiveBack(token),
                    Next::Begin => Worker::Begin(token, text_of(&manifest)),
                    Next::Complete => Worker::TakeOver(token, text_of(&manifest)),
                    Next::GiveUp => Worker::GiveUp(token, text_of(&manifest)),
                }
            }
            Worker::Begin(token, seen) => {
                let write = protocol::begin(&manifest_of(&seen), &token.to_string(), now());
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
                let write = protocol::take_over(&manifest_of(&seen), &token.to_string(), now()).unwrap();
                after(self.write(&write), token, Worker::CompleteOutput)
            }
            Worker::CompleteOutput(token, manifest) => {
                let upload: u8 = manifest_of(&manifest).commit.unwrap().token.parse().unwrap();
                if self.staged.remove(&upload) {
                    self.visible = Some(upload);
                }
                self.is_lost |= self.visible != Some(upload);
                Worker::Complete(token, manifest)
            }
            Worker::Complete(token, manifest) => {
                let manifest = manifest_of(&manifest);
                let commit = manifest.commit.clone().unwrap();
                let write = protocol::complete(&manifest, &commit, &["out".to_owned()], now()).unwrap();
                self.write(&write);
                Worker::GiveBack(token)
            }
            Worker::Fail(token, manifest) => {
                let manifest = manifest_of(&manifest);
                let then = protocol::after_failure(&manifest, now(), LIMITS);
                // Waits are the clock's business: here every retry is due at once.
                let then = if then == AfterFailure::Fail { then } else { AfterFailure::Retry(now()) };
                self.write(&protocol::fail(&manifest, &token.to_string(), then, "x", now()));
                Worker::GiveBack(token)
            }
            Worker::GiveUp(token, seen) => {
                self.write(&protocol::give_up(&manifest_of(&seen), now()));
                Worker::GiveBack(token)
            }
            Worker::GiveBack(token) => {
                self.lease = self.lease.filter(|held| *held != token);
                Worker::Idle
            }
        };
    }
}

fn record(token: u8, manifest: &str) -> Write {
    protocol::record(&manifest_of(manifest), &token.to_string(), &commit_of(token), now()).unwrap()
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
            tokens: 0,
            budget: (2, 2, 1, 1),
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
                let recorded = state.manifest().commit.map(|commit| commit.token);
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
                    && manifest.commit.is_some_and(|commit| Some(commit.token) != manifest.token)
            }),
            Property::<Self>::sometimes("it is given up", |_, state| state.manifest().status == ManifestState::Failed),
        ]
    }
}

#[test]
fn i1_i2_every_interleaving_of_two_folds_and_the_sweep() {
    let checker = FoldModel.checker().threads(2).spawn_bfs().join();
    println!("{} states of the manifest protocol", checker.unique_state_count());
    checker.assert_properties();
    assert!(checker.unique_state_count() > 10_000);
}

#[test]
fn i1_i4_i7_every_interleaving_of_two_workers() {
    let checker = WorkerModel.checker().threads(2).spawn_bfs().join();
    println!("{} states of the output protocol", checker.unique_state_count());
    checker.assert_properties();
    assert!(checker.unique_state_count() > 1_000);
}
