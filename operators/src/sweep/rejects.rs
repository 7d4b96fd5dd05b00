//! Rejects of attempts that didn't win.

use chrono::TimeDelta;
use futures::TryStreamExt;
use object_store::{ObjectStoreExt, path::Path};
use penstock_engine::{
    cloud::{CloudError, table::Key},
    operator::OperatorError,
};

use super::{
    Sweep,
    finds::{Finds, Outcome},
};
use crate::{
    fold::protocol::read_manifest,
    model::{MANIFEST_KEY_PREFIX, ManifestState, REJECTS_PREFIX},
};

impl Sweep {
    /// Rejects that no commit names: of attempts that died or were overtaken after they had written them. Their lines were
    /// rejected again by the attempt that won, and must not be read twice.
    pub(super) async fn remove_unnamed_rejects(&mut self, finds: &mut Finds) -> Result<(), OperatorError> {
        let Some(bucket) = self.quarantine.clone() else { return Ok(()) };
        let now = self.clock.now();
        let lookback = TimeDelta::from_std(self.options.lookback).unwrap_or(TimeDelta::MAX);
        let from = self.rejects_mark.unwrap_or(now - lookback);
        let mut until = now - self.grace();
        let mut listing = bucket.store.list(Some(&Path::from(REJECTS_PREFIX)));
        while let Some(object) = listing.try_next().await.map_err(CloudError::from)? {
            if object.last_modified < from || object.last_modified >= now - self.grace() {
                continue;
            }
            let name = object.location.to_string();
            let Some(key) = manifest_of_rejects(&name) else { continue };
            let manifest = match read_manifest(&*self.table, &key).await {
                Ok(Some(manifest)) => manifest,
                Ok(None) => {
                    finds.note("rejects", Outcome::Left, "the item of their manifest has expired", &name);
                    continue;
                }
                Err(error) => {
                    finds.note("rejects", Outcome::Failed, error.to_string(), &name);
                    until = until.min(object.last_modified);
                    continue;
                }
            };
            let is_final = matches!(manifest.status, ManifestState::Completed | ManifestState::Failed);
            let is_named = manifest.commit.and_then(|commit| commit.rejects_key).as_deref() == Some(name.as_str());
            if !is_final {
                until = until.min(object.last_modified);
                finds.note("rejects", Outcome::Left, "their manifest isn't final", &name);
            } else if !is_named {
                let removed = bucket.store.delete(&object.location).await.map_err(CloudError::from);
                finds.note_result("rejects", "of an attempt that didn't win: removed", &name, removed);
            }
        }
        self.rejects_mark = Some(until);
        Ok(())
    }
}

/// The key of the manifest that a rejects object is of: `rejects/{date}/{manifest}-{token}.ndjson`.
fn manifest_of_rejects(key: &str) -> Option<Key> {
    let (date, name) = key.strip_prefix(REJECTS_PREFIX)?.split_once('/')?;
    let (manifest_id, _token) = name.strip_suffix(".ndjson")?.rsplit_once('-')?;
    Some(Key::new(date, format!("{MANIFEST_KEY_PREFIX}{manifest_id}.json")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_tell_their_manifest() {
        let key = manifest_of_rejects("rejects/2026-02-01/batch-0001-20260201-120000-7f3a9c-00ff.ndjson").unwrap();
        assert_eq!(key.sort, "MANIFEST#batch-0001-20260201-120000-7f3a9c.json");
        assert_eq!(key.partition, "2026-02-01");
        assert!(manifest_of_rejects("rejects/x").is_none() && manifest_of_rejects("a/b/c-d.ndjson").is_none());
    }
}
