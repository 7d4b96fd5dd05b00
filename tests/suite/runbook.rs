//! The runbook is true: each of its commands does what it says, in a place where its troubles have happened.

use std::fs;

use penstock_operators::model::FileState;
use penstock_tests::{PATIENCE, place::pipeline_file};

use super::{line, place};

/// The commands of a document: the lines of its `sh` blocks.
fn commands(document: &str) -> Vec<String> {
    let mut blocks =
        document.split("```sh\n").skip(1).filter_map(|rest| rest.split_once("```").map(|(block, _)| block));
    let lines: Vec<String> = blocks.by_ref().flat_map(str::lines).map(str::to_owned).collect();
    assert!(lines.iter().all(|line| line.starts_with("penstock ")), "a command of something else: {lines:?}");
    lines
}

#[test]
fn every_command_of_the_runbook_runs_and_says_what_it_should() {
    let document = fs::read_to_string(pipeline_file().parent().unwrap().join("../docs/runbook.md")).unwrap();
    let place = place().with("MAX_AGE", "1h");
    place.write("files", "broken.ndjson", "no json\n".repeat(5));
    place.write("files", "odd.csv", "x");
    place.run_until_idle("files").expect_code(3);
    place.write_message("dlq", "{\"Records\":[]}");
    place.write_message("manifest-ready-dlq", "{\"detail-type\":\"ManifestReady\"}");
    let _running = place.serve(&[]);
    place.drop_into_input("waiting.ndjson", line("w"));
    place.wait_for_facts("a pending file", PATIENCE, |facts| facts.files(FileState::Pending) == 1);

    // What a command must say, by how it begins; each of these must be in the runbook.
    let mut expected = vec![
        ("status", 0, "too_many_rejects"),
        ("trace FILE 2026-02-01/broken.ndjson --local", 0, "sets it back to pending"),
        ("trace FILE 2026-02-01/broken.ndjson --json", 0, "\"is_final\": true"),
        ("trace FILE 2026-02-01/waiting.ndjson --history", 0, "insert pending#"),
        ("verify FILE 2026-02-01 --local", 3, "waiting.ndjson is pending"),
        ("verify FILE 2026-02-01 --deep", 3, "adds up"),
        ("validate", 0, "valid"),
        ("config echo", 0, "# default"),
        ("redrive FILE --failed", 0, "1 would be redriven"),
        ("redrive FILE --quarantined", 0, "1 would be redriven"),
        ("redrive FILE --dlq dlq --local", 0, "would go to file-events"),
        ("redrive FILE --dlq dlq --yes", 0, "1 redriven"),
        ("redrive FILE --dlq manifest-ready-dlq --yes", 0, "sent to manifest-ready"),
        ("flush", 0, "1 manifest closed by hand"),
    ];
    let mut commands = commands(&document);
    // The flush last: it ends the waiting that the others show.
    commands.sort_by_key(|command| command.starts_with("penstock flush"));
    let file = pipeline_file().display().to_string();
    for command in commands {
        let words = command.trim_start_matches("penstock ").replace("pipelines/ndjson-parquet.yaml", "FILE");
        let at = expected.iter().position(|(begins, ..)| words.starts_with(begins));
        let (_, code, says) = expected.remove(at.unwrap_or_else(|| panic!("nothing is expected of `{command}`")));
        let words = words.replace("FILE", &file).replace("./data", &place.cloud().display().to_string());
        let ended = place.run(&words.split(' ').collect::<Vec<_>>()).expect_code(code);
        assert!(ended.out.contains(says), "`{command}` doesn't say `{says}`:\n{}", ended.out);
    }
    assert!(expected.is_empty(), "the runbook has lost {expected:?}");
}
