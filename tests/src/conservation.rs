//! I1, conservation: every line that went in is a row or a reject exactly once, or its file is failed or quarantined with
//! a reason; nothing else came out, and readers see no more than that.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use penstock::sample::Made;
use penstock_operators::model::{AttemptReport, FileState, ManifestItem, ManifestJson, ManifestState};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    parquet_rows::read_columns,
    place::{DATE, Place, visible_files},
};

/// What a pipeline owes for what was landed.
#[derive(Debug, Default, Clone)]
pub struct Owed {
    /// The ids of the lines that must be rows.
    pub rows: Vec<String>,
    /// How many lines must be rejects.
    pub rejects: usize,
    /// The keys of the files that must have failed.
    pub failed: Vec<String>,
    /// The keys of the files that must be in quarantine.
    pub quarantined: Vec<String>,
    /// How many files there are in all.
    pub files: usize,
}

impl From<Made> for Owed {
    fn from(made: Made) -> Self {
        let below_date = |names: Vec<String>| {
            let key = |name: String| name.strip_prefix(&format!("{DATE}/")).unwrap_or(&name).to_owned();
            names.into_iter().map(key).collect()
        };
        Self {
            rows: made.rows,
            rejects: made.rejects,
            failed: below_date(made.failed),
            quarantined: below_date(made.quarantined),
            files: made.files,
        }
    }
}

/// Checks all of it in a place where nothing is left to do.
#[track_caller]
pub fn check(place: &Place, owed: &Owed) {
    let facts = place.facts();
    assert_eq!(facts.unfinished(), 0, "something is unfinished: {facts:?}");
    check_files(place, owed);
    let manifests = place.manifests();
    let completed: Vec<_> =
        manifests.iter().filter(|manifest| manifest.status == ManifestState::Completed).cloned().collect();
    check_outputs(place, &completed);
    check_rows(place, &completed, owed);
    check_rejects(place, &completed, owed);
    check_membership(place, &completed);
}

/// Every file is final; those that failed or are in quarantine are those that had to, each with a reason.
#[track_caller]
fn check_files(place: &Place, owed: &Owed) {
    let files = place.files();
    assert_eq!(files.len(), owed.files, "files in the table");
    let keys_in = |wanted: FileState| -> BTreeSet<String> {
        files.iter().filter(|file| file.state() == Some(wanted)).map(|file| file.file_key.clone()).collect()
    };
    for file in &files {
        let state = file.state().unwrap();
        assert!(state.is_final(), "{} is {state}", file.file_key);
        let has_reason = file.error_message.as_ref().is_some_and(|reason| !reason.is_empty());
        assert_eq!(has_reason, state != FileState::Completed, "{} is {state}: {file:?}", file.file_key);
    }
    assert_eq!(keys_in(FileState::Failed), owed.failed.iter().cloned().collect(), "files that failed");
    assert_eq!(keys_in(FileState::Quarantined), owed.quarantined.iter().cloned().collect(), "files in quarantine");
    for key in keys_in(FileState::Quarantined) {
        let file = place.file(&key);
        let object = file.file_path.strip_prefix("s3://").and_then(|path| path.split_once('/')).unwrap().1;
        let copy = place.bucket("quarantine").join(format!("{object}@{}", file.etag.unwrap()));
        assert!(copy.is_file(), "no copy {}", copy.display());
    }
}

/// Readers see exactly the Parquet of completed manifests.
#[track_caller]
fn check_outputs(place: &Place, completed: &[ManifestItem]) {
    let root = format!("s3://{}/", place.bucket("output").file_name().unwrap().to_str().unwrap());
    let mut recorded: Vec<String> = completed
        .iter()
        .flat_map(|manifest| manifest.outputs.iter().flatten())
        .map(|uri| uri.strip_prefix(&root).unwrap_or_else(|| panic!("{uri} is elsewhere")).to_owned())
        .collect();
    recorded.sort();
    assert_eq!(visible_files(&place.bucket("output")), recorded, "visible objects and recorded outputs");
    let mut told = place.facts().outputs;
    told.sort();
    assert_eq!(told, recorded.iter().map(|key| format!("{root}{key}")).collect::<Vec<_>>());
}

