//! What a worker may do with a manifest: pure decisions, and the writes that carry them out.
//!
//! An attempt begins by naming its lease token in the item, and can commit only under it. Once outputs are recorded the
//! manifest is theirs: whoever takes it over completes them and never converts again.

use chrono::{DateTime, TimeDelta, Utc};
use penstock_engine::{
    cloud::{
        AttributeValue,
        table::{Condition, Write},
    },
    operator::OperatorError,
    time::format_time,
};

use crate::model::{Commit, ManifestItem, ManifestState, attribute};

/// Characters of an error in a manifest's item.
const MAX_ERROR_CHARS: usize = 4000;

/// How often a stopping worker may hand a manifest back without that counting as an attempt.
const MAX_HANDED_BACK: u32 = 5;

/// When an attempt is tried again, and how often.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Attempts that may begin.
    pub max_attempts: u32,
    /// The wait after the first; it doubles each time.
    pub retry_wait: TimeDelta,
}

/// The longest wait before a commit that was put off is tried again.
const MAX_COMPLETION_WAIT: TimeDelta = TimeDelta::minutes(15);

/// What may be done with a manifest, by whoever holds its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing: it is done, or not committed yet.
    Nothing,
    /// Nothing before then.
    NotDue(DateTime<Utc>),
    /// Begin an attempt.
    Begin,
    /// Complete the outputs that are recorded.
    Complete,
    /// Give it up: its attempts are used up.
    GiveUp,
}

/// Decides what may be done with a manifest whose lease is held.
pub fn next(manifest: &ManifestItem, now: DateTime<Utc>, limits: Limits) -> Next {
    let begun = manifest.attempt.saturating_sub(manifest.handed_back.min(MAX_HANDED_BACK));
    match manifest.status {
        ManifestState::Processing if manifest.commit.is_some() => match manifest.retry_at {
            Some(at) if at > now => Next::NotDue(at),
            _ => Next::Complete,
        },
        ManifestState::Pending if manifest.retry_at.is_some_and(|at| at > now) => {
            manifest.retry_at.map_or(Next::Nothing, Next::NotDue)
        }
        ManifestState::Pending | ManifestState::Processing if begun >= limits.max_attempts => Next::GiveUp,
        ManifestState::Pending | ManifestState::Processing => Next::Begin,
        _ => Next::Nothing,
    }
}

/// What becomes of a manifest after an attempt that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterFailure {
    /// It waits for another attempt.
    Retry(DateTime<Utc>),
    /// It has failed.
    Fail,
}

/// Decides what becomes of a manifest after its attempt failed.
pub fn after_failure(manifest: &ManifestItem, now: DateTime<Utc>, limits: Limits) -> AfterFailure {
    let begun = manifest.attempt.saturating_sub(manifest.handed_back.min(MAX_HANDED_BACK));
    if begun >= limits.max_attempts {
        return AfterFailure::Fail;
    }
    let doublings = begun.saturating_sub(1).min(16);
    AfterFailure::Retry(now + limits.retry_wait * (1 << doublings))
}

/// What becomes of a recorded commit that couldn't be completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterTrouble {
    /// It is tried again then.
    PutOff(DateTime<Utc>),
    /// It is lost.
    Lose,
}

/// Decides what becomes of a recorded commit that couldn't be completed. What may pass by itself (an outage) is tried for
/// as long as it takes: its rows may be half visible. What won't is tried as often as an attempt is.
pub fn after_trouble(manifest: &ManifestItem, may_pass: bool, now: DateTime<Utc>, limits: Limits) -> AfterTrouble {
    if !may_pass && manifest.completions + 1 >= limits.max_attempts {
        return AfterTrouble::Lose;
    }
    let wait = limits.retry_wait * (1 << manifest.completions.min(16));
    AfterTrouble::PutOff(now + wait.min(MAX_COMPLETION_WAIT.max(limits.retry_wait)))
}

/// `processing` with a commit → the same, to be completed later.
pub fn put_off(
    manifest: &ManifestItem,
    token: &str,
    until: DateTime<Utc>,
    error: &str,
    now: DateTime<Utc>,
) -> Result<Write, OperatorError> {
    Ok(Write::update(manifest.key(), mine_with(token, manifest)?)
        .set("retry_at", until.to_rfc3339())
        .set_number("completions", manifest.completions + 1)
        .set("error_message", cut(error))
        .set(attribute::UPDATED_AT, format_time(now)))
}

/// `processing` with a commit of which bytes are gone → the same, with what was staged again in their place.
pub fn record_again(
    manifest: &ManifestItem,
    token: &str,
    commit: &Commit,
    now: DateTime<Utc>,
) -> Result<Write, OperatorError> {
    Ok(Write::update(manifest.key(), mine_with(token, manifest)?)
        .set_value("commit", to_attribute(commit)?)
        .set(attribute::UPDATED_AT, format_time(now)))
}

