//! Whether a process is ready, and if not, why: decided from facts alone.
//!
//! Not ready means that work stands still here and a person, or a restart, is needed: a shard with lag and no progress, or
//! that nobody gets to read, an operator that keeps failing. Degraded means that work goes on by a longer way: the bus is
//! left alone for a while, a failure is being retried. A queue that is long is neither: it is work, and scaling looks at it.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::{
    breaker::BreakerState,
    runtime::State,
    streams::{ALL_SHARDS, ShardState, ShardStatus},
};

/// An operator may fail for so long before the process is not ready: retries pass most failures.
const FAILING_LIMIT: Duration = Duration::from_secs(60);

/// DynamoDB keeps changes for a day; past half of that somebody should know.
const LAG_LIMIT_SECS: u64 = 12 * 3600;

/// Which part of its life a process is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Its operators aren't all built yet.
    Starting,
    /// It runs.
    Running,
    /// It was asked to stop, and drains.
    Stopping,
}

/// What readiness is decided from.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The part of its life.
    pub phase: Phase,
    /// How each operator is.
    pub operators: BTreeMap<String, State>,
    /// The shards that this process knows.
    pub shards: Vec<ShardStatus>,
    /// The breakers, by endpoint.
    pub breakers: BTreeMap<String, BreakerState>,
    /// The wall clock.
    pub now: DateTime<Utc>,
}

/// How much a reason weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// Work stands still.
    Unready,
    /// Work goes on by a longer way.
    Degraded,
}

/// Why a process is not ready, or not quite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// How much it weighs.
    pub weight: Weight,
    /// What it is about, e.g. `operator announce`.
    pub about: String,
    /// The words.
    pub reason: String,
}

/// The verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Whether work goes on here.
    pub ready: bool,
    /// Whether it goes on by a longer way, or not at all.
    pub degraded: bool,
    /// The part of its life.
    pub phase: Phase,
    /// Why; the heaviest first.
    pub reasons: Vec<Reason>,
}

