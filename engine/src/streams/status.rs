//! What each shard is doing, and why one isn't moving: for people, for `/ready`, for the watchdog.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use serde::Serialize;
use tokio::time::Instant;

use crate::cloud::change_stream::{SequenceNumber, ShardId};

/// In place of a shard: all of a table's, because they can't be looked at.
pub const ALL_SHARDS: &str = "*";

/// One shard, as this worker sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShardStatus {
    /// The table.
    pub table: String,
    /// The stream's ARN.
    pub arn: String,
    /// The shard; or [`ALL_SHARDS`], without an ARN.
    pub shard: ShardId,
    /// Who holds its lease, if anyone does.
    pub owner: Option<String>,
    /// What happens to it.
    pub state: ShardState,
    /// The last sequence number whose effects, and those of all before it, are durable.
    pub checkpoint: Option<SequenceNumber>,
    /// How far behind it is, as its reader knows; of one that nobody reads though somebody should, for how long.
    pub lag_secs: Option<u64>,
    /// About how many changes behind: those in flight, and an estimate of those that aren't read yet, by the rate at which
    /// they arrived of late. Known to its reader only.
    pub lag_records: Option<u64>,
    /// Changes without a good verdict; known to its reader only.
    pub in_flight_records: usize,
    /// How long ago its frontier moved, or it had nothing to do; known to its reader only.
    pub still_for_secs: Option<u64>,
    /// Why it isn't read, or doesn't move.
    pub reason: Option<String>,
}

/// What happens to a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ShardState {
    /// It must wait, for its parent or for an older stream.
    Waiting,
    /// It waits for a worker.
    Free,
    /// This worker reads it.
    Reading,
    /// It doesn't move: this worker reads it, and it has lag; or nobody does, and somebody should.
    Stuck,
    /// This worker gives it back as soon as what it handed on is answered.
    Draining,
    /// Reading has stopped until a person decides.
    Stopped,
    /// Another worker has it.
    Elsewhere,
    /// It was read to its end.
    Ended,
}

impl ShardState {
    /// Its text in metrics.
    pub fn text(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Free => "free",
            Self::Reading => "reading",
            Self::Stuck => "stuck",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
            Self::Elsewhere => "elsewhere",
            Self::Ended => "ended",
        }
    }

    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Waiting,
        Self::Free,
        Self::Reading,
        Self::Stuck,
        Self::Draining,
        Self::Stopped,
        Self::Elsewhere,
        Self::Ended,
    ];
}

/// What can be wrong with a shard that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    Checkpoint,
    Record,
    Reading,
}

/// What the reader of a shard tells the others.
#[derive(Debug)]
pub(super) struct Progress(Mutex<State>);

/// How a shard that is read stands at a moment.
pub(super) struct Report<'a> {
    pub state: ShardState,
    pub frontier: Option<&'a SequenceNumber>,
    /// The time of the oldest change that isn't done; none if it is at the end.
    pub behind_secs: Option<i64>,
    pub in_flight: usize,
    /// Whether it takes no more before verdicts come back.
    pub full: bool,
    pub arrivals_per_sec: f64,
}

#[derive(Debug, Clone)]
struct State {
    state: ShardState,
    checkpoint: Option<SequenceNumber>,
    behind_secs: Option<i64>,
    in_flight: usize,
    full: bool,
    arrivals_per_sec: f64,
    moved_at: Instant,
    troubles: [Option<String>; 3],
    reported: bool,
}

impl Progress {
    /// Of a shard that nobody has read since `still_since`.
    pub fn new(checkpoint: Option<SequenceNumber>, still_since: Instant) -> Self {
        Self(Mutex::new(State {
            state: ShardState::Reading,
            checkpoint,
            behind_secs: None,
            in_flight: 0,
            full: false,
            arrivals_per_sec: 0.0,
            moved_at: still_since,
            troubles: [const { None }; 3],
            reported: false,
        }))
    }

