//! The trace of a manifest: its spans, from the first notification of a file to the last file settled.
//!
//! ```text
//! manifest                    settle    from its oldest file's notification until all files have followed
//! ├─ gather                   fold      the files come in, until a threshold closes the manifest
//! ├─ assemble                 fold      claims, the JSON, the commit
//! ├─ announce, alert          outbox    from the change until the bus took the event
//! ├─ convert, once an attempt worker    reading, converting and staging
//! ├─ complete                 worker    from the recorded commit to visible outputs
//! └─ settle                   settle    from the completed manifest to its last file
//! ```
//!
//! Each is recorded by who ends it, from what the items say: nothing is carried from one service to another. All but the
//! attempts' begin where the item's last change was, so waiting for a stream or a queue shows.

use chrono::{DateTime, Utc};
use penstock_engine::telemetry::trace::{Role, Span, is_recorded};

use crate::{
    model::{FlushReason, ManifestItem, ManifestState},
    outbox::Owed,
};

/// The name of an attribute that says which manifest it is.
const MANIFEST: &str = "penstock.manifest";

/// A manifest was committed: its files had come in, and it was assembled.
pub fn committed(manifest: &ManifestItem, files: usize, bytes: u64, now: DateTime<Utc>) {
    if !is_recorded() {
        return;
    }
    let id = manifest.id();
    let candidates = manifest.candidates.as_deref().unwrap_or_default();
    let mut came: Vec<(DateTime<Utc>, String)> = candidates
        .iter()
        .filter_map(|candidate| Some((time(candidate.pending_since.as_deref())?, candidate.file_key.clone())))
        .collect();
    came.sort();
    let made = time(Some(&manifest.created_at)).unwrap_or(now);
    let began = came.first().map_or(made, |(at, _)| *at);
    Span::step(id, "gather", "", began, made)
        .as_role(Role::Consumer)
        .with(MANIFEST, id)
        .with("penstock.files", candidates.len())
        .with("penstock.flush_reason", manifest.flush_reason.map_or("unknown", FlushReason::as_str))
        .with_moments(came)
        .record();
    Span::step(id, "assemble", "", made, now)
        .with(MANIFEST, id)
        .with("penstock.files", files)
        .with("penstock.bytes", bytes)
        .record();
}

/// The bus took what a manifest owed.
pub fn published(manifest: &ManifestItem, owed: Owed, now: DateTime<Utc>) {
    let name = match owed {
        Owed::Announcement => "announce",
        Owed::Alert => "alert",
    };
    let span = Span::step(manifest.id(), name, "", changed(manifest, now), now);
    span.as_role(Role::Producer).with(MANIFEST, manifest.id()).record();
}

/// An attempt has converted and staged all it could, or failed.
pub fn converted(manifest: &ManifestItem, token: &str, began: DateTime<Utc>, now: DateTime<Utc>, ended: &Ended) {
    // An attempt that was handed back isn't counted, so its number comes again.
    let span = Span::step(manifest.id(), "convert", token, began, now).as_role(Role::Consumer);
    let span = span.with(MANIFEST, manifest.id()).with("penstock.attempt", manifest.attempt);
    match ended {
        Ok((rows, rejected)) => span.with("penstock.rows", *rows).with("penstock.rejected_rows", *rejected),
        Err(error) => span.failed(Some(error.clone())),
    }
    .record();
}

/// Rows and rejected lines of an attempt, or why it gave none.
pub type Ended = Result<(u64, u64), String>;

/// The outputs of a recorded commit are visible.
pub fn completed(manifest: &ManifestItem, outputs: usize, now: DateTime<Utc>) {
    Span::step(manifest.id(), "complete", "", changed(manifest, now), now)
        .with(MANIFEST, manifest.id())
        .with("penstock.outputs", outputs)
        .record();
}

/// All files have followed their manifest. `oldest` is when the first of them became pending.
pub fn settled(manifest: &ManifestItem, oldest: Option<&str>, now: DateTime<Utc>) {
    let id = manifest.id();
    let error = (manifest.status == ManifestState::Failed).then(|| manifest.error_message.clone().unwrap_or_default());
    Span::step(id, "settle", "", changed(manifest, now), now).with(MANIFEST, id).record();
    let began = time(oldest).or_else(|| time(Some(&manifest.created_at))).unwrap_or(now);
    Span::whole(id, "manifest", began, now)
        .with(MANIFEST, id)
        .with("penstock.date", manifest.date_prefix.as_str())
        .with("penstock.state", manifest.status.as_str())
        .with("penstock.files", manifest.file_count)
        .with("penstock.bytes", manifest.total_bytes)
        .with("penstock.attempts", manifest.attempt)
        .with("penstock.rows", manifest.rows.unwrap_or_default())
        .with("penstock.rejected_rows", manifest.rejected_rows.unwrap_or_default())
        .with("penstock.failed_files", manifest.failed_files.unwrap_or_default())
        .failed(error)
        .record();
}

/// When the item last changed.
fn changed(manifest: &ManifestItem, now: DateTime<Utc>) -> DateTime<Utc> {
    time(manifest.updated_at.as_deref()).unwrap_or(now)
}

fn time(text: Option<&str>) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text?).ok().map(|at| at.to_utc())
}
