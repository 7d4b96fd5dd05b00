//! Penstock's engine: a streaming dataflow on DynamoDB Streams.
//!
//! The engine moves records from sources through operators to sinks and carries each record's verdict back. It knows
//! nothing of files, manifests or NDJSON: those are operators, in a crate of their own.
//!
//! - [`breaker`]: leaves an endpoint alone that keeps failing.
//! - [`cloud`]: the seam, narrow traits at the level of AWS operations, with a complete implementation on one machine.
//! - [`operator`]: what a source, a transform and a sink are, and the verdicts that travel back ([`ack`]).
//! - [`graph`]: the checked plan of a pipeline; [`runtime`]: running it.
//! - [`queue_source`]: the `queue` source.
//! - [`leases`]: the right to do something, held in a table by one process at a time.
//! - [`streams`]: the consumer of change streams: shard graph, checkpoints, reader.
//! - [`telemetry`]: metrics as data, and where they go; [`health`]: whether a process is ready, and why not; [`monitor`]:
//!   what can be seen of a process from outside; [`http`]: serving that.
//! - `simulation` (a feature of that name, for tests): seeds, dice, paused time and fakes that fail.
//! - [`random`]: random numbers, so that a simulation can repeat them.
//! - [`time`]: the wall clock, so that skew can be simulated; [`units`]: durations and sizes as people write them.

pub mod ack;
pub mod breaker;
pub mod cloud;
pub mod graph;
pub mod health;
pub mod http;
pub mod leases;
pub mod monitor;
pub mod operator;
pub mod queue_source;
pub mod random;
pub mod runtime;
#[cfg(any(test, feature = "simulation"))]
pub mod simulation;
pub mod streams;
pub mod telemetry;
pub mod time;
pub mod units;

/// The Rust in CONTRIBUTING.md compiles.
#[cfg(doctest)]
#[doc = include_str!("../../CONTRIBUTING.md")]
struct Contributing;
