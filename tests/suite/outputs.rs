//! Outputs that can't be written: tried again, then given up with the real error, and told to people.

use std::{fs, time::Duration};

use penstock_operators::model::{FileState, ManifestState};
use penstock_tests::{
    PATIENCE,
    conservation::{Owed, check},
    place::DATE,
    wait_for,
};
use serde_json::Value;

use super::{lines, place};

#[test]
fn i1_i10_an_output_that_can_not_be_written_fails_its_files_with_the_real_error_and_an_alert() {
    let place = place().with("MAX_AGE", "1s").with("MAX_ATTEMPTS", 2).with("RETRY_WAIT", "1s").with("LOOK_EVERY", "1s");
    // A file stands where a folder is needed. (A read-only folder stops nobody who is root.)
    let obstacle = place.bucket("output").join("pipeline");
    fs::create_dir_all(place.bucket("output")).unwrap();
    fs::write(&obstacle, "in the way").unwrap();
    let (_, text) = lines("lost", 5);
    place.drop_into_input("unlucky.ndjson", text);
    let ended = place.start_pipeline(&["--until-idle"]).wait(PATIENCE).expect_code(3);
    assert_eq!(ended.err.matches("Attempt begins.").count(), 2, "tried as often as it may be");
    assert!(ended.out.contains("Manifests that failed: 1"), "{}", ended.out);

    let manifests = place.manifests();
    let manifest = manifests.iter().find(|manifest| manifest.status == ManifestState::Failed).unwrap();
    let error = manifest.error_message.clone().unwrap();
    assert!(error.contains("pipeline") && error.contains("not a directory"), "{error}");
    let file = place.file("unlucky.ndjson");
    assert_eq!(file.state(), Some(FileState::Failed));
    assert!(file.error_message.unwrap().contains(&error), "the file's error is the manifest's");
    let alert = wait_for("the alert", Duration::from_secs(1), || {
        fs::read_to_string(place.cloud().join("topics/alerts.ndjson")).ok()
    });
    let alerts: Vec<Value> = alert.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(alerts.len(), 1, "{alert}");
    assert_eq!((&alerts[0]["detail-type"], &alerts[0]["source"]), (&"ManifestFailed".into(), &"etl.pipeline".into()));
    let detail = &alerts[0]["detail"];
    assert!(detail.to_string().contains("not a directory") && detail["date_prefix"] == DATE, "{detail}");

    // The folder is repaired; what lands from now on is converted, and the failed file still says why.
    fs::remove_file(&obstacle).unwrap();
    let (rows, text) = lines("lucky", 5);
    place.drop_into_input("lucky.ndjson", text);
    place.start_pipeline(&["--until-idle"]).wait(PATIENCE).expect_code(3);
    check(&place, &Owed { rows, failed: vec!["unlucky.ndjson".to_owned()], files: 2, ..Owed::default() });
}

#[test]
fn i4_an_output_that_fails_once_is_written_by_the_next_attempt() {
    let place = place().with("MAX_AGE", "1s").with("MAX_ATTEMPTS", 5).with("RETRY_WAIT", "1s").with("LOOK_EVERY", "1s");
    let obstacle = place.bucket("output").join("pipeline");
    fs::create_dir_all(place.bucket("output")).unwrap();
    fs::write(&obstacle, "in the way").unwrap();
    let (rows, text) = lines("late", 5);
    place.drop_into_input("late.ndjson", text);
    let running = place.start_pipeline(&["--until-idle"]);
    wait_for("a failed attempt", PATIENCE, || running.log().contains("Attempt failed.").then_some(()));
    fs::remove_file(&obstacle).unwrap();
    running.wait(PATIENCE).expect_code(0);
    check(&place, &Owed { rows, files: 1, ..Owed::default() });
    assert!(!place.cloud().join("topics/alerts.ndjson").exists(), "nobody need be told of a retry that worked");
}
