//! How a manifest becomes visible rows: two workers, their attempts and what they stage.
//!
//! In a run two workers may die, leases may be taken away twice from who goes on, as a zombie, and one write (or
//! the completion of an upload) may be answered with an error and land later or never; each between any two steps. One
//! attempt may fail, one may be handed back, and the staged bytes of one commit may vanish.

use chrono::TimeDelta;
use penstock_engine::cloud::table::{Condition, Write};
use penstock_operators::{
    attempt::protocol::{self, AfterFailure, Limits, Next},
    model::{Commit, ManifestItem, ManifestState, read_item},
};
use stateright::{Model, Property};

use super::{DATE, Known, NONE, Tamper, after, by_status_alone, check, finds, now, unused};

const WORKERS: usize = 2;
const LIMITS: Limits = Limits { max_attempts: 3, retry_wait: TimeDelta::zero() };

/// What the item of the manifest says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Manifest {
    status: ManifestState,
    token: u8,
    attempt: u32,
    handed_back: u32,
    /// The upload that is recorded, named by the token of the attempt that staged it; whether it was staged again.
    commit: Option<(u8, bool)>,
}

/// What a worker does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Step {
    /// Take the lease.
    Idle,
    Look,
    Begin,
    GiveUp,
    TakeOver,
    Convert,
    Record,
    Fail,
    HandBack,
    /// Drop what it staged: another has the manifest.
    Abort,
    CompleteOutput,
    StageAgain,
    RecordAgain,
    Complete,
    Lose,
    GiveBack,
}

/// A worker, or its late write: its token, and the manifest as it last saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Worker {
    step: Step,
    token: u8,
    seen: Option<Manifest>,
}

