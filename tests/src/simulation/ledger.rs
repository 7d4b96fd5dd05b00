//! The ledger: every line that was landed, and what it must have become.

use std::collections::{BTreeMap, BTreeSet};

use penstock_engine::cloud::stage::TOKEN;
use penstock_operators::model::{FileItem, FileState, ManifestItem, ManifestState, attribute, read_item, text};

use super::witness::{Shared, TRACKING};

/// The content of a file that a test lands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lines {
    /// So many good and bad lines.
    Some(usize, usize),
    /// It can't be converted.
    Failing,
    /// It takes its manifest with it.
    Poison,
}

/// One landed object version.
#[derive(Debug, Clone)]
pub struct Landed {
    /// Its content.
    pub content: String,
    /// The object's key.
    pub key: String,
    /// Its etag.
    pub etag: String,
    /// The ids of its good lines.
    pub good: Vec<String>,
    /// Those of its bad ones.
    pub bad: Vec<String>,
    /// Whether its file must fail.
    pub fails: bool,
    /// Whether another version has followed it.
    pub followed: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Ledger {
    landed: Vec<Landed>,
    next: u64,
}

impl Ledger {
    /// Makes the content of a new version of an object, and enters it.
    pub fn make(&mut self, lines: &Lines) -> (String, Landed) {
        let mut ids = |count: usize| -> Vec<String> {
            (0..count)
                .map(|_| {
                    self.next += 1;
                    format!("id{:05}", self.next)
                })
                .collect()
        };
        let (good, bad) = match lines {
            Lines::Some(good, bad) => (ids(*good), ids(*bad)),
            Lines::Failing | Lines::Poison => (ids(2), Vec::new()),
        };
        let head = match lines {
            Lines::Some(..) => "",
            Lines::Failing => "FAIL\n",
            Lines::Poison => "POISON\n",
        };
        let good_lines = good.iter().map(|id| format!("ok {id}\n"));
        let bad_lines = bad.iter().map(|id| format!("bad {id}\n"));
        let content = head.to_owned() + &good_lines.chain(bad_lines).collect::<String>();
        let fails = !matches!(lines, Lines::Some(..));
        (
            content.clone(),
            Landed { content, key: String::new(), etag: String::new(), good, bad, fails, followed: false },
        )
    }

    /// Enters a version under its key. A version before it may now be superseded.
    pub fn enter(&mut self, key: &str, etag: String, mut landed: Landed) {
        for before in self.landed.iter_mut().filter(|before| before.key == key) {
            before.followed = true;
        }
        (landed.key, landed.etag) = (key.to_owned(), etag);
        self.landed.push(landed);
    }

    /// All versions, in the order in which they were landed.
    pub fn landed(&self) -> &[Landed] {
        &self.landed
    }

    /// How many versions.
    pub fn len(&self) -> usize {
        self.landed.len()
    }

    /// Whether nothing was landed.
    pub fn is_empty(&self) -> bool {
        self.landed.is_empty()
    }

