//! Input that is wrong, odd, or changes while it is worked on. Each file ends once, and says why if it ends badly.

use std::{fs, io::Write, path::Path, time::Duration};

use penstock_operators::model::FileState;
use penstock_tests::{
    PATIENCE,
    conservation::{Owed, check, rejects},
    place::{INPUT_PREFIX, Place, visible_files},
    wait_for,
};

use super::{line, lines, place};

/// Three times what it takes on a small machine; less than a few copies of the line would.
const MEMORY_BYTES: u64 = 300 << 20;

fn settle(place: &Place) -> i32 {
    place.start_pipeline(&["--until-idle"]).wait(PATIENCE).code.unwrap()
}

#[track_caller]
fn check_reason(place: &Place, file_key: &str, state: FileState, reason: &str) {
    let file = place.file(file_key);
    let said = file.error_message.unwrap_or_default();
    assert_eq!(file.status.split('#').next(), Some(state.as_str()), "{file_key}: {said}");
    assert!(said.contains(reason), "{file_key}: {said}");
}

#[test]
fn i1_empty_and_binary_files_end_with_no_row_each_in_its_way() {
    let place = place();
    let (ids, text) = lines("good", 10);
    place.drop_into_input("good.ndjson", text);
    place.drop_into_input("empty.ndjson", "");
    place.drop_into_input("blank.ndjson", "\n\r\n   \n");
    let noise: Vec<u8> = (0..8192_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    place.drop_into_input("noise.ndjson", noise);
    assert_eq!(settle(&place), 3);
    check(&place, &Owed { rows: ids, failed: vec!["noise.ndjson".to_owned()], files: 4, ..Owed::default() });
    for name in ["empty.ndjson", "blank.ndjson"] {
        let file = place.file(name);
        assert_eq!((file.rows, file.rejected_rows), (Some(0), Some(0)), "{name}");
    }
    check_reason(&place, "noise.ndjson", FileState::Failed, "too_many_rejects");
}

#[test]
fn only_empty_files_make_no_output() {
    let place = place();
    place.drop_into_input("empty.ndjson", "");
    assert_eq!(settle(&place), 0);
    check(&place, &Owed { files: 1, ..Owed::default() });
    assert!(visible_files(&place.bucket("output")).is_empty());
}

#[test]
fn i9_a_line_of_forty_megabytes_is_one_reject_in_bounded_memory() {
    let place = place();
    let (ids, text) = lines("short", 20);
    let mut file = fs::File::create(place.write("files", "long.ndjson", "")).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.write_all(b"{\"id\":\"long\",\"text\":\"").unwrap();
    let megabyte = vec![b'x'; 1 << 20];
    for _ in 0..40 {
        file.write_all(&megabyte).unwrap();
    }
    file.write_all(b"\"}\n").unwrap();
    file.write_all(line("after").as_bytes()).unwrap();
    drop(file);
    let ended = place.run_until_idle("files").expect_code(0);
    let rows = [ids, vec!["after".to_owned()]].concat();
    check(&place, &Owed { rows, rejects: 1, files: 1, ..Owed::default() });
    let reject = &rejects(&place)[0];
    assert_eq!((reject["line"].as_u64(), reject["offset"].as_u64()), (Some(21), Some(text.len() as u64)), "{reject}");
    assert_eq!(reject["length"].as_u64(), Some(23 + (40 << 20)), "{reject}");
    assert!(reject["reason"].as_str().unwrap().contains("line too long"), "{reject}");
    assert!(ended.peak_bytes > 0 && ended.peak_bytes < MEMORY_BYTES, "it held {} bytes", ended.peak_bytes);
}

#[test]
fn i1_wrong_suffixes_go_to_quarantine_and_upper_case_ones_are_taken() {
    let place = place();
    let mut owed = Owed { files: 5, ..Owed::default() };
    for name in ["A.NDJSON", "b.JsonL"] {
        let (ids, text) = lines(name, 5);
        place.drop_into_input(name, text);
        owed.rows.extend(ids);
    }
    for name in ["c.csv", "d.json", "no suffix"] {
        place.drop_into_input(name, line(name));
        owed.quarantined.push(name.to_owned());
    }
    // What is in quarantine is no failure of the run.
    assert_eq!(settle(&place), 0);
    check(&place, &owed);
    check_reason(&place, "c.csv", FileState::Quarantined, "wrong suffix");
    let copies: Vec<String> =
        visible_files(&place.bucket("quarantine")).into_iter().filter(|key| key.contains("c.csv@")).collect();
    assert_eq!(copies.len(), 1);
    assert_eq!(fs::read_to_string(place.bucket("quarantine").join(&copies[0])).unwrap(), line("c.csv"));
}

#[test]
fn i1_f38_odd_names_and_equal_names_in_other_folders_are_files_of_their_own() {
    let place = place();
    let names = [
        "with space.ndjson",
        "plus+and&equals=.ndjson",
        "100%.ndjson",
        "percent%20encoded.ndjson",
        "événement 東京 😀.ndjson",
        "a@b#c?.ndjson",
        "[brackets]*{x}.ndjson",
        "back\\slash'quote\".ndjson",
        "same.ndjson",
        "eu/same.ndjson",
        "eu/west/same.ndjson",
        "us/same.ndjson",
    ];
    let mut owed = Owed { files: names.len(), ..Owed::default() };
    for name in names {
        let (ids, text) = lines(name, 3);
        let ids: Vec<String> = ids.iter().map(|id| id.replace(['\\', '"'], "_")).collect();
        let text = text.replace(name, &name.replace(['\\', '"'], "_"));
        place.drop_into_input(name, text);
        owed.rows.extend(ids);
    }
    assert_eq!(settle(&place), 0);
    check(&place, &owed);
    for name in names {
        assert_eq!(place.file(name).rows, Some(3), "{name}");
    }
}

#[test]
fn files_without_a_date_belong_to_the_day_of_their_landing() {
    let place = place();
    let (ids, text) = lines("undated", 5);
    let input = place.bucket("input").join(INPUT_PREFIX);
    fs::create_dir_all(&input).unwrap();
    fs::write(input.join("undated.ndjson"), text).unwrap();
    assert_eq!(settle(&place), 0);
    check(&place, &Owed { rows: ids, files: 1, ..Owed::default() });
    let date = place.file("undated.ndjson").date_prefix;
    // The day may have changed in between, but not by two.
    let age = std::time::SystemTime::now()
        .duration_since(fs::metadata(input.join("undated.ndjson")).unwrap().modified().unwrap());
    assert!(age.unwrap() < Duration::from_secs(24 * 3600));
    assert!(date.len() == 10 && date.starts_with("20"), "{date}");
}

#[test]
fn hidden_and_unfinished_files_and_those_elsewhere_never_land() {
    let place = place().with("SWEEP_EVERY", "1s").with("SWEEP_GRACE", "0s");
    let (ids, text) = lines("whole", 5);
    place.drop_into_input("whole.ndjson", &text);
    place.drop_into_input(".hidden.ndjson", &text);
    place.drop_into_input(".folder/a.ndjson", &text);
    place.drop_into_input("copy.ndjson.tmp", &text);
    place.drop_into_input("copy.ndjson.part", &text);
    fs::write(place.bucket("input").join("elsewhere.ndjson"), &text).unwrap();
    let running = place.serve(&[]);
    place.wait_for_facts("one pending file", PATIENCE, |facts| facts.all_files() > 0);
    // The sweep lists the same folder, and may know no more of it than the watch.
    wait_for("both to have found the file", PATIENCE, || running.log().contains("same_content").then_some(()));
    running.terminate();
    running.wait(PATIENCE).expect_code(0);
    assert_eq!(settle(&place), 0);
    check(&place, &Owed { rows: ids, files: 1, ..Owed::default() });
}

#[test]
fn f39_the_same_content_again_is_not_converted_again() {
    let place = place();
    let (ids, text) = lines("same", 5);
    let path = place.drop_into_input("same.ndjson", &text);
    assert_eq!(settle(&place), 0);
    fs::remove_file(&path).unwrap();
    let owed = Owed { rows: ids, files: 1, ..Owed::default() };
    // Without the file its entry may leave the watch's ledger; the table still knows it.
    assert_eq!(settle(&place), 0);
    place.drop_into_input("same.ndjson", &text);
    assert_eq!(settle(&place), 0);
    check(&place, &owed);
}

/// Lands files and stops once they are pending: no threshold has closed a manifest of them.
fn land_without_converting(place: &Place, files: u64) {
    let running = place.serve(&[]);
    place.wait_for_facts("pending files", PATIENCE, |facts| facts.files(FileState::Pending) == files);
    running.terminate();
    running.wait(PATIENCE).expect_code(0);
}

#[test]
fn i1_a_file_deleted_after_it_landed_fails_alone() {
    let place = place();
    let (ids, text) = lines("stays", 5);
    place.drop_into_input("stays.ndjson", text);
    let gone = place.drop_into_input("goes.ndjson", line("goes"));
    land_without_converting(&place, 2);
    fs::remove_file(gone).unwrap();
    assert_eq!(settle(&place), 3);
    check(&place, &Owed { rows: ids, failed: vec!["goes.ndjson".to_owned()], files: 2, ..Owed::default() });
    check_reason(&place, "goes.ndjson", FileState::Failed, "missing");
}

#[test]
fn i1_a_file_changed_while_pending_is_converted_once_with_its_new_content() {
    let place = place();
    let (kept, text) = lines("kept", 5);
    place.drop_into_input("kept.ndjson", text);
    place.drop_into_input("changed.ndjson", line("old"));
    land_without_converting(&place, 2);
    let (new, text) = lines("new", 7);
    place.drop_into_input("changed.ndjson", text);
    assert_eq!(settle(&place), 0);
    check(&place, &Owed { rows: [kept, new].concat(), files: 2, ..Owed::default() });
}

#[test]
fn i1_a_file_changed_after_it_was_converted_is_a_new_version() {
    let place = place();
    let (old, text) = lines("old", 5);
    place.drop_into_input("changed.ndjson", text);
    assert_eq!(settle(&place), 0);
    let (new, text) = lines("new", 7);
    place.drop_into_input("changed.ndjson", text);
    assert_eq!(settle(&place), 0);
    // Output is append-only: both are there, told apart by `_source_etag`.
    check(&place, &Owed { rows: [old, new].concat(), files: 2, ..Owed::default() });
    assert!(place.files().iter().any(|file| file.file_key.starts_with("changed.ndjson@")));
}

#[test]
fn i1_a_file_changed_while_its_manifest_waits_fails_and_its_new_content_is_converted() {
    // Only the engine runs at first: the manifest is made, and nobody converts it.
    let place = place().with("MAX_FILES", 2);
    let (kept, text) = lines("kept", 5);
    place.drop_into_input("kept.ndjson", text);
    place.drop_into_input("changed.ndjson", line("old"));
    let engine = place.serve(&["--service", "engine"]);
    place.wait_for_facts("a manifest", PATIENCE, |facts| facts.files(FileState::Manifested) == 2);
    let (new, text) = lines("new", 7);
    place.drop_into_input("changed.ndjson", text);
    place.wait_for_facts("the new version", PATIENCE, |facts| facts.all_files() == 3);
    engine.terminate();
    engine.wait(PATIENCE).expect_code(0);
    assert_eq!(settle(&place), 3);
    let owed =
        Owed { rows: [kept, new].concat(), failed: vec!["changed.ndjson".to_owned()], files: 3, ..Owed::default() };
    check(&place, &owed);
    check_reason(&place, "changed.ndjson", FileState::Failed, "changed");
}

#[test]
fn i1_the_same_day_from_many_folders_and_suffixes_conserves() {
    let place = place().with("MAX_FILES", 7);
    let mut owed = Owed::default();
    for number in 0..40 {
        let name = format!("{}/{number}.jsonl", ["a", "b", "c/d"][number % 3]);
        let (ids, text) = lines(&name, 4);
        place.write("files", &name, text);
        owed.rows.extend(ids);
        owed.files += 1;
    }
    assert!(Path::new(&place.path("files")).is_dir());
    place.run_until_idle("files").expect_code(0);
    check(&place, &owed);
}