    /// Whether it was opened, and its last read brought something or told that there is nothing.
    pub fn is_read(&self) -> bool {
        let state = self.state();
        state.reported && state.troubles[Trouble::Reading as usize].is_none()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_trouble(&self, trouble: Trouble, reason: Option<String>) {
        self.state().troubles[trouble as usize] = reason;
    }

    pub fn report(&self, report: &Report<'_>) {
        let mut state = self.state();
        // Who can't read doesn't know whether there is something to do.
        let is_read = report.state != ShardState::Stopped && state.troubles[Trouble::Reading as usize].is_none();
        let idle = report.behind_secs.is_none() && report.in_flight == 0 && is_read;
        let moved = state.checkpoint.as_ref() != report.frontier;
        if idle || moved {
            state.moved_at = Instant::now();
        }
        if moved {
            state.checkpoint = report.frontier.cloned();
        }
        (state.state, state.behind_secs, state.in_flight) = (report.state, report.behind_secs, report.in_flight);
        (state.full, state.arrivals_per_sec, state.reported) = (report.full, report.arrivals_per_sec, true);
    }

    /// Fills in what only the reader knows.
    pub fn describe(&self, status: &mut ShardStatus, now_secs: i64, stuck_after: Duration) {
        let state = self.state().clone();
        let still_for = state.moved_at.elapsed();
        let unread_secs = state.troubles[Trouble::Reading as usize].as_ref().map_or(0, |_| still_for.as_secs());
        let lag =
            state.behind_secs.map_or(unread_secs, |behind| u64::try_from(now_secs.saturating_sub(behind)).unwrap_or(0));
        let busy = state.behind_secs.is_some() || state.in_flight > 0;
        let trouble = state.troubles.iter().flatten().next().cloned();
        status.state = state.state;
        status.checkpoint = state.checkpoint;
        status.lag_secs = Some(lag);
        // While its oldest change is in flight, what arrived since is either in flight too, or not read yet.
        let arrived = state.behind_secs.map_or(0.0, |_| state.arrivals_per_sec * lag as f64);
        status.lag_records = Some((state.in_flight as u64).max(arrived as u64));
        status.in_flight_records = state.in_flight;
        status.still_for_secs = Some(still_for.as_secs());
        status.reason = trouble.clone();
        if state.state == ShardState::Reading && still_for >= stuck_after && (busy || trouble.is_some()) {
            status.state = ShardState::Stuck;
            status.reason = Some(why_stuck(trouble, state.in_flight, state.full, still_for));
        }
    }
}

impl ShardStatus {
    /// Fills in what is known of a shard that nobody reads though somebody should.
    pub(super) fn unread(&mut self, still_for: Duration, stuck_after: Duration) {
        self.lag_secs = Some(still_for.as_secs());
        if still_for >= stuck_after {
            let reason = self.reason.take().unwrap_or_else(|| "no worker has taken it".to_owned());
            self.state = ShardState::Stuck;
            self.reason = Some(format!("nobody has read it for {} s: {reason}", still_for.as_secs()));
        }
    }

