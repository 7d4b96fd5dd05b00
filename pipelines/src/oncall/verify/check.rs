//! What adds up and what doesn't, given all facts of a day. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};
use penstock_operators::model::{
    AttemptReport, FileItem, FileResult, FileState, MANIFEST_KEY_PREFIX, ManifestItem, ManifestJson, ManifestState,
    file_key_of, id_of_key, versioned_key,
};

use super::{Off, Verdict};
use crate::oncall::find::created_day;

/// An object of the input bucket.
#[derive(Debug, Clone)]
pub struct Input {
    /// Its key.
    pub key: String,
    /// Its etag, if it was told.
    pub etag: Option<String>,
    /// Whether it is so young that its notification may be on its way.
    pub is_young: bool,
    /// When it was last written.
    pub last_modified: DateTime<Utc>,
}

/// An object that readers see in the output folder.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its URI.
    pub uri: String,
    /// When it was last written.
    pub last_modified: DateTime<Utc>,
}

/// What is known of a manifest.
#[derive(Debug, Clone)]
pub struct ManifestFacts {
    /// Its item.
    pub item: ManifestItem,
    /// Its JSON object and that object's etag.
    pub json: Option<(ManifestJson, String)>,
    /// What is wrong with that object, if it can't be read.
    pub json_problem: Option<String>,
    /// The report of the attempt that won; `Err` says why it can't be read.
    pub report: Result<Option<AttemptReport>, String>,
    /// Rows by the footer of each output; `Err` says why it can't be told.
    pub outputs: Vec<(String, Result<u64, String>)>,
    /// Rejected lines that are kept.
    pub kept_rejects: Result<u64, String>,
}

impl ManifestFacts {
    /// What its report says of each file.
    fn results(&self) -> impl Iterator<Item = &FileResult> {
        self.report.iter().flatten().flat_map(|report| &report.files)
    }
}

/// All facts of a day.
#[derive(Debug, Clone, Default)]
pub struct Day {
    /// The date.
    pub date: String,
    /// Where files lie in the input bucket.
    pub input_prefix: String,
    /// Its objects there.
    pub inputs: Vec<Input>,
    /// Its files.
    pub files: Vec<FileItem>,
    /// Its manifests.
    pub manifests: Vec<ManifestFacts>,
    /// Items of the previous system.
    pub foreign: u64,
    /// The full name of the output bucket.
    pub output_bucket: String,
    /// The objects that readers see in the output folder.
    pub visible_outputs: Vec<Output>,
    /// Items of the date that can't be read: their keys, and why.
    pub unreadable: BTreeMap<String, String>,
    /// What was finished before then may have no item any more.
    pub kept_since: DateTime<Utc>,
    /// Quarantined files whose copy isn't there.
    pub without_copy: BTreeSet<String>,
    /// The most rejects that are kept of a file.
    pub max_rejects_per_file: u64,
}

/// Compares everything.
pub fn check(day: &Day) -> Verdict {
    let mut verdict = Verdict { date: day.date.clone(), foreign: day.foreign, ..Verdict::default() };
    check_files(day, &mut verdict);
    check_inputs(day, &mut verdict);
    for manifest in &day.manifests {
        check_manifest(day, manifest, &mut verdict);
    }
    check_membership(day, &mut verdict);
    check_outputs(day, &mut verdict);
    for (key, why) in &day.unreadable {
        verdict.is_off("unreadable", key, why);
    }
    verdict
}

impl Day {
    /// Whether items of a manifest of this name, and of its files, may have expired.
    fn may_have_expired(&self, manifest_id: &str) -> bool {
        created_day(manifest_id).is_some_and(|day| day < self.kept_since.date_naive())
    }

    /// Whether there is an item of this manifest that can't be read.
    fn cannot_read(&self, manifest_id: &str) -> bool {
        self.unreadable.contains_key(&format!("{MANIFEST_KEY_PREFIX}{manifest_id}.json"))
    }
}

impl Verdict {
    fn is_off(&mut self, kind: &'static str, what: impl Into<String>, why: impl Into<String>) {
        self.off.push(Off { kind, what: what.into(), why: why.into() });
    }
}

