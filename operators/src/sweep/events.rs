//! What a sweep comes upon: each event is one log line and one metric together.

use super::finds::Outcome;

/// Something that had been left behind was found. What was done about it is told of all alike together, by
/// [`FindsTold`]; a failure at once.
pub(super) struct Found<'a> {
    pub what: &'static str,
    pub outcome: Outcome,
    pub why: &'a str,
    pub key: &'a str,
}

impl Found<'_> {
    pub fn emit(self) {
        let Self { what, outcome, why, key } = self;
        metrics::counter!("penstock_sweep_finds_total", "what" => what, "outcome" => outcome.as_str()).increment(1);
        if outcome == Outcome::Failed {
            tracing::warn!(what, key, why, "Sweep couldn't finish what it found; it goes on with the rest.");
        }
    }
}

/// All finds of a kind that ended alike, in one line.
pub(super) struct FindsTold<'a> {
    pub what: &'static str,
    pub outcome: Outcome,
    pub why: &'a str,
    pub count: u64,
    pub example: &'a str,
}

impl FindsTold<'_> {
    pub fn emit(self) {
        let Self { what, outcome, why, count, example } = self;
        match outcome {
            Outcome::Left => tracing::info!(what, count, why, example, "Sweep left what it found."),
            Outcome::Done => tracing::warn!(what, count, why, example, "Sweep finished what had been left behind."),
            Outcome::Failed => {}
        }
    }
}

/// A part of a listing of the input bucket came to its end: how many objects it looked up, by what it found.
#[derive(Debug, Default)]
pub(super) struct ObjectsListed {
    pub known: u64,
    pub gone: u64,
    pub missed: u64,
    pub failed: u64,
}

impl ObjectsListed {
    pub fn emit(self) {
        let Self { known, gone, missed, failed } = self;
        for (outcome, count) in [("known", known), ("gone", gone), ("missed", missed), ("failed", failed)] {
            metrics::counter!("penstock_listed_objects_total", "outcome" => outcome).increment(count);
        }
        tracing::debug!(known, gone, missed, failed, "Input bucket listed, or a part of it.");
    }
}