/// `pending`, or `processing` with a dead lease, → `processing`.
pub fn begin(manifest: &ManifestItem, token: &str, now: DateTime<Utc>) -> Write {
    Write::update(manifest.key(), as_seen(manifest).and(Condition::absent("commit")))
        .set(attribute::STATUS, ManifestState::Processing.as_str())
        .set(attribute::TOKEN, token)
        .set_number("attempt", manifest.attempt + 1)
        .set("processing_start_time", format_time(now))
        .set(attribute::UPDATED_AT, format_time(now))
        .remove("retry_at")
}

/// `processing` with a commit and a dead lease → the same, under a new token. Not an attempt.
pub fn take_over(manifest: &ManifestItem, token: &str, now: DateTime<Utc>) -> Result<Write, OperatorError> {
    let condition = as_seen(manifest).and(this_commit(manifest)?);
    Ok(Write::update(manifest.key(), condition)
        .set(attribute::TOKEN, token)
        .set(attribute::UPDATED_AT, format_time(now)))
}

/// `processing`: the staged outputs are recorded.
pub fn record(
    manifest: &ManifestItem,
    token: &str,
    commit: &Commit,
    now: DateTime<Utc>,
) -> Result<Write, OperatorError> {
    Ok(Write::update(manifest.key(), mine(token))
        .set_value("commit", to_attribute(commit)?)
        .set(attribute::UPDATED_AT, format_time(now)))
}

/// `processing` → `completed`: every recorded output is visible.
pub fn complete(
    manifest: &ManifestItem,
    commit: &Commit,
    outputs: &[String],
    now: DateTime<Utc>,
) -> Result<Write, OperatorError> {
    let condition =
        Condition::equals(attribute::STATUS, ManifestState::Processing.as_str()).and(this_commit(manifest)?);
    let mut write = Write::update(manifest.key(), condition);
    // What an earlier attempt failed of is no news; what some files failed of is.
    write = match &commit.first_failure {
        Some(failure) => write.set("error_message", cut(failure)),
        None => write.remove("error_message"),
    };
    // Most datasets never have any: their items stay as small as they are.
    if let Some(corrupt) = commit.corrupt_rows {
        write = write.set_number("corrupt_rows", corrupt);
    }
    Ok(write
        .remove("retry_at")
        .set(attribute::STATUS, ManifestState::Completed.as_str())
        .set_value("outputs", AttributeValue::L(outputs.iter().cloned().map(AttributeValue::S).collect()))
        .set_number("rows", commit.rows)
        .set_number("rejected_rows", commit.rejected_rows)
        .set_number("failed_files", commit.failed_files)
        .set("completed_time", format_time(now))
        .set(attribute::UPDATED_AT, format_time(now)))
}

/// `processing` with a commit that can't be completed → `failed`.
pub fn commit_lost(manifest: &ManifestItem, error: &str, now: DateTime<Utc>) -> Result<Write, OperatorError> {
    let condition =
        Condition::equals(attribute::STATUS, ManifestState::Processing.as_str()).and(this_commit(manifest)?);
    Ok(failed(Write::update(manifest.key(), condition).remove("retry_at"), error, now))
}

/// `processing` → `pending` with retry_at, or → `failed`, after an attempt that failed under this token.
pub fn fail(manifest: &ManifestItem, token: &str, then: AfterFailure, error: &str, now: DateTime<Utc>) -> Write {
    let write = Write::update(manifest.key(), mine(token));
    match then {
        AfterFailure::Fail => failed(write, error, now),
        AfterFailure::Retry(at) => write
            .set(attribute::STATUS, ManifestState::Pending.as_str())
            .set("retry_at", at.to_rfc3339())
            .set("error_message", cut(error))
            .set(attribute::UPDATED_AT, format_time(now)),
    }
}

/// `processing` → `pending` without retry_at: a stopping worker hands it back.
pub fn hand_back(manifest: &ManifestItem, token: &str, now: DateTime<Utc>) -> Write {
    Write::update(manifest.key(), mine(token))
        .set(attribute::STATUS, ManifestState::Pending.as_str())
        .set_number("handed_back", manifest.handed_back + 1)
        .set(attribute::UPDATED_AT, format_time(now))
        // It is owed an announcement again: that is what wakes another worker.
        .remove("announced_at")
        .remove("retry_at")
}

/// `pending`, or `processing` with a dead lease, → `failed`: its attempts are used up.
pub fn give_up(manifest: &ManifestItem, now: DateTime<Utc>) -> Write {
    let error = match &manifest.error_message {
        Some(last) => format!("gave up after {} attempts; the last one: {last}", manifest.attempt),
        None => format!("gave up after {} attempts, of which the last ended without a word", manifest.attempt),
    };
    failed(Write::update(manifest.key(), as_seen(manifest).and(Condition::absent("commit"))), &error, now)
}

