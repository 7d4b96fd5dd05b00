//! How a manifest comes to be: assembling, claims, the JSON that is created once, the commit.
//!
//! Every step is a conditional write or a create-once put, so it may be left at any point and taken up by anyone who
//! holds the flush lease of the date. Once the JSON exists it *is* the membership: whoever finds it adopts it.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt, stream};
use object_store::{GetOptions, ObjectStore, ObjectStoreExt, PutMode, path::Path};
use penstock_engine::{
    cloud::{
        Bucket, CloudError, Table,
        table::{Carried, Consistency, Key, carry_out},
    },
    leases::{Lease, Leases},
    operator::OperatorError,
    random,
    time::{Clock, format_time},
};

use super::{
    events::{Abandoned, ClaimReleased, ClaimUncertain, Committed, FilesClaimed, NameTaken, Resumed},
    view::Flush,
    writes,
};
use crate::{
    model::{Candidate, FileItem, FileState, ManifestItem, ManifestJson, attribute, new_manifest_id, read_item},
    spans,
};

/// The scope of the leases under which manifests of a date are assembled.
pub const FLUSH_SCOPE: &str = "flush";

/// Names that are drawn for a manifest before its flush is left to a later try.
const MAX_NAMES: usize = 8;

/// Claims and releases that are under way at once.
const CONCURRENCY: usize = 64;

/// Assembles manifests.
pub struct Assembler {
    /// The tracking table.
    pub table: Arc<dyn Table>,
    /// Where the JSON objects go.
    pub manifests: Bucket,
    /// The prefix of their keys.
    pub manifests_prefix: String,
    /// The leases of this operator.
    pub leases: Leases,
    /// How long the items of abandoned manifests are kept.
    pub ttl: TimeDelta,
    /// The wall clock.
    pub clock: Clock,
}

/// What became of a set of files.
#[derive(Debug)]
pub enum Assembled {
    /// Another process assembles for this date.
    Busy,
    /// The protocol ran to an end.
    Ended {
        /// The manifest's id.
        manifest_id: String,
        /// Whether it was committed, by us or by someone who took it over; otherwise it was abandoned.
        committed: bool,
        /// The candidates that were claimed.
        claimed: Vec<FileItem>,
        /// The candidates that weren't, with what is true of them.
        refused: Vec<(Key, Option<FileItem>)>,
    },
}

/// What the claims of a manifest found.
#[derive(Debug, Default)]
struct Claims {
    claimed: Vec<FileItem>,
    refused: Vec<(Key, Option<FileItem>)>,
    /// Claims of which it isn't known whether they landed, or will.
    uncertain: Vec<Key>,
}

impl Assembler {
    /// Makes a manifest of the files of a flush. `batch` only makes names easier to read.
    pub async fn assemble(&self, flush: &Flush, batch: u32) -> Result<Assembled, OperatorError> {
        let Some(lease) = self.leases.try_acquire(FLUSH_SCOPE, &flush.date).await? else {
            return Ok(Assembled::Busy);
        };
        let result = self.assemble_under(&lease, flush, batch).await;
        lease.release().await;
        result
    }

    /// Takes up a manifest that was left while assembling.
    pub async fn resume(&self, manifest: &ManifestItem) -> Result<Assembled, OperatorError> {
        let Some(lease) = self.leases.try_acquire(FLUSH_SCOPE, &manifest.date_prefix).await? else {
            return Ok(Assembled::Busy);
        };
        let result = self.resume_under(&lease, manifest).await;
        lease.release().await;
        result
    }

    async fn assemble_under(&self, lease: &Lease, flush: &Flush, batch: u32) -> Result<Assembled, OperatorError> {
        let candidates: Vec<Candidate> = flush.files.iter().map(Candidate::from).collect();
        for _ in 0..MAX_NAMES {
            let now = self.clock.now();
            let manifest_id = new_manifest_id(batch, now, (random::bits() & 0xff_ffff) as u32);
            let uri = self.uri(&flush.date, &manifest_id);
            let place = (flush.date.as_str(), manifest_id.as_str());
            let write = writes::assemble(place, &uri, flush.reason, &candidates, lease.token(), now)?;
            match carry_out(&*self.table, &write).await? {
                Carried::Applied(Some(item)) => return self.run(lease, &read_item("manifest", &item)?).await,
                // Another flush drew the same name in this very second: the next one differs.
                Carried::Applied(None) | Carried::Refused(_) => {
                    NameTaken { manifest_id: &manifest_id }.emit();
                }
            }
        }
        Err(OperatorError::transient(format!("{MAX_NAMES} names in a row were taken: is the clock standing still?")))
    }