fn check_files(day: &Day, verdict: &mut Verdict) {
    for file in &day.files {
        let Some(state) = file.state() else {
            verdict.is_off("unknown_status", &file.file_key, format!("its status is `{}`", file.status));
            continue;
        };
        *verdict.files.entry(state.as_str()).or_default() += 1;
        let has_reason = file.error_message.as_ref().is_some_and(|reason| !reason.is_empty());
        match state {
            FileState::Pending | FileState::Manifested => {
                verdict.unfinished.push(format!("file {} is {state}", file.file_key));
            }
            FileState::Failed | FileState::Quarantined if !has_reason => {
                verdict.is_off("no_reason", &file.file_key, format!("it is {state}, and no reason is kept"));
            }
            FileState::Completed if file.rows.is_none() => {
                verdict.is_off("no_count", &file.file_key, "it is completed, and how many rows it gave isn't kept");
            }
            _ => {}
        }
        if state == FileState::Quarantined && day.without_copy.contains(&file.file_key) {
            verdict.is_off("no_copy", &file.file_key, "it is quarantined, and its copy isn't in the quarantine bucket");
        }
    }
}

/// Every object has an item of its version.
fn check_inputs(day: &Day, verdict: &mut Verdict) {
    verdict.inputs = day.inputs.len() as u64;
    let by_key: HashMap<&str, &FileItem> = day.files.iter().map(|file| (file.file_key.as_str(), file)).collect();
    for input in &day.inputs {
        let keys = [false, true].map(|full| file_key_of(&input.key, &day.input_prefix, full));
        let is_of = |file: &&FileItem| file.file_path.ends_with(&format!("/{}", input.key));
        let has = |key: &str| by_key.get(key).copied().filter(is_of);
        let of_version = keys.iter().any(|key| {
            let versioned = input.etag.as_ref().map(|etag| versioned_key(key, etag));
            let same = has(key).is_some_and(|file| input.etag.is_none() || file.etag == input.etag);
            same || versioned.is_some_and(|key| has(&key).is_some())
        });
        let is_unreadable = || {
            let is_of = |of: &String, key: &String| {
                of.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('@'))
            };
            keys.iter().any(|key| day.unreadable.keys().any(|of| is_of(of, key)))
        };
        if of_version || is_unreadable() {
            continue;
        }
        if input.last_modified < day.kept_since {
            verdict.expired += 1;
        } else if input.is_young {
            verdict.unfinished.push(format!("object {} is not tracked yet", input.key));
        } else if keys.iter().any(|key| has(key).is_some()) {
            verdict.is_off("untracked_version", &input.key, "the table knows only other versions of it");
        } else {
            verdict.is_off("untracked", &input.key, "it lies in the input bucket and has no item");
        }
    }
}

fn check_manifest(day: &Day, facts: &ManifestFacts, verdict: &mut Verdict) {
    let item = &facts.item;
    let id = item.id().to_owned();
    *verdict.manifests.entry(item.status.as_str()).or_default() += 1;
    let is_done = matches!(item.status, ManifestState::Completed | ManifestState::Failed);
    match item.status {
        ManifestState::Abandoned => {
            if facts.json.is_some() {
                verdict.is_off("abandoned_with_json", &id, "it is abandoned, and its JSON object is there");
            }
            return;
        }
        ManifestState::Assembling => {
            verdict.unfinished.push(format!("manifest {id} is assembling"));
            return;
        }
        ManifestState::Pending | ManifestState::Processing => {
            verdict.unfinished.push(format!("manifest {id} is {}", item.status));
        }
        _ if item.settled_at.is_none() => verdict.unfinished.push(format!("manifest {id} is not settled")),
        _ => {}
    }
    let Some((json, etag)) = &facts.json else {
        let why = facts.json_problem.as_deref().unwrap_or("it is committed, and its JSON object is not there");
        verdict.is_off("no_json", &id, why);
        return;
    };
    if item.json_etag.as_ref().is_some_and(|recorded| recorded != etag) {
        verdict.is_off("json_changed", &id, "its JSON object is another than the one that was committed");
    }
    if (json.files.len() as u64, json.total_bytes()) != (item.file_count, item.total_bytes) {
        let why = format!(
            "its JSON lists {} files, {} bytes, and its item says {}, {}",
            json.files.len(),
            json.total_bytes(),
            item.file_count,
            item.total_bytes
        );
        verdict.is_off("json_count", &id, why);
    }
    if item.status == ManifestState::Completed {
        check_completed(day, facts, json, verdict);
    } else if is_done && item.error_message.is_none() {
        verdict.is_off("no_reason", &id, "it failed, and no reason is kept");
    }
}

