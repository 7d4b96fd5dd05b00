//! What comes next for a file or a manifest, and why it waits. Pure: facts and a time go in.

use chrono::{DateTime, TimeDelta, Utc};
use penstock_engine::units::format_duration;
use penstock_operators::model::{FileItem, FileState, ManifestItem, ManifestState};
use serde::Serialize;

use super::{Layout, Object};

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Next {
    /// Whether nothing more happens by itself.
    pub is_final: bool,
    /// What happens next.
    pub step: String,
    /// What it waits for, or what a person can do.
    pub because: String,
    /// Whether it has waited for longer than it should.
    pub is_late: bool,
}

impl Next {
    fn done(step: impl Into<String>, because: impl Into<String>) -> Self {
        Self { is_final: true, step: step.into(), because: because.into(), is_late: false }
    }

    fn waits(step: impl Into<String>, because: impl Into<String>) -> Self {
        Self { is_final: false, step: step.into(), because: because.into(), is_late: false }
    }

    fn late(mut self, is_late: bool) -> Self {
        self.is_late = is_late;
        self
    }
}

/// What comes next for a file.
pub fn next_of_file(
    file: &FileItem,
    object: &Object,
    manifest: Option<(&ManifestItem, &Next)>,
    layout: &Layout,
    now: DateTime<Utc>,
) -> Next {
    let redrive = format!("penstock redrive FILE {}/{} sets it back to pending", file.date_prefix, file.file_key);
    match file.state() {
        Some(FileState::Pending) => {
            let waited = since(file.pending_since.as_deref(), now);
            let (max_files, max_age) = (layout.fold.max_files, layout.fold.max_age);
            // A file that another process reads is left to it for one reading of the index more.
            let limit = TimeDelta::from_std(max_age + layout.fold.reconcile * 2).unwrap_or(TimeDelta::MAX);
            Next::waits(
                "fold puts it into a manifest",
                format!(
                    "that happens at {max_files} files of its date, or {} after the oldest of them came; it has waited {}. \
                     `penstock flush FILE {}` does it now",
                    format_duration(max_age),
                    format_delta(waited),
                    file.date_prefix
                ),
            )
            .late(waited > limit)
        }
        Some(FileState::Manifested) => match manifest {
            None => Next::waits(
                "sweep releases it",
                format!("its manifest {} is not in the table", file.manifest_path.as_deref().unwrap_or("(none)")),
            )
            .late(true),
            Some((item, next)) if matches!(item.status, ManifestState::Completed | ManifestState::Failed) => {
                Next::waits("settle moves it", format!("its manifest is {}: {}", item.status, next.because))
                    .late(next.is_late)
            }
            Some((item, next)) if item.status == ManifestState::Abandoned => {
                Next::waits("sweep releases it", format!("its manifest is abandoned: {}", next.because)).late(true)
            }
            Some((_, next)) => next.clone(),
        },
        Some(FileState::Completed) => Next::done("nothing: it is done", "its rows are in the manifest's outputs"),
        Some(FileState::Failed) => Next::done(
            "nothing by itself",
            match object {
                Object::There { .. } => match manifest.filter(|(item, _)| item.has_lost_commit()) {
                    Some((item, _)) => format!("its manifest {}", of_lost_commit(item)),
                    None => format!("when the cause is mended, {redrive}"),
                },
                Object::Replaced { .. } => {
                    "its object was replaced: the newer version has an item of its own".to_owned()
                }
                Object::Gone => "its object is gone: land it again".to_owned(),
                Object::Elsewhere => "its object is in another bucket than the pipeline's input".to_owned(),
            },
        ),
        Some(FileState::Quarantined) => Next::done(
            "nothing by itself",
            format!("if it should be converted all the same, {redrive}; else land it under another name"),
        ),
        None => Next::done("nothing", format!("its status `{}` is unknown to this release", file.status)),
    }
}

