//! How a manifest comes to be: two folds (one of them may as well be the sweep, which resumes what was left), the sweep of
//! stray claims, and three files.
//!
//! In a run one process may die, leases may be taken away twice from who goes on, as a zombie, and one write may be answered
//! with an error and land later or never; each between any two steps. Any number of manifests may be begun.

use penstock_engine::cloud::{
    Item,
    table::{Key, Write},
};
use penstock_operators::{
    fold::writes,
    model::{Candidate, FileItem, FileState, FlushReason, ManifestItem, ManifestState, read_item, shard_of},
};
use stateright::{Model, Property};

use super::{DATE, Known, NONE, Tamper, after, by_status_alone, check, finds, now, unused, without_condition};

const FILES: usize = 3;
const FOLDS: usize = 2;
/// Manifests that somebody or something refers to, at the same time.
const SLOTS: usize = 5;
/// The file that stands for each in what is written: they differ in nothing but their name.
const FILE: &str = "a";

/// Where a file stands, by its item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum At {
    Pending,
    /// It is claimed for the manifest with this number.
    Claimed(u8),
    /// It is in a committed manifest that nobody refers to any more.
    Done,
}

/// A file: its item, and what others know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct File {
    at: At,
    /// The manifests whose candidate it is, and those whose JSON lists it: a bit for each.
    candidate: u8,
    listed: u8,
    /// For each fold, whether it is still to be claimed or released, and whether it was claimed.
    todo: [bool; FOLDS],
    claimed: [bool; FOLDS],
    /// Whether the late write, and the sweep's next one, are of it.
    late: bool,
    stray: bool,
}

const FRESH: File = File {
    at: At::Pending,
    candidate: 0,
    listed: 0,
    todo: [false; FOLDS],
    claimed: [false; FOLDS],
    late: false,
    stray: false,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Manifest {
    status: ManifestState,
    token: u8,
    has_json: bool,
}

/// What a fold does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Step {
    /// Look for work.
    Idle,
    /// Take the lease of the date, then assemble what it has to do, or resume what it has seen.
    Take {
        resumes: bool,
    },
    Assemble,
    Resume,
    ReadJson,
    /// Claims what it has to do. Whether there was a claim of which it doesn't know.
    Claim {
        unsure: bool,
    },
    CreateJson,
    Release,
    Commit,
    /// Nothing was claimed: looks for a JSON once more, which a zombie may have written.
    CheckJson,
    Abandon,
    GiveBack,
}

/// A fold, or the late write of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Fold {
    step: Step,
    token: u8,
    /// The manifest that it works on, and the token that this had when it was seen.
    manifest: u8,
    seen: u8,
}

