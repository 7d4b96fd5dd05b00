//! One run for each seed, and what to say when one fails.

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

use chrono::{DateTime, TimeDelta};
use tokio::time::Instant;

use super::Dice;
use crate::{random, time::Clock};

/// How many seeds to run.
const SEEDS: &str = "PENSTOCK_SEEDS";

/// The one seed to run.
const SEED: &str = "PENSTOCK_SEED";

/// When simulated time begins, in seconds since the epoch.
const START_SECS: i64 = 1_770_000_000;

/// What a run is given.
pub struct Simulation {
    /// Its seed.
    pub seed: u64,
    /// Its dice.
    pub dice: Dice,
    started: Instant,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        Self { seed, dice: Dice::new(seed), started: Instant::now() }
    }

    /// The wall clock of a host that is off by `skew`. It goes with the runtime's time.
    pub fn clock(&self, skew: TimeDelta) -> Clock {
        let started = self.started;
        Clock::from_fn(move || {
            let passed = TimeDelta::from_std(started.elapsed()).unwrap_or(TimeDelta::MAX);
            DateTime::from_timestamp(START_SECS, 0).unwrap_or_default() + passed + skew
        })
    }
}

/// A seed whose run failed.
#[derive(Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What the panic said.
    pub message: String,
}

/// Runs a scenario for each of so many seeds, each in a runtime of one thread whose time is paused.
///
/// # Panics
///
/// As the scenario does; before that it says on stderr which seed it was and how to run it again.
pub fn for_each_seed<F>(name: &str, default_seeds: u64, scenario: impl Fn(Simulation) -> F)
where
    F: Future<Output = ()>,
{
    let seeds = match number(SEED) {
        Some(seed) => seed..seed + 1,
        None => 0..number(SEEDS).unwrap_or(default_seeds),
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run_seed(seed, &scenario))) {
            eprintln!("simulation `{name}`: seed {seed} failed; {SEED}={seed} runs it again, alone");
            resume_unwind(panic);
        }
    }
}

/// The first of so many seeds whose run fails: to show that a scenario finds what it should.
pub fn find_failure<F>(seeds: u64, scenario: impl Fn(Simulation) -> F) -> Option<Failure>
where
    F: Future<Output = ()>,
{
    (0..seeds).find_map(|seed| {
        let panic = catch_unwind(AssertUnwindSafe(|| run_seed(seed, &scenario))).err()?;
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Some(Failure { seed, message: text.unwrap_or_else(|| "a panic without a text".to_owned()) })
    })
}

/// Runs a scenario for one seed, in a runtime of one thread whose time is paused; what it found.
///
/// # Panics
///
/// As the scenario does.
pub fn run_seed<T, F: Future<Output = T>>(seed: u64, scenario: impl FnOnce(Simulation) -> F) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => panic!("no runtime for a simulation: {error}"),
    };
    random::seed_thread(Some(seed));
    let ended = catch_unwind(AssertUnwindSafe(|| runtime.block_on(async { scenario(Simulation::new(seed)).await })));
    // What it left running draws from the seed until it is gone.
    drop(runtime);
    random::seed_thread(None);
    match ended {
        Ok(found) => found,
        Err(panic) => resume_unwind(panic),
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    match text.parse() {
        Ok(number) => Some(number),
        Err(_) => panic!("{variable} is `{text}`: give it a number"),
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, time::Duration};

    use super::*;

    #[test]
    fn a_seed_repeats_its_run_and_another_seed_makes_another() {
        let runs = RefCell::new(Vec::new());
        let scenario = |mut simulation: Simulation| {
            let runs = &runs;
            async move {
                let wait = simulation.dice.time(Duration::from_secs(1_000_000));
                tokio::time::sleep(wait).await;
                let now = simulation.clock(TimeDelta::zero()).now();
                runs.borrow_mut().push((wait, random::bits(), now.timestamp()));
            }
        };
        for seed in [1, 1, 2] {
            run_seed(seed, scenario);
        }
        let runs = runs.into_inner();
        assert_eq!(runs[0], runs[1]);
        assert_ne!(runs[0], runs[2]);
    }

    #[test]
    fn the_failing_seed_is_named() {
        let failure = find_failure(100, |simulation| async move { assert!(simulation.seed < 7, "it is not below 7") });
        let failure = failure.unwrap();
        assert_eq!(failure.seed, 7);
        assert!(failure.message.contains("not below 7"));
        assert!(find_failure(5, |_| async {}).is_none());
    }
}