/// A completed manifest: its item, its report, its Parquet and its rejects say the same.
fn check_completed(day: &Day, facts: &ManifestFacts, json: &ManifestJson, verdict: &mut Verdict) {
    let item = &facts.item;
    let id = item.id();
    let (rows, rejected) = (item.rows.unwrap_or_default(), item.rejected_rows.unwrap_or_default());
    verdict.rows += rows;
    verdict.rejected_rows += rejected;
    let mut parquet_rows = 0;
    for (uri, found) in &facts.outputs {
        match found {
            Ok(rows) => parquet_rows += rows,
            Err(why) => verdict.is_off("output", uri, why),
        }
    }
    verdict.parquet_rows += parquet_rows;
    verdict.parquet_files += facts.outputs.len() as u64;
    if facts.outputs.iter().all(|(_, found)| found.is_ok()) && parquet_rows != rows {
        verdict.is_off("parquet_rows", id, format!("its Parquet holds {parquet_rows} rows, and its item says {rows}"));
    }
    let report = match &facts.report {
        Ok(Some(report)) => report,
        Ok(None) => return verdict.is_off("no_report", id, "it is completed, and no commit names its report"),
        Err(why) => return verdict.is_off("no_report", id, why),
    };
    let sum = |of: fn(&FileResult) -> u64| report.files.iter().map(of).sum::<u64>();
    if (sum(|file| file.rows), sum(|file| file.rejected_rows)) != (rows, rejected) {
        verdict.is_off("report_count", id, "the files of its report don't add up to the rows and rejects of its item");
    }
    let listed: BTreeSet<&str> = json.files.iter().map(|file| file.file_key.as_str()).collect();
    let reported: BTreeSet<&str> = report.files.iter().map(|file| file.file_key.as_str()).collect();
    if listed != reported || reported.len() != report.files.len() {
        verdict.is_off("report_files", id, "its report and its JSON don't name the same files");
    }
    let expected: u64 = report.files.iter().map(|file| file.rejected_rows.min(day.max_rejects_per_file)).sum();
    match &facts.kept_rejects {
        Ok(kept) => {
            verdict.kept_rejects += kept;
            if *kept != expected {
                verdict.is_off("rejects", id, format!("{kept} rejected lines are kept, and {expected} should be"));
            }
        }
        Err(why) => verdict.is_off("rejects", id, why),
    }
}