const IDLE: Fold = Fold { step: Step::Idle, token: NONE, manifest: NONE, seen: NONE };

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct State {
    files: [File; FILES],
    /// By their numbers, which begin at 1.
    manifests: [Option<Manifest>; SLOTS],
    lease: u8,
    folds: [Fold; FOLDS],
    /// A write that was answered with an error, and may still land.
    late: Option<Fold>,
    /// The manifest of the stray claim that the sweep is about to release.
    stray: u8,
    /// Deaths, thefts from the living, and late writes that may still happen.
    left: [u8; 3],
    /// What happened that never may.
    broken: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Action {
    /// A fold's next step, on this file where it is about one.
    Step(usize, usize),
    /// An idle fold finds pending files, or this manifest that is still assembling.
    FindFiles(usize),
    FindManifest(usize, u8),
    /// A write is answered with an error.
    Late(usize, usize),
    Land,
    Die(usize),
    /// The sweep finds a stray claim, and releases it.
    Look(usize),
    Sweep,
}

/// A write, and what it is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Asked {
    Claim(u8, At),
    Release(u8, At),
    Resume { seen: u8, token: u8, item: (ManifestState, u8) },
    Commit { token: u8, item: (ManifestState, u8) },
    Abandon { token: u8, item: (ManifestState, u8) },
    Assemble(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Refused,
    File(At),
    Manifest(ManifestState, u8),
}

/// The model, right or with a bug.
struct Manifests {
    tamper: Tamper,
    overwrites_json: bool,
    lists_before_claiming: bool,
    known: Known<Asked, Answer>,
}

fn path(manifest: u8) -> String {
    format!("s3://m/m{manifest}.json")
}

fn file_item(at: At) -> Item {
    let state = if at == At::Pending { FileState::Pending } else { FileState::Manifested };
    let manifest_path = match at {
        At::Pending => None,
        At::Claimed(manifest) => Some(path(manifest)),
        At::Done => Some("s3://m/done.json".to_owned()),
    };
    // Each time that it becomes pending it does so in the same millisecond, so that what is seen of one time fits another.
    let file: FileItem = serde_json::from_value(serde_json::json!({
        "date_prefix": DATE, "file_key": FILE, "status": state.status(shard_of(FILE)), "file_path": "s3://b/a",
        "etag": "e", "pending_since": "2026-02-02T02:40:00.000Z", "manifest_path": manifest_path,
    }))
    .unwrap();
    serde_dynamo::to_item(file).unwrap()
}

fn file_of(item: &Item) -> At {
    let file: FileItem = read_item("file", item).unwrap();
    match (file.state().unwrap(), file.manifest_path) {
        (FileState::Pending, _) => At::Pending,
        (FileState::Manifested, Some(found)) => {
            (1..=SLOTS as u8).find(|manifest| path(*manifest) == found).map_or(At::Done, At::Claimed)
        }
        other => panic!("a file is {other:?}"),
    }
}

fn manifest(number: u8, (status, token): (ManifestState, u8)) -> ManifestItem {
    serde_json::from_value(serde_json::json!({
        "date_prefix": DATE, "file_key": format!("MANIFEST#m{number}.json"), "status": status, "schema_version": 1,
        "manifest_path": path(number), "created_at": "t", "token": token.to_string(),
    }))
    .unwrap()
}

impl Manifests {
    fn right() -> Self {
        Self { tamper: |_, write| write, overwrites_json: false, lists_before_claiming: false, known: Known::new() }
    }

    /// What the pipeline's own write, or what a bug makes of it, does.
    fn ask(&self, asked: Asked) -> Answer {
        self.known.get(asked, || {
            let (name, write, before): (_, Write, Item) = match asked {
                Asked::Claim(number, at) => {
                    let item = manifest(number, (ManifestState::Assembling, NONE));
                    let pending: FileItem = read_item("file", &file_item(At::Pending)).unwrap();
                    ("claim", writes::claim(&item, &Candidate::from(&pending), "t"), file_item(at))
                }
                Asked::Release(number, at) => {
                    ("release", writes::release(&Key::new(DATE, FILE), &path(number), now()), file_item(at))
                }
                Asked::Resume { seen, token, item } => {
                    let write = writes::resume(&manifest(1, (item.0, seen)), &token.to_string(), now());
                    ("resume", write, serde_dynamo::to_item(manifest(1, item)).unwrap())
                }
                Asked::Commit { token, item } => {
                    let write = writes::commit(&manifest(1, item), &token.to_string(), (1, 3), "e", now());
                    ("commit", write, serde_dynamo::to_item(manifest(1, item)).unwrap())
                }
                Asked::Abandon { token, item } => {
                    let ttl = chrono::TimeDelta::days(30);
                    let write = writes::abandon(&manifest(1, item), &token.to_string(), ttl, now());
                    ("abandon", write, serde_dynamo::to_item(manifest(1, item)).unwrap())
                }
                Asked::Assemble(token) => {
                    let (reason, token) = (FlushReason::Files, token.to_string());
                    let write = writes::assemble((DATE, "m1"), &path(1), reason, &[], &token, now()).unwrap();
                    ("assemble", write, Item::default())
                }
            };
            let Some(item) = after(&(self.tamper)(name, write), &before) else { return Answer::Refused };
            if matches!(asked, Asked::Claim(..) | Asked::Release(..)) {
                return Answer::File(file_of(&item));
            }
            let item: ManifestItem = read_item("manifest", &item).unwrap();
            Answer::Manifest(item.status, item.token.unwrap().parse().unwrap())
        })
    }
}

impl State {
    fn manifest(&self, number: u8) -> Option<&Manifest> {
        self.manifests.get(usize::from(number).wrapping_sub(1))?.as_ref()
    }

    fn numbers(&self) -> impl Iterator<Item = u8> + '_ {
        (1..=SLOTS as u8).filter(|number| self.manifest(*number).is_some())
    }

    fn fold(&self, at: usize) -> Fold {
        self.folds[at]
    }

    /// Whether somebody who is alive has the lease.
    fn holder_is_alive(&self) -> bool {
        self.lease != NONE && self.folds.iter().any(|fold| fold.token == self.lease)
    }

    /// A write of the item of the manifest that a fold works on. Whether it is taken.
    fn write_manifest(&mut self, model: &Manifests, by: Fold) -> bool {
        let Some(manifest) = self.manifest(by.manifest).copied() else { return false };
        let item = (manifest.status, manifest.token);
        let (asked, is_mine) = match by.step {
            Step::Resume => (Asked::Resume { seen: by.seen, token: by.token, item }, manifest.token == by.seen),
            Step::Commit => (Asked::Commit { token: by.token, item }, manifest.token == by.token),
            Step::Abandon => (Asked::Abandon { token: by.token, item }, manifest.token == by.token),
            _ => return false,
        };
        let Answer::Manifest(status, token) = model.ask(asked) else { return false };
        if !is_mine {
            self.broken = Some("I7: a manifest was written to by who had lost its token");
        }
        self.manifests[usize::from(by.manifest) - 1] = Some(Manifest { status, token, ..manifest });
        true
    }

    fn claims(&mut self, model: &Manifests, manifest: u8, file: usize) -> bool {
        let Answer::File(at) = model.ask(Asked::Claim(manifest, self.files[file].at)) else {
            return self.files[file].at == At::Claimed(manifest);
        };
        self.move_file(file, at);
        true
    }

    fn move_file(&mut self, file: usize, at: At) {
        if self.files[file].at == At::Done {
            self.broken = Some("I1: a file left its committed manifest");
        }
        self.files[file].at = at;
    }

    fn release(&mut self, model: &Manifests, manifest: u8, file: usize) {
        if let Answer::File(at) = model.ask(Asked::Release(manifest, self.files[file].at)) {
            self.move_file(file, at);
        }
    }

    /// A manifest begins, with these files as candidates. Its number.
    fn assemble(&mut self, model: &Manifests, token: u8, is_candidate: impl Fn(&File) -> bool) -> u8 {
        let slot = self.manifests.iter().position(Option::is_none).expect("more manifests than slots");
        let Answer::Manifest(status, token) = model.ask(Asked::Assemble(token)) else { panic!("not assembled") };
        self.manifests[slot] = Some(Manifest { status, token, has_json: false });
        for file in &mut self.files {
            if is_candidate(file) {
                file.candidate |= 1 << slot;
            }
        }
        slot as u8 + 1
    }

    fn create_json(&mut self, model: &Manifests, manifest: u8, is_listed: impl Fn(&File) -> bool) {
        let Some(item) = &mut self.manifests[usize::from(manifest) - 1] else { return };
        if item.has_json && !model.overwrites_json {
            return;
        }
        item.has_json = true;
        let bit = 1 << (manifest - 1);
        for file in &mut self.files {
            file.listed = if is_listed(file) { file.listed | bit } else { file.listed & !bit };
        }
    }

    /// A step of a fold: what it does next.
    fn step(&mut self, model: &Manifests, at: usize, file: usize) {
        let fold = self.fold(at);
        let bit = 1_u8.checked_shl(u32::from(fold.manifest).wrapping_sub(1)).unwrap_or_default();
        let next = match fold.step {
            Step::Idle => return,
            Step::Take { resumes } => {
                if self.holder_is_alive() {
                    self.left[1] -= 1;
                }
                let shown = self.manifests.iter().flatten().map(|manifest| manifest.token);
                let held = self.folds.iter().chain(&self.late).flat_map(|fold| [fold.token, fold.seen]);
                let token = unused(shown.chain(held).chain([self.lease]));
                self.lease = token;
                let step = if resumes { Step::Resume } else { Step::Assemble };
                self.folds[at] = Fold { step, token, ..fold };
                return;
            }
            Step::Assemble => {
                let manifest = self.assemble(model, fold.token, |file| file.todo[at]);
                self.folds[at] = Fold { step: Step::ReadJson, manifest, ..fold };
                return;
            }
            Step::Resume => match self.write_manifest(model, fold) {
                true => {
                    self.files.iter_mut().for_each(|file| file.todo[at] = file.candidate & bit != 0);
                    Step::ReadJson
                }
                false => Step::GiveBack,
            },
            Step::ReadJson if self.manifest(fold.manifest).is_some_and(|manifest| manifest.has_json) => {
                self.files.iter_mut().for_each(|file| file.todo[at] &= file.listed & bit == 0);
                Step::Release
            }
            Step::ReadJson if model.lists_before_claiming => {
                self.create_json(model, fold.manifest, |file| file.todo[at]);
                Step::Claim { unsure: false }
            }
            Step::ReadJson => Step::Claim { unsure: false },
            Step::Claim { .. } => {
                self.files[file].todo[at] = false;
                self.files[file].claimed[at] = self.claims(model, fold.manifest, file);
                fold.step
            }
            Step::CreateJson => {
                self.create_json(model, fold.manifest, |file| file.claimed[at]);
                self.files.iter_mut().for_each(|file| file.todo[at] = file.claimed[at] && file.listed & bit == 0);
                Step::Release
            }
            Step::Release => {
                self.files[file].todo[at] = false;
                self.release(model, fold.manifest, file);
                Step::Release
            }
            Step::CheckJson if self.manifest(fold.manifest).is_some_and(|manifest| manifest.has_json) => Step::GiveBack,
            Step::CheckJson => Step::Abandon,
            Step::Commit | Step::Abandon => {
                self.write_manifest(model, fold);
                Step::GiveBack
            }
            Step::GiveBack => {
                if self.lease == fold.token {
                    self.lease = NONE;
                }
                Step::Idle
            }
        };
        self.folds[at].step = next;
    }

    /// The write of a step is answered with an error: it is on its late way, and the fold lets all else be.
    fn be_late(&mut self, at: usize, file: usize) {
        self.left[2] -= 1;
        let fold = self.fold(at);
        self.late = Some(fold);
        for (number, column) in self.files.iter_mut().enumerate() {
            column.late = match fold.step {
                Step::Assemble => column.todo[at],
                Step::CreateJson => column.claimed[at],
                Step::Claim { .. } | Step::Release => number == file,
                _ => false,
            };
        }
        // Only a claim can be done without.
        self.folds[at].step = match fold.step {
            Step::Claim { .. } => {
                self.files[file].todo[at] = false;
                Step::Claim { unsure: true }
            }
            _ => Step::GiveBack,
        };
    }

    fn land(&mut self, model: &Manifests) {
        let Some(late) = self.late.take() else { return };
        let of = self.files.iter().position(|file| file.late).unwrap_or_default();
        match late.step {
            Step::Assemble => {
                self.assemble(model, late.token, |file| file.late);
            }
            Step::Claim { .. } => {
                self.claims(model, late.manifest, of);
            }
            Step::CreateJson => self.create_json(model, late.manifest, |file| file.late),
            Step::Release => self.release(model, late.manifest, of),
            _ => {
                self.write_manifest(model, late);
            }
        }
    }

    /// The manifest for which the sweep takes a file to be a stray (`Sweeper::belonging`).
    fn stray_of(&self, file: &File) -> Option<u8> {
        let At::Claimed(number) = file.at else { return None };
        let Some(manifest) = self.manifest(number) else { return Some(number) };
        let is_unlisted = manifest.has_json && file.listed & 1 << (number - 1) == 0;
        (manifest.status == ManifestState::Abandoned || is_unlisted).then_some(number)
    }

    /// Takes at once what touches nothing that others see.
    fn advance(&mut self, model: &Manifests, at: usize) {
        loop {
            let fold = self.fold(at);
            let is_working = fold.step != Step::Idle && fold.step != Step::GiveBack;
            for file in &mut self.files {
                // Nobody claims or releases what is done.
                if file.at == At::Done && matches!(fold.step, Step::Claim { .. } | Step::Release) {
                    let asked = match fold.step {
                        Step::Claim { .. } => Asked::Claim(fold.manifest, At::Done),
                        _ => Asked::Release(fold.manifest, At::Done),
                    };
                    file.todo[at] &= model.ask(asked) != Answer::Refused;
                }
                // Who lists, or claims on, has no use for what it knew before.
                if !is_working {
                    (file.todo[at], file.claimed[at]) = (false, false);
                }
                if !matches!(fold.step, Step::Claim { .. } | Step::CreateJson) {
                    file.claimed[at] = false;
                }
            }
            let has_more = self.files.iter().any(|file| file.todo[at]);
            let step = match fold.step {
                Step::Claim { .. } if has_more => break,
                Step::Claim { .. } if self.files.iter().any(|file| file.claimed[at]) => Step::CreateJson,
                Step::Claim { unsure: true } => Step::GiveBack,
                Step::Claim { unsure: false } => Step::CheckJson,
                Step::Release if !has_more => Step::Commit,
                Step::Take { resumes: true } if self.is_refused(model, fold) => Step::Idle,
                Step::Resume | Step::Commit | Step::Abandon if self.is_refused(model, fold) => Step::GiveBack,
                Step::GiveBack if self.lease != fold.token => Step::Idle,
                _ => break,
            };
            // Once all is listed, the rest that was to be done is a zombie's.
            self.folds[at].step = step;
        }
        let fold = self.fold(at);
        self.folds[at] = match fold.step {
            Step::Idle => IDLE,
            Step::Take { resumes: true } | Step::Resume => fold,
            Step::Take { resumes: false } => Fold { step: fold.step, ..IDLE },
            Step::GiveBack => Fold { step: fold.step, token: fold.token, ..IDLE },
            _ => Fold { seen: NONE, ..fold },
        };
    }

    /// Whether the write of a manifest's item is refused, now and for ever: tokens never come back.
    fn is_refused(&self, model: &Manifests, by: Fold) -> bool {
        let step = if by.step == (Step::Take { resumes: true }) { Step::Resume } else { by.step };
        let mut tried = *self;
        !tried.write_manifest(model, Fold { step, token: by.token, ..by })
    }

    /// Whether the late write may still make a difference.
    fn may_land(&self, model: &Manifests) -> bool {
        let Some(late) = self.late else { return false };
        let of = self.files.iter().find(|file| file.late);
        match late.step {
            Step::Assemble => true,
            Step::CreateJson => {
                model.overwrites_json || self.manifest(late.manifest).is_some_and(|manifest| !manifest.has_json)
            }
            Step::Claim { .. } => of.is_some_and(|file| {
                file.at != At::Done || model.ask(Asked::Claim(late.manifest, At::Done)) != Answer::Refused
            }),
            Step::Release => of.is_some_and(|file| {
                file.at != At::Done || model.ask(Asked::Release(late.manifest, At::Done)) != Answer::Refused
            }),
            _ => !self.is_refused(model, late),
        }
    }

    /// Forgets what makes no difference.
    fn forget(&mut self, model: &Manifests) {
        (0..FOLDS).for_each(|at| self.advance(model, at));
        if !self.may_land(model) {
            self.late = None;
            self.files.iter_mut().for_each(|file| file.late = false);
        }
        for number in 1..=SLOTS as u8 {
            let (slot, bit) = (usize::from(number) - 1, 1_u8 << (number - 1));
            let Some(manifest) = self.manifests[slot] else { continue };
            if manifest.status == ManifestState::Assembling {
                continue;
            }
            // Only who assembles it asks for its token or its candidates.
            self.manifests[slot] = Some(Manifest { token: NONE, ..manifest });
            self.files.iter_mut().for_each(|file| file.candidate &= !bit);
            let is_known = self.folds.iter().chain(&self.late).any(|fold| fold.manifest == number);
            let is_claimed = |file: &File| file.at == At::Claimed(number);
            let is_listed = |file: &File| file.listed & bit != 0;
            let is_over = match manifest.status {
                ManifestState::Abandoned => !self.files.iter().any(is_claimed),
                // Whoever is claimed for it is listed, and the other way round.
                _ => self.files.iter().all(|file| is_claimed(file) == is_listed(file)),
            };
            if is_known || self.stray == number || !is_over {
                continue;
            }
            self.manifests[slot] = None;
            for file in &mut self.files {
                if is_claimed(file) {
                    file.at = At::Done;
                }
                file.listed &= !bit;
            }
        }
    }

    /// The same state as every other one that can't be told from it by what may happen.
    fn canonical(mut self, model: &Manifests) -> Self {
        // What one forgets may be what kept another from it.
        loop {
            let before = self;
            self.forget(model);
            if self == before {
                break;
            }
        }
        let mut swapped = self;
        swapped.folds.reverse();
        for file in &mut swapped.files {
            file.todo.reverse();
            file.claimed.reverse();
        }
        let (one, other) = (self.renamed(), swapped.renamed());
        if one.order() <= other.order() { one } else { other }
    }

    fn order(&self) -> impl Ord + use<> {
        (self.folds, self.manifests, self.lease, self.files, self.late)
    }

    /// Manifests and tokens by where they first stand; files in the order of what is true of them.
    fn renamed(mut self) -> Self {
        let mut numbers = [NONE; SLOTS + 1];
        let mut next = NONE;
        let known = self.folds.map(|fold| fold.manifest);
        let late = self.late.map_or(NONE, |late| late.manifest);
        for number in known.into_iter().chain([late, self.stray]).chain(1..=SLOTS as u8) {
            if number != NONE && self.manifest(number).is_some() && numbers[usize::from(number)] == NONE {
                next += 1;
                numbers[usize::from(number)] = next;
            }
        }
        let number = |old: u8| numbers[usize::from(old)];
        let mut manifests = [None; SLOTS];
        for old in 1..=SLOTS as u8 {
            if number(old) != NONE {
                manifests[usize::from(number(old)) - 1] = self.manifests[usize::from(old) - 1];
            }
        }
        self.manifests = manifests;
        let bits = |old: u8| {
            (1..=SLOTS as u8)
                .filter(|slot| old & 1 << (slot - 1) != 0 && number(*slot) != NONE)
                .fold(0, |bits, slot| bits | 1 << (number(slot) - 1))
        };
        for file in &mut self.files {
            (file.candidate, file.listed) = (bits(file.candidate), bits(file.listed));
            if let At::Claimed(old) = file.at {
                file.at = At::Claimed(number(old));
            }
        }
        self.stray = number(self.stray);
        let mut tokens = [NONE; 64];
        let mut next = NONE;
        let mut token = |old: &mut u8| {
            if *old != NONE && tokens[usize::from(*old)] == NONE {
                next += 1;
                tokens[usize::from(*old)] = next;
            }
            *old = tokens[usize::from(*old)];
        };
        for fold in self.folds.iter_mut().chain(&mut self.late) {
            token(&mut fold.token);
            token(&mut fold.seen);
            fold.manifest = number(fold.manifest);
        }
        self.manifests.iter_mut().flatten().for_each(|manifest| token(&mut manifest.token));
        // A lease of the dead is a lease that may be taken.
        if !self.holder_is_alive_before(self.lease, &tokens) {
            self.lease = NONE;
        } else {
            self.lease = tokens[usize::from(self.lease)];
        }
        self.files.sort_unstable();
        self
    }

    fn holder_is_alive_before(&self, lease: u8, tokens: &[u8; 64]) -> bool {
        let renamed = tokens[usize::from(lease)];
        renamed != NONE && self.folds.iter().any(|fold| fold.token == renamed)
    }
}

