//! `penstock validate`: all that is wrong with pipelines, before anything starts.

use std::{io::Write, path::PathBuf};

use clap::Args;
use penstock_engine::graph::Severity;
use serde::Serialize;

use super::{App, Exit};
use crate::loader::{LoadErrors, Pipeline, Report, load};

/// Check pipelines without running them: YAML, types, graph, resources.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The pipelines' files.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print one JSON array with an object a file.
    #[arg(long)]
    json: bool,
    /// Let warnings fail too.
    #[arg(long)]
    deny_warnings: bool,
}

/// What is said about one file.
#[derive(Debug, Serialize)]
struct Findings {
    file: String,
    ok: bool,
    operators: Option<usize>,
    services: Option<usize>,
    problems: Vec<Report>,
}

/// Runs the command.
pub fn run(app: &App, arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let all: Vec<Findings> = arguments
        .files
        .iter()
        .map(|file| {
            let file_name = file.display().to_string();
            Findings::new(file_name, load(file, &app.env, &app.registry), arguments.deny_warnings)
        })
        .collect();
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
    } else {
        for findings in &all {
            for problem in &findings.problems {
                writeln!(out, "{}", problem.render(&findings.file, app.colours))?;
            }
            writeln!(out, "{}", findings.summary())?;
        }
    }
    Ok(if all.iter().all(|findings| findings.ok) { Exit::Ok } else { Exit::Config })
}

impl Findings {
    fn new(file: String, loaded: Result<Pipeline, LoadErrors>, deny_warnings: bool) -> Self {
        match loaded {
            Ok(pipeline) => Self {
                file,
                ok: !deny_warnings || pipeline.warnings.is_empty(),
                operators: Some(pipeline.graph.nodes.len()),
                services: Some(pipeline.services.len()),
                problems: pipeline.warnings,
            },
            Err(errors) => Self { file, ok: false, operators: None, services: None, problems: errors.reports },
        }
    }

    fn summary(&self) -> String {
        let count = |severity| self.problems.iter().filter(|problem| problem.severity == severity).count();
        let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
        let counted = match (errors, warnings) {
            (0, 0) => "no problems".to_owned(),
            (0, warnings) => plural(warnings, "warning"),
            (errors, 0) => plural(errors, "error"),
            (errors, warnings) => format!("{}, {}", plural(errors, "error"), plural(warnings, "warning")),
        };
        let verdict = if self.ok { "valid" } else { "not valid" };
        let size = self.operators.zip(self.services).map(|(operators, services)| match services {
            0 => format!("; {}", plural(operators, "operator")),
            _ => format!("; {} in {}", plural(operators, "operator"), plural(services, "service")),
        });
        format!("{}: {verdict}: {counted}{}", self.file, size.unwrap_or_default())
    }
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}