/// Decides.
pub fn readiness(facts: &Facts) -> Readiness {
    let mut reasons = Vec::new();
    let mut add = |weight, about: String, reason: String| reasons.push(Reason { weight, about, reason });
    match facts.phase {
        Phase::Starting => add(Weight::Unready, "process".to_owned(), "it is starting".to_owned()),
        Phase::Stopping => {
            add(Weight::Unready, "process".to_owned(), "it is stopping, and takes no new work".to_owned())
        }
        Phase::Running => {}
    }
    for (id, state) in &facts.operators {
        let about = format!("operator {id}");
        match state {
            State::Running => {}
            State::Failing { error, since, failures } => {
                let secs = (facts.now - since).num_seconds().max(0);
                let is_long = u64::try_from(secs).is_ok_and(|secs| secs >= FAILING_LIMIT.as_secs());
                let weight = if is_long { Weight::Unready } else { Weight::Degraded };
                add(weight, about, format!("it has failed {failures} times in a row, for {secs} s: {error}"));
            }
            State::Stopped if facts.phase == Phase::Running => {
                add(Weight::Unready, about, "it has stopped, though the service runs".to_owned());
            }
            State::Stopped => {}
        }
    }
    for shard in &facts.shards {
        let about = match shard.shard.0.as_str() {
            ALL_SHARDS => format!("all shards of {}", shard.table),
            id => format!("shard {id} of {}", shard.table),
        };
        let reason = || shard.reason.clone().unwrap_or_else(|| "for no known reason".to_owned());
        match shard.state {
            ShardState::Stuck => add(Weight::Unready, about, reason()),
            ShardState::Stopped => {
                add(Weight::Unready, about, format!("reading has stopped until a person decides: {}", reason()))
            }
            _ => {
                if let Some(lag) = shard.lag_secs.filter(|lag| *lag >= LAG_LIMIT_SECS) {
                    add(Weight::Degraded, about, format!("it is {lag} s behind; after a day changes are lost"));
                }
            }
        }
    }
    for (endpoint, state) in &facts.breakers {
        if !matches!(state, BreakerState::Closed(_)) {
            let reason = "it keeps failing and is left alone for a while; what it is owed stays in the table, and the sweep sends it";
            add(Weight::Degraded, format!("bus {endpoint}"), reason.to_owned());
        }
    }
    reasons.sort_by(|a, b| (a.weight, &a.about).cmp(&(b.weight, &b.about)));
    let ready = reasons.iter().all(|reason| reason.weight != Weight::Unready);
    Readiness { ready, degraded: !reasons.is_empty(), phase: facts.phase, reasons }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::time::Instant;

    use super::*;
    use crate::cloud::change_stream::ShardId;

    fn facts() -> Facts {
        Facts {
            phase: Phase::Running,
            operators: BTreeMap::from([("fold".to_owned(), State::Running)]),
            shards: Vec::new(),
            breakers: BTreeMap::new(),
            now: DateTime::from_timestamp(1_000_000, 0).unwrap(),
        }
    }

    fn shard(state: ShardState, reason: Option<&str>, lag_secs: Option<u64>) -> ShardStatus {
        ShardStatus {
            table: "t".into(),
            arn: "arn".into(),
            shard: ShardId("s".into()),
            owner: None,
            state,
            checkpoint: None,
            lag_secs,
            lag_records: None,
            in_flight_records: 0,
            still_for_secs: None,
            reason: reason.map(str::to_owned),
        }
    }

    fn weights(facts: &Facts) -> Vec<Weight> {
        readiness(facts).reasons.iter().map(|reason| reason.weight).collect()
    }

    /// Nobody would have been told that a running service does nothing, until its changes are gone.
    #[test]
    fn f32_a_stuck_shard_makes_it_unready_and_says_why() {
        let verdict = readiness(&Facts {
            shards: vec![shard(ShardState::Stuck, Some("no progress for 60 s"), Some(9))],
            ..facts()
        });
        assert!(!verdict.ready);
        assert_eq!(verdict.reasons[0].about, "shard s of t");
        assert_eq!(verdict.reasons[0].reason, "no progress for 60 s");
        for state in ShardState::ALL {
            let is_still = matches!(state, ShardState::Stuck | ShardState::Stopped);
            assert_eq!(
                readiness(&Facts { shards: vec![shard(state, None, None)], ..facts() }).ready,
                !is_still,
                "{state:?}"
            );
        }
        assert_eq!(
            weights(&Facts { shards: vec![shard(ShardState::Reading, None, Some(50_000))], ..facts() }),
            [Weight::Degraded]
        );
    }

    #[test]
    fn an_open_breaker_degrades_and_a_closed_one_is_nothing() {
        let with = |state| Facts { breakers: BTreeMap::from([("etl".to_owned(), state)]), ..facts() };
        assert_eq!(weights(&with(BreakerState::Open(Instant::now()))), [Weight::Degraded]);
        assert!(readiness(&with(BreakerState::Open(Instant::now()))).ready);
        assert_eq!(weights(&with(BreakerState::Closed(2))), []);
    }

    #[test]
    fn a_failure_that_lasts_makes_it_unready() {
        let failing = |secs: i64| {
            let since = facts().now - chrono::TimeDelta::seconds(secs);
            let state = State::Failing { error: "the table is gone".to_owned(), since, failures: 7 };
            Facts { operators: BTreeMap::from([("track".to_owned(), state)]), ..facts() }
        };
        assert_eq!(weights(&failing(59)), [Weight::Degraded]);
        assert_eq!(weights(&failing(60)), [Weight::Unready]);
        assert!(readiness(&failing(60)).reasons[0].reason.contains("the table is gone"));
        let stopped = BTreeMap::from([("track".to_owned(), State::Stopped)]);
        assert_eq!(weights(&Facts { operators: stopped.clone(), ..facts() }), [Weight::Unready]);
        assert_eq!(weights(&Facts { operators: stopped, phase: Phase::Stopping, ..facts() }).len(), 1);
    }

    proptest! {
        /// It is never unready without a reason, and reasons are never hidden by others.
        #[test]
        fn every_verdict_has_its_reasons(
            phase in prop::sample::select(vec![Phase::Starting, Phase::Running, Phase::Stopping]),
            states in prop::collection::vec(prop::sample::select(ShardState::ALL.to_vec()), 0..5),
        ) {
            let shards: Vec<_> = states.iter().map(|state| shard(*state, None, None)).collect();
            let verdict = readiness(&Facts { phase, shards, ..facts() });
            let unready = verdict.reasons.iter().filter(|reason| reason.weight == Weight::Unready).count();
            let still = states.iter().filter(|state| matches!(state, ShardState::Stuck | ShardState::Stopped)).count();
            prop_assert_eq!(unready, still + usize::from(phase != Phase::Running));
            prop_assert_eq!(verdict.ready, unready == 0);
        }
    }
}