    /// All shards of a table, when they couldn't be looked at for so long.
    pub(super) fn unseen(table: &str, still_for: Duration, reason: &str) -> Self {
        Self {
            table: table.to_owned(),
            arn: String::new(),
            shard: ShardId(ALL_SHARDS.to_owned()),
            owner: None,
            state: ShardState::Stuck,
            checkpoint: None,
            lag_secs: None,
            lag_records: None,
            in_flight_records: 0,
            still_for_secs: None,
            reason: Some(format!("shards and leases couldn't be looked at for {} s: {reason}", still_for.as_secs())),
        }
    }
}

/// The watchdog's words for a shard that has lag and doesn't move (F32).
fn why_stuck(trouble: Option<String>, in_flight: usize, full: bool, still_for: Duration) -> String {
    let secs = still_for.as_secs();
    match trouble {
        Some(trouble) => format!("no progress for {secs} s: {trouble}"),
        None if full => {
            format!("no progress for {secs} s: {in_flight} changes wait for their verdicts, and no more are read")
        }
        None if in_flight > 0 => format!("no progress for {secs} s: {in_flight} changes wait for their verdicts"),
        None => format!("no progress for {secs} s: its reader gets no records, though it isn't at the end"),
    }
}

/// Something that can say how its shards are.
pub(super) trait Reporter: Send + Sync {
    fn shards(&self) -> Vec<ShardStatus>;
}

static REPORTERS: Mutex<Vec<Weak<dyn Reporter>>> = Mutex::new(Vec::new());

pub(super) fn register(reporter: &Arc<impl Reporter + 'static>) {
    let mut reporters = REPORTERS.lock().unwrap_or_else(PoisonError::into_inner);
    reporters.retain(|reporter| reporter.strong_count() > 0);
    let reporter: Arc<dyn Reporter> = Arc::<_>::clone(reporter) as _;
    reporters.push(Arc::downgrade(&reporter));
}

/// The shards of all consumers of this process, as they see them: for its pages and its health.
pub fn shards_of_process() -> Vec<ShardStatus> {
    let reporters = REPORTERS.lock().unwrap_or_else(PoisonError::into_inner).clone();
    reporters.iter().filter_map(Weak::upgrade).flat_map(|reporter| reporter.shards()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> ShardStatus {
        ShardStatus {
            table: "t".into(),
            arn: "arn".into(),
            shard: ShardId("s".into()),
            owner: None,
            state: ShardState::Reading,
            checkpoint: None,
            lag_secs: None,
            lag_records: None,
            in_flight_records: 0,
            still_for_secs: None,
            reason: None,
        }
    }

    fn report(frontier: Option<&SequenceNumber>, behind_secs: Option<i64>, in_flight: usize) -> Report<'_> {
        let (state, full, arrivals_per_sec) = (ShardState::Reading, false, 2.0);
        Report { state, frontier, behind_secs, in_flight, full, arrivals_per_sec }
    }

    /// A service that runs and does nothing would have been noticed a day later, when its changes are gone.
    #[tokio::test(start_paused = true)]
    async fn f32_a_shard_with_lag_that_does_not_move_says_why() {
        let after = Duration::from_secs(60);
        let progress = Progress::new(None, Instant::now());
        let look = || {
            let mut status = status();
            progress.describe(&mut status, 1_000, after);
            status
        };
        progress.report(&report(None, Some(900), 5));
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(look().state, ShardState::Reading);
        assert_eq!((look().lag_secs, look().lag_records), (Some(100), Some(200)), "2 a second for 100 s");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(look().state, ShardState::Stuck);
        assert!(look().reason.unwrap().contains("5 changes wait"));
        progress.set_trouble(Trouble::Checkpoint, Some("the table is gone".into()));
        assert!(look().reason.unwrap().contains("the table is gone"));

        progress.set_trouble(Trouble::Checkpoint, None);
        let seven = SequenceNumber("7".into());
        progress.report(&report(Some(&seven), Some(900), 4));
        assert_eq!(look().state, ShardState::Reading, "it moved");
        progress.report(&report(Some(&seven), None, 0));
        tokio::time::advance(Duration::from_secs(600)).await;
        progress.report(&report(Some(&seven), None, 0));
        assert_eq!((look().state, look().lag_secs, look().reason), (ShardState::Reading, Some(0), None), "it is idle");

        // A shard whose every read fails has no lag that anybody knows of.
        progress.set_trouble(Trouble::Reading, Some("access denied".into()));
        tokio::time::advance(Duration::from_secs(60)).await;
        progress.report(&report(Some(&seven), None, 0));
        assert_eq!((look().state, look().lag_secs), (ShardState::Stuck, Some(60)));
        assert!(look().reason.unwrap().contains("access denied"));
    }

    /// A shard that no worker gets to read would have been called free and without lag, until its changes are gone.
    #[test]
    fn f32_f37_a_shard_that_nobody_reads_is_behind_and_in_the_end_stuck() {
        let look = |secs: u64, reason: Option<&str>| {
            let mut status = ShardStatus { state: ShardState::Free, reason: reason.map(str::to_owned), ..status() };
            status.unread(Duration::from_secs(secs), Duration::from_secs(60));
            status
        };
        assert_eq!((look(59, None).state, look(59, None).lag_secs), (ShardState::Free, Some(59)));
        assert_eq!((look(60, None).state, look(60, None).lag_secs), (ShardState::Stuck, Some(60)));
        assert_eq!(look(60, Some("denied")).reason.unwrap(), "nobody has read it for 60 s: denied");
    }
}
