//! `penstock test`: runs the tests of pipelines.

use std::{io::Write, path::PathBuf};

use clap::Args;
use serde::Serialize;

use super::{App, Exit};
use crate::{
    config_test::{self, Outcome},
    loader::{load, load_tests, tests_beside},
};

/// Run the tests of pipelines: those under `tests:`, and those in NAME.tests.yaml beside NAME.yaml.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The pipelines' files.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Only tests whose name holds this text.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Print one JSON array with an object a test.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Told {
    file: String,
    passed: bool,
    #[serde(flatten)]
    outcome: Outcome,
}

/// Runs the command.
pub fn run(app: &App, arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut told = Vec::new();
    for path in &arguments.files {
        let pipeline = load(path, &app.env, &app.registry)?;
        let mut tests = pipeline.tests.clone();
        let beside = tests_beside(path);
        if beside.try_exists()? {
            tests.extend(load_tests(&beside, &pipeline)?);
        }
        let wanted = |name: &str| arguments.only.as_ref().is_none_or(|text| name.contains(text.as_str()));
        for test in tests.iter().filter(|test| wanted(&test.name)) {
            let run = config_test::run(test, &pipeline.graph, &pipeline.naming, &app.registry);
            let outcome = runtime.block_on(run);
            told.push(Told { file: path.display().to_string(), passed: outcome.passed(), outcome });
        }
    }
    let failed = told.iter().filter(|test| !test.passed).count();
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&told)?)?;
    } else {
        for test in &told {
            writeln!(out, "{} {}: {}", if test.passed { "ok  " } else { "FAIL" }, test.file, test.outcome.name)?;
            for difference in &test.outcome.differences {
                writeln!(out, "  {difference}")?;
            }
        }
        writeln!(out, "{} passed, {failed} failed", told.len() - failed)?;
    }
    // No test at all is most likely a mistake in the name, and must not look like success.
    Ok(if failed > 0 || told.is_empty() { Exit::Failed } else { Exit::Ok })
}