fn failed(write: Write, error: &str, now: DateTime<Utc>) -> Write {
    write
        .set(attribute::STATUS, ManifestState::Failed.as_str())
        .set("error_message", cut(error))
        .set("failed_time", format_time(now))
        .set(attribute::UPDATED_AT, format_time(now))
}

/// The manifest is in the state, and under the token, in which it was read.
fn as_seen(manifest: &ManifestItem) -> Condition {
    let token = manifest.token.clone().map(AttributeValue::S);
    Condition::equals(attribute::STATUS, manifest.status.as_str())
        .and(Condition::as_read(attribute::TOKEN, token.as_ref()))
}

/// The attempt under this token goes on, and has recorded nothing.
fn mine(token: &str) -> Condition {
    Condition::equals(attribute::STATUS, ManifestState::Processing.as_str())
        .and(Condition::equals(attribute::TOKEN, token))
        .and(Condition::absent("commit"))
}

/// The attempt under this token has recorded the commit that was read.
fn mine_with(token: &str, manifest: &ManifestItem) -> Result<Condition, OperatorError> {
    Ok(Condition::equals(attribute::STATUS, ManifestState::Processing.as_str())
        .and(Condition::equals(attribute::TOKEN, token))
        .and(this_commit(manifest)?))
}

fn this_commit(manifest: &ManifestItem) -> Result<Condition, OperatorError> {
    match &manifest.commit {
        Some(commit) => Ok(Condition::Equals("commit".to_owned(), to_attribute(commit)?)),
        None => Err(OperatorError::permanent(format!("manifest {} has no commit", manifest.id()))),
    }
}

fn to_attribute(commit: &Commit) -> Result<AttributeValue, OperatorError> {
    serde_dynamo::to_attribute_value(commit)
        .map_err(|error| OperatorError::permanent(format!("a commit can't be stored: {error}")))
}

