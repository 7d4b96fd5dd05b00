//! The cloud seam: what operators may ask of a cloud, at the level of AWS operations.
//!
//! Each trait has one implementation on the AWS SDK and one on a single machine ([`local`]). **Their contract is the
//! weakness**: an index read is stale and not monotonic, a plain read may be stale, queues duplicate and reorder, and a
//! write may land after its error. The local cloud is stronger on each point, so the decorators in [`weaken`] take that
//! strength away again in simulation. The limits of AWS ([`limits`]) stand before every implementation, and the suites
//! in [`conformance`] say what any implementation owes.

pub mod change_stream;
pub mod conformance;
mod error;
pub mod event_bus;
pub mod limits;
pub mod local;
pub mod pattern;
pub mod queue;
pub mod resources;
pub mod stage;
pub mod table;
pub mod tap;
pub mod weaken;

use std::sync::Arc;

use async_trait::async_trait;
use object_store::ObjectStore;

pub use change_stream::ChangeStream;
pub use error::{CloudError, ErrorKind, Result};
pub use event_bus::EventBus;
pub use queue::Queue;
pub use serde_dynamo::{AttributeValue, Item};
pub use stage::Stage;
pub use table::Table;

/// One bucket: plain reads and writes go through `store`, what `object_store` can't say through `stage`.
#[derive(Clone)]
pub struct Bucket {
    /// The bucket's full name, as in `s3://{name}/`.
    pub name: String,
    /// Plain reads, writes and listings.
    pub store: Arc<dyn ObjectStore>,
    /// Staged outputs, copies with metadata, HEAD with metadata.
    pub stage: Arc<dyn Stage>,
}

/// Hands out a pipeline's resources by the short names that its YAML declares (`sqs-file-tracking`, `input`, …).
///
/// Handles are cheap to clone and may be asked for any number of times.
#[async_trait]
pub trait Cloud: Send + Sync {
    /// The table of that name.
    async fn table(&self, name: &str) -> Result<Arc<dyn Table>>;
    /// The change stream of the table of that name.
    async fn change_stream(&self, table: &str) -> Result<Arc<dyn ChangeStream>>;
    /// The queue of that name.
    async fn queue(&self, name: &str) -> Result<Arc<dyn Queue>>;
    /// The event bus of that name.
    async fn event_bus(&self, name: &str) -> Result<Arc<dyn EventBus>>;
    /// The bucket of that name.
    async fn bucket(&self, name: &str) -> Result<Bucket>;
}
