//! The metrics of this crate.

use penstock_engine::telemetry::{Metric, MetricUnit};

/// All of them.
pub const METRICS: &[Metric] = &[
    Metric::counter(
        "penstock_notifications_total",
        &["outcome"],
        "Notifications of objects, by what they came to: tracked (new, newer or redriven), quarantined, superseded, or \
         ignored as redelivered, same_content, or commit_lost (readers may see rows of its failed file).",
    )
    .for_cloudwatch(),
    Metric::counter(
        "penstock_notifications_dropped_total",
        &["reason"],
        "Messages about objects that are no files: folder markers, test events, removals.",
    ),
    Metric::gauge(
        "penstock_pending_files",
        &[],
        "Files that wait for a manifest, as the fold of this process sees them.",
    )
    .for_cloudwatch(),
    Metric::gauge("penstock_pending_oldest_seconds", &[], "How long the oldest of them has waited.")
        .in_unit(MetricUnit::Seconds)
        .for_cloudwatch(),
    Metric::counter(
        "penstock_fold_view_full_total",
        &[],
        "Files that found no room in the fold's view; the index shows them again.",
    ),
    Metric::counter(
        "penstock_unreadable_items_total",
        &[],
        "Items that a reading of the index showed and that can't be read; each reading counts them again.",
    ),
    Metric::counter(
        "penstock_flushes_total",
        &["reason"],
        "Manifests that were committed, by the threshold: files, bytes, age, item_size, manual.",
    )
    .for_cloudwatch(),
    Metric::counter("penstock_flush_failures_total", &[], "Manifests that couldn't be made yet; tried again.")
        .for_cloudwatch(),
    Metric::counter(
        "penstock_flush_requests_total",
        &["outcome"],
        "Flushes by hand: heeded, answered, answered_before (another fold was quicker).",
    ),
    Metric::histogram("penstock_manifest_files", &[], "Files of a manifest."),
    Metric::histogram("penstock_manifest_bytes", &[], "Stored bytes of a manifest.").in_unit(MetricUnit::Bytes),
    Metric::counter("penstock_manifests_resumed_total", &[], "Half-made manifests that were taken over."),
    Metric::counter(
        "penstock_manifests_abandoned_total",
        &[],
        "Manifests that were given up before they were committed.",
    ),
    Metric::counter(
        "penstock_claims_total",
        &["outcome"],
        "Claims of files for manifests: claimed, refused, uncertain, released.",
    ),
    Metric::counter("penstock_events_deferred_total", &[], "Events that an open breaker left to the sweep."),
    Metric::counter("penstock_events_failed_total", &[], "Calls of the bus that failed.").for_cloudwatch(),
    Metric::counter("penstock_events_repeated_total", &[], "Events that were published a second time: harmless."),
    Metric::counter("penstock_attempts_total", &["outcome"], "Attempts to convert a manifest, by how they ended.")
        .for_cloudwatch(),
    Metric::histogram("penstock_convert_seconds", &[], "How long an attempt converts and stages.")
        .in_unit(MetricUnit::Seconds)
        .for_cloudwatch(),
    Metric::counter("penstock_converted_bytes_total", &[], "Stored bytes of manifests that were completed.")
        .in_unit(MetricUnit::Bytes)
        .for_cloudwatch(),
    Metric::counter("penstock_rows_total", &[], "Rows of completed manifests.").for_cloudwatch(),
    Metric::counter(
        "penstock_corrupt_rows_total",
        &[],
        "Rows of completed manifests that Spark would have called corrupt (cast `spark`).",
    ),
    Metric::counter("penstock_rejected_rows_total", &[], "Lines of completed manifests that were no rows.")
        .for_cloudwatch(),
    Metric::counter("penstock_manifests_failed_total", &[], "Manifests that were given up; their files failed.")
        .for_cloudwatch(),
    Metric::counter(
        "penstock_files_settled_total",
        &["status"],
        "Files that followed their manifest: completed, failed.",
    )
    .for_cloudwatch(),
    Metric::counter(
        "penstock_settled_without_json_total",
        &[],
        "Failed manifests whose JSON object was deleted; their files were told by their claims.",
    ),
    Metric::histogram(
        "penstock_manifest_done_seconds",
        &[],
        "From the making of a manifest until its files had followed it.",
    )
    .in_unit(MetricUnit::Seconds)
    .for_cloudwatch(),
    Metric::counter(
        "penstock_sweep_finds_total",
        &["what", "outcome"],
        "What sweeps found left behind, by what became of it: done, left, failed.",
    ),
    Metric::counter(
        "penstock_commits_put_off_total",
        &[],
        "Recorded commits that couldn't be completed for now; tried again later.",
    ),
    Metric::counter(
        "penstock_commits_staged_again_total",
        &[],
        "Recorded commits whose bytes were gone and are staged again.",
    ),
    Metric::counter(
        "penstock_manifest_names_taken_total",
        &[],
        "Names of manifests that were taken already; another is drawn.",
    ),
    Metric::counter(
        "penstock_resume_failures_total",
        &[],
        "Half-made manifests that couldn't be finished yet; tried again.",
    ),
    Metric::counter("penstock_sweeps_total", &[], "Sweeps of the table and the input bucket."),
    Metric::counter(
        "penstock_listed_objects_total",
        &["outcome"],
        "Objects that a listing of the input bucket looked up: known, missed (no item knows it), gone, failed.",
    ),
    Metric::counter(
        "penstock_swept_objects_total",
        &[],
        "Objects that a listing found and that became files: no notification had told of them.",
    ),
    // Operators of any pipeline.
    Metric::counter(
        "penstock_records_filtered_total",
        &["component_id", "output"],
        "Records that a filter looked at, by where they went.",
    ),
    Metric::counter("penstock_records_dropped_total", &["component_id"], "Records that a `drop` ended."),
    Metric::counter(
        "penstock_records_out_of_order_total",
        &["component_id"],
        "Records that came out of order to an operator that gathers; what it had gathered was closed.",
    ),
    Metric::counter("penstock_messages_sent_total", &["queue"], "Messages that an `sqs` operator sent."),
    Metric::counter("penstock_events_published_total", &["bus"], "Events that an `eventbridge` operator published."),
    Metric::counter(
        "penstock_objects_written_total",
        &["component_id", "reason"],
        "NDJSON objects that were written, by what closed them.",
    ),
    Metric::counter("penstock_objects_written_bytes_total", &["component_id"], "Their bytes.")
        .in_unit(MetricUnit::Bytes),
    Metric::counter("penstock_objects_written_records_total", &["component_id"], "Their records."),
    Metric::counter(
        "penstock_objects_adopted_total",
        &["component_id"],
        "NDJSON objects that were there already: their records are durable.",
    ),
    Metric::counter(
        "penstock_object_writes_failed_total",
        &["component_id"],
        "NDJSON objects that couldn't be written yet; tried again.",
    ),
];
