//! The consumer of change streams: reads a table's changes in order, shares the shards with other workers by leases, and
//! remembers how far every effect is durable.
//!
//! It promises:
//!
//! - **Each change at least once.** A checkpoint covers only a contiguous prefix of changes that were acked (I5).
//! - **Order per item.** No shard is read before its parents are done (I6), and a table's older stream before its newer
//!   one. Two things come out of order: what is offered again because it failed, and what a new owner reads again because
//!   the old one had not checkpointed it.
//! - **One reader a shard.** Checkpoints are written under the lease's fence, so that who lost a shard can't move it (I7).
//! - **Nothing silent** (I10). Changes that were trimmed away are a policy and a recorded gap; a change that can't be
//!   handled is dead-lettered whole; a shard that doesn't move says why ([`ShardStatus`]).
//!
//! What is decided is decided by functions without I/O ([`shard_graph`], [`assignment`], [`frontier`], [`start`],
//! [`trimmed`], [`shard_item`]); [`Consumer`] fetches the facts and carries the decisions out. Lease items: scope = the
//! stream's ARN, id = the shard's.
//!
//! In a pipeline this is the `change_stream` source ([`ChangeStreamOptions`]). By itself:
//!
//! ```
//! # use std::sync::Arc;
//! # use penstock_engine::{cloud::{ChangeStream, Table}, leases::Leases, streams::*, time::Clock, ack::Verdict};
//! # use tokio_util::sync::CancellationToken;
//! # async fn example(stream: Arc<dyn ChangeStream>, leases: Arc<dyn Table>, stop: CancellationToken) {
//! let leases = Leases::new(leases, "worker-1", Default::default());
//! let consumer = Consumer::new(stream, leases, ChangeStreamOptions::new("orders"), Clock::system(), None);
//! let (sender, mut pages) = tokio::sync::mpsc::channel(1);
//! let run = consumer.run(sender, stop);
//! let handle = async {
//!     while let Some(page) = pages.recv().await {
//!         for Delivery { change, ack } in page {
//!             println!("{:?} {:?}", change.kind, change.key);
//!             ack.settle(Verdict::Done); // Once its effects are durable.
//!         }
//!     }
//! };
//! tokio::join!(run, handle);
//! # }
//! ```

pub mod assignment;
mod consumer;
mod dead_letter;
mod discovery;
mod events;
mod first_start;
pub mod frontier;
mod ledger;
mod options;
mod reader;
mod retries;
mod rounds;
mod shard;
pub mod shard_graph;
pub mod shard_item;
mod source;
pub mod start;
mod status;
#[cfg(test)]
mod tests;
pub mod trimmed;

pub use consumer::{Consumer, Delivery};
pub use discovery::Pace;
pub use options::{ChangeStreamOptions, OnTrimmed, StartAt};
pub use status::{ShardState, ShardStatus, shards_of_process};
