use serde_json::{Value, json};

use super::*;

const ID: &str = "batch-0001-20260201-120000-000000";

fn file(key: &str, status: &str, more: Value) -> FileItem {
    let mut item = json!({
        "date_prefix": "2026-02-01", "file_key": key, "status": format!("{status}#1"), "etag": format!("e-{key}"),
        "file_path": format!("s3://in/p/2026-02-01/{key}"),
    });
    item.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(item).unwrap()
}

fn completed(key: &str, rows: u64, rejected_rows: u64) -> FileItem {
    file(
        key,
        "completed",
        json!({ "manifest_path": format!("s3://m/{ID}.json"), "rows": rows,
        "rejected_rows": rejected_rows }),
    )
}

fn result(key: &str, rows: u64, rejected_rows: u64) -> FileResult {
    FileResult { file_key: key.to_owned(), rows, rejected_rows, failure: None, message: None }
}

/// An object of the input bucket, whose etag isn't known.
fn object(key: &str) -> Input {
    Input { key: format!("p/2026-02-01/{key}"), etag: None, is_young: false, last_modified: noon() }
}

fn noon() -> DateTime<Utc> {
    "2026-02-01T12:00:00Z".parse().unwrap()
}

fn output(name: &str) -> Output {
    Output { uri: format!("s3://out/{name}"), last_modified: noon() }
}

/// Makes the day's manifest one that failed with its output recorded.
fn lose_commit(day: &mut Day) {
    let manifest = &mut day.manifests[0];
    manifest.item.status = ManifestState::Failed;
    manifest.item.error_message = Some("commit_lost: its bytes are gone".to_owned());
    manifest.outputs.clear();
    manifest.item.commit = Some(
        serde_json::from_value(json!({
            "token": "t", "report_key": "r", "rows": 30, "rejected_rows": 2, "failed_files": 0,
            "uploads": [{ "key": "x-p0.parquet", "id": "u", "token": "t" }],
        }))
        .unwrap(),
    );
    for file in &mut day.files[..2] {
        (file.status, file.error_message) = ("failed#1".to_owned(), Some("commit_lost".to_owned()));
    }
}

/// A day on which two files became 30 rows and 2 rejects, and one is in quarantine.
fn sound() -> Day {
    let files = vec![
        completed("a", 10, 2),
        completed("b", 20, 0),
        file("c", "quarantined", json!({ "error_message": "wrong suffix" })),
    ];
    let item: ManifestItem = serde_json::from_value(json!({
        "date_prefix": "2026-02-01", "file_key": format!("MANIFEST#{ID}.json"), "status": "completed",
        "schema_version": 1, "manifest_path": format!("s3://m/{ID}.json"), "json_etag": "j", "file_count": 2,
        "total_bytes": 0, "created_at": "2026-02-01T12:00:00Z", "settled_at": "2026-02-01T12:00:09Z", "rows": 30,
        "rejected_rows": 2, "outputs": ["s3://out/x-p0.parquet"],
    }))
    .unwrap();
    let json = ManifestJson::new(ID, "2026-02-01", "2026-02-01T12:00:00Z".parse().unwrap(), &files[..2]);
    let report: AttemptReport = serde_json::from_value(json!({
        "schema_version": 1, "manifest_id": ID, "date_prefix": "2026-02-01", "token": "t", "attempt": 1,
        "started_at": "", "ended_at": "", "passes": 1, "rows": 30, "rejected_rows": 2, "duplicate_keys": 0, "parts": [],
        "files": [result("a", 10, 2), result("b", 20, 0)],
    }))
    .unwrap();
    let input = |key: &str| Input { etag: Some(format!("e-{key}")), ..object(key) };
    Day {
        date: "2026-02-01".to_owned(),
        input_prefix: "p/".to_owned(),
        output_bucket: "out".to_owned(),
        inputs: ["a", "b", "c"].map(input).to_vec(),
        manifests: vec![ManifestFacts {
            item,
            json: Some((json, "j".to_owned())),
            json_problem: None,
            report: Ok(Some(report)),
            outputs: vec![("s3://out/x-p0.parquet".to_owned(), Ok(30))],
            kept_rejects: Ok(2),
        }],
        files,
        visible_outputs: vec![output("x-p0.parquet")],
        max_rejects_per_file: 1000,
        ..Day::default()
    }
}

fn kinds(day: &Day) -> Vec<&'static str> {
    check(day).off.into_iter().map(|off| off.kind).collect()
}

#[test]
fn i1_a_sound_day_adds_up() {
    let verdict = check(&sound());
    assert_eq!((verdict.off, verdict.unfinished), (vec![], vec![]));
    assert_eq!((verdict.inputs, verdict.rows, verdict.parquet_rows, verdict.rejected_rows), (3, 30, 30, 2));
}

