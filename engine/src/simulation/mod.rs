//! Simulation: many runs of a scenario on one thread, each with time, chance and faults drawn from its seed.
//!
//! A scenario gets a [`Simulation`]: dice, clocks, and a paused tokio runtime in which hours pass in milliseconds. Things
//! go wrong through the fakes here ([`FakeTable`], [`FakeStream`], [`FakeQueue`]: in memory, on the runtime's own time) and
//! through the decorators of [`weaken`](crate::cloud::weaken), which make any cloud as weak as its contract. The engine's
//! own tokens and jitter are drawn from the seed too. So a seed that fails, fails again:
//!
//! ```
//! use penstock_engine::simulation::{Simulation, for_each_seed};
//!
//! for_each_seed("a lease has one holder", 20, |mut simulation: Simulation| async move {
//!     let wait = simulation.dice.time(std::time::Duration::from_secs(3600));
//!     tokio::time::sleep(wait).await; // No real time passes.
//!     assert!(simulation.clock(chrono::TimeDelta::zero()).now() > chrono::DateTime::UNIX_EPOCH);
//! });
//! ```
//!
//! `PENSTOCK_SEEDS=5000` runs so many seeds instead of the default; `PENSTOCK_SEED=17` runs that one alone.
//!
//! What a scenario uses must be of this thread: a library that works on threads of its own (SQLite in the local cloud)
//! answers in real time, which a paused clock doesn't wait for. And it must not depend on what is drawn anew in each process
//! or outlives a run: the order of a `HashMap`, a `select!` that isn't `biased`, the order in which a `watch` wakes those who
//! wait ([`Switch`] has one), a static that holds an `Instant` (time is another one in each run).

mod dice;
mod queue;
mod seeds;
mod stream;
mod switch;
mod table;

pub use dice::Dice;
pub use queue::FakeQueue;
pub use seeds::{Failure, Simulation, find_failure, for_each_seed, run_seed};
pub use stream::{FakeStream, sequence, value_of};
pub use switch::Switch;
pub use table::{FakeTable, Fault, Network, Written};