/// What comes next for a manifest. `holder` is who works on it; `has_json` whether its JSON object is there.
pub fn next_of_manifest(
    manifest: &ManifestItem,
    has_json: bool,
    holder: Option<&str>,
    layout: &Layout,
    now: DateTime<Utc>,
) -> Next {
    let waited = since(manifest.updated_at.as_deref(), now);
    let grace = TimeDelta::from_std(layout.sweep.grace + layout.sweep.every).unwrap_or(TimeDelta::MAX);
    let look = TimeDelta::from_std(layout.convert.look_every * 2).unwrap_or(TimeDelta::MAX);
    match manifest.status {
        ManifestState::Assembling => {
            let what = if has_json { "fold commits it" } else { "fold claims its files and writes its JSON" };
            Next::waits(
                what,
                format!(
                    "it was begun {} ago; one left half made is taken up at the next reading of the \
                index, every {}",
                    format_delta(waited),
                    format_duration(layout.fold.reconcile)
                ),
            )
            .late(waited > grace)
        }
        ManifestState::Pending => match manifest.retry_at.filter(|at| *at > now) {
            Some(at) => Next::waits(
                "a worker tries it again",
                format!(
                    "attempt {} of {} failed ({}); the next is in {}",
                    manifest.attempt,
                    layout.convert.max_attempts,
                    manifest.error_message.as_deref().unwrap_or("no reason is kept"),
                    format_delta(at - now)
                ),
            ),
            None if manifest.announced_at.is_none() && manifest.retry_at.is_none() => Next::waits(
                "announce publishes ManifestReady",
                format!(
                    "the bus hasn't accepted it for {}; the sweep publishes what is left, and workers look at the \
                    index every {} anyway",
                    format_delta(waited),
                    format_duration(layout.convert.look_every)
                ),
            )
            .late(waited > grace),
            None => Next::waits(
                "a worker takes it",
                format!(
                    "it was announced, and has waited {}; each worker converts one at a time, and looks at the index \
                    every {}",
                    format_delta(waited),
                    format_duration(layout.convert.look_every)
                ),
            )
            .late(waited > look.max(grace)),
        },
        ManifestState::Processing => {
            let what = match manifest.commit {
                Some(_) => "a worker makes its recorded outputs visible",
                None => "a worker converts it",
            };
            let because = match holder {
                Some(holder) => {
                    format!(
                        "{holder} works on it, in attempt {}, for {}; if it died, another takes over within moments",
                        manifest.attempt,
                        format_delta(waited)
                    )
                }
                None => format!(
                    "nobody holds its lease: attempt {} died {} ago or less; a worker takes it up when it \
                    looks, every {}",
                    manifest.attempt,
                    format_delta(waited),
                    format_duration(layout.convert.look_every)
                ),
            };
            Next::waits(what, because).late(holder.is_none() && waited > look)
        }
        ManifestState::Completed | ManifestState::Failed if manifest.settled_at.is_none() => Next::waits(
            "settle moves its files",
            format!(
                "that follows at once; the sweep does it after {} if the change was lost",
                format_duration(layout.sweep.grace)
            ),
        )
        .late(waited > grace),
        ManifestState::Completed => {
            let failed = manifest.failed_files.unwrap_or_default();
            let because = match failed {
                0 => "its rows are in its outputs".to_owned(),
                _ => format!(
                    "{failed} of its files failed: penstock redrive FILE --manifest {} shows them",
                    manifest.id()
                ),
            };
            Next::done("nothing: it is done", because)
        }
        ManifestState::Failed if manifest.has_lost_commit() => {
            Next::done("nothing by itself", format!("it {}", of_lost_commit(manifest)))
        }
        ManifestState::Failed => Next::done(
            "nothing by itself",
            format!(
                "when the cause is mended, penstock redrive FILE --manifest {} sets its files back to pending",
                manifest.id()
            ),
        ),
        ManifestState::Abandoned => {
            Next::done("nothing", "it claimed no file; its candidates went into other manifests")
        }
    }
}

/// What a person can do about a manifest that failed with its outputs recorded.
fn of_lost_commit(manifest: &ManifestItem) -> String {
    format!(
        "failed with its outputs recorded, and readers may see some of them: penstock redrive FILE --manifest {} tells which. \
         Once they are taken away, --force --yes with it sets its files back to pending",
        manifest.id()
    )
}

fn since(at: Option<&str>, now: DateTime<Utc>) -> TimeDelta {
    let at = at.and_then(|at| DateTime::parse_from_rfc3339(at).ok());
    at.map_or(TimeDelta::zero(), |at| (now - at.to_utc()).max(TimeDelta::zero()))
}