/// Each way in which a day can be off, and the word for it.
#[test]
fn i1_whatever_is_off_is_found_and_named() {
    type Breaking = fn(&mut Day);
    let breakings: [(&str, Breaking); 21] = [
        ("untracked", |day| {
            day.files.remove(2);
        }),
        ("untracked_version", |day| day.inputs[0].etag = Some("another".to_owned())),
        ("no_reason", |day| day.files[2].error_message = None),
        ("no_copy", |day| {
            day.without_copy.insert("c".to_owned());
        }),
        ("no_count", |day| day.files[1].rows = None),
        ("unknown_status", |day| day.files[2].status = "odd".to_owned()),
        ("no_json", |day| day.manifests[0].json = None),
        ("json_changed", |day| day.manifests[0].item.json_etag = Some("k".to_owned())),
        ("json_count", |day| day.manifests[0].item.file_count = 3),
        ("parquet_rows", |day| day.manifests[0].outputs[0].1 = Ok(29)),
        ("output", |day| day.manifests[0].outputs[0].1 = Err("it is not there".to_owned())),
        ("no_report", |day| day.manifests[0].report = Err("it is gone".to_owned())),
        ("report_count", |day| day.manifests[0].report.as_mut().unwrap().as_mut().unwrap().files[0].rows = 9),
        ("report_files", |day| {
            day.manifests[0].report.as_mut().unwrap().as_mut().unwrap().files[0].file_key = "z".to_owned()
        }),
        ("rejects", |day| day.manifests[0].kept_rejects = Ok(1)),
        ("not_followed", |day| day.files[0].status = "manifested#1".to_owned()),
        ("no_manifest", |day| day.files[0].manifest_path = None),
        ("stray_output", |day| day.visible_outputs.push(output("y.parquet"))),
        ("visible_of_failed", lose_commit),
        ("unreadable", |day| {
            day.files.remove(0);
            day.unreadable.insert("a".to_owned(), "size_bytes is no number".to_owned());
        }),
        ("abandoned_with_json", |day| day.manifests[0].item.status = ManifestState::Abandoned),
    ];
    for (kind, breaking) in breakings {
        let mut day = sound();
        breaking(&mut day);
        let found = kinds(&day);
        assert!(found.contains(&kind), "{kind} was not found: {found:?}");
    }
}

#[test]
fn i2_a_version_in_two_completed_manifests_is_doubled() {
    let mut day = sound();
    let mut second = day.manifests[0].clone();
    second.item.file_key = "MANIFEST#batch-0002-20260201-120000-000000.json".to_owned();
    second.item.manifest_path = "s3://m/second.json".to_owned();
    day.manifests.push(second);
    assert!(kinds(&day).contains(&"doubled"));
}

#[test]
fn a_file_that_failed_in_one_manifest_and_was_redriven_into_another_is_no_fault() {
    let mut day = sound();
    let first = &mut day.manifests[0];
    let report = first.report.as_mut().unwrap().as_mut().unwrap();
    report.files[0] = FileResult { failure: Some("missing".to_owned()), ..result("a", 0, 0) };
    (first.item.rows, first.item.rejected_rows) = (Some(20), Some(0));
    (first.outputs[0].1, first.kept_rejects) = (Ok(20), Ok(0));
    day.files[0] = file("a", "pending", json!({ "pending_since": "2026-02-01T13:00:00Z" }));
    let verdict = check(&day);
    assert_eq!(verdict.off, []);
    assert_eq!(verdict.unfinished, ["file a is pending"]);
}

#[test]
fn what_is_young_or_on_its_way_is_not_finished_and_not_off() {
    let mut day = sound();
    day.inputs.push(Input { is_young: true, ..object("new") });
    day.files.push(file("d", "pending", json!({})));
    let verdict = check(&day);
    assert_eq!(verdict.off, []);
    assert_eq!(verdict.unfinished.len(), 2);
}

#[test]
fn outputs_of_a_failed_manifest_are_off_only_while_readers_see_them() {
    let mut day = sound();
    lose_commit(&mut day);
    assert_eq!(kinds(&day), ["visible_of_failed"]);
    day.visible_outputs.clear();
    assert_eq!(check(&day).off, []);
}

/// What was told of them is gone: to land them again would double their rows, and to take the Parquet away would lose them.
#[test]
fn i1_what_is_older_than_its_items_are_kept_is_expired_and_not_off() {
    let mut day = Day { kept_since: "2026-03-03T00:00:00Z".parse().unwrap(), ..sound() };
    (day.files, day.manifests) = (Vec::new(), Vec::new());
    // Put back from a copy: only its name tells how old it is.
    let restored = "2026-03-10T00:00:00Z".parse().unwrap();
    day.visible_outputs = vec![
        output("somebody-elses.parquet"),
        Output { last_modified: restored, ..output(&format!("{ID}-p0.parquet")) },
    ];
    let verdict = check(&day);
    assert_eq!((verdict.expired, verdict.off), (5, vec![]));
    day.kept_since = noon();
    assert_eq!(kinds(&day), ["untracked", "untracked", "untracked", "stray_output", "stray_output"]);
}

/// Items expire one by one, in any order.
#[test]
fn a_file_whose_manifest_has_expired_before_it_is_not_off_nor_the_other_way_round() {
    let kept_since = "2026-03-03T00:00:00Z".parse().unwrap();
    let mut day = Day { kept_since, ..sound() };
    day.manifests.clear();
    assert_eq!(check(&day).off, []);
    let mut day = Day { kept_since, ..sound() };
    day.files.clear();
    assert_eq!(check(&day).off, []);
}

#[test]
fn what_cannot_be_read_makes_nothing_else_off() {
    let mut day = sound();
    day.files.remove(0);
    day.unreadable.insert("a".to_owned(), "size_bytes is no number".to_owned());
    assert_eq!(kinds(&day), ["unreadable"]);
    let mut day = sound();
    day.manifests.clear();
    day.visible_outputs = vec![output(&format!("{ID}-p0.parquet"))];
    day.unreadable.insert(format!("MANIFEST#{ID}.json"), "attempt is no number".to_owned());
    assert_eq!(kinds(&day), ["unreadable"]);
}
