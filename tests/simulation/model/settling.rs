//! How files follow their finished manifest: two who settle (the operator and the sweep, or one of them twice), a person
//! who redrives what failed, another manifest that the redriven file comes into, and three files.
//!
//! In a run two of those who settle may die, and one write may land late or never; a person redrives twice.

use chrono::TimeDelta;
use penstock::oncall::redrive;
use penstock_engine::cloud::{Item, table::Write};
use penstock_operators::{
    fold::writes,
    model::{Candidate, FileItem, FileResult, FileState, ManifestItem, ManifestState, read_item, shard_of},
    settle,
};
use stateright::{Model, Property};

use super::{DATE, Known, Tamper, after, by_status_alone, check, finds, now, without_condition};

const FILES: usize = 3;
const SETTLERS: usize = 2;
const FILE: &str = "a";
const TTL: TimeDelta = TimeDelta::days(30);

/// The manifest that is settled, and the one that redriven files come into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Of {
    This,
    Other,
}

/// What the item of a file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct At {
    state: State3,
    of: Option<Of>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum State3 {
    Pending,
    Manifested,
    Completed,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct File {
    at: At,
    /// What the manifest's report says of it.
    has_failed: bool,
    todo: [bool; SETTLERS],
    late: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Settler {
    Idle,
    /// Moves what it has to do, then marks the manifest; or only moves what was left behind.
    Follows {
        marks: bool,
    },
    Marks,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct State {
    status: ManifestState,
    files: [File; FILES],
    settlers: [Settler; SETTLERS],
    is_settled: bool,
    /// Deaths, late writes and redrives that may still happen.
    left: [u8; 3],
    broken: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Action {
    Start(usize),
    Sweep(usize),
    Follow(usize, usize),
    Late(usize, usize),
    Land(usize),
    Mark(usize),
    Die(usize),
    Redrive(usize),
    ClaimForOther(usize),
    SettleForOther(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Asked {
    Follow { of: Of, has_failed: bool, at: At },
    Redrive(At),
    ClaimForOther(At),
    Mark { status: ManifestState, is_settled: bool },
}

/// The model, right or with a bug.
struct Settling {
    tamper: Tamper,
    known: Known<Asked, Option<At>>,
}

fn manifest(of: Of, status: ManifestState) -> ManifestItem {
    let name = if of == Of::This { "this" } else { "other" };
    serde_json::from_value(serde_json::json!({
        "date_prefix": DATE, "file_key": format!("MANIFEST#{name}.json"), "status": status, "schema_version": 1,
        "manifest_path": format!("s3://m/{name}.json"), "created_at": "t", "token": "1",
    }))
    .unwrap()
}

const STATES: [(State3, FileState); 4] = [
    (State3::Pending, FileState::Pending),
    (State3::Manifested, FileState::Manifested),
    (State3::Completed, FileState::Completed),
    (State3::Failed, FileState::Failed),
];

impl At {
    fn item(self) -> FileItem {
        let state = STATES.iter().find(|(state, _)| *state == self.state).unwrap().1;
        serde_json::from_value(serde_json::json!({
            "date_prefix": DATE, "file_key": FILE, "status": state.status(shard_of(FILE)), "file_path": "s3://b/a",
            "etag": "e", "pending_since": "t", "manifest_path": self.of.map(|of| manifest(of, ManifestState::Failed).manifest_path),
        }))
        .unwrap()
    }

    fn of(item: &Item) -> Self {
        let file: FileItem = read_item("file", item).unwrap();
        let state = STATES.iter().find(|(_, state)| Some(*state) == file.state()).unwrap().0;
        let of = file.manifest_path.map(|path| if path.ends_with("this.json") { Of::This } else { Of::Other });
        Self { state, of }
    }
}

impl Settling {
    fn right() -> Self {
        Self { tamper: |_, write| write, known: Known::new() }
    }

    fn ask(&self, asked: Asked) -> Option<At> {
        self.known.get(asked, || {
            let (name, write, before): (_, Write, At) = match asked {
                Asked::Follow { of, has_failed, at } => {
                    let result = FileResult {
                        file_key: FILE.to_owned(),
                        rows: 1,
                        rejected_rows: 0,
                        failure: has_failed.then(|| "missing".to_owned()),
                        message: None,
                    };
                    let write = settle::follow(&manifest(of, ManifestState::Completed), Some("1"), &result, TTL, now());
                    ("follow", write, at)
                }
                Asked::Redrive(at) => ("redrive", redrive::write_of(&at.item(), "t"), at),
                Asked::ClaimForOther(at) => {
                    let other = manifest(Of::Other, ManifestState::Assembling);
                    ("claim", writes::claim(&other, &Candidate::from(&at.item()), "t"), at)
                }
                Asked::Mark { status, is_settled } => {
                    let mut before = manifest(Of::This, status);
                    before.settled_at = is_settled.then(|| "t".to_owned());
                    let write = settle::mark(&manifest(Of::This, status), TTL, now());
                    let item = after(&(self.tamper)("mark", write), &serde_dynamo::to_item(before).unwrap());
                    return item.map(|_| At { state: State3::Pending, of: None });
                }
            };
            let item = after(&(self.tamper)(name, write), &serde_dynamo::to_item(before.item()).unwrap());
            item.as_ref().map(At::of)
        })
    }
}

impl State {
    fn follow(&mut self, model: &Settling, file: usize) {
        let File { at, has_failed, .. } = self.files[file];
        let Some(then) = model.ask(Asked::Follow { of: Of::This, has_failed, at }) else { return };
        if at != (At { state: State3::Manifested, of: Some(Of::This) }) {
            self.broken = Some("I1: a file was settled that wasn't claimed for the manifest");
        }
        self.files[file].at = then;
    }

    /// The same state as every other one that can't be told from it by what may happen.
    fn canonical(mut self) -> Self {
        for at in 0..SETTLERS {
            let has_more = self.files.iter().any(|file| file.todo[at]);
            self.settlers[at] = match self.settlers[at] {
                Settler::Follows { marks: true } if !has_more => Settler::Marks,
                Settler::Follows { marks: false } if !has_more => Settler::Idle,
                settler => settler,
            };
        }
        if self.settlers[0] > self.settlers[1] {
            self.settlers.reverse();
            self.files.iter_mut().for_each(|file| file.todo.reverse());
        }
        self.files.sort_unstable();
        self
    }
}

impl Model for Settling {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let at = At { state: State3::Manifested, of: Some(Of::This) };
        let state = |status: ManifestState, failed: usize| State {
            status,
            files: std::array::from_fn(|number| File {
                at,
                has_failed: number >= FILES - failed,
                todo: [false; SETTLERS],
                late: false,
            }),
            settlers: [Settler::Idle; SETTLERS],
            is_settled: false,
            left: [2, 1, 2],
            broken: None,
        };
        let completed = (0..=FILES).map(|failed| state(ManifestState::Completed, failed));
        completed.chain([state(ManifestState::Failed, FILES)]).collect()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let is_behind = |file: &File| file.at == At { state: State3::Manifested, of: Some(Of::This) };
        for (at, settler) in state.settlers.iter().enumerate() {
            match settler {
                Settler::Idle => {
                    if !state.is_settled {
                        actions.push(Action::Start(at));
                    }
                    if state.files.iter().any(is_behind) {
                        actions.push(Action::Sweep(at));
                    }
                    continue;
                }
                Settler::Follows { .. } => {
                    for file in (0..FILES).filter(|file| state.files[*file].todo[at]) {
                        actions.push(Action::Follow(at, file));
                        if state.left[1] > 0 {
                            actions.push(Action::Late(at, file));
                        }
                    }
                }
                Settler::Marks => actions.push(Action::Mark(at)),
            }
            if state.left[0] > 0 {
                actions.push(Action::Die(at));
            }
        }
        for (number, file) in state.files.iter().enumerate() {
            match file.at.state {
                State3::Failed if state.left[2] > 0 => actions.push(Action::Redrive(number)),
                State3::Pending => actions.push(Action::ClaimForOther(number)),
                State3::Manifested if file.at.of == Some(Of::Other) => actions.push(Action::SettleForOther(number)),
                _ => {}
            }
            if file.late {
                actions.push(Action::Land(number));
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = *state;
        match action {
            // By the report, or by the manifest's JSON: all of its files, whatever became of them since.
            Action::Start(at) => {
                next.files.iter_mut().for_each(|file| file.todo[at] = true);
                next.settlers[at] = Settler::Follows { marks: true };
            }
            Action::Sweep(at) => {
                let behind = At { state: State3::Manifested, of: Some(Of::This) };
                next.files.iter_mut().for_each(|file| file.todo[at] = file.at == behind);
                next.settlers[at] = Settler::Follows { marks: false };
            }
            Action::Follow(at, file) => {
                next.files[file].todo[at] = false;
                next.follow(self, file);
            }
            Action::Late(at, file) => {
                // It doesn't know, so it can't say that all have followed.
                next.left[1] -= 1;
                next.files[file].late = true;
                next.files.iter_mut().for_each(|file| file.todo[at] = false);
                next.settlers[at] = Settler::Idle;
            }
            Action::Land(file) => {
                next.files[file].late = false;
                next.follow(self, file);
            }
            Action::Mark(at) => {
                let asked = Asked::Mark { status: next.status, is_settled: next.is_settled };
                next.is_settled |= self.ask(asked).is_some();
                next.settlers[at] = Settler::Idle;
            }
            Action::Die(at) => {
                next.left[0] -= 1;
                next.files.iter_mut().for_each(|file| file.todo[at] = false);
                next.settlers[at] = Settler::Idle;
            }
            Action::Redrive(file) => {
                next.left[2] -= 1;
                next.files[file].at = self.ask(Asked::Redrive(next.files[file].at))?;
            }
            Action::ClaimForOther(file) => {
                next.files[file].at = self.ask(Asked::ClaimForOther(next.files[file].at))?;
            }
            Action::SettleForOther(file) => {
                let File { at, has_failed, .. } = next.files[file];
                // It fails again the first time.
                let has_failed = has_failed && next.left[2] > 0;
                next.files[file].at = self.ask(Asked::Follow { of: Of::Other, has_failed, at })?;
            }
        }
        let next = next.canonical();
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::<Self>::always("I1 only a file that is claimed for the manifest follows it", |_, state| {
                state.broken.is_none()
            }),
            Property::<Self>::always("I1 a file that follows is what the report says", |_, state| {
                let says = |file: &File| match file.at.state {
                    State3::Completed => !file.has_failed,
                    State3::Failed => file.has_failed,
                    _ => true,
                };
                state.files.iter().filter(|file| file.at.of == Some(Of::This)).all(says)
            }),
            Property::<Self>::always("a settled manifest has no file left behind", |_, state| {
                let is_behind = |file: &File| file.at == At { state: State3::Manifested, of: Some(Of::This) };
                !state.is_settled || !state.files.iter().any(is_behind)
            }),
            Property::<Self>::always("I1 I8 when nothing is left to do, all is final and settled", |model, state| {
                let mut actions = Vec::new();
                model.actions(state, &mut actions);
                let is_final = |file: &File| matches!(file.at.state, State3::Completed | State3::Failed);
                !actions.is_empty() || (state.is_settled && state.files.iter().all(is_final))
            }),
            Property::<Self>::sometimes("a redriven file is completed elsewhere", |_, state| {
                state.files.iter().any(|file| file.at == At { state: State3::Completed, of: Some(Of::Other) })
            }),
            Property::<Self>::sometimes("a settler is late for a file that was redriven", |_, state| {
                state.files.iter().any(|file| file.late && file.at.state == State3::Pending)
            }),
        ]
    }
}

#[test]
fn i1_i8_every_interleaving_of_two_who_settle_and_a_person_who_redrives() {
    check("settling", Settling::right());
}

#[test]
fn the_model_finds_a_settling_without_the_state_before() {
    let tamper: Tamper = |name, write| if name == "follow" { without_condition(write) } else { write };
    finds("a settling depends on nothing", Settling { tamper, ..Settling::right() }, "only a file that is claimed");
}

#[test]
fn the_model_finds_a_settling_of_another_manifests_file() {
    let tamper: Tamper = |name, write| {
        let status = FileState::Manifested.status(shard_of(FILE));
        if name == "follow" { by_status_alone(&status, write) } else { write }
    };
    finds("a settling names no manifest", Settling { tamper, ..Settling::right() }, "only a file that is claimed");
}