const IDLE: Worker = Worker { step: Step::Idle, token: NONE, seen: None };

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Left {
    deaths: u8,
    thefts: u8,
    late: u8,
    failures: u8,
    stops: u8,
    losses: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct State {
    manifest: Manifest,
    /// Uploads that are staged, by the token of their attempt: a bit for each.
    staged: u64,
    /// The upload that readers see.
    visible: u8,
    lease: u8,
    workers: [Worker; WORKERS],
    /// A write that was answered with an error, and may still land.
    late: Option<Worker>,
    left: Left,
    broken: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Action {
    Step(usize),
    /// The step's write is answered with an error.
    Late(usize),
    Land,
    Die(usize),
    /// The conversion fails, or is cancelled because the worker stops.
    FailToConvert(usize),
    Stop(usize),
    /// What was lost can't be made again.
    FailToStageAgain(usize),
    /// The staged bytes of the recorded commit vanish.
    Vanish,
}

/// The model, right or with a bug.
struct Outputs {
    tamper: Tamper,
    completes_before_recording: bool,
    aborts_while_unknown: bool,
    known: Known<(Step, u8, Manifest, Manifest), Option<Manifest>>,
}

fn commit((token, again): (u8, bool)) -> Commit {
    serde_json::from_value(serde_json::json!({
        "token": token.to_string(), "uploads": [], "report_key": format!("r{token}"), "rows": 3, "rejected_rows": 0,
        "failed_files": 0, "staged_again": u8::from(again),
    }))
    .unwrap()
}

impl Manifest {
    fn item(self) -> ManifestItem {
        serde_json::from_value(serde_json::json!({
            "date_prefix": DATE, "file_key": "MANIFEST#m.json", "status": self.status, "schema_version": 1,
            "manifest_path": "s3://m/m.json", "created_at": "t", "token": self.token.to_string(), "file_count": 3,
            "attempt": self.attempt, "handed_back": self.handed_back, "commit": self.commit.map(commit),
        }))
        .unwrap()
    }

    fn of(item: &ManifestItem) -> Self {
        Self {
            status: item.status,
            token: item.token.as_ref().unwrap().parse().unwrap(),
            attempt: item.attempt,
            handed_back: item.handed_back,
            commit: item.commit.as_ref().map(|commit| (commit.token.parse().unwrap(), commit.staged_again > 0)),
        }
    }

    fn is_final(self) -> bool {
        matches!(self.status, ManifestState::Completed | ManifestState::Failed)
    }
}

/// The write of a step.
fn write_of(step: Step, token: u8, seen: &ManifestItem) -> (&'static str, Write) {
    let text = token.to_string();
    match step {
        Step::Begin => ("begin", protocol::begin(seen, &text, now())),
        Step::GiveUp => ("give up", protocol::give_up(seen, now())),
        Step::TakeOver => ("take over", protocol::take_over(seen, &text, now()).unwrap()),
        Step::Record => ("record", protocol::record(seen, &text, &commit((token, false)), now()).unwrap()),
        Step::RecordAgain => {
            ("record again", protocol::record_again(seen, &text, &commit((token, true)), now()).unwrap())
        }
        Step::Fail => {
            // Waits are the clock's business: here every retry is due at once.
            let then = match protocol::after_failure(seen, now(), LIMITS) {
                AfterFailure::Fail => AfterFailure::Fail,
                AfterFailure::Retry(_) => AfterFailure::Retry(now()),
            };
            ("fail", protocol::fail(seen, &text, then, "x", now()))
        }
        Step::HandBack => ("hand back", protocol::hand_back(seen, &text, now())),
        Step::Complete => {
            let recorded = seen.commit.clone().unwrap();
            ("complete", protocol::complete(seen, &recorded, &["out".to_owned()], now()).unwrap())
        }
        Step::Lose => ("lose", protocol::commit_lost(seen, "commit_lost", now()).unwrap()),
        other => panic!("{other:?} writes no item"),
    }
}

impl Outputs {
    fn right() -> Self {
        Self {
            tamper: |_, write| write,
            completes_before_recording: false,
            aborts_while_unknown: false,
            known: Known::new(),
        }
    }

    fn ask(&self, by: Worker, manifest: Manifest) -> Option<Manifest> {
        let seen = by.seen?;
        self.known.get((by.step, by.token, seen, manifest), || {
            let (name, write) = write_of(by.step, by.token, &seen.item());
            let before = serde_dynamo::to_item(manifest.item()).unwrap();
            let item = after(&(self.tamper)(name, write), &before)?;
            Some(Manifest::of(&read_item("manifest", &item).unwrap()))
        })
    }
}

fn is_write(step: Step) -> bool {
    matches!(
        step,
        Step::Begin
            | Step::GiveUp
            | Step::TakeOver
            | Step::Record
            | Step::Fail
            | Step::HandBack
            | Step::RecordAgain
            | Step::Complete
            | Step::Lose
    )
}

impl State {
    fn holder_is_alive(&self) -> bool {
        self.lease != NONE && self.workers.iter().any(|worker| worker.token == self.lease)
    }

    /// Whether the write of a step is taken.
    fn write(&mut self, model: &Outputs, by: Worker) -> bool {
        let Some(after) = model.ask(by, self.manifest) else { return false };
        if matches!(by.step, Step::Begin | Step::GiveUp) && self.manifest.commit.is_some() {
            self.broken = Some("I4: an attempt was begun, or given up, although a commit is recorded");
        }
        let needs_token = matches!(by.step, Step::Record | Step::RecordAgain | Step::Fail | Step::HandBack);
        if needs_token && self.manifest.token != by.token {
            self.broken = Some("I7: an attempt was recorded or ended by who had lost its token");
        }
        self.manifest = after;
        true
    }

    /// Completes the upload of a commit; whether it is visible then.
    fn complete_output(&mut self, upload: u8) -> bool {
        if self.staged & 1 << upload != 0 {
            self.staged &= !(1 << upload);
            if self.visible != NONE {
                self.broken = Some("I1: what readers see was replaced");
            }
            self.visible = upload;
        }
        self.visible == upload
    }

    fn step(&mut self, model: &Outputs, at: usize) {
        let worker = self.workers[at];
        let (token, recorded) = (worker.token, worker.seen.and_then(|seen| seen.commit));
        let next = match worker.step {
            Step::Idle => {
                if self.holder_is_alive() {
                    self.left.thefts -= 1;
                }
                self.lease = unused(self.tokens());
                self.workers[at] = Worker { step: Step::Look, token: self.lease, seen: None };
                return;
            }
            Step::Look => {
                self.workers[at].seen = Some(self.manifest);
                match protocol::next(&self.manifest.item(), now(), LIMITS) {
                    Next::Nothing | Next::NotDue(_) => Step::GiveBack,
                    Next::Begin => Step::Begin,
                    Next::Complete => Step::TakeOver,
                    Next::GiveUp => Step::GiveUp,
                }
            }
            Step::Convert => {
                self.staged |= 1 << token;
                if model.completes_before_recording {
                    self.complete_output(token);
                }
                Step::Record
            }
            Step::Abort => {
                self.staged &= !(1 << token);
                Step::GiveBack
            }
            Step::CompleteOutput => match recorded {
                Some((upload, _)) if self.complete_output(upload) => Step::Complete,
                Some(_) => Step::StageAgain,
                None => Step::GiveBack,
            },
            Step::StageAgain => {
                self.staged |= 1 << token;
                Step::RecordAgain
            }
            Step::GiveBack => {
                if self.lease == token {
                    self.lease = NONE;
                }
                Step::Idle
            }
            write => {
                let is_taken = self.write(model, worker);
                if is_taken {
                    self.workers[at].seen = Some(self.manifest);
                }
                match write {
                    Step::Begin if is_taken => Step::Convert,
                    Step::TakeOver | Step::Record | Step::RecordAgain if is_taken => Step::CompleteOutput,
                    Step::Record | Step::RecordAgain => Step::Abort,
                    _ => Step::GiveBack,
                }
            }
        };
        self.workers[at].step = next;
    }

    fn tokens(&self) -> impl Iterator<Item = u8> + '_ {
        let of_manifest = |manifest: Manifest| [manifest.token, manifest.commit.map_or(NONE, |(upload, _)| upload)];
        let of_worker = move |worker: &Worker| {
            [worker.token].into_iter().chain(worker.seen.into_iter().flat_map(of_manifest)).collect::<Vec<_>>()
        };
        let known = self.workers.iter().chain(&self.late).flat_map(of_worker);
        let staged = (1..=63).filter(|token| self.staged & 1 << token != 0);
        known.chain(of_manifest(self.manifest)).chain([self.lease, self.visible]).chain(staged)
    }

    /// Takes at once what touches nothing that others see, and the writes that are refused whatever comes: their
    /// conditions name a token, a commit or a state that never comes back.
    fn advance(&mut self, model: &Outputs, at: usize) {
        loop {
            let worker = self.workers[at];
            let refused = |step: Step| model.ask(Worker { step, ..worker }, self.manifest).is_none();
            let step = match worker.step {
                Step::Convert
                    if refused(Step::Record)
                        && refused(Step::Fail)
                        && refused(Step::HandBack)
                        && !model.completes_before_recording =>
                {
                    Step::GiveBack
                }
                Step::StageAgain if refused(Step::RecordAgain) && refused(Step::Lose) => Step::GiveBack,
                Step::Record | Step::RecordAgain if refused(worker.step) => Step::Abort,
                Step::Abort => {
                    self.staged &= !(1 << worker.token);
                    Step::GiveBack
                }
                Step::Begin
                | Step::GiveUp
                | Step::TakeOver
                | Step::Fail
                | Step::HandBack
                | Step::Complete
                | Step::Lose
                    if refused(worker.step) =>
                {
                    Step::GiveBack
                }
                Step::GiveBack if self.lease != worker.token => Step::Idle,
                _ => break,
            };
            self.workers[at].step = step;
        }
        let worker = &mut self.workers[at];
        match worker.step {
            Step::Idle => *worker = IDLE,
            Step::GiveBack | Step::Look => worker.seen = None,
            _ => {}
        }
    }

    fn may_land(&self, model: &Outputs) -> bool {
        self.late.is_some_and(|late| match late.step {
            Step::CompleteOutput => {
                late.seen.and_then(|seen| seen.commit).is_some_and(|(upload, _)| self.staged & 1 << upload != 0)
            }
            _ => model.ask(late, self.manifest).is_some(),
        })
    }

    /// The same state as every other one that can't be told from it by what may happen.
    fn canonical(mut self, model: &Outputs) -> Self {
        (0..WORKERS).for_each(|at| self.advance(model, at));
        if !self.may_land(model) {
            self.late = None;
        }
        if !self.holder_is_alive() {
            self.lease = NONE;
        }
        // Staged bytes that no item names, and none will, are the lifecycle's.
        let named = |manifest: Option<Manifest>| {
            manifest.and_then(|manifest| manifest.commit).map_or(0, |(upload, _)| 1 << upload)
        };
        let mut wanted = named(Some(self.manifest));
        for worker in self.workers.iter().chain(&self.late) {
            wanted |= named(worker.seen);
            if matches!(worker.step, Step::Record | Step::RecordAgain | Step::Abort) {
                wanted |= 1 << worker.token;
            }
        }
        self.staged &= wanted;
        if self.manifest.is_final() {
            // Nobody asks for these any more.
            self.manifest = Manifest { attempt: 0, handed_back: 0, ..self.manifest };
        }
        let mut swapped = self;
        swapped.workers.reverse();
        let (one, other) = (self.renamed(), swapped.renamed());
        if one.order() <= other.order() { one } else { other }
    }

    fn order(&self) -> impl Ord + use<> {
        (self.workers, self.manifest, self.lease, self.late, self.staged, self.visible)
    }

    /// Tokens by where they first stand.
    fn renamed(mut self) -> Self {
        let mut names = [NONE; 64];
        let mut next = NONE;
        let mut name = |old: &mut u8| {
            if *old != NONE && names[usize::from(*old)] == NONE {
                next += 1;
                names[usize::from(*old)] = next;
            }
            *old = names[usize::from(*old)];
        };
        let of_manifest = |manifest: &mut Manifest, name: &mut dyn FnMut(&mut u8)| {
            name(&mut manifest.token);
            if let Some((upload, _)) = &mut manifest.commit {
                name(upload);
            }
        };
        for worker in self.workers.iter_mut().chain(&mut self.late) {
            name(&mut worker.token);
            if let Some(seen) = &mut worker.seen {
                of_manifest(seen, &mut name);
            }
        }
        of_manifest(&mut self.manifest, &mut name);
        name(&mut self.lease);
        name(&mut self.visible);
        let old = std::mem::take(&mut self.staged);
        for mut token in (1..=63).filter(|token| old & 1 << token != 0) {
            name(&mut token);
            self.staged |= 1 << token;
        }
        self
    }
}

impl Model for Outputs {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let (status, token) = (ManifestState::Pending, 1);
        vec![State {
            manifest: Manifest { status, token, attempt: 0, handed_back: 0, commit: None },
            staged: 0,
            visible: NONE,
            lease: NONE,
            workers: [IDLE; WORKERS],
            late: None,
            left: Left { deaths: 2, thefts: 2, late: 1, failures: 1, stops: 1, losses: 1 },
            broken: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (at, worker) in state.workers.iter().enumerate() {
            if worker.step == Step::Idle {
                let may_take = !state.holder_is_alive() || state.left.thefts > 0;
                if may_take && !state.manifest.is_final() {
                    actions.push(Action::Step(at));
                }
                continue;
            }
            actions.push(Action::Step(at));
            if state.left.deaths > 0 {
                actions.push(Action::Die(at));
            }
            if state.left.late > 0 && (is_write(worker.step) || worker.step == Step::CompleteOutput) {
                actions.push(Action::Late(at));
            }
            if worker.step == Step::Convert && state.left.failures > 0 {
                actions.push(Action::FailToConvert(at));
            }
            if worker.step == Step::Convert && state.left.stops > 0 {
                actions.push(Action::Stop(at));
            }
            if worker.step == Step::StageAgain {
                actions.push(Action::FailToStageAgain(at));
            }
        }
        if state.late.is_some() {
            actions.push(Action::Land);
        }
        if state.left.losses > 0 && state.manifest.commit.is_some_and(|(upload, _)| state.staged & 1 << upload != 0) {
            actions.push(Action::Vanish);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = *state;
        match action {
            Action::Step(at) => next.step(self, at),
            Action::Late(at) => {
                next.left.late -= 1;
                let late = next.workers[at];
                next.late = Some(late);
                if self.aborts_while_unknown && late.step == Step::Record {
                    next.staged &= !(1 << late.token);
                }
                // It doesn't know, so it drops nothing and leaves the rest to whoever has the lease next.
                next.workers[at].step = Step::GiveBack;
            }
            Action::Land => {
                let late = next.late.take()?;
                match (late.step, late.seen.and_then(|seen| seen.commit)) {
                    (Step::CompleteOutput, Some((upload, _))) => drop(next.complete_output(upload)),
                    _ => drop(next.write(self, late)),
                }
            }
            Action::Die(at) => {
                next.left.deaths -= 1;
                next.workers[at] = IDLE;
            }
            Action::FailToConvert(at) => {
                next.left.failures -= 1;
                next.workers[at].step = Step::Fail;
            }
            Action::Stop(at) => {
                next.left.stops -= 1;
                next.workers[at].step = Step::HandBack;
            }
            Action::FailToStageAgain(at) => next.workers[at].step = Step::Lose,
            Action::Vanish => {
                next.left.losses -= 1;
                next.staged &= !(1 << next.manifest.commit?.0);
            }
        }
        let next = next.canonical(self);
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::<Self>::always("I7 what is visible is what was recorded", |_, state| {
                state.visible == NONE || state.manifest.commit.map(|(upload, _)| upload) == Some(state.visible)
            }),
            Property::<Self>::always(
                "I1 I4 I7 only who holds the token records or ends an attempt, none follows a commit, what is visible stays",
                |_, state| state.broken.is_none(),
            ),
            Property::<Self>::always("I1 a completed manifest's output is visible", |_, state| {
                state.manifest.status != ManifestState::Completed || state.visible != NONE
            }),
            Property::<Self>::always(
                "I1 a recorded output is staged or visible, or its bytes have vanished",
                |_, state| {
                    let is_there = |(upload, _): (u8, bool)| state.staged & 1 << upload != 0 || state.visible == upload;
                    state.left.losses == 0 || state.manifest.commit.is_none_or(is_there)
                },
            ),
            Property::<Self>::always("I4 a recorded commit is completed, or its bytes have vanished", |_, state| {
                let manifest = &state.manifest;
                manifest.commit.is_none()
                    || matches!(manifest.status, ManifestState::Processing | ManifestState::Completed)
                    || (manifest.status == ManifestState::Failed && state.left.losses == 0 && state.visible == NONE)
            }),
            Property::<Self>::always("I4 when nothing is left to do, the manifest is final", |model, state| {
                let mut actions = Vec::new();
                model.actions(state, &mut actions);
                !actions.is_empty() || state.manifest.is_final()
            }),
            Property::<Self>::sometimes("somebody completes another's commit", |_, state| {
                let manifest = &state.manifest;
                manifest.status == ManifestState::Completed
                    && manifest.commit.is_some_and(|(upload, _)| upload != manifest.token)
            }),
            Property::<Self>::sometimes("lost bytes are staged again", |_, state| {
                let manifest = &state.manifest;
                manifest.status == ManifestState::Completed && manifest.commit.is_some_and(|(_, again)| again)
            }),
            Property::<Self>::sometimes("a commit is lost", |_, state| {
                state.manifest.status == ManifestState::Failed && state.manifest.commit.is_some()
            }),
            Property::<Self>::sometimes("it is given up", |_, state| {
                state.manifest.status == ManifestState::Failed && state.manifest.commit.is_none()
            }),
        ]
    }
}

#[test]
fn i1_i4_i7_every_interleaving_of_two_workers() {
    check("outputs", Outputs::right());
}

#[test]
fn the_model_finds_outputs_that_are_completed_before_they_are_recorded() {
    let model = Outputs { completes_before_recording: true, ..Outputs::right() };
    finds("an output is completed first", model, "what is visible is what was recorded");
}

#[test]
fn the_model_finds_uploads_that_are_aborted_while_the_commit_is_unknown() {
    let model = Outputs { aborts_while_unknown: true, ..Outputs::right() };
    finds("an upload is aborted too early", model, "I1 a recorded output is staged or visible");
}

#[test]
fn the_model_finds_a_record_without_the_token() {
    let tamper: Tamper = |name, write| if name == "record" { by_status_alone("processing", write) } else { write };
    finds("a record names no token", Outputs { tamper, ..Outputs::right() }, "I7 only who holds");
}

#[test]
fn the_model_finds_an_attempt_that_is_begun_although_a_commit_is_recorded() {
    let tamper: Tamper = |name, write| {
        let condition = Condition::one_of("status", ["pending", "processing"]);
        if name == "begin" { Write { condition, ..write } } else { write }
    };
    finds("an attempt is begun on anything", Outputs { tamper, ..Outputs::right() }, "none follows a commit");
}
