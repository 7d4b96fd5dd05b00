//! What the person on call does: flush, trace, redrive, verify; beside a service that runs, and without one.

use std::{fs, os::unix::net::UnixListener, time::Duration};

use penstock_engine::cloud::table::{Condition, Key, Write};
use penstock_operators::model::{FileState, FlushReason};
use penstock_tests::{
    PATIENCE,
    place::{DATE, Place},
    wait_for,
};
use serde_json::Value;

use super::{
    line, lines,
    observe::{address, get},
    place,
};

/// A place in which nothing is closed by itself, with a service that has tracked these files.
fn served_with_pending(names: &[&str]) -> (Place, penstock_tests::program::Running) {
    let place = place().with("MAX_AGE", "1h");
    let running = place.serve(&["--log", "info"]);
    for name in names {
        place.drop_into_input(name, line(name));
    }
    place.wait_for_facts("files pending", PATIENCE, |facts| facts.files(FileState::Pending) == names.len() as u64);
    (place, running)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_flush_by_hand_closes_what_is_pending_and_says_so() {
    let (place, _running) = served_with_pending(&["a.ndjson", "b.ndjson"]);
    let ended = place.run_on("flush", &[DATE]).expect_code(0);
    assert!(ended.out.starts_with(&format!("{DATE}: 1 manifest closed by hand:\n  batch-")), "{}", ended.out);
    // Manifests are read before files: their rows may be those of a moment ago.
    place.wait_for_facts("two files and their rows", PATIENCE, |facts| {
        (facts.files(FileState::Completed), facts.rows()) == (2, 2)
    });
    assert_eq!(place.manifests()[0].flush_reason, Some(FlushReason::Manual));
    assert_eq!(place.run_on("flush", &[DATE]).expect_code(0).out, format!("{DATE}: nothing was pending.\n"));
    place.run_on("flush", &["2026-02-30"]).expect_code(1);
}

#[test]
fn a_flush_without_a_service_is_done_by_the_next_one() {
    let (place, running) = served_with_pending(&["a.ndjson"]);
    // Killed: it leaves its socket, its lock and its name behind.
    running.kill();
    assert!(place.cloud().join("control.sock").exists());
    let ended = place.run_on("flush", &[DATE]).expect_code(0);
    assert!(ended.out.contains("No service runs there now"), "{}", ended.out);
    let _running = place.serve(&[]);
    place.wait_for_facts("file completed", PATIENCE, |facts| facts.files(FileState::Completed) == 1);
    assert_eq!(place.manifests()[0].flush_reason, Some(FlushReason::Manual));
}

#[test]
fn a_socket_that_nobody_serves_is_no_owner() {
    let (place, running) = served_with_pending(&["a.ndjson"]);
    running.terminate();
    running.wait(PATIENCE).expect_code(0);
    assert!(!place.cloud().join("control.sock").exists(), "a service that stops takes its socket away");
    drop(UnixListener::bind(place.cloud().join("control.sock")).unwrap());
    place.run_on("flush", &[DATE]).expect_code(0);
    place.run_until_idle_again().expect_code(0);
}

#[test]
fn i1_a_redrive_shows_first_then_acts_and_refuses_what_was_replaced() {
    let place = place();
    place.write("files", "bad.ndjson", "no json\n".repeat(5));
    place.write("files", "gone.ndjson", "no json\n".repeat(6));
    place.write("files", "good.ndjson", line("good"));
    place.run_until_idle("files").expect_code(3);
    assert_eq!(place.file("bad.ndjson").state(), Some(FileState::Failed));

    // A service that runs carries it out, over its socket.
    let running = place.serve(&[]);
    fs::remove_file(place.input("gone.ndjson")).unwrap();
    let keys = ["bad.ndjson", "gone.ndjson", "good.ndjson", "none.ndjson"].map(|key| format!("{DATE}/{key}"));
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let shown = place.run_on("redrive", &[&keys[..], &["--json"]].concat()).expect_code(3);
    let steps = json(&shown.out);
    let told = |at: usize| (steps[at]["outcome"].as_str().unwrap(), steps[at]["because"].as_str().unwrap().to_owned());
    assert_eq!(told(0).0, "would");
    assert!(told(1).0 == "left" && told(1).1.contains("gone: land it again"), "{steps}");
    assert!(told(2).0 == "left" && told(2).1.contains("its rows are there"), "{steps}");
    assert!(told(3).1.contains("no such file"), "{steps}");
    assert_eq!(place.file("bad.ndjson").state(), Some(FileState::Failed), "a dry run did something");

    let done = place.run_on("redrive", &[keys[0], "--yes"]).expect_code(0);
    assert!(done.out.contains("redriven  ") && done.out.contains("1 redriven, 0 left"), "{}", done.out);
    let again = place.file("bad.ndjson");
    assert!(again.error_message.is_none() || again.state() == Some(FileState::Failed), "{again:?}");
    running.terminate();
    running.wait(PATIENCE).expect_code(0);
    // It fails for the same reason, in a manifest of its own: what failed is said anew, and nothing is doubled.
    place.run_until_idle_again().expect_code(3);
    assert_eq!(place.manifests().len(), 2);
    assert_eq!(place.facts().rows(), 1);
    let verdict = place.run_on("verify", &[DATE]).expect_code(0);
    assert!(verdict.out.ends_with("All of it adds up.\n"), "{}", verdict.out);
    let misspelt = place.run_on("verify", &["2006-02-01"]).expect_code(0);
    assert!(misspelt.out.ends_with("There is nothing of 2006-02-01.\n"), "{}", misspelt.out);
    // Without a service, and by its manifest.
    let manifest = place.file("bad.ndjson").manifest_path.unwrap();
    let shown = place.run_on("redrive", &["--manifest", &manifest]).expect_code(0);
    assert!(shown.out.contains("1 would be redriven"), "{}", shown.out);
    let shown = place.run_on("redrive", &["--failed", DATE]).expect_code(3);
    assert!(shown.out.contains("1 would be redriven, 1 left"), "{}", shown.out);
}

#[test]
fn a_dead_letter_goes_back_where_it_came_from() {
    let place = place();
    let running = place.serve(&[]);
    running.terminate();
    running.wait(PATIENCE).expect_code(0);
    // A notification that was given up, as it lies in the queue of dead letters.
    place.write_message("dlq", "{\"Records\":[]}");
    place.write_message("dlq", "no json at all");
    let shown = place.run_on("redrive", &["--dlq", "dlq"]).expect_code(3);
    assert!(
        shown.out.contains("would go to file-events") && shown.out.contains("no operator can read it"),
        "{}",
        shown.out
    );
    assert_eq!(place.queue_depth("dlq"), 2, "a dry run did something");
    place.run_on("redrive", &["--dlq", "dlq", "--yes"]).expect_code(3);
    assert_eq!((place.queue_depth("dlq"), place.queue_depth("file-events")), (1, 1));
    let refused = place.run_on("redrive", &["--dlq", "file-events"]).expect_code(1);
    assert!(refused.err.contains("these do: dlq, manifest-ready-dlq"), "{}", refused.err);
}

#[test]
fn a_trace_tells_what_comes_next_and_the_whole_story_after() {
    let (place, running) = served_with_pending(&["a.ndjson"]);
    let key = format!("{DATE}/a.ndjson");
    let story = json(&place.run_on("trace", &[&key, "--json"]).expect_code(0).out);
    // Its date is no recent one: the index finds it by its name.
    let found = json(&place.run_on("trace", &["a.ndjson", "--json"]).expect_code(0).out);
    assert_eq!(found["files"][0]["item"], story["files"][0]["item"]);
    let missing = place.run_on("trace", &["none.ndjson"]).expect_code(1);
    assert!(missing.err.contains("no file `none.ndjson` of any date"), "{}", missing.err);
    let next = &story["files"][0]["next"];
    assert_eq!((&next["step"], &next["is_final"]), (&"fold puts it into a manifest".into(), &false.into()));
    place.run_on("flush", &[DATE]).expect_code(0);
    place
        .wait_for_facts("settled", PATIENCE, |facts| facts.files(FileState::Completed) == 1 && facts.unfinished() == 0);
    let told = place.run_on("trace", &[&key, "--history"]).expect_code(0).out;
    for words in [
        "a.ndjson  completed",
        "closed by manual",
        "lists 1 file",
        "it counts",
        ".parquet (",
        "1 rows",
        "insert pending#",
        "modify manifested#",
        "modify completed#",
        "nothing: it is done",
    ] {
        assert!(told.contains(words), "`{words}` is missing:\n{told}");
    }
    let id = place.manifests()[0].id().to_owned();
    let told = place.run_on("trace", &[&id]).expect_code(0).out;
    assert!(
        told.starts_with(&format!("manifest {id}  completed\n")) && told.contains("its files   1 completed"),
        "{told}"
    );
    running.terminate();
    running.wait(PATIENCE).expect_code(0);
}

#[test]
fn i1_verify_finds_what_somebody_did_to_a_day() {
    let place = place();
    let (_, text) = lines("a", 10);
    place.write("files", "a.ndjson", text + "no json\n");
    place.write("files", "b.csv", "x");
    place.run_until_idle("files").expect_code(0);
    let verdict = json(&place.run_on("verify", &[DATE, "--json"]).expect_code(0).out);
    assert_eq!(
        (&verdict["rows"], &verdict["parquet_rows"], &verdict["kept_rejects"]),
        (&10.into(), &10.into(), &1.into())
    );

    let output = place.facts().outputs[0].clone();
    let parquet = place.cloud().join("s3").join(output.trim_start_matches("s3://"));
    let kept = fs::read(&parquet).unwrap();
    let expect = |kind: &str| {
        let ended = place.run_on("verify", &[DATE]).expect_code(1);
        assert!(ended.out.contains(&format!("OFF  {kind}  ")), "{}", ended.out);
    };
    fs::remove_file(&parquet).unwrap();
    expect("output");
    fs::write(&parquet, &kept[..kept.len() - 4]).unwrap();
    expect("output");
    fs::write(&parquet, &kept).unwrap();
    fs::write(parquet.with_file_name("somebody-else.parquet"), &kept).unwrap();
    expect("stray_output");
    fs::remove_file(parquet.with_file_name("somebody-else.parquet")).unwrap();
    place.run_on("verify", &[DATE]).expect_code(0);

    let landed = place.drop_into_input("late.ndjson", line("late"));
    let ended = place.run_on("verify", &[DATE]).expect_code(3);
    assert!(ended.out.contains("late.ndjson is not tracked yet"), "{}", ended.out);
    fs::remove_file(landed).unwrap();
    fs::write(place.input("a.ndjson"), line("other")).unwrap();
    let ended = place.run_on("verify", &[DATE, "--deep"]);
    assert_eq!(ended.code, Some(3), "a young version may be on its way: {}", ended.out);
}

#[test]
fn status_can_be_watched() {
    let (place, running) = served_with_pending(&["a.ndjson"]);
    let watching = place.start_command(&["status", "--watch", "50ms", "--json"]);
    wait_for("second look", Duration::from_secs(30), || (watching.out().lines().count() >= 2).then_some(()));
    let first = watching.out();
    let status = json(first.lines().next().unwrap());
    assert_eq!(status["facts"]["dates"][DATE]["files"]["pending"], 1);
    assert_eq!(status["owner"]["pid"], running.pid());
    drop(watching);
    drop(running);
}

#[test]
fn records_can_be_seen_as_they_pass() {
    let (place, running) = served_with_pending(&[]);
    let wrong = place.run_on("tap", &["folt"]).expect_code(1);
    assert!(wrong.err.contains("has no operator `folt`; it has:"), "{}", wrong.err);
    // A sink's input: the change of the file that becomes pending, and nothing of the other file.
    let filter = r#"{"new":{"file_key":["b.ndjson"]}}"#;
    let tap = place.start_command(&["tap", "fold", "--filter", filter, "--limit", "1", "--json"]);
    let admitted = place.start_command(&["tap", "admit", "--contains", "b.ndjson", "--limit", "1"]);
    wait_for("both taps", PATIENCE, || {
        (running.log().matches("Command from the control socket.").count() >= 2).then_some(())
    });
    place.drop_into_input("a.ndjson", line("a"));
    place.drop_into_input("b.ndjson", line("b"));
    let seen = json(&tap.wait(PATIENCE).expect_code(0).out);
    assert_eq!((&seen["way"], &seen["record"]["kind"]), (&"in".into(), &"INSERT".into()));
    assert_eq!(seen["record"]["new"]["file_key"], "b.ndjson");
    let seen = admitted.wait(PATIENCE).expect_code(0).out;
    assert!(seen.starts_with("out      {") && seen.contains("b.ndjson") && seen.lines().count() == 1, "{seen}");
    running.terminate();
    running.wait(PATIENCE).expect_code(0);
    let nobody = place.run_on("tap", &["fold"]).expect_code(1);
    assert!(nobody.err.contains("no service runs on"), "{}", nobody.err);
}

#[test]
fn records_can_be_seen_from_afar_by_whoever_has_the_token_where_that_is_allowed() {
    let place = place().with("MAX_AGE", "1h").with("ACTION_TOKEN", "0123456789abcdef");
    let running = place.serve(&["--listen", "127.0.0.1:0", "--allow-tap"]);
    let url = format!("http://{}", address(&running));
    let token = place.write("tokens", "right", "0123456789abcdef\n").display().to_string();
    let wrong = place.write("tokens", "wrong", "0123456789abcdee\n").display().to_string();
    let refused = place.run_on("tap", &["fold", "--url", &url, "--token-file", &wrong]).expect_code(1);
    assert!(refused.err.contains("/tap: the token is wrong"), "{}", refused.err);

    let arguments =
        ["tap", "admit", "--url", &url, "--token-file", &token, "--contains", "b.ndjson", "--limit", "1", "--json"];
    let tap = place.start_command(&arguments);
    // A record that passed before the tap was open was missed: one passes until one is seen.
    let mut number = 0;
    let seen = wait_for("a record", PATIENCE, || {
        place.drop_into_input("a.ndjson", line("a"));
        place.drop_into_input(&format!("{number}-b.ndjson"), line("b"));
        number += 1;
        tap.out().lines().next().map(json)
    });
    assert_eq!(seen["way"], "out");
    assert!(seen["record"]["key"].as_str().is_some_and(|key| key.ends_with("b.ndjson")), "{seen}");
    tap.wait(PATIENCE).expect_code(0);

    // The same token by the variable, and a tap that is open when the service stops: it is told so.
    let tap = place.start_command(&["tap", "fold", "--url", &url]);
    wait_for("the second tap", PATIENCE, || {
        let both = r#"penstock_http_requests_total{route="/tap",status="200"} 2"#;
        get(url.trim_start_matches("http://"), "/metrics").1.contains(both).then_some(())
    });
    running.terminate();
    running.wait(PATIENCE).expect_code(0);
    tap.wait(PATIENCE).expect_code(0);

    let closed = place.serve(&["--listen", "127.0.0.1:0"]);
    let url = format!("http://{}", address(&closed));
    let refused = place.run_on("tap", &["fold", "--url", &url]).expect_code(1);
    assert!(refused.err.contains("this process shows no records: start it with --allow-tap"), "{}", refused.err);
}

#[test]
fn i10_an_item_that_nobody_can_read_is_told_and_keeps_no_other_from_being_shown() {
    let place = place().with("MAX_AGE", "1h");
    place.write("files", "bad.ndjson", "no json\n".repeat(5));
    place.write("files", "good.ndjson", line("good"));
    place.run_until_idle("files").expect_code(3);
    for (key, status) in [("odd.ndjson", "failed#1"), ("MANIFEST#odd.json", "failed")] {
        let odd = Write::put(Key::new(DATE, key), Default::default(), Condition::absent("file_key"))
            .set("status", status)
            .set_number("schema_version", 1)
            .set("size_bytes", "no number")
            .set("attempt", "no number");
        place.write_item(&odd);
    }
    let told = place.run_on("status", &[]).expect_code(0).out;
    assert!(told.contains("1 completed") && told.contains(&format!("unreadable {DATE}/odd.ndjson: ")), "{told}");
    let told = place.run_on("verify", &[DATE]).expect_code(1).out;
    assert!(told.contains("OFF  unreadable  odd.ndjson") && told.ends_with("2 things are off.\n"), "{told}");
    let told = place.run_on("redrive", &["--failed", DATE]).expect_code(3).out;
    assert!(told.contains("1 would be redriven, 1 left") && told.contains("can't be read as a file"), "{told}");

    let running = place.serve(&["--listen", "127.0.0.1:0"]);
    let view = |path: &str| json(&get(&address(&running), path).1);
    let overview = view("/api/overview.json");
    assert_eq!((&overview["totals"]["unreadable"], &overview["totals"]["complete"]), (&2.into(), &true.into()));
    for (path, shown, unreadable) in
        [("/api/manifests.json", "manifests", 1), ("/api/files.json", "files", 1), ("/api/rejects.json", "failed", 2)]
    {
        let view = view(path);
        assert!(!view[shown].as_array().unwrap().is_empty(), "{path}: {view}");
        assert_eq!(view["unreadable"].as_array().unwrap().len(), unreadable, "{path}: {view}");
    }
}