    /// Checks that every line ended exactly once (I1), and whatever follows from it. What is wrong, in words.
    pub fn check(&self, shared: &Shared) -> Vec<String> {
        let mut wrong = Vec::new();
        let items = shared.cloud.memory_table(TRACKING).items();
        let is_manifest = |item: &&penstock_engine::cloud::Item| {
            text(item, attribute::FILE_KEY).is_some_and(|key| key.starts_with("MANIFEST#"))
        };
        let manifests: Vec<ManifestItem> =
            items.iter().filter(is_manifest).map(|item| read_item("manifest", item).unwrap()).collect();
        let files: Vec<FileItem> = items
            .iter()
            .filter(|item| !is_manifest(item) && text(item, attribute::DATE_PREFIX) != Some("SCHEMA"))
            .map(|item| read_item("file", item).unwrap())
            .collect();
        for file in &files {
            if !file.state().is_some_and(FileState::is_final) {
                wrong.push(format!("{} is {}", file.file_key, file.status));
            }
        }
        let (rows, rejects) = outputs(shared, &manifests, &mut wrong);
        let mut known: BTreeSet<String> = BTreeSet::new();
        for landed in &self.landed {
            known.extend(landed.good.iter().chain(&landed.bad).cloned());
            let file = files.iter().find(|file| {
                file.file_path.ends_with(&format!("/{}", landed.key)) && file.etag.as_ref() == Some(&landed.etag)
            });
            let state = file.and_then(FileItem::state);
            match (file, state) {
                (None, _) if landed.followed => {}
                (None, _) => wrong.push(format!("{} ({}) has no item", landed.key, landed.etag)),
                (Some(file), Some(FileState::Failed)) => {
                    if file.error_message.as_ref().is_none_or(String::is_empty) {
                        wrong.push(format!("{} failed without a reason", file.file_key));
                    }
                    // A version that was replaced before it was read has changed, which is a reason.
                    if !landed.fails && !landed.followed {
                        wrong.push(format!("{} failed: {:?}", file.file_key, file.error_message));
                    }
                }
                (Some(file), Some(FileState::Completed)) if landed.fails => {
                    wrong.push(format!("{} is completed, and must fail", file.file_key));
                }
                _ => {}
            }
            let times = if state == Some(FileState::Completed) { 1 } else { 0 };
            for (what, ids, found) in [("row", &landed.good, &rows), ("reject", &landed.bad, &rejects)] {
                for id in ids {
                    let count = found.get(id).copied().unwrap_or_default();
                    if count != times {
                        wrong.push(format!(
                            "{what} {id} of {} ({}, {state:?}) is there {count} times, not {times}",
                            landed.key, landed.etag
                        ));
                    }
                }
            }
        }
        let strange = rows.keys().chain(rejects.keys()).filter(|id| !known.contains(*id));
        wrong.extend(strange.map(|id| format!("{id} was never landed")));
        for manifest in &manifests {
            let owes_alert = manifest.status == ManifestState::Failed || manifest.failed_files.unwrap_or_default() > 0;
            match manifest.status {
                ManifestState::Abandoned => {}
                ManifestState::Completed | ManifestState::Failed => {
                    if manifest.settled_at.is_none() {
                        wrong.push(format!("{} isn't settled", manifest.id()));
                    }
                    if manifest.announced_at.is_none() {
                        wrong.push(format!("{} owes an announcement", manifest.id()));
                    }
                    if owes_alert && manifest.alerted_at.is_none() {
                        wrong.push(format!("{} owes an alert", manifest.id()));
                    }
                }
                state => wrong.push(format!("{} is {state}", manifest.id())),
            }
        }
        wrong
    }
}

type Counts = BTreeMap<String, u32>;

/// How often each id is a row that readers see, and a reject that a commit names.
fn outputs(shared: &Shared, manifests: &[ManifestItem], wrong: &mut Vec<String>) -> (Counts, Counts) {
    let (mut rows, mut rejects) = (Counts::new(), Counts::new());
    let output = shared.cloud.memory_bucket("output");
    for (key, object) in output.objects() {
        let uri = format!("s3://{}/{key}", output.name());
        let owner = manifests.iter().find(|manifest| manifest.outputs.iter().flatten().any(|output| *output == uri));
        if owner.is_none_or(|manifest| {
            manifest.status != ManifestState::Completed
                || !manifest
                    .commit
                    .iter()
                    .flat_map(|commit| &commit.uploads)
                    .any(|upload| upload.key == key && object.metadata.get(TOKEN) == Some(&upload.token))
        }) {
            wrong.push(format!("{key} is visible, and no completed manifest recorded it"));
        }
        for line in String::from_utf8_lossy(&object.content).lines() {
            let id = line.split('\t').next().unwrap_or_default();
            *rows.entry(id.to_owned()).or_default() += 1;
        }
    }
    let quarantine = shared.cloud.memory_bucket("quarantine").objects();
    let named: BTreeSet<&str> = manifests
        .iter()
        .filter(|manifest| manifest.status == ManifestState::Completed)
        .filter_map(|manifest| manifest.commit.as_ref()?.rejects_key.as_deref())
        .collect();
    for key in named {
        let Some(object) = quarantine.get(key) else {
            wrong.push(format!("the rejects {key} are gone"));
            continue;
        };
        for line in String::from_utf8_lossy(&object.content).lines() {
            let id = line.split('\t').next().unwrap_or_default().trim_start_matches("bad ");
            *rejects.entry(id.to_owned()).or_default() += 1;
        }
    }
    (rows, rejects)
}
