//! The table itself.

use super::{
    Guard::{AsRead, Is, None as No},
    ItemKind::{File, Flush, Manifest, Schema},
    Transition,
};

/// A transition that changes nothing but the state: the rows below say what else.
const ROW: Transition = Transition {
    name: "",
    of: File,
    from: &[],
    to: None,
    by: &[],
    guards: &[],
    sets: &[],
    may_set: &[],
    removes: &[],
    may_remove: &[],
    before: "",
};

/// What every file's item says of its object.
const OBJECT: &[&str] = &["etag", "sequencer", "version_id", "error_message", "ttl"];

/// Every transition that there is. What isn't here may not be written.
pub const TRANSITIONS: &[Transition] = &[
    Transition {
        name: "track",
        to: Some("pending"),
        by: &["track"],
        sets: &["file_path", "size_bytes", "shard_id", "created_at", "schema_version", "pending_since"],
        may_set: &["etag", "sequencer", "version_id"],
        ..ROW
    },
    Transition {
        name: "quarantine",
        to: Some("quarantined"),
        by: &["quarantine"],
        sets: &["file_path", "size_bytes", "shard_id", "created_at", "schema_version", "error_message", "ttl"],
        may_set: OBJECT,
        before: "copy, by the same etag",
        ..ROW
    },
    Transition {
        name: "replace",
        from: &["pending"],
        to: Some("pending"),
        by: &["track"],
        guards: &[AsRead("etag"), AsRead("sequencer"), No("claimed_at")],
        sets: &["size_bytes", "pending_since"],
        may_set: &["etag", "sequencer", "version_id"],
        removes: &["manifest_path", "ttl"],
        may_remove: &["sequencer", "version_id"],
        ..ROW
    },
    Transition {
        name: "replace by a bad one",
        from: &["pending"],
        to: Some("quarantined"),
        by: &["quarantine"],
        guards: &[AsRead("etag"), AsRead("sequencer"), No("claimed_at")],
        sets: &["size_bytes", "error_message", "ttl"],
        may_set: OBJECT,
        removes: &["manifest_path"],
        may_remove: &["sequencer", "version_id"],
        before: "copy, by the same etag",
        ..ROW
    },
    Transition {
        name: "redrive",
        from: &["failed"],
        to: Some("pending"),
        by: &["track"],
        guards: &[AsRead("etag"), AsRead("sequencer")],
        sets: &["size_bytes", "pending_since"],
        may_set: &["etag", "sequencer", "version_id"],
        removes: &["manifest_path", "ttl", "error_message", "failed_time"],
        may_remove: &["sequencer", "version_id"],
        before: "the bucket still shows this etag; its manifest did not fail with a commit",
        ..ROW
    },
    Transition {
        name: "redrive by hand",
        from: &["failed", "quarantined"],
        to: Some("pending"),
        by: &["person"],
        guards: &[AsRead("etag"), AsRead("manifest_path")],
        sets: &["pending_since"],
        removes: &["manifest_path", "ttl"],
        may_set: &["etag", "sequencer", "version_id", "size_bytes"],
        may_remove: &["error_message", "failed_time", "completed_time", "rows", "rejected_rows", "job_run_id"],
        before: "the bucket still has this etag or version; its manifest did not fail with a commit, or they insist",
        ..ROW
    },
    Transition {
        name: "assemble",
        of: Manifest,
        to: Some("assembling"),
        by: &["fold"],
        sets: &["schema_version", "manifest_path", "flush_reason", "token", "candidates", "created_at"],
        before: "lease `flush/{date}`",
        ..ROW
    },
    Transition {
        name: "resume",
        of: Manifest,
        from: &["assembling"],
        by: &["fold", "sweep"],
        guards: &[AsRead("token")],
        sets: &["token"],
        before: "the same lease, so that the holder before is dead or gone",
        ..ROW
    },
    Transition {
        name: "claim",
        from: &["pending"],
        to: Some("manifested"),
        by: &["fold", "sweep"],
        guards: &[AsRead("etag"), AsRead("pending_since")],
        sets: &["manifest_path", "claimed_at"],
        before: "M is assembling and names the file as a candidate; \"already mine\" counts as applied",
        ..ROW
    },
    Transition {
        name: "commit the manifest",
        of: Manifest,
        from: &["assembling"],
        to: Some("pending"),
        by: &["fold", "sweep"],
        guards: &[Is("token")],
        sets: &["json_etag", "file_count", "total_bytes"],
        removes: &["candidates"],
        before: "the JSON is there, created or adopted",
        ..ROW
    },
    Transition {
        name: "abandon",
        of: Manifest,
        from: &["assembling"],
        to: Some("abandoned"),
        by: &["fold", "sweep"],
        guards: &[Is("token")],
        sets: &["ttl"],
        removes: &["candidates"],
        before: "no JSON, nothing claimed, no claim uncertain",
        ..ROW
    },
    Transition {
        name: "release",
        from: &["manifested"],
        to: Some("pending"),
        by: &["fold", "sweep"],
        guards: &[Is("manifest_path")],
        sets: &["pending_since"],
        removes: &["manifest_path", "ttl"],
        before: "M's JSON exists and doesn't list it; for the sweep also: M is abandoned or absent",
        ..ROW
    },
    Transition {
        name: "announced",
        of: Manifest,
        from: &["pending", "processing", "completed", "failed"],
        by: &["announce", "sweep"],
        guards: &[No("announced_at")],
        sets: &["announced_at"],
        before: "the bus accepted ManifestReady",
        ..ROW
    },
    Transition {
        name: "alerted",
        of: Manifest,
        from: &["pending", "processing", "completed", "failed"],
        by: &["alert", "sweep"],
        guards: &[No("alerted_at")],
        sets: &["alerted_at"],
        before: "the bus accepted ManifestFailed or FilesFailed",
        ..ROW
    },
    Transition {
        name: "begin an attempt",
        of: Manifest,
        from: &["pending", "processing"],
        to: Some("processing"),
        by: &["convert"],
        guards: &[AsRead("token"), No("commit")],
        sets: &["token", "attempt", "processing_start_time"],
        removes: &["retry_at"],
        before: "lease `manifest/…`; attempts are left",
        ..ROW
    },
    Transition {
        name: "give up",
        of: Manifest,
        from: &["pending", "processing"],
        to: Some("failed"),
        by: &["convert"],
        guards: &[AsRead("token"), No("commit")],
        sets: &["error_message", "failed_time"],
        before: "lease `manifest/…`; no attempts are left",
        ..ROW
    },
    Transition {
        name: "record the commit",
        of: Manifest,
        from: &["processing"],
        by: &["convert"],
        guards: &[Is("token"), No("commit")],
        sets: &["commit"],
        before: "all parts staged; rejects and report created",
        ..ROW
    },
    Transition {
        name: "take over a commit",
        of: Manifest,
        from: &["processing"],
        by: &["convert"],
        guards: &[AsRead("token"), Is("commit")],
        sets: &["token"],
        before: "lease `manifest/…`; not an attempt",
        ..ROW
    },
    Transition {
        name: "record what was staged again",
        of: Manifest,
        from: &["processing"],
        by: &["convert"],
        guards: &[Is("token"), Is("commit")],
        sets: &["commit"],
        before: "staged bytes of this commit are gone; the same rows are staged again, from the same files",
        ..ROW
    },
    Transition {
        name: "put off a commit",
        of: Manifest,
        from: &["processing"],
        by: &["convert"],
        guards: &[Is("token"), Is("commit")],
        sets: &["retry_at", "completions", "error_message"],
        before: "it couldn't be completed for now",
        ..ROW
    },
    Transition {
        name: "complete",
        of: Manifest,
        from: &["processing"],
        to: Some("completed"),
        by: &["convert"],
        guards: &[Is("commit")],
        sets: &["outputs", "rows", "rejected_rows", "failed_files", "completed_time"],
        may_set: &["corrupt_rows", "error_message"],
        may_remove: &["error_message", "retry_at"],
        before: "every recorded upload is visible",
        ..ROW
    },
    Transition {
        name: "lose the commit",
        of: Manifest,
        from: &["processing"],
        to: Some("failed"),
        by: &["convert"],
        guards: &[Is("commit")],
        sets: &["error_message", "failed_time"],
        may_remove: &["retry_at"],
        before: "its bytes are gone and can't be staged again, or it was put off too often",
        ..ROW
    },
    Transition {
        name: "retry",
        of: Manifest,
        from: &["processing"],
        to: Some("pending"),
        by: &["convert"],
        guards: &[Is("token"), No("commit")],
        sets: &["retry_at", "error_message"],
        before: "the attempt failed; others are left",
        ..ROW
    },
    Transition {
        name: "fail",
        of: Manifest,
        from: &["processing"],
        to: Some("failed"),
        by: &["convert"],
        guards: &[Is("token"), No("commit")],
        sets: &["error_message", "failed_time"],
        before: "the last attempt failed",
        ..ROW
    },
    Transition {
        name: "hand back",
        of: Manifest,
        from: &["processing"],
        to: Some("pending"),
        by: &["convert"],
        guards: &[Is("token"), No("commit")],
        sets: &["handed_back"],
        removes: &["announced_at", "retry_at"],
        before: "the worker stops",
        ..ROW
    },
    Transition {
        name: "settle as completed",
        from: &["manifested"],
        to: Some("completed"),
        by: &["settle", "sweep"],
        guards: &[Is("manifest_path")],
        sets: &["rows", "rejected_rows", "completed_time", "ttl"],
        may_set: &["job_run_id"],
        before: "M is completed; its recorded report says so",
        ..ROW
    },
    Transition {
        name: "settle as failed",
        from: &["manifested"],
        to: Some("failed"),
        by: &["settle", "sweep"],
        guards: &[Is("manifest_path")],
        sets: &["rows", "rejected_rows", "error_message", "failed_time", "ttl"],
        may_set: &["job_run_id"],
        before: "M is completed and its report says so, or M failed",
        ..ROW
    },
    Transition {
        name: "settled",
        of: Manifest,
        from: &["completed", "failed"],
        by: &["settle", "sweep"],
        guards: &[No("settled_at")],
        sets: &["settled_at", "ttl"],
        before: "each of its files was moved, or had left it",
        ..ROW
    },
    Transition {
        name: "grow the schema",
        of: Schema,
        by: &["convert"],
        guards: &[Is("version")],
        sets: &["columns", "version"],
        ..ROW
    },
    Transition {
        name: "ask for a flush",
        of: Flush,
        to: Some("requested"),
        by: &["person"],
        sets: &["schema_version", "token", "requested_at"],
        ..ROW
    },
    Transition {
        name: "ask for a flush again",
        of: Flush,
        from: &["answered"],
        to: Some("requested"),
        by: &["person"],
        guards: &[AsRead("token")],
        sets: &["schema_version", "token", "requested_at"],
        removes: &["answered_at", "manifests", "ttl"],
        ..ROW
    },
    Transition {
        name: "answer a flush",
        of: Flush,
        from: &["requested"],
        to: Some("answered"),
        by: &["fold"],
        guards: &[AsRead("token")],
        sets: &["answered_at", "manifests", "ttl"],
        before: "what was pending when it was heeded is in manifests",
        ..ROW
    },
];
