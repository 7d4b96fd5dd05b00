//! The consumer of change streams: reads a table's changes in order, shares the shards with other workers by leases, and
//! remembers how far every effect is durable.
//!
//! It promises:
//!
//! - **Each change at least once.** A checkpoint covers only a contiguous prefix of changes that were acked (I5).
//! - **Order per item.** No shard is read before its parents are done (I6), and a table's older stream before its newer
//!   one; and a change is handed on when the changes of its item before it are done, however often one is tried again. One
//!   thing comes out of order: what a new owner reads again because the old one had not checkpointed it.
//! - **One reader a shard.** Checkpoints are written under the lease's fence, so that who lost a shard can't move it (I7).
//! - **Nothing silent** (I10). Changes that were trimmed away are a policy and a recorded gap; a change that can't be
//!   handled is dead-lettered whole; a shard that doesn't move says why ([`ShardStatus`]).
//!
//! What is decided is decided by functions without I/O ([`shard_graph`], [`assignment`], [`turns`], [`batches`],
//! [`frontier`], [`filter`], [`start`], [`trimmed`], [`shard_item`]); [`Consumer`] fetches the facts and carries the decisions out. Lease items: scope = the
//! stream's ARN, id = the shard's.
//!
//! In a pipeline this is the `change_stream` source ([`ChangeStreamOptions`]). By itself it needs a stream, and a table for
//! the leases; any number of processes may run the same lines:
//!
//! ```
//! use std::sync::Arc;
//! use penstock_engine::{
//!     cloud::{ChangeStream, CloudError, Queue, Table, change_stream::Change},
//!     leases::{LeaseOptions, Leases},
//!     streams::{ChangeStreamOptions, Consumer, WrongOptions},
//! };
//! use tokio_util::sync::CancellationToken;
//!
//! async fn consume(
//!     orders: Arc<dyn ChangeStream>,
//!     leases: Arc<dyn Table>,
//!     failed: Arc<dyn Queue>,
//!     stop: CancellationToken,
//! ) -> Result<(), WrongOptions> {
//!     let leases = Leases::new(leases, "worker-1", LeaseOptions::default());
//!     let options = ChangeStreamOptions::new("orders");
//!     let consumer = Consumer::builder(orders, leases, options).dead_letter(failed).build()?;
//!     // Up to 16 changes side by side, and those of one item one after another.
//!     consumer.for_each(16, stop, |change| async move { index(&change).await }).await;
//!     Ok(())
//! }
//!
//! async fn index(change: &Change) -> Result<(), CloudError> {
//!     println!("{:?} {}/{}", change.kind, change.key.partition, change.key.sort);
//!     Ok(()) // Its effects are durable. An error: the change comes again, and goes to `failed` in the end.
//! }
//! # use penstock_engine::simulation::{FakeQueue, FakeStream, FakeTable};
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! #     let (stream, (table, _)) = (FakeStream::new(), FakeTable::new().host());
//! #     (0..100).for_each(|n| stream.put("an order", n));
//! #     let stop = CancellationToken::new();
//! #     let run = consume(Arc::new(stream.clone()), table, Arc::new(FakeQueue::default()), stop.clone());
//! #     let end = async { tokio::time::sleep(std::time::Duration::from_secs(60)).await; stop.cancel() };
//! #     assert_eq!(tokio::join!(run, end).0, Ok(()));
//! #     assert!(stream.calls("records") > 1);
//! # }
//! ```
//!
//! On AWS it takes tables and queue by their names; the table of leases has two string keys:
//!
//! ```no_run
//! use penstock_engine::cloud::aws::{AwsAccount, AwsOptions};
//! # use std::sync::Arc;
//! # use penstock_engine::{cloud::{ChangeStream, Queue, Table}, streams::WrongOptions};
//! # use tokio_util::sync::CancellationToken;
//! # async fn consume(
//! #     _: Arc<dyn ChangeStream>, _: Arc<dyn Table>, _: Arc<dyn Queue>, _: CancellationToken,
//! # ) -> Result<(), WrongOptions> {
//! #     Ok(())
//! # }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let account = AwsAccount::connect(&AwsOptions::default()).await;
//!     let (orders, leases) = (account.change_stream("orders").await?, account.table("orders-leases").await?);
//!     let stop = CancellationToken::new(); // Cancel it to stop: checkpoints are written and leases given back.
//!     consume(orders, leases, account.queue("orders-failed").await?, stop).await?;
//!     Ok(())
//! }
//! ```
//!
//! Who wants batches, or acks that come later, takes [`Consumer::run`] with a channel.

pub mod assignment;
pub mod batches;
mod common;
mod consumer;
mod dead_letter;
mod discovery;
mod events;
pub mod filter;
mod first_start;
pub mod frontier;
mod ledger;
pub mod operate;
mod options;
mod reader;
mod retries;
mod rounds;
mod rules;
mod shard;
pub mod shard_graph;
pub mod shard_item;
mod source;
pub mod start;
mod status;
#[cfg(test)]
mod tests;
pub mod trimmed;
pub mod turns;

pub use common::Common;
pub use consumer::{Consumer, ConsumerBuilder, Delivery, WrongOptions};
pub use discovery::Pace;
pub use options::{ChangeStreamOptions, OnTrimmed, Order, StartAt};
pub use status::{ALL_SHARDS, ShardState, ShardStatus, shards_of_process};