    async fn resume_under(&self, lease: &Lease, seen: &ManifestItem) -> Result<Assembled, OperatorError> {
        let write = writes::resume(seen, lease.token(), self.clock.now());
        match carry_out(&*self.table, &write).await? {
            Carried::Applied(Some(item)) => {
                Resumed { manifest: seen }.emit();
                self.run(lease, &read_item("manifest", &item)?).await
            }
            Carried::Applied(None) | Carried::Refused(_) => Ok(Assembled::Busy),
        }
    }

    /// The protocol from the claims on. `manifest` is assembling under the lease's token.
    async fn run(&self, lease: &Lease, manifest: &ManifestItem) -> Result<Assembled, OperatorError> {
        let manifest_id = manifest.id().to_owned();
        let candidates = manifest.candidates.clone().unwrap_or_default();
        if let Some((json, etag)) = self.read_json(manifest).await? {
            // Its writer had claimed all that it lists. What it doesn't list is not a member, even if claimed.
            self.release_unlisted(manifest, &json, &candidates).await?;
            let committed = self.commit(lease, manifest, &json, &etag).await?;
            return Ok(Assembled::Ended { manifest_id, committed, claimed: Vec::new(), refused: Vec::new() });
        }
        let claims = self.claim(manifest, &candidates).await;
        if claims.claimed.is_empty() {
            if let Some(key) = claims.uncertain.first() {
                let place = format!("{}/{}", key.partition, key.sort);
                return Err(OperatorError::transient(format!("the claim of {place} for {manifest_id} is uncertain")));
            }
            self.abandon(lease, manifest).await?;
            return Ok(Assembled::Ended {
                manifest_id,
                committed: false,
                claimed: Vec::new(),
                refused: claims.refused,
            });
        }
        if !lease.is_held() {
            return Err(OperatorError::transient(format!("the flush lease of {} was lost", manifest.date_prefix)));
        }
        let created_at = manifest.created_at.parse().map_err(|error| {
            OperatorError::permanent(format!(
                "{manifest_id} has an unreadable created_at `{}`: {error}",
                manifest.created_at
            ))
        })?;
        let json = ManifestJson::new(&manifest_id, &manifest.date_prefix, created_at, &claims.claimed);
        let (json, etag) = self.create_json(manifest, json).await?;
        let claimed_keys: Vec<Candidate> = claims.claimed.iter().map(Candidate::from).collect();
        self.release_unlisted(manifest, &json, &claimed_keys).await?;
        let committed = self.commit(lease, manifest, &json, &etag).await?;
        Ok(Assembled::Ended { manifest_id, committed, claimed: claims.claimed, refused: claims.refused })
    }

    async fn claim(&self, manifest: &ManifestItem, candidates: &[Candidate]) -> Claims {
        let now = format_time(self.clock.now());
        let claims = stream::iter(candidates.to_vec()).map(|candidate| self.claim_one(manifest, candidate, &now));
        let mut claims = claims.buffered(CONCURRENCY);
        let mut found = Claims::default();
        while let Some((key, result)) = claims.next().await {
            match result {
                Ok(Claim::Claimed(item)) => found.claimed.push(item),
                Ok(Claim::Refused(item)) => found.refused.push((key, item)),
                Err(error) => {
                    ClaimUncertain { manifest, file: &key, error: &error }.emit();
                    found.uncertain.push(key);
                }
            }
        }
        FilesClaimed { manifest, claimed: found.claimed.len(), refused: found.refused.len() }.emit();
        found
    }

