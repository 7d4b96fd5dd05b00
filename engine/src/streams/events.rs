//! What happens to streams: each event is one log line and one metric together.

use std::time::Duration;

use super::{
    assignment::ShardKey,
    dead_letter::Failure,
    shard_item::{Ending, Gap},
};
use crate::cloud::{
    CloudError, ErrorKind,
    change_stream::{SequenceNumber, ShardId},
};

macro_rules! count {
    ($name:literal, $n:expr $(, $label:literal => $value:expr)*) => {
        metrics::counter!($name $(, $label => $value.to_string())*).increment($n)
    };
}

/// How a read ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadResult {
    Data,
    Empty,
    Expired,
    Throttled,
    Trimmed,
    Gone,
    Failed,
}

impl ReadResult {
    fn text(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Empty => "empty",
            Self::Expired => "expired",
            Self::Throttled => "throttled",
            Self::Trimmed => "trimmed",
            Self::Gone => "gone",
            Self::Failed => "failed",
        }
    }
}

/// A page was asked for.
pub(super) struct Read<'a> {
    pub table: &'a str,
    pub key: &'a ShardKey,
    pub result: ReadResult,
    pub records: usize,
}

impl Read<'_> {
    pub fn emit(self) {
        let (shard, result) = (&self.key.shard, self.result.text());
        count!("penstock_stream_reads_total", 1, "table" => self.table, "result" => result);
        count!("penstock_stream_records_total", self.records as u64, "table" => self.table);
        match self.result {
            ReadResult::Data | ReadResult::Empty => tracing::trace!(%shard, records = self.records, "Page read."),
            _ => tracing::debug!(%shard, result, "Read failed; trying again."),
        }
    }
}

/// DescribeStream was called.
pub(super) struct Described<'a> {
    pub table: &'a str,
    pub error: Option<&'a CloudError>,
}

impl Described<'_> {
    pub fn emit(self) {
        let result = match self.error {
            None => "ok",
            Some(error) if error.kind == ErrorKind::Throttled => "throttled",
            Some(_) => "failed",
        };
        count!("penstock_stream_describes_total", 1, "table" => self.table, "result" => result);
        if let Some(error) = self.error {
            tracing::warn!(table = self.table, %error, "Shards not listed; trying again.");
        }
    }
}

/// Changes were trimmed away before they were read.
pub(super) struct TrimmedGap<'a> {
    pub table: &'a str,
    pub key: &'a ShardKey,
    pub gap: &'a Gap,
    pub what: &'a str,
}

impl TrimmedGap<'_> {
    pub fn emit(self) {
        let (arn, shard, policy) = (&self.key.arn, &self.key.shard, self.gap.policy.as_str());
        let from = self.gap.from.as_ref().map_or("its beginning", |from| from.0.as_str());
        count!("penstock_stream_trimmed_gaps_total", 1, "table" => self.table, "policy" => policy);
        tracing::error!(table = self.table, %arn, %shard, from, policy, "Changes lost to the stream's retention: {}.", self.what);
    }
}

/// A worker began to read a shard.
pub(super) struct ShardOpened<'a> {
    pub table: &'a str,
    pub key: &'a ShardKey,
    pub from: &'a str,
}

impl ShardOpened<'_> {
    pub fn emit(self) {
        let (arn, shard) = (&self.key.arn, &self.key.shard);
        count!("penstock_stream_shards_opened_total", 1, "table" => self.table);
        tracing::info!(table = self.table, %arn, %shard, from = self.from, "Shard opened.");
    }
}

/// A worker stopped reading a shard.
pub(super) struct ShardClosed<'a> {
    pub table: &'a str,
    pub key: &'a ShardKey,
    /// `given_back`, `lost` or `failed`.
    pub how: &'static str,
    pub checkpoint: Option<&'a SequenceNumber>,
    pub reason: &'a str,
}

impl ShardClosed<'_> {
    pub fn emit(self) {
        let (arn, shard) = (&self.key.arn, &self.key.shard);
        let checkpoint = self.checkpoint.map(|checkpoint| checkpoint.0.as_str());
        count!("penstock_stream_shards_closed_total", 1, "table" => self.table, "how" => self.how);
        if self.how == "given_back" {
            tracing::info!(table = self.table, %arn, %shard, checkpoint, "Shard given back.");
        } else {
            tracing::warn!(table = self.table, %arn, %shard, checkpoint, how = self.how, "Shard given up: {}.", self.reason);
        }
    }
}

