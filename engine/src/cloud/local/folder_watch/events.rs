//! What a watch tells: one log line and one count each, made together.

use std::{fmt, path::Path, time::Duration};

use super::notification::Notification;

/// An object was announced.
pub(super) fn landed(notification: &Notification) {
    let Notification { bucket, key, size_bytes, etag, sequencer, .. } = notification;
    tracing::debug!(bucket, key = &**key, size_bytes, etag, sequencer, "An object has landed.");
    metrics::counter!("penstock_watch_landed_total", "bucket" => bucket.clone()).increment(1);
    metrics::counter!("penstock_watch_landed_bytes_total", "bucket" => bucket.clone()).increment(*size_bytes);
}

/// A file was touched or written again with the content that has landed already.
pub(super) fn unchanged(bucket: &str, key: &str) {
    tracing::debug!(bucket, key, "The same content landed before.");
    metrics::counter!("penstock_watch_unchanged_total", "bucket" => bucket.to_owned()).increment(1);
}

/// A file that had landed is gone.
pub(super) fn gone(bucket: &str, key: &str) {
    tracing::debug!(bucket, key, "A landed object is gone.");
    metrics::counter!("penstock_watch_gone_total", "bucket" => bucket.to_owned()).increment(1);
}

/// Something that is no file stands where an object could: nothing lands.
pub(super) fn no_object(bucket: &str, path: &Path) {
    tracing::warn!(bucket, path = %path.display(), "Not a plain file, so not an object: put the file itself there.");
    metrics::counter!("penstock_watch_skipped_total", "bucket" => bucket.to_owned()).increment(1);
}

/// Events were lost: a scan finds what they told of.
pub(super) fn lost_events(bucket: &str) {
    tracing::info!(bucket, "More changes than could be followed: the folder is scanned again.");
    metrics::counter!("penstock_watch_lost_events_total", "bucket" => bucket.to_owned()).increment(1);
}

/// Folders can't be watched by events: they are scanned again and again instead.
pub(super) fn polling(path: &Path, error: &notify::Error) {
    let advice = match error.kind {
        notify::ErrorKind::MaxFilesWatch => ": raise fs.inotify.max_user_watches",
        _ => "",
    };
    tracing::warn!(path = %path.display(), %error, "The folder can't be watched by events and is polled{advice}.");
    metrics::counter!("penstock_watch_polling_total").increment(1);
}

/// Something failed and will be tried again.
pub(super) fn failed(bucket: &str, what: &'static str, path: &Path, error: &dyn fmt::Display, again_in: Duration) {
    tracing::warn!(bucket, what, path = %path.display(), %error, again_in_ms = again_in.as_millis(), "Failed, for now.");
    metrics::counter!("penstock_watch_errors_total", "bucket" => bucket.to_owned(), "what" => what).increment(1);
}