    async fn claim_one(
        &self,
        manifest: &ManifestItem,
        candidate: Candidate,
        now: &str,
    ) -> (Key, Result<Claim, OperatorError>) {
        let key = Key::new(&manifest.date_prefix, &candidate.file_key);
        let write = writes::claim(manifest, &candidate, now);
        let claim = async {
            let (applied, item) = match carry_out(&*self.table, &write).await? {
                Carried::Applied(item) => (true, item),
                Carried::Refused(item) => (false, item),
            };
            let item = item.map(|item| read_item::<FileItem>("file", &item)).transpose()?;
            Ok(match item {
                Some(item) if applied || is_member(&item, manifest) => Claim::Claimed(item),
                item => Claim::Refused(item),
            })
        };
        (key, claim.await)
    }

    /// Gives back claims that the JSON doesn't list.
    async fn release_unlisted(
        &self,
        manifest: &ManifestItem,
        json: &ManifestJson,
        claimed: &[Candidate],
    ) -> Result<(), OperatorError> {
        let listed: std::collections::HashSet<&str> = json.files.iter().map(|file| file.file_key.as_str()).collect();
        for candidate in claimed.iter().filter(|candidate| !listed.contains(candidate.file_key.as_str())) {
            let key = Key::new(&manifest.date_prefix, &candidate.file_key);
            release(&*self.table, &key, &manifest.manifest_path, self.clock.now()).await?;
        }
        Ok(())
    }

    async fn commit(
        &self,
        lease: &Lease,
        manifest: &ManifestItem,
        json: &ManifestJson,
        etag: &str,
    ) -> Result<bool, OperatorError> {
        let size = (json.files.len(), json.total_bytes());
        let write = writes::commit(manifest, lease.token(), size, etag, self.clock.now());
        match carry_out(&*self.table, &write).await? {
            Carried::Applied(_) => {
                let (files, bytes, now) = (json.files.len(), json.total_bytes(), self.clock.now());
                Committed { manifest, files, bytes }.emit();
                spans::committed(manifest, files, bytes, now);
                Ok(true)
            }
            Carried::Refused(_) => {
                // Someone took it over, and commits the same JSON.
                tracing::info!(manifest = manifest.id(), "Manifest was taken over before its commit.");
                Ok(true)
            }
        }
    }

    /// Gives up a manifest that claimed nothing. Its JSON is looked for once more: a zombie may have written it.
    async fn abandon(&self, lease: &Lease, manifest: &ManifestItem) -> Result<(), OperatorError> {
        if self.read_json(manifest).await?.is_some() {
            return Err(OperatorError::transient(format!("{} has a JSON object after all", manifest.id())));
        }
        let write = writes::abandon(manifest, lease.token(), self.ttl, self.clock.now());
        carry_out(&*self.table, &write).await?;
        Abandoned { manifest }.emit();
        Ok(())
    }

    async fn create_json(
        &self,
        manifest: &ManifestItem,
        json: ManifestJson,
    ) -> Result<(ManifestJson, String), OperatorError> {
        let path = self.path(&manifest.date_prefix, manifest.id());
        let body = serde_json::to_vec(&json)
            .map_err(|error| OperatorError::permanent(format!("{path} can't be written as JSON: {error}")))?;
        match self.manifests.store.put_opts(&path, body.into(), PutMode::Create.into()).await {
            Ok(_) | Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {}
            Err(error) => return Err(CloudError::from(error).into()),
        }
        // Read back in either case: the etag of a put and that of a later read must be the same one.
        let found = self.read_json(manifest).await?;
        found.ok_or_else(|| OperatorError::transient(format!("{path} was created and isn't there")))
    }

    async fn read_json(&self, manifest: &ManifestItem) -> Result<Option<(ManifestJson, String)>, OperatorError> {
        read_manifest_json(&self.manifests, &self.manifests_prefix, &manifest.date_prefix, manifest.id()).await
    }

    fn path(&self, date: &str, manifest_id: &str) -> Path {
        manifest_json_path(&self.manifests_prefix, date, manifest_id)
    }

    fn uri(&self, date: &str, manifest_id: &str) -> String {
        format!("s3://{}/{}", self.manifests.name, self.path(date, manifest_id))
    }
}