/// A shard was read to its end, or is gone.
pub(super) struct ShardEnded<'a> {
    pub table: &'a str,
    pub key: &'a ShardKey,
    pub ending: Ending,
    pub children: &'a [ShardId],
}

impl ShardEnded<'_> {
    pub fn emit(self) {
        let (arn, shard, ending) = (&self.key.arn, &self.key.shard, self.ending.text());
        let children: Vec<_> = self.children.iter().map(|child| child.0.as_str()).collect();
        count!("penstock_stream_shards_ended_total", 1, "table" => self.table, "ending" => ending);
        tracing::info!(table = self.table, %arn, %shard, ending, ?children, "Shard ended.");
    }
}

/// A closed shard has no children in the listing, though it should.
pub(super) struct ShardHole<'a> {
    pub table: &'a str,
    pub arn: &'a str,
    pub shard: &'a ShardId,
}

impl ShardHole<'_> {
    pub fn emit(self) {
        count!("penstock_stream_shard_holes_total", 1, "table" => self.table);
        tracing::warn!(table = self.table, arn = self.arn, shard = %self.shard, "No children listed of a closed shard; listing again.");
    }
}

/// A table's stream is no longer listed, and wasn't read to its end.
pub(super) struct StreamGone<'a> {
    pub table: &'a str,
    pub arn: &'a str,
    pub unfinished: usize,
}

impl StreamGone<'_> {
    pub fn emit(self) {
        count!("penstock_stream_trimmed_gaps_total", 1, "table" => self.table, "policy" => "stream_gone");
        let (arn, unfinished) = (self.arn, self.unfinished);
        tracing::error!(table = self.table, arn, unfinished, "Stream gone before its shards were read to their end.");
    }
}

/// A tombstone was removed.
pub(super) struct TombstoneRemoved<'a> {
    pub table: &'a str,
    pub key: &'a ShardKey,
}

impl TombstoneRemoved<'_> {
    pub fn emit(self) {
        let (arn, shard) = (&self.key.arn, &self.key.shard);
        count!("penstock_stream_tombstones_removed_total", 1, "table" => self.table);
        tracing::debug!(table = self.table, %arn, %shard, "Lease item of a trimmed shard removed.");
    }
}

/// A checkpoint was stored.
pub(super) struct CheckpointWritten<'a> {
    pub table: &'a str,
    pub key: &'a ShardKey,
    pub checkpoint: Option<&'a SequenceNumber>,
}

impl CheckpointWritten<'_> {
    pub fn emit(self) {
        let checkpoint = self.checkpoint.map(|checkpoint| checkpoint.0.as_str());
        count!("penstock_stream_checkpoints_total", 1, "table" => self.table, "result" => "stored");
        tracing::trace!(shard = %self.key.shard, checkpoint, "Checkpoint stored.");
    }
}

/// A checkpoint couldn't be stored.
pub(super) struct CheckpointFailed<'a> {
    pub table: &'a str,
    pub key: &'a ShardKey,
    pub error: &'a str,
}

impl CheckpointFailed<'_> {
    pub fn emit(self) {
        count!("penstock_stream_checkpoints_total", 1, "table" => self.table, "result" => "failed");
        let (arn, shard) = (&self.key.arn, &self.key.shard);
        tracing::warn!(table = self.table, %arn, %shard, error = self.error, "Checkpoint not stored.");
    }
}

/// Changes were acked without being handed on.
pub(super) struct RecordsPassedOver<'a> {
    pub table: &'a str,
    pub key: &'a ShardKey,
    pub count: u64,
    /// `filter`: no pattern takes them. `before_start`: they are older than the start that was asked for.
    pub why: &'static str,
}

impl RecordsPassedOver<'_> {
    pub fn emit(self) {
        let Self { table, key, count, why } = self;
        if count > 0 {
            count!("penstock_stream_records_passed_over_total", count, "table" => table, "why" => why);
            tracing::debug!(table, shard = %key.shard, count, why, "Changes passed over.");
        }
    }
}

