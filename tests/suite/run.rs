//! Runs from files to Parquet, without a disturbance.

use penstock_tests::{
    conservation::{Owed, check},
    place::DATE,
};

use super::{place, sample};

#[test]
fn i1_the_demo_ends_well_and_its_summary_says_what_came_out() {
    let place = place();
    let cloud = place.cloud().display().to_string();
    let ended = place.run(&["demo", "--files", "60", "--lines", "50", "--dir", &cloud]).expect_code(0);
    // The demo's samples are these: the same seed makes the same files.
    let made = sample(60, 50, 2026).write(&place.path("again")).unwrap();
    let (rows, rejects) = (made.rows.len(), made.rejects);
    check(&place, &Owed::from(made.clone()));
    for said in [
        "Made 60 files".to_owned(),
        format!("rows: {rows}, rejected lines: {rejects}"),
        "Files in quarantine: 2".to_owned(),
        "wrong suffix".to_owned(),
        "Files that failed: 4".to_owned(),
        "undecodable".to_owned(),
        "too_many_rejects".to_owned(),
        format!("Every good line is a row, every bad line a reject: {rows} and {rejects}."),
        "all strings: id, timestamp".to_owned(),
        format!("{} files, {rows} rows, in", place.facts().outputs.len()),
    ] {
        assert!(ended.out.contains(&said), "`{said}` isn't said:\n{}", ended.out);
    }
    assert_eq!((made.quarantined.len(), made.failed.len()), (2, 4), "the samples hold what the test counts on");
}

#[test]
fn the_demo_never_empties_a_folder_that_it_did_not_make() {
    let place = place();
    let mine = place.write("mine", "a.ndjson", "{}\n");
    let dir = place.path("mine").display().to_string();
    let ended = place.run(&["demo", "--files", "1", "--dir", &dir]).expect_code(1);
    assert!(ended.err.contains("choose another folder"), "{}", ended.err);
    assert!(mine.exists());
}

#[test]
fn i1_landed_files_become_rows_once_however_often_they_are_landed() {
    let place = place().with("MAX_FILES", 40);
    let owed = Owed::from(sample(120, 20, 1).write(&place.path("files")).unwrap());
    // Some of the files are wrong, and the exit code says so.
    let first = place.run_until_idle("files").expect_code(3);
    assert!(first.out.contains("Files that failed"), "{}", first.out);
    check(&place, &owed);
    let outputs = place.facts().outputs;
    let again = place.run_until_idle("files").expect_code(3);
    check(&place, &owed);
    assert_eq!(place.facts().outputs, outputs, "landing the same files again made new outputs");
    assert!(again.out.contains(&format!("rows: {}, rejected lines: {}", owed.rows.len(), owed.rejects)));
}

#[test]
fn i1_i2_failed_files_that_are_set_back_fail_again_in_a_manifest_of_their_own_and_change_nothing_else() {
    let place = place().with("MAX_FILES", 8);
    let owed = Owed::from(sample(22, 3, 5).write(&place.path("files")).unwrap());
    place.run_until_idle("files").expect_code(3);
    let before = place.manifests().len();
    let redriven = place.run_on("redrive", &["--failed", DATE, "--yes"]).expect_code(0);
    assert!(redriven.out.contains(&format!("{} redriven, 0 left", owed.failed.len())), "{}", redriven.out);
    place.run_until_idle_again().expect_code(3);
    assert!(place.manifests().len() > before, "nothing was tried again");
    check(&place, &owed);
}

#[test]
fn a_run_without_a_wrong_file_exits_with_0() {
    let place = place();
    let mut sample = sample(30, 10, 2);
    sample.with_trouble = false;
    let owed = Owed::from(sample.write(&place.path("files")).unwrap());
    place.run_until_idle("files/**/*").expect_code(0);
    check(&place, &owed);
    place.run_until_idle("files/**/*").expect_code(0);
    check(&place, &owed);
}