enum Claim {
    Claimed(FileItem),
    Refused(Option<FileItem>),
}

/// Whether a file is claimed for this manifest.
pub fn is_member(item: &FileItem, manifest: &ManifestItem) -> bool {
    item.state() == Some(FileState::Manifested)
        && item.manifest_path.as_deref() == Some(manifest.manifest_path.as_str())
}

/// The key of a manifest's JSON object.
pub fn manifest_json_path(prefix: &str, date: &str, manifest_id: &str) -> Path {
    Path::from(format!("{prefix}{date}/{manifest_id}.json"))
}

/// A manifest's JSON object and its etag, if it exists.
pub async fn read_manifest_json(
    bucket: &Bucket,
    prefix: &str,
    date: &str,
    manifest_id: &str,
) -> Result<Option<(ManifestJson, String)>, OperatorError> {
    let path = manifest_json_path(prefix, date, manifest_id);
    let body = match bucket.store.get(&path).await {
        Ok(found) => found.bytes().await.map_err(CloudError::from)?,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(CloudError::from(error).into()),
    };
    let json = serde_json::from_slice(&body)
        .map_err(|error| OperatorError::permanent(format!("s3://{}/{path} is no manifest: {error}", bucket.name)))?;
    let head = bucket.stage.head(path.as_ref()).await?;
    let etag = head.map(|head| head.etag).ok_or_else(|| OperatorError::transient(format!("{path} vanished")))?;
    Ok(Some((json, etag)))
}

/// The JSON object of a committed manifest, if it is there: the very one that was committed.
pub async fn read_committed_json(
    bucket: &Bucket,
    prefix: &str,
    manifest: &ManifestItem,
) -> Result<Option<ManifestJson>, OperatorError> {
    let path = manifest_json_path(prefix, &manifest.date_prefix, manifest.id());
    let Some(body) = read_recorded(bucket, &path, manifest.json_etag.as_deref()).await? else { return Ok(None) };
    let json = serde_json::from_slice(&body)
        .map_err(|error| OperatorError::permanent(format!("s3://{}/{path} is no manifest: {error}", bucket.name)))?;
    Ok(Some(json))
}

/// Reads an object whose etag was recorded when it was written. Another object in its place is a permanent failure: what
/// was recorded is what counts, and nobody may change it.
pub async fn read_recorded(bucket: &Bucket, path: &Path, etag: Option<&str>) -> Result<Option<Bytes>, OperatorError> {
    let options = GetOptions { if_match: etag.map(unquoted), ..GetOptions::default() };
    match bucket.store.get_opts(path, options).await {
        Ok(found) => Ok(Some(found.bytes().await.map_err(CloudError::from)?)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(object_store::Error::Precondition { .. }) => Err(OperatorError::permanent(format!(
            "s3://{}/{path} isn't what was recorded: its etag is no longer {}; somebody changed it",
            bucket.name,
            etag.unwrap_or_default()
        ))),
        Err(error) => Err(CloudError::from(error).into()),
    }
}

/// An etag as items hold it: without the quotes that it wears in HTTP.
pub fn unquoted(etag: &str) -> String {
    etag.trim_matches('"').to_owned()
}

/// Gives a claimed file back: `manifested` to this manifest → `pending`. Whether it was.
pub async fn release(
    table: &dyn Table,
    key: &Key,
    manifest_path: &str,
    now: DateTime<Utc>,
) -> Result<bool, OperatorError> {
    let write = writes::release(key, manifest_path, now);
    let released = matches!(carry_out(table, &write).await?, Carried::Applied(_));
    if released {
        ClaimReleased { file: key, manifest_path }.emit();
    }
    Ok(released)
}

/// The item of a manifest, read strongly; `None` when there is none, or it is the previous system's.
pub async fn read_manifest(table: &dyn Table, key: &Key) -> Result<Option<ManifestItem>, OperatorError> {
    match table.get(key, Consistency::Strong).await? {
        Some(item) if item.contains_key(attribute::SCHEMA_VERSION) => Ok(Some(read_item("manifest", &item)?)),
        _ => Ok(None),
    }
}
