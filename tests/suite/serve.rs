//! A service that stays up: files that arrive, others that look, signals, restarts.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use penstock_operators::model::FileState;
use penstock_tests::{
    PATIENCE,
    conservation::{Owed, check},
    place::{DATE, Place, pipeline_file},
    program::Running,
    wait_for,
};
use serde_json::Value;

use super::{lines, place, sample};

/// What a promise of "within seconds" may take on a machine that does other things too.
const SOON: Duration = Duration::from_secs(30);

fn stop(running: Running) {
    running.terminate();
    let ended = running.wait(Duration::from_secs(30)).expect_code(0);
    assert!(ended.err.contains("\"orderly\":true"), "{}", ended.err);
}

fn wait_for_completed(place: &Place, count: u64) {
    let what = format!("{count} completed files");
    place.wait_for_facts(&what, SOON, |facts| facts.files(FileState::Completed) == count && facts.unfinished() == 0);
}

#[test]
fn a_copied_file_becomes_parquet_within_seconds_and_a_stopped_service_goes_on() {
    let place = place().with("MAX_AGE", "1s");
    let running = place.serve(&[]);
    let mut owed = Owed::default();
    let mut copy_in = |name: &str| {
        let (ids, text) = lines(name, 30);
        let file = place.write("files", &format!("{name}.ndjson"), text);
        // As a person does it: cp, not a rename.
        let target = place.input(&format!("{name}.ndjson"));
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        assert!(Command::new("cp").arg(&file).arg(&target).status().unwrap().success());
        owed.rows.extend(ids);
        owed.files += 1;
        owed.clone()
    };
    copy_in("first");
    wait_for_completed(&place, 1);
    let owed = copy_in("second");
    wait_for_completed(&place, 2);
    check(&place, &owed);
    stop(running);

    // One comes while nobody looks, one after the restart.
    copy_in("third");
    let running = place.serve(&[]);
    wait_for_completed(&place, 3);
    let owed = copy_in("fourth");
    wait_for_completed(&place, 4);
    stop(running);
    check(&place, &owed);
}

#[test]
fn i1_f20_f36_a_service_stopped_in_mid_work_hands_back_and_the_next_one_goes_on_at_once() {
    // Manifests that take seconds: the signal comes in the middle of one.
    let place = place().with("MAX_FILES", 20);
    let owed = Owed::from(sample(40, 2000, 4).write(&place.path("files")).unwrap());
    let files = place.path("files").display().to_string();
    for more in [["--land", &files].as_slice(), &[]] {
        let running = place.serve(more);
        wait_for("a manifest under way", PATIENCE, || running.log().contains("Attempt begins.").then_some(()));
        stop(running);
    }
    let handed_back: u32 = place.manifests().iter().map(|manifest| manifest.handed_back).sum();
    assert!(handed_back >= 1, "no signal came in the middle of an attempt");
    // What was handed back is taken up without a wait.
    let began = Instant::now();
    place.start_pipeline(&["--until-idle"]).wait(PATIENCE).expect_code(3);
    assert!(began.elapsed() < Duration::from_secs(40), "going on took {:?}", began.elapsed());
    check(&place, &owed);
}

#[test]
fn a_folder_has_one_owner_and_others_are_told_its_pid() {
    let place = place().with("MAX_AGE", "1s");
    let running = place.serve(&[]);
    let refused = place.start_pipeline(&[]).wait(PATIENCE).expect_code(1);
    assert!(refused.err.contains(&format!("process {}", running.pid())), "{}", refused.err);
    assert!(refused.err.contains("owns this folder"), "{}", refused.err);
    stop(running);
    stop(place.serve(&[]));
}

#[test]
fn status_agrees_with_the_table_beside_a_service_and_after_it() {
    let place = place().with("MAX_AGE", "1s");
    let nothing = place.run_on("status", &[]).expect_code(1);
    assert!(nothing.err.contains("there is no local cloud yet"), "{}", nothing.err);
    let running = place.serve(&[]);
    let (ids, text) = lines("a", 25);
    place.drop_into_input("a.ndjson", text + "no json\n");
    place.drop_into_input("b.csv", "a,b\n");
    place.wait_for_facts("two final files", SOON, |facts| facts.all_files() == 2 && facts.unfinished() == 0);

    let told: Value = serde_json::from_str(&place.run_on("status", &["--json"]).expect_code(0).out).unwrap();
    assert_eq!(told["facts"], serde_json::to_value(place.facts()).unwrap());
    assert_eq!(told["owner"]["pid"], running.pid());
    assert_eq!(told["facts"]["dates"][DATE]["rows"], ids.len());
    assert_eq!(told["facts"]["dates"][DATE]["rejected_rows"], 1);
    assert_eq!(told["queues"]["file-events"]["visible"], 0);
    let text = place.run_on("status", &[]).expect_code(0).out;
    for said in ["files:     1 completed, 1 quarantined", "rows: 25, rejected lines: 1", "b.csv: wrong suffix"] {
        assert!(text.contains(said), "`{said}` isn't said:\n{text}");
    }
    stop(running);
    // How far readers of the stream are behind is of its moment; all else stays as it was.
    let lasting = |text: &str| text.lines().filter(|line| !line.contains(" behind")).collect::<Vec<_>>().join("\n");
    let after = place.run_on("status", &[]).expect_code(0).out;
    assert_eq!(lasting(&after), lasting(&text), "after the service");
}

#[test]
fn files_landed_beside_a_service_are_converted_by_it() {
    let place = place().with("MAX_AGE", "1s");
    let running = place.serve(&[]);
    let owed = Owed::from(sample(12, 10, 5).write(&place.path("files")).unwrap());
    let (file, cloud) = (pipeline_file().display().to_string(), place.cloud().display().to_string());
    let pattern = place.path("files/**/*").display().to_string();
    let landed = place.run(&["land", &file, &pattern, "--local", &cloud]).expect_code(0);
    assert!(landed.out.starts_with("12 files landed in "), "{}", landed.out);
    wait_for_completed(&place, 12);
    check(&place, &owed);
    let none = place.run(&["land", &file, "none*", "--local", &cloud]).expect_code(1);
    assert!(none.err.contains("no file matches `none*`"), "{}", none.err);
    stop(running);
}

#[test]
fn files_landed_before_any_service_ran_are_converted_by_the_first() {
    let place = place();
    let owed = Owed::from(sample(12, 10, 6).write(&place.path("files")).unwrap());
    let (file, cloud) = (pipeline_file().display().to_string(), place.cloud().display().to_string());
    let folder = place.path("files").display().to_string();
    place.run(&["land", &file, &folder, "--local", &cloud]).expect_code(0);
    place.start_pipeline(&["--until-idle"]).wait(PATIENCE).expect_code(0);
    check(&place, &owed);
}
