//! Consumers on a fake stream, a fake table of leases and a paused clock. Named for the failures they meet.

mod assignment;
mod bed;
mod local;
mod operate;
mod reading;
mod records;
mod shards;
mod simulation;
mod workers;

/// docs/streams.md says of each known failure which test meets it, or why none is needed.
#[test]
fn the_table_of_known_failures_names_tests_that_are_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("../docs/streams.md")).unwrap();
    let (mut sources, mut folders) = (String::new(), vec![root.join("src")]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                sources += &std::fs::read_to_string(path).unwrap();
            }
        }
    }
    for number in 1..=37 {
        let row = page.lines().find(|line| line.starts_with(&format!("| F{number} |")));
        let row = row.unwrap_or_else(|| panic!("there is no row of F{number}"));
        let last = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        let cited: Vec<&str> = last.split('`').skip(1).step_by(2).collect();
        assert!(!cited.is_empty() || [23, 26, 27, 28].contains(&number), "F{number} has no test: {row}");
        for test in cited {
            assert!(sources.contains(&format!("fn {test}(")), "F{number}: there is no test {test}");
            assert!(test.contains(&format!("f{number}_")), "F{number}: {test} doesn't bear its number");
        }
    }
    let lines: Vec<&str> = sources.lines().map(str::trim_start).collect();
    for (at, line) in lines.iter().enumerate() {
        let name = line.trim_start_matches("async ").strip_prefix("fn f").unwrap_or_default();
        if name.starts_with(|c: char| c.is_ascii_digit()) {
            let before = lines[..at].iter().rev().find(|line| !line.starts_with("#["));
            let says = before.is_some_and(|line| line.starts_with("///"));
            assert!(says, "f{name} doesn't say what would have been lost");
        }
    }
}