/// A change failed, and is offered again after a wait.
pub(super) struct RecordFailed<'a> {
    pub table: &'a str,
    pub key: &'a ShardKey,
    pub failure: &'a Failure,
    /// It would be dead-lettered if there were a queue for that.
    pub used_up: bool,
    pub wait: Duration,
}

impl RecordFailed<'_> {
    pub fn emit(self) {
        let Self { table, key, failure, used_up, .. } = self;
        let (shard, sequence, attempts) = (&key.shard, &failure.change.sequence, failure.attempts);
        let wait_ms = self.wait.as_millis();
        count!("penstock_stream_records_retried_total", 1, "table" => table, "used_up" => used_up);
        if used_up {
            tracing::error!(table, %shard, %sequence, attempts, wait_ms, reason = failure.reason,
                "Change can't be handled and there is no dead-letter queue: its shard waits for it.");
        } else {
            tracing::warn!(table, %shard, %sequence, attempts, wait_ms, reason = failure.reason, "Change failed; offering it again.");
        }
    }
}

/// A change went to the dead-letter queue.
pub(super) struct RecordDeadLettered<'a> {
    pub table: &'a str,
    pub queue: &'a str,
    pub key: &'a ShardKey,
    pub failure: &'a Failure,
    /// Images that were too large for the queue.
    pub cut: &'a [&'static str],
}

impl RecordDeadLettered<'_> {
    pub fn emit(self) {
        let Self { table, queue, key, failure, cut } = self;
        let (shard, sequence, attempts) = (&key.shard, &failure.change.sequence, failure.attempts);
        count!("penstock_stream_records_dead_lettered_total", 1, "table" => table, "cut" => !cut.is_empty());
        tracing::error!(table, queue, %shard, %sequence, attempts, ?cut, reason = failure.reason, "Change dead-lettered.");
    }
}

/// A change couldn't be sent to the dead-letter queue; its shard waits.
pub(super) struct DeadLetterFailed<'a> {
    pub queue: &'a str,
    pub key: &'a ShardKey,
    pub failure: &'a Failure,
    pub error: &'a CloudError,
}

impl DeadLetterFailed<'_> {
    pub fn emit(self) {
        let (shard, sequence) = (&self.key.shard, &self.failure.change.sequence);
        count!("penstock_stream_dead_letter_failures_total", 1, "queue" => self.queue);
        tracing::error!(queue = self.queue, %shard, %sequence, error = %self.error, "Change not dead-lettered yet; trying again.");
    }
}

/// A round of looking at streams and leases failed; the shards that are read go on.
pub(super) struct RoundFailed<'a> {
    pub table: &'a str,
    pub error: &'a str,
}

impl RoundFailed<'_> {
    pub fn emit(self) {
        count!("penstock_stream_rounds_failed_total", 1, "table" => self.table);
        tracing::warn!(table = self.table, error = self.error, "Leases and shards not looked at; trying again.");
    }
}

/// A shard that is read has come to have lag without progress.
pub(super) struct ShardStuck<'a> {
    pub table: &'a str,
    pub shard: &'a ShardId,
    pub reason: &'a str,
}

impl ShardStuck<'_> {
    pub fn emit(self) {
        count!("penstock_stream_shards_stuck_total", 1, "table" => self.table);
        tracing::error!(table = self.table, shard = %self.shard, "Shard is stuck: {}.", self.reason);
    }
}

/// The worst lag has passed another quarter of what the stream keeps (F37).
pub(super) struct LagNearRetention<'a> {
    pub table: &'a str,
    pub lag_secs: u64,
    /// Quarters of the retention; from 4 on changes are lost.
    pub quarter: u64,
}

impl LagNearRetention<'_> {
    pub fn emit(self) {
        count!("penstock_stream_lag_quarters_total", 1, "table" => self.table);
        let (lag_secs, quarter) = (self.lag_secs, self.quarter);
        tracing::error!(table = self.table, lag_secs, quarter, "Reading falls behind: at 4 quarters changes are lost.");
    }
}
