//! The metrics of this crate.

use super::{Metric, MetricUnit};

/// All of them.
pub const METRICS: &[Metric] = &[
    // The runtime.
    Metric::counter("penstock_component_received_events_total", &["component_id"], "Records that an operator took."),
    Metric::counter(
        "penstock_component_sent_events_total",
        &["component_id"],
        "Records that an operator handed on, each once however many read it.",
    ),
    Metric::counter(
        "penstock_component_errors_total",
        &["component_id", "stage"],
        "Failures of an operator, by what it did then: record, tick, source, build, stop, receive, delete, visibility.",
    )
    .for_cloudwatch(),
    Metric::gauge("penstock_component_buffer_batches", &["component_id"], "Batches that wait before an operator."),
    Metric::gauge(
        "penstock_component_buffer_capacity_batches",
        &["component_id"],
        "Batches that may wait before an operator; then those before it wait.",
    ),
    Metric::gauge(
        "penstock_component_utilization",
        &["component_id"],
        "Share of the time since the last look in which an operator worked.",
    )
    .in_unit(MetricUnit::Ratio),
    Metric::gauge(
        "penstock_component_blocked",
        &["component_id"],
        "Share of the time since the last look in which an operator waited for those behind it: backpressure.",
    )
    .in_unit(MetricUnit::Ratio),
    // Writes.
    Metric::counter(
        "penstock_conditional_writes_total",
        &["outcome"],
        "Conditional writes: applied, applied_before, refused (somebody else was first: normal), unknown (read again).",
    ),
    Metric::gauge("penstock_breaker_state", &["endpoint"], "A circuit breaker: 0 closed, 1 half-open, 2 open.")
        .for_cloudwatch(),
    Metric::counter(
        "penstock_aws_requests_total",
        &["action", "outcome"],
        "Requests to AWS by the SDK, by the IAM action that each takes and how it ended. Damaged: its bytes were not what their \
         checksum says.",
    ),
    // Queues.
    Metric::counter(
        "penstock_queue_given_back_total",
        &["component_id"],
        "Messages that were given back to their queue, to come again.",
    ),
    Metric::gauge(
        "penstock_queue_messages",
        &["queue", "state"],
        "Messages of a queue, about: visible, in_flight, delayed.",
    )
    .for_cloudwatch(),
    // Leases.
    Metric::gauge("penstock_leases_held", &["owner"], "Leases that a holder has."),
    Metric::counter(
        "penstock_leases_acquired_total",
        &["scope", "how"],
        "Leases that were taken: free or from the dead.",
    ),
    Metric::counter("penstock_leases_contended_total", &["scope"], "Leases that somebody else took first."),
    Metric::counter("penstock_leases_lost_total", &["scope"], "Leases that were lost while they were needed."),
    Metric::counter(
        "penstock_lease_renewals_failed_total",
        &["scope"],
        "Renewals that failed; a lease outlives several.",
    ),
    Metric::counter("penstock_leases_released_total", &["scope"], "Leases that were given back."),
    Metric::counter(
        "penstock_lease_releases_failed_total",
        &["scope"],
        "Leases that couldn't be given back, and die by themselves.",
    ),
    // Change streams.
    Metric::counter(
        "penstock_stream_reads_total",
        &["table", "result"],
        "Pages asked for: data, empty, expired, throttled, trimmed, gone, failed.",
    ),
    Metric::counter("penstock_stream_records_total", &["table"], "Changes that were read.").for_cloudwatch(),
    Metric::counter(
        "penstock_stream_describes_total",
        &["table", "result"],
        "Listings of shards: ok, throttled, failed.",
    ),
    Metric::counter(
        "penstock_stream_trimmed_gaps_total",
        &["table", "policy"],
        "Gaps: changes that the stream dropped before they were read, by what was done about it.",
    )
    .for_cloudwatch(),
    Metric::counter("penstock_stream_shards_opened_total", &["table"], "Shards that a reader began."),
    Metric::counter(
        "penstock_stream_shards_closed_total",
        &["table", "how"],
        "Shards that a reader left: given_back, lost, failed.",
    ),
    Metric::counter(
        "penstock_stream_shards_ended_total",
        &["table", "ending"],
        "Shards that were read to their end, or are gone.",
    ),
    Metric::counter(
        "penstock_stream_shard_holes_total",
        &["table"],
        "Closed shards whose children the listing lacks; listed again.",
    ),
    Metric::counter(
        "penstock_stream_tombstones_removed_total",
        &["table"],
        "Lease items of trimmed shards that were removed.",
    ),
    Metric::counter("penstock_stream_checkpoints_total", &["table", "result"], "Checkpoints: stored, failed."),
    Metric::counter(
        "penstock_stream_records_passed_over_total",
        &["table", "why"],
        "Changes that were acked and not handed on: no filter takes them, or they are older than the start asked for.",
    ),
    Metric::counter(
        "penstock_stream_records_retried_total",
        &["table", "used_up"],
        "Changes that failed and were offered again.",
    ),
    Metric::counter(
        "penstock_stream_records_dead_lettered_total",
        &["table", "cut"],
        "Changes that went to the dead-letter queue; cut if an image was too large for it.",
    )
    .for_cloudwatch(),
    Metric::counter(
        "penstock_stream_dead_letter_failures_total",
        &["queue"],
        "Changes that couldn't be dead-lettered yet; their shard waits.",
    ),
    Metric::counter("penstock_stream_rounds_failed_total", &["table"], "Looks at leases and shards that failed."),
    Metric::counter("penstock_stream_shards_stuck_total", &["table"], "Shards that came to have lag and no progress.")
        .for_cloudwatch(),
    Metric::counter(
        "penstock_stream_lag_quarters_total",
        &["table"],
        "Times that the worst lag passed a quarter of what the stream keeps: at four, changes are lost.",
    ),
    Metric::gauge(
        "penstock_stream_lag_seconds",
        &["table"],
        "Age of the oldest change that isn't done, of the worst shard here; for one that nobody reads though somebody should, \
         for how long.",
    )
    .in_unit(MetricUnit::Seconds)
    .for_cloudwatch(),
    Metric::gauge(
        "penstock_stream_shard_lag_seconds",
        &["table", "shard"],
        "The same for each shard that this process reads, or nobody; 0 once another does.",
    )
    .in_unit(MetricUnit::Seconds),
    Metric::gauge(
        "penstock_stream_in_flight_records",
        &["table"],
        "Changes that were handed on and have no verdict yet.",
    ),
    Metric::gauge(
        "penstock_stream_shards",
        &["table", "state"],
        "Shards by what happens to them: waiting, free, reading, stuck, draining, stopped, elsewhere, ended.",
    )
    .for_cloudwatch(),
    // The local cloud.
    Metric::counter(
        "penstock_bucket_skipped_total",
        &["reason"],
        "Entries of a bucket's folder that can't be objects.",
    ),
    Metric::counter("penstock_watch_landed_total", &["bucket"], "Files of a watched folder that landed."),
    Metric::counter("penstock_watch_landed_bytes_total", &["bucket"], "Their bytes.").in_unit(MetricUnit::Bytes),
    Metric::counter(
        "penstock_watch_unchanged_total",
        &["bucket"],
        "Files that were looked at again and hadn't changed.",
    ),
    Metric::counter("penstock_watch_gone_total", &["bucket"], "Files that vanished before they landed."),
    Metric::counter("penstock_watch_skipped_total", &["bucket"], "Entries of a watched folder that can't land."),
    Metric::counter(
        "penstock_watch_lost_events_total",
        &["bucket"],
        "Times that the system dropped events of a folder; it is listed again.",
    ),
    Metric::counter("penstock_watch_polling_total", &[], "Times that a folder had to be polled, for want of events."),
    Metric::counter("penstock_watch_errors_total", &["bucket", "what"], "Failures of a folder's watch."),
    // Traces.
    Metric::counter("penstock_trace_spans_sent_total", &[], "Spans of traces that the collector took."),
    Metric::counter(
        "penstock_trace_spans_dropped_total",
        &["reason"],
        "Spans of traces that never reached the collector: no_room in the queue, unreachable, refused.",
    ),
    // The process.
    Metric::counter(
        "penstock_logs_suppressed_total",
        &[],
        "Log lines that were left out, because the same one came within ten seconds.",
    ),
    Metric::counter(
        "penstock_http_requests_total",
        &["route", "status"],
        "Requests to the pages and the API of this process.",
    ),
    Metric::counter("penstock_rollups_total", &["result"], "Hourly rows of the metrics table: stored, failed."),
    Metric::gauge("penstock_build_info", &["version", "pipeline", "service"], "Always 1: what runs here.")
        .for_cloudwatch(),
];