/// Every id is there exactly once, under the file that its item says, and nothing else is there.
#[track_caller]
fn check_rows(place: &Place, completed: &[ManifestItem], owed: &Owed) {
    let mut times: BTreeMap<String, u32> = owed.rows.iter().map(|id| (id.clone(), 0)).collect();
    assert_eq!(times.len(), owed.rows.len(), "the test's own ids are not unique");
    let mut by_file: BTreeMap<String, u64> = BTreeMap::new();
    for key in visible_files(&place.bucket("output")) {
        for cells in read_columns(&place.bucket("output").join(&key), &["id", "_source_file"]) {
            let id = cells.get("id").unwrap_or_else(|| panic!("a row without an id in {key}"));
            let count = times.get_mut(id).unwrap_or_else(|| panic!("a row that nobody wrote, {id}, in {key}"));
            *count += 1;
            *by_file.entry(cells["_source_file"].clone()).or_default() += 1;
        }
    }
    let wrong: Vec<_> = times.iter().filter(|(_, count)| **count != 1).take(10).collect();
    assert!(wrong.is_empty(), "ids that aren't there exactly once (the first ten, with their counts): {wrong:?}");
    let recorded: u64 = completed.iter().filter_map(|manifest| manifest.rows).sum();
    assert_eq!(recorded, owed.rows.len() as u64, "rows by the manifests");
    let mut said: BTreeMap<String, u64> = BTreeMap::new();
    for file in place.files() {
        // Versions of one object share its name.
        *said.entry(file.file_path).or_default() += file.rows.unwrap_or_default();
    }
    said.retain(|_, rows| *rows > 0);
    assert_eq!(by_file, said, "rows by `_source_file` and by the items of the files");
}

/// Every rejected line is kept with its place and reason.
#[track_caller]
fn check_rejects(place: &Place, completed: &[ManifestItem], owed: &Owed) {
    let recorded: u64 = completed.iter().filter_map(|manifest| manifest.rejected_rows).sum();
    assert_eq!(recorded, owed.rejects as u64, "rejects by the manifests");
    assert_eq!(rejects(place).len(), owed.rejects, "rejected lines that are kept");
}

/// I2: what a manifest lists are files that follow it, but for one that failed in it and was set back since: such a file
/// follows a later manifest, and gave this one nothing.
#[track_caller]
fn check_membership(place: &Place, completed: &[ManifestItem]) {
    let manifest_of: BTreeMap<String, Option<String>> =
        place.files().into_iter().map(|file| (file.file_key, file.manifest_path)).collect();
    for manifest in completed {
        let json: ManifestJson = object(place, manifest.manifest_path.strip_prefix("s3://").unwrap());
        let commit = manifest.commit.as_ref().unwrap();
        let bucket = place.bucket("manifest").file_name().unwrap().to_str().unwrap().to_owned();
        let report: AttemptReport = object(place, &format!("{bucket}/{}", commit.report_key));
        let listed: BTreeSet<_> = json.files.iter().map(|file| &file.file_key).collect();
        assert_eq!(listed.len(), json.files.len(), "{} lists a file twice", manifest.manifest_path);
        assert_eq!(json.files.len() as u64, manifest.file_count);
        assert_eq!(report.files.iter().map(|file| &file.file_key).collect::<BTreeSet<_>>(), listed);
        for file in &report.files {
            let follows = manifest_of[&file.file_key].as_ref() == Some(&manifest.manifest_path);
            assert!(
                follows || (file.failure.is_some() && file.rows == 0),
                "{} was converted in {}, and its item follows {:?}",
                file.file_key,
                manifest.manifest_path,
                manifest_of[&file.file_key]
            );
        }
    }
}

/// What a JSON object of the local cloud holds, by its bucket and key.
#[track_caller]
fn object<T: DeserializeOwned>(place: &Place, path: &str) -> T {
    serde_json::from_slice(&fs::read(place.cloud().join("s3").join(path)).unwrap()).unwrap()
}

/// The rejected lines of completed manifests, as kept. Each is checked to have its place and reason.
#[track_caller]
pub fn rejects(place: &Place) -> Vec<Value> {
    let mut found = Vec::new();
    for manifest in place.manifests() {
        let commit = manifest.commit.filter(|_| manifest.status == ManifestState::Completed);
        let Some(key) = commit.and_then(|commit| commit.rejects_key) else { continue };
        let text = fs::read_to_string(place.bucket("quarantine").join(key)).unwrap();
        for line in text.lines() {
            let reject: Value = serde_json::from_str(line).unwrap();
            assert!(reject["line"].as_u64() >= Some(1) && reject["offset"].is_u64(), "{reject}");
            assert!(reject["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{reject}");
            assert!(reject["file"].as_str().is_some_and(|file| file.starts_with("s3://")), "{reject}");
            found.push(reject);
        }
    }
    found
}