/// A duration for people: to the second.
pub fn format_delta(delta: TimeDelta) -> String {
    let secs = delta.num_seconds().max(0);
    match (secs / 86_400, secs / 3600 % 24, secs / 60 % 60, secs % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s} s"),
        (0, h, m, _) => format!("{h} h {m} min"),
        (d, h, ..) => format!("{d} d {h} h"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::loader::load;

    fn layout() -> Layout {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("ndjson-parquet.yaml");
        Layout::of(&load(&file, &|_| None, &penstock_operators::registry()).unwrap()).unwrap()
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    const NOW: &str = "2026-02-01T12:00:00Z";

    fn manifest(status: &str, more: Value) -> ManifestItem {
        let mut item = json!({
            "date_prefix": "2026-02-01", "file_key": "MANIFEST#batch-0001-20260201-115900-000000.json", "status": status,
            "manifest_path": "s3://m/x.json", "created_at": "2026-02-01T11:59:00Z", "updated_at": "2026-02-01T11:59:00Z",
            "schema_version": 1, "attempt": 1,
        });
        item.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(item).unwrap()
    }

    fn next(manifest: &ManifestItem, holder: Option<&str>) -> Next {
        next_of_manifest(manifest, true, holder, &layout(), at(NOW))
    }

    #[test]
    fn each_state_of_a_manifest_has_a_next_step_and_a_reason() {
        let told = |status: &str, more: Value, holder: Option<&str>| next(&manifest(status, more), holder);
        assert_eq!(told("pending", json!({}), None).step, "announce publishes ManifestReady");
        assert_eq!(told("pending", json!({"announced_at": "x"}), None).step, "a worker takes it");
        let waits = told("pending", json!({"retry_at": "2026-02-01T12:01:00Z", "error_message": "no disk"}), None);
        assert_eq!(waits.because, "attempt 1 of 3 failed (no disk); the next is in 1 min 0 s");
        assert!(
            told("processing", json!({}), Some("w1")).because.starts_with("w1 works on it, in attempt 1, for 1 min")
        );
        assert!(told("processing", json!({}), None).because.starts_with("nobody holds its lease"));
        assert_eq!(told("completed", json!({}), None).step, "settle moves its files");
        assert!(told("completed", json!({"settled_at": "x"}), None).is_final);
        assert!(told("failed", json!({"settled_at": "x"}), None).because.contains("--manifest batch-0001-20260201"));
        let commit =
            json!({ "token": "t", "uploads": [], "report_key": "r", "rows": 1, "rejected_rows": 0, "failed_files": 0 });
        let lost = told("failed", json!({"settled_at": "x", "commit": commit}), None);
        assert!(
            lost.is_final && lost.because.contains("readers may see") && lost.because.contains("--force"),
            "{lost:?}"
        );
        for status in ["assembling", "abandoned"] {
            assert!(!told(status, json!({}), None).step.is_empty());
        }
    }

    #[test]
    fn what_waits_for_longer_than_it_should_is_late() {
        let old = json!({"updated_at": "2026-02-01T10:00:00Z", "announced_at": "x"});
        assert!(next(&manifest("pending", old.clone()), None).is_late);
        assert!(next(&manifest("processing", old.clone()), None).is_late);
        assert!(!next(&manifest("processing", old.clone()), Some("w1")).is_late, "a long conversion is no fault");
        assert!(next(&manifest("completed", old), None).is_late);
        assert!(!next(&manifest("pending", json!({"announced_at": "x"})), None).is_late);
    }

    #[test]
    fn a_file_waits_for_what_its_manifest_waits_for() {
        let file = |status: &str| -> FileItem {
            serde_json::from_value(json!({
                "date_prefix": "2026-02-01", "file_key": "a", "status": format!("{status}#4"), "file_path": "s3://in/a",
                "pending_since": "2026-02-01T11:58:00Z",
            }))
            .unwrap()
        };
        let there = Object::There { last_modified: at(NOW) };
        let pending = next_of_file(&file("pending"), &there, None, &layout(), at(NOW));
        assert!(pending.because.contains("it has waited 2 min 0 s") && !pending.is_late, "{pending:?}");
        let later = at("2026-02-01T12:10:00Z");
        assert!(next_of_file(&file("pending"), &there, None, &layout(), later).is_late);
        let item = manifest("pending", json!({"announced_at": "x"}));
        let of_manifest = next(&item, None);
        let claimed = next_of_file(&file("manifested"), &there, Some((&item, &of_manifest)), &layout(), at(NOW));
        assert_eq!(claimed, of_manifest);
        assert!(next_of_file(&file("manifested"), &there, None, &layout(), at(NOW)).is_late, "its manifest is absent");
        let item = manifest(
            "failed",
            json!({ "settled_at": "x", "commit": { "token": "t", "uploads": [], "report_key": "r", "rows": 1,
                "rejected_rows": 0, "failed_files": 0 } }),
        );
        let of_manifest = next(&item, None);
        let lost = next_of_file(&file("failed"), &there, Some((&item, &of_manifest)), &layout(), at(NOW));
        assert!(lost.because.contains("--force"), "{lost:?}");
        let failed = next_of_file(&file("failed"), &there, None, &layout(), at(NOW));
        assert!(!failed.because.contains("--force"), "{failed:?}");
        assert!(
            next_of_file(&file("failed"), &Object::Gone, None, &layout(), at(NOW)).because.contains("land it again")
        );
    }
}