impl Model for Manifests {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            files: [FRESH; FILES],
            manifests: [None; SLOTS],
            lease: NONE,
            folds: [IDLE; FOLDS],
            late: None,
            stray: NONE,
            left: [1, 2, 1],
            broken: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (at, fold) in state.folds.iter().enumerate() {
            match fold.step {
                Step::Idle => {
                    if state.files.iter().any(|file| file.at == At::Pending) {
                        actions.push(Action::FindFiles(at));
                    }
                    let is_left = |number: &u8| {
                        state.manifest(*number).is_some_and(|manifest| manifest.status == ManifestState::Assembling)
                    };
                    actions.extend(state.numbers().filter(is_left).map(|number| Action::FindManifest(at, number)));
                    continue;
                }
                Step::Take { .. } => {
                    if !state.holder_is_alive() || state.left[1] > 0 {
                        actions.push(Action::Step(at, 0));
                    }
                    continue;
                }
                Step::Claim { .. } | Step::Release => {
                    for file in (0..FILES).filter(|file| state.files[*file].todo[at]) {
                        actions.push(Action::Step(at, file));
                        if state.left[2] > 0 {
                            actions.push(Action::Late(at, file));
                        }
                    }
                }
                _ => {
                    actions.push(Action::Step(at, 0));
                    let is_write = !matches!(fold.step, Step::ReadJson | Step::CheckJson | Step::GiveBack);
                    if is_write && state.left[2] > 0 {
                        actions.push(Action::Late(at, 0));
                    }
                }
            }
            if state.left[0] > 0 {
                actions.push(Action::Die(at));
            }
        }
        if state.late.is_some() {
            actions.push(Action::Land);
        }
        if state.stray != NONE {
            actions.push(Action::Sweep);
        } else {
            let strays = (0..FILES).filter(|file| state.stray_of(&state.files[*file]).is_some());
            actions.extend(strays.map(Action::Look));
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = *state;
        match action {
            Action::Step(at, file) => next.step(self, at, file),
            Action::FindFiles(at) => {
                next.files.iter_mut().for_each(|file| file.todo[at] = file.at == At::Pending);
                next.folds[at] = Fold { step: Step::Take { resumes: false }, ..IDLE };
            }
            Action::FindManifest(at, number) => {
                let seen = next.manifest(number)?.token;
                next.folds[at] = Fold { step: Step::Take { resumes: true }, manifest: number, seen, ..IDLE };
            }
            Action::Late(at, file) => next.be_late(at, file),
            Action::Land => {
                next.land(self);
                next.files.iter_mut().for_each(|file| file.late = false);
            }
            Action::Die(at) => {
                next.left[0] -= 1;
                next.folds[at] = IDLE;
            }
            Action::Look(file) => {
                next.stray = next.stray_of(&next.files[file])?;
                next.files[file].stray = true;
            }
            Action::Sweep => {
                let file = next.files.iter().position(|file| file.stray)?;
                next.release(self, next.stray, file);
                next.files[file].stray = false;
                next.stray = NONE;
            }
        }
        let next = next.canonical(self);
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::<Self>::always(
                "I2 what a committed manifest lists is claimed for it, and for nobody else",
                |_, state| {
                    let is_committed = |number: &u8| {
                        state.manifest(*number).is_some_and(|manifest| manifest.status == ManifestState::Pending)
                    };
                    state.numbers().filter(is_committed).all(|number| {
                        let mut listed = state.files.iter().filter(|file| file.listed & 1 << (number - 1) != 0);
                        listed.all(|file| file.at == At::Claimed(number))
                    })
                },
            ),
            Property::<Self>::always(
                "I1 I7 only who holds the token commits or abandons, and no file leaves a committed manifest",
                |_, state| state.broken.is_none(),
            ),
            Property::<Self>::always(
                "I1 I8 when nothing is left to do, every file is in a committed manifest",
                |model, state| {
                    let mut actions = Vec::new();
                    model.actions(state, &mut actions);
                    !actions.is_empty() || state.files.iter().all(|file| file.at == At::Done)
                },
            ),
            Property::<Self>::sometimes("a stray claim is swept", |_, state| state.stray != NONE),
            Property::<Self>::sometimes("a manifest is abandoned", |_, state| {
                state.manifests.iter().flatten().any(|manifest| manifest.status == ManifestState::Abandoned)
            }),
            Property::<Self>::sometimes("a zombie finds a JSON that is another's", |_, state| {
                state.folds.iter().any(|fold| {
                    let other = state.manifest(fold.manifest);
                    fold.step == Step::CreateJson
                        && other.is_some_and(|manifest| manifest.has_json && manifest.token != fold.token)
                })
            }),
            Property::<Self>::sometimes("all is done", |_, state| state.files.iter().all(|file| file.at == At::Done)),
        ]
    }
}

