//! The commands that look at a pipeline, on the one that is shipped.

use penstock_tests::place::pipeline_file;
use serde_json::Value;

use super::place;

#[test]
fn the_shipped_pipeline_is_valid_and_can_be_drawn() {
    let place = place();
    let file = pipeline_file().display().to_string();
    let valid = place.run(&["validate", "--deny-warnings", &file]).expect_code(0);
    assert!(valid.out.contains("valid: no problems; 13 operators in 2 services"), "{}", valid.out);
    let told = place.run(&["validate", "--json", &file]).expect_code(0);
    let told: Value = serde_json::from_str(&told.out).unwrap();
    assert_eq!(told[0]["ok"], true);
    let mermaid = place.run(&["graph", &file]).expect_code(0).out;
    assert!(
        mermaid.starts_with("flowchart LR") && mermaid.contains("fold") && mermaid.contains("convert"),
        "{mermaid}"
    );
    let dot = place.run(&["graph", "--format", "dot", &file]).expect_code(0).out;
    assert!(dot.starts_with("digraph"), "{dot}");
}

#[test]
fn the_schema_knows_every_type_of_operator_that_the_shipped_pipeline_uses() {
    let place = place();
    let schema = place.run(&["schema"]).expect_code(0).out;
    let schema: Value = serde_json::from_str(&schema).unwrap();
    assert_eq!(schema["title"], "Penstock pipeline");
    let text = schema.to_string();
    for name in ["queue", "change_stream", "sweep", "landing", "admit", "track", "quarantine", "fold", "convert"] {
        assert!(text.contains(&format!("\"{name}\"")), "no {name}");
    }
}

#[test]
fn a_broken_pipeline_is_refused_with_its_file_line_and_path() {
    let place = place();
    let text = std::fs::read_to_string(pipeline_file()).unwrap();
    let broken = text.replace("    max_files: ", "    max_filez: ");
    let line = 1 + broken.lines().position(|line| line.contains("max_filez")).unwrap();
    let file = place.path("broken.yaml");
    std::fs::write(&file, broken).unwrap();
    let file = file.display().to_string();
    let cloud = place.cloud().display().to_string();
    for arguments in [vec!["validate", &file], vec!["run", &file, "--local", &cloud]] {
        let ended = place.run(&arguments).expect_code(78);
        let told = ended.out + &ended.err;
        let place_of_error = format!("{file}:{line}:5: sinks.fold.max_filez: unknown field, did you mean `max_files`?");
        assert_eq!(told.matches(&place_of_error).count(), 1, "{told}");
        assert_eq!(
            told.matches("broken.yaml:").count() - told.matches("broken.yaml: ").count(),
            1,
            "more than one: {told}"
        );
    }
    assert!(!place.cloud().exists(), "a pipeline that can't run made a cloud");
    let missing = place.run(&["run", "missing.yaml", "--local", &cloud]).expect_code(78);
    assert!(missing.err.contains("missing.yaml"), "{}", missing.err);
}

#[test]
fn a_service_that_the_pipeline_lacks_is_refused_with_those_that_it_has() {
    let place = place();
    let (file, cloud) = (pipeline_file().display().to_string(), place.cloud().display().to_string());
    let ended = place.run(&["run", &file, "--local", &cloud, "--service", "wroker"]).expect_code(1);
    assert!(ended.err.contains("no service `wroker`; it has: engine, worker"), "{}", ended.err);
}
