//! `penstock validate`: all that is wrong with pipelines, before anything starts.

use std::{io::Write, path::PathBuf};

use anyhow::Context;
use clap::Args;
use penstock_engine::{
    cloud::aws::{AwsOptions, Finding, Severity as AccountSeverity},
    graph::Severity,
};
use serde::Serialize;

use super::{App, Exit, place::load_from};
use crate::{
    home::Home,
    loader::{LoadErrors, Pipeline, Report},
    words::plural,
};

/// Check pipelines without running them: YAML, types, graph, resources.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The pipelines' files.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print one JSON array with an object a file.
    #[arg(long)]
    json: bool,
    /// Look at the resources in this environment (`dev`, `prod`) of the AWS account too, without changing them.
    #[arg(long, value_name = "NAME")]
    env: Option<String>,
    /// Another server than AWS's own, for tests.
    #[arg(long, value_name = "URL", requires = "env")]
    endpoint_url: Option<String>,
    /// Let warnings fail too.
    #[arg(long)]
    deny_warnings: bool,
}

impl Arguments {
    fn options(&self) -> AwsOptions {
        AwsOptions { endpoint_url: self.endpoint_url.clone(), ..AwsOptions::default() }
    }
}

/// What is said about one file.
#[derive(Debug, Serialize)]
struct Findings {
    file: String,
    ok: bool,
    account_ok: bool,
    operators: Option<usize>,
    services: Option<usize>,
    problems: Vec<Report>,
    /// What is wrong with the account, where it was looked at.
    account: Vec<String>,
}

/// Runs the command.
pub fn run(app: &App, arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let mut all = Vec::new();
    for file in &arguments.files {
        let env = |name: &str| match &arguments.env {
            Some(env) if name == "PENSTOCK_ENV" => Some(env.clone()),
            _ => (app.env)(name),
        };
        let loaded = load_from(file, &arguments.options(), &env, app)?;
        let account = match (&arguments.env, &loaded) {
            (Some(env), Ok(pipeline)) => account(app, env, arguments, pipeline.clone())?,
            _ => Vec::new(),
        };
        let mut findings = Findings::new(file.display().to_string(), loaded, arguments.deny_warnings);
        let fails = |finding: &Finding| arguments.deny_warnings || finding.severity == AccountSeverity::Error;
        findings.account_ok = !account.iter().any(fails);
        findings.account = account.iter().map(ToString::to_string).collect();
        all.push(findings);
    }
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
    } else {
        for findings in &all {
            for problem in &findings.problems {
                writeln!(out, "{}", problem.render(&findings.file, app.colours))?;
            }
            for finding in &findings.account {
                writeln!(out, "{finding}")?;
            }
            writeln!(out, "{}", findings.summary())?;
        }
    }
    Ok(match () {
        () if !all.iter().all(|findings| findings.ok) => Exit::Config,
        () if !all.iter().all(|findings| findings.account_ok) => Exit::Failed,
        () => Exit::Ok,
    })
}

/// Looks at the resources in an account.
fn account(app: &App, env: &str, arguments: &Arguments, mut pipeline: Pipeline) -> anyhow::Result<Vec<Finding>> {
    let options = arguments.options();
    let runtime = tokio::runtime::Runtime::new().context("no runtime could be started")?;
    runtime.block_on(async {
        let home = Home::connect_to_aws(env, &options, &mut pipeline).await?;
        Ok(home.preflight(&pipeline.graph, &app.registry).await)
    })
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
                account_ok: true,
                account: Vec::new(),
            },
            Err(errors) => Self {
                file,
                ok: false,
                operators: None,
                services: None,
                problems: errors.reports,
                account_ok: true,
                account: Vec::new(),
            },
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