#[test]
fn i1_i2_i7_every_interleaving_of_two_folds_and_the_sweep() {
    check("manifests", Manifests::right());
}

#[test]
fn the_model_finds_a_json_that_is_overwritten() {
    finds("a JSON is overwritten", Manifests { overwrites_json: true, ..Manifests::right() }, "I2");
}

#[test]
fn the_model_finds_a_json_that_is_written_before_the_claims() {
    finds("a JSON is written first", Manifests { lists_before_claiming: true, ..Manifests::right() }, "I2");
}

#[test]
fn the_model_finds_an_unconditional_release() {
    let tamper: Tamper = |name, write| if name == "release" { without_condition(write) } else { write };
    finds("a release depends on nothing", Manifests { tamper, ..Manifests::right() }, "no file leaves");
}

#[test]
fn the_model_finds_a_claim_of_what_is_claimed_already() {
    let tamper: Tamper = |name, write| if name == "claim" { without_condition(write) } else { write };
    finds("a claim depends on nothing", Manifests { tamper, ..Manifests::right() }, "I2");
}

#[test]
fn the_model_finds_a_commit_without_the_token() {
    let tamper: Tamper = |name, write| if name == "commit" { by_status_alone("assembling", write) } else { write };
    finds("a commit names no token", Manifests { tamper, ..Manifests::right() }, "I7");
}

#[test]
fn the_model_finds_an_abandonment_without_the_token() {
    let tamper: Tamper = |name, write| if name == "abandon" { by_status_alone("assembling", write) } else { write };
    finds("an abandonment names no token", Manifests { tamper, ..Manifests::right() }, "I7");
}
