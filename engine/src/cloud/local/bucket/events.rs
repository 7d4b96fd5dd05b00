//! What happens in a bucket's folder: each event is one log line and one metric together.

use std::path::Path;

/// A file or folder is left out, because its name can't be a key.
pub(super) struct NameSkipped<'a> {
    pub path: &'a Path,
}

impl NameSkipped<'_> {
    pub fn emit(self) {
        metrics::counter!("penstock_bucket_skipped_total", "reason" => "name").increment(1);
        tracing::warn!(path = %self.path.display(), "A name isn't plain UTF-8 and can't be a key: rename it.");
    }
}
