//! AWS's limits, checked before every implementation, so that what works on one machine works there.
//!
//! Sources: the quota pages of the DynamoDB, DynamoDB Streams, SQS, EventBridge and S3 guides.

/// Bytes of an item, names included.
pub const ITEM_BYTES: usize = 400 * 1024;
/// Bytes of a partition key's value.
pub const PARTITION_KEY_BYTES: usize = 2048;
/// Bytes of a sort key's value.
pub const SORT_KEY_BYTES: usize = 1024;
/// Bytes of a page of a query.
pub const QUERY_PAGE_BYTES: usize = 1024 * 1024;
/// Records of a page of a shard.
pub const RECORDS_PER_PAGE: usize = 1000;
/// Bytes of a page of a shard.
pub const RECORD_PAGE_BYTES: usize = 1024 * 1024;
/// Shards of a page of a stream's description.
pub const SHARDS_PER_PAGE: usize = 100;
/// Seconds that a shard iterator lives.
pub const ITERATOR_SECS: u64 = 15 * 60;
/// Hours that a stream keeps a record.
pub const STREAM_RETENTION_HOURS: i64 = 24;
/// Messages of one send, receive or delete.
pub const QUEUE_BATCH: usize = 10;
/// Bytes of a message, and of one send. (SQS allows 1 MiB since 2025; the old limit is safe everywhere.)
pub const MESSAGE_BYTES: usize = 256 * 1024;
/// Seconds that a message may stay hidden.
pub const VISIBILITY_SECS: u64 = 12 * 60 * 60;
/// Events of one PutEvents.
pub const EVENTS_PER_PUT: usize = 10;
/// Bytes of one PutEvents. (EventBridge allows 1 MB since 2026; the old limit is safe everywhere.)
pub const EVENT_BYTES: usize = 256 * 1024;
/// Characters of a detail type.
pub const DETAIL_TYPE_CHARS: usize = 128;
/// Bytes of an object's key.
pub const OBJECT_KEY_BYTES: usize = 1024;
/// Bytes of a part of a multipart upload that isn't its last.
pub const PART_MIN_BYTES: usize = 5 * 1024 * 1024;
/// Parts of a multipart upload.
pub const PARTS_PER_UPLOAD: u32 = 10_000;
