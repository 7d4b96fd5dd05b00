//! The writes by which a manifest comes to be: pure, so that the protocol around them, its simulation and its model all
//! make the very same ones.

use chrono::{DateTime, TimeDelta, Utc};
use penstock_engine::{
    cloud::{
        AttributeValue,
        table::{Condition, Key, Write},
    },
    operator::OperatorError,
    time::format_time,
};

use crate::model::{
    Candidate, FileState, FlushReason, MANIFEST_KEY_PREFIX, ManifestItem, ManifestState, SCHEMA_VERSION, attribute,
    shard_of,
};

/// None → `assembling`: a manifest with these candidates, under this token.
pub fn assemble(
    (date, manifest_id): (&str, &str),
    manifest_path: &str,
    reason: FlushReason,
    candidates: &[Candidate],
    token: &str,
    now: DateTime<Utc>,
) -> Result<Write, OperatorError> {
    let listed = serde_dynamo::to_attribute_value(candidates)
        .map_err(|error| OperatorError::permanent(format!("candidates can't be stored: {error}")))?;
    let key = Key::new(date, format!("{MANIFEST_KEY_PREFIX}{manifest_id}.json"));
    Ok(Write::put(key, Default::default(), Condition::absent(attribute::FILE_KEY))
        .set(attribute::STATUS, ManifestState::Assembling.as_str())
        .set_number(attribute::SCHEMA_VERSION, SCHEMA_VERSION)
        .set(attribute::MANIFEST_PATH, manifest_path)
        .set("flush_reason", reason.as_str())
        .set(attribute::TOKEN, token)
        .set_value("candidates", listed)
        .set("created_at", format_time(now))
        .set(attribute::UPDATED_AT, format_time(now)))
}

/// `assembling` → the same, under a new token.
pub fn resume(seen: &ManifestItem, token: &str, now: DateTime<Utc>) -> Write {
    let seen_token = seen.token.clone().map(AttributeValue::S);
    let condition = Condition::equals(attribute::STATUS, ManifestState::Assembling.as_str())
        .and(Condition::as_read(attribute::TOKEN, seen_token.as_ref()));
    Write::update(seen.key(), condition).set(attribute::TOKEN, token).set(attribute::UPDATED_AT, format_time(now))
}

/// File `pending` → `manifested`.
pub fn claim(manifest: &ManifestItem, candidate: &Candidate, now: &str) -> Write {
    let shard = shard_of(&candidate.file_key);
    let seen = |value: &Option<String>| value.clone().map(AttributeValue::S);
    let condition = Condition::equals(attribute::STATUS, FileState::Pending.status(shard))
        .and(Condition::as_read("etag", seen(&candidate.etag).as_ref()))
        .and(Condition::as_read(attribute::PENDING_SINCE, seen(&candidate.pending_since).as_ref()));
    Write::update(Key::new(&manifest.date_prefix, &candidate.file_key), condition)
        .set(attribute::STATUS, FileState::Manifested.status(shard))
        .set(attribute::MANIFEST_PATH, &manifest.manifest_path)
        .set(attribute::CLAIMED_AT, now)
        .set(attribute::UPDATED_AT, now)
}

/// `assembling` → `pending`: the manifest is what its JSON lists.
pub fn commit(
    manifest: &ManifestItem,
    token: &str,
    (files, bytes): (usize, u64),
    json_etag: &str,
    now: DateTime<Utc>,
) -> Write {
    Write::update(manifest.key(), assembling(token))
        .set(attribute::STATUS, ManifestState::Pending.as_str())
        .set("json_etag", json_etag)
        .set_number("file_count", files)
        .set_number("total_bytes", bytes)
        .set(attribute::UPDATED_AT, format_time(now))
        .remove("candidates")
}

/// `assembling` → `abandoned`.
pub fn abandon(manifest: &ManifestItem, token: &str, ttl: TimeDelta, now: DateTime<Utc>) -> Write {
    Write::update(manifest.key(), assembling(token))
        .set(attribute::STATUS, ManifestState::Abandoned.as_str())
        .set(attribute::UPDATED_AT, format_time(now))
        .set_number(attribute::TTL, (now + ttl).timestamp())
        .remove("candidates")
}

/// File `manifested` to this manifest → `pending`.
pub fn release(key: &Key, manifest_path: &str, now: DateTime<Utc>) -> Write {
    let shard = shard_of(&key.sort);
    let condition = Condition::equals(attribute::STATUS, FileState::Manifested.status(shard))
        .and(Condition::equals(attribute::MANIFEST_PATH, manifest_path));
    Write::update(key.clone(), condition)
        .set(attribute::STATUS, FileState::Pending.status(shard))
        .set(attribute::PENDING_SINCE, format_time(now))
        .set(attribute::UPDATED_AT, format_time(now))
        .remove(attribute::MANIFEST_PATH)
        .remove(attribute::TTL)
}

fn assembling(token: &str) -> Condition {
    Condition::equals(attribute::STATUS, ManifestState::Assembling.as_str())
        .and(Condition::equals(attribute::TOKEN, token))
}