/// I1, I2: each file of a manifest followed it, or has gone another way since; no version is in two that completed.
fn check_membership(day: &Day, verdict: &mut Verdict) {
    let files: HashMap<&str, &FileItem> = day.files.iter().map(|file| (file.file_key.as_str(), file)).collect();
    let mut converted: HashMap<(&str, Option<&str>), &str> = HashMap::new();
    let mut members: HashSet<(&str, &str)> = HashSet::new();
    for facts in &day.manifests {
        let (item, Some((json, _))) = (&facts.item, &facts.json) else { continue };
        let results: BTreeMap<&str, bool> =
            facts.results().map(|result| (result.file_key.as_str(), result.failure.is_none())).collect();
        for member in &json.files {
            let key = member.file_key.as_str();
            members.insert((item.manifest_path.as_str(), key));
            let was_converted =
                item.status == ManifestState::Completed && results.get(key).copied().unwrap_or_default();
            if was_converted {
                let version = (key, member.etag.as_deref());
                if let Some(other) = converted.insert(version, item.id()) {
                    verdict.is_off(
                        "doubled",
                        key,
                        format!("its rows are in the outputs of {other} and of {}", item.id()),
                    );
                }
            }
            let Some(file) = files.get(key) else {
                if day.unreadable.contains_key(key) {
                    continue;
                }
                if item.settled_at.is_some() && day.may_have_expired(item.id()) {
                    verdict.expired += 1;
                    continue;
                }
                verdict.is_off("no_item", key, format!("{} lists it, and it has no item", item.id()));
                continue;
            };
            let follows = file.manifest_path.as_deref() == Some(item.manifest_path.as_str());
            let is_settled = item.settled_at.is_some();
            if was_converted && is_settled && !(follows && file.state() == Some(FileState::Completed)) {
                verdict.is_off(
                    "not_followed",
                    key,
                    format!("{} converted it, and its item is {}", item.id(), file.status),
                );
            }
            if !is_settled && !follows {
                verdict.is_off(
                    "not_followed",
                    key,
                    format!("{} lists it, and its item is not claimed for it", item.id()),
                );
            }
        }
        for result in facts.results() {
            let file = files.get(result.file_key.as_str()).filter(|file| {
                file.state() == Some(FileState::Completed)
                    && file.manifest_path.as_deref() == Some(item.manifest_path.as_str())
            });
            if let Some(file) = file
                && (file.rows, file.rejected_rows) != (Some(result.rows), Some(result.rejected_rows))
            {
                verdict.is_off(
                    "file_count",
                    &result.file_key,
                    format!(
                        "the report of {} says {} rows and {} rejects of it, \
                    and its item says otherwise",
                        item.id(),
                        result.rows,
                        result.rejected_rows
                    ),
                );
            }
        }
    }
    let known: HashSet<&str> = day.manifests.iter().map(|facts| facts.item.manifest_path.as_str()).collect();
    let with_json: HashSet<&str> = day
        .manifests
        .iter()
        .filter(|facts| facts.json.is_some())
        .map(|facts| facts.item.manifest_path.as_str())
        .collect();
    for file in &day.files {
        let Some(path) = file.manifest_path.as_deref() else {
            if matches!(file.state(), Some(FileState::Completed | FileState::Manifested)) {
                verdict.is_off("no_manifest", &file.file_key, "its item names no manifest");
            }
            continue;
        };
        let id = id_of_key(path.rsplit('/').next().unwrap_or(path));
        if day.cannot_read(id) {
            continue;
        }
        if file.state() == Some(FileState::Completed) && !known.contains(path) && day.may_have_expired(id) {
            verdict.expired += 1;
        } else if file.state() == Some(FileState::Completed) && !members.contains(&(path, file.file_key.as_str())) {
            verdict.is_off("not_listed", &file.file_key, format!("it is completed by {path}, which doesn't list it"));
        } else if with_json.contains(path)
            && file.state() == Some(FileState::Manifested)
            && !members.contains(&(path, file.file_key.as_str()))
        {
            verdict.unfinished.push(format!("file {} is claimed for a manifest that doesn't list it", file.file_key));
        }
    }
}

/// Readers see the outputs of completed manifests and nothing else.
fn check_outputs(day: &Day, verdict: &mut Verdict) {
    let mut recorded: HashSet<String> = HashSet::new();
    let mut of_failed: HashMap<String, &str> = HashMap::new();
    for facts in &day.manifests {
        recorded.extend(facts.outputs.iter().map(|(uri, _)| uri.clone()));
        let uploads = facts.item.commit.iter().flat_map(|commit| &commit.uploads);
        let uris = uploads.map(|upload| format!("s3://{}/{}", day.output_bucket, upload.key));
        match facts.item.status {
            // One that completes makes its outputs visible before it says so.
            ManifestState::Processing | ManifestState::Completed => recorded.extend(uris),
            _ => of_failed.extend(uris.map(|uri| (uri, facts.item.id()))),
        }
    }
    for Output { uri, last_modified } in day.visible_outputs.iter().filter(|output| !recorded.contains(&output.uri)) {
        let id = manifest_of_output(uri);
        if let Some(manifest) = of_failed.get(uri) {
            let why = format!("{manifest} failed, and readers see it: its rows are doubled by a redrive");
            verdict.is_off("visible_of_failed", uri, why);
        } else if id.is_some_and(|id| day.cannot_read(id)) {
            // Whose it is can't be told: that is off by itself.
        } else if *last_modified < day.kept_since || id.is_some_and(|id| day.may_have_expired(id)) {
            verdict.expired += 1;
        } else {
            verdict.is_off("stray_output", uri, "readers see it, and no manifest of the table made it");
        }
    }
}

/// The id of the manifest that an output is of by its name, `{manifest}-p{part}.parquet`.
fn manifest_of_output(uri: &str) -> Option<&str> {
    let (id, _part) = uri.rsplit('/').next()?.rsplit_once("-p")?;
    Some(id)
}

#[cfg(test)]
mod tests;