fn cut(error: &str) -> String {
    error.chars().take(MAX_ERROR_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use penstock_engine::cloud::table::KeyNames;

    use super::*;

    const LIMITS: Limits = Limits { max_attempts: 3, retry_wait: TimeDelta::seconds(60) };

    fn manifest(status: ManifestState, attempt: u32) -> ManifestItem {
        let item = serde_json::json!({
            "date_prefix": "2026-02-01", "file_key": "MANIFEST#m.json", "status": status, "schema_version": 1,
            "manifest_path": "s3://m/m.json", "created_at": "t", "attempt": attempt, "token": "t1",
        });
        serde_json::from_value(item).unwrap()
    }

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_770_000_000, 0).unwrap()
    }

    fn commit() -> Commit {
        Commit {
            token: "t1".to_owned(),
            uploads: Vec::new(),
            report_key: "r".to_owned(),
            report_etag: None,
            rejects_key: None,
            rejects_etag: None,
            rows: 1,
            rejected_rows: 0,
            corrupt_rows: None,
            failed_files: 0,
            first_failure: None,
            staged_again: 0,
        }
    }

    #[test]
    fn only_committed_unfinished_manifests_are_worked_on() {
        use ManifestState::{Abandoned, Assembling, Completed, Failed, Pending, Processing};
        for state in [Assembling, Completed, Failed, Abandoned] {
            assert_eq!(next(&manifest(state, 0), now(), LIMITS), Next::Nothing);
        }
        for state in [Pending, Processing] {
            assert_eq!(next(&manifest(state, 2), now(), LIMITS), Next::Begin);
            assert_eq!(next(&manifest(state, 3), now(), LIMITS), Next::GiveUp, "a crash loop ends");
        }
        let later = now() + TimeDelta::seconds(1);
        let waiting = ManifestItem { retry_at: Some(later), ..manifest(Pending, 1) };
        assert_eq!(next(&waiting, now(), LIMITS), Next::NotDue(later));
        assert_eq!(next(&waiting, later, LIMITS), Next::Begin);
    }

    #[test]
    fn a_recorded_commit_is_completed_however_often_it_was_tried() {
        let recorded = ManifestItem { commit: Some(commit()), ..manifest(ManifestState::Processing, 99) };
        assert_eq!(next(&recorded, now(), LIMITS), Next::Complete);
    }

    #[test]
    fn a_completed_manifest_tells_corrupt_rows_only_where_there_are_any() {
        let keys = KeyNames { partition: "date_prefix".to_owned(), sort: "file_key".to_owned() };
        let completed = |corrupt_rows| {
            let commit = Commit { corrupt_rows, ..commit() };
            let recorded = ManifestItem { commit: Some(commit.clone()), ..manifest(ManifestState::Processing, 1) };
            let item = serde_dynamo::to_item(&recorded).unwrap();
            let item = complete(&recorded, &commit, &[], now()).unwrap().apply(&keys, Some(&item)).unwrap();
            serde_dynamo::from_item::<_, ManifestItem>(item).unwrap().corrupt_rows
        };
        assert_eq!((completed(Some(3)), completed(None)), (Some(3), None));
    }

    #[test]
    fn a_commit_that_cannot_be_completed_is_put_off_and_lost_only_if_it_will_not_pass() {
        let recorded = |completions| ManifestItem {
            commit: Some(commit()),
            completions,
            ..manifest(ManifestState::Processing, 1)
        };
        let after = |completions, may_pass| after_trouble(&recorded(completions), may_pass, now(), LIMITS);
        let minutes = |minutes| AfterTrouble::PutOff(now() + TimeDelta::minutes(minutes));
        assert_eq!([0, 1].map(|tries| after(tries, false)), [minutes(1), minutes(2)]);
        assert_eq!(after(2, false), AfterTrouble::Lose);
        assert_eq!([3, 4, 5000].map(|tries| after(tries, true)), [minutes(8), minutes(15), minutes(15)]);
        let later = now() + TimeDelta::seconds(1);
        let waiting = ManifestItem { retry_at: Some(later), ..recorded(1) };
        assert_eq!(next(&waiting, now(), LIMITS), Next::NotDue(later));
        assert_eq!(next(&waiting, later, LIMITS), Next::Complete);
    }

    #[test]
    fn i7_only_who_holds_the_token_puts_a_commit_off_or_records_it_again() {
        let recorded = ManifestItem { commit: Some(commit()), ..manifest(ManifestState::Processing, 1) };
        let again = Commit { staged_again: 1, ..commit() };
        let overtaken = ManifestItem { token: Some("t2".to_owned()), ..recorded.clone() };
        let renewed = ManifestItem { commit: Some(again.clone()), ..recorded.clone() };
        for (item, holds) in [(&recorded, true), (&overtaken, false), (&renewed, false)] {
            let item = serde_dynamo::to_item(item).unwrap();
            assert_eq!(put_off(&recorded, "t1", now(), "x", now()).unwrap().condition.holds(Some(&item)), holds);
            assert_eq!(record_again(&recorded, "t1", &again, now()).unwrap().condition.holds(Some(&item)), holds);
        }
    }

    #[test]
    fn handing_back_is_free_five_times() {
        let handed = |handed_back| ManifestItem { handed_back, ..manifest(ManifestState::Pending, handed_back + 2) };
        assert_eq!(next(&handed(5), now(), LIMITS), Next::Begin);
        assert_eq!(next(&handed(6), now(), LIMITS), Next::GiveUp);
    }

    #[test]
    fn waits_double_and_end() {
        let after = |attempt| after_failure(&manifest(ManifestState::Processing, attempt), now(), LIMITS);
        assert_eq!(after(1), AfterFailure::Retry(now() + TimeDelta::seconds(60)));
        assert_eq!(after(2), AfterFailure::Retry(now() + TimeDelta::seconds(120)));
        assert_eq!(after(3), AfterFailure::Fail);
    }

    #[test]
    fn i7_who_lost_the_token_can_neither_record_nor_fail() {
        let seen = manifest(ManifestState::Processing, 1);
        let taken_over: ManifestItem = ManifestItem { token: Some("t2".to_owned()), ..seen.clone() };
        let taken_over = serde_dynamo::to_item(&taken_over).unwrap();
        let zombie = record(&seen, "t1", &commit(), now()).unwrap();
        assert!(!zombie.condition.holds(Some(&taken_over)));
        assert!(!fail(&seen, "t1", AfterFailure::Fail, "x", now()).condition.holds(Some(&taken_over)));
        assert!(!hand_back(&seen, "t1", now()).condition.holds(Some(&taken_over)));
        assert!(record(&seen, "t2", &commit(), now()).unwrap().condition.holds(Some(&taken_over)));
    }

    #[test]
    fn i4_nothing_but_its_completion_follows_a_recorded_commit() {
        let recorded = ManifestItem { commit: Some(commit()), ..manifest(ManifestState::Processing, 1) };
        let item = serde_dynamo::to_item(&recorded).unwrap();
        assert!(!begin(&recorded, "t2", now()).condition.holds(Some(&item)));
        assert!(!give_up(&recorded, now()).condition.holds(Some(&item)));
        assert!(!record(&recorded, "t1", &commit(), now()).unwrap().condition.holds(Some(&item)));
        assert!(complete(&recorded, &commit(), &[], now()).unwrap().condition.holds(Some(&item)));
        assert!(take_over(&recorded, "t2", now()).unwrap().condition.holds(Some(&item)));
    }
}
