//! From a pipeline's YAML to a checked plan.
//!
//! The file is parsed into a tree that knows where each key and value stands, variables are put into its text values,
//! types read it, and the graph and the rules between its parts are checked. What comes out can be run; what is wrong is
//! told all at once, each with its line, its path and what to do.

mod document;
mod interpolate;
mod report;
mod rules;
mod schema;
mod tree;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Read,
    path::{Path as FilePath, PathBuf},
    time::Duration,
};

use penstock_engine::{
    cloud::resources::{Naming, Resources},
    graph::{Declared, Fault, Graph, Node, Path, Problem, Registry, Role, Severity, Spellings, check, read},
};
use sha2::{Digest, Sha256};

use document::{Document, TestFile};
pub use interpolate::Env;
pub use report::{Excerpt, LoadErrors, Report};
pub use schema::schema;
pub use tree::MAX_FILE_BYTES;
use tree::Tree;

use crate::config_test::TestSpec;

/// A pipeline that can run.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// Its name.
    pub name: String,
    /// The environment.
    pub env: String,
    /// The account's id.
    pub account: String,
    /// How its resources are named.
    pub naming: Naming,
    /// Its resources.
    pub resources: Resources,
    /// The operators of each service, by their ids; empty if one process runs all.
    pub services: BTreeMap<String, Vec<String>>,
    /// How long a graceful stop may take.
    pub shutdown_limit: Duration,
    /// Its operators.
    pub graph: Graph,
    /// The options of each operator as the file gives them, by id: without defaults.
    pub declared: BTreeMap<String, serde_json::Value>,
    /// The file.
    pub path: PathBuf,
    /// SHA-256 of the file, in hex.
    pub digest: String,
    /// Its tests.
    pub tests: Vec<TestSpec>,
    /// What the file itself says, with its variables put in and without defaults.
    pub given: serde_json::Value,
    /// What somebody should look at.
    pub warnings: Vec<Report>,
}

/// Loads a pipeline's file. The error holds all that is wrong with it.
pub fn load(path: &FilePath, env: Env<'_>, registry: &Registry) -> Result<Pipeline, LoadErrors> {
    load_text(path, &read_file(path)?, env, registry)
}

/// Where tests of a pipeline may stand besides its own `tests`: `name.tests.yaml` beside `name.yaml`.
pub fn tests_beside(path: &FilePath) -> PathBuf {
    path.with_extension("tests.yaml")
}

/// Loads the tests of a pipeline from a file of their own.
pub fn load_tests(path: &FilePath, pipeline: &Pipeline) -> Result<Vec<TestSpec>, LoadErrors> {
    let text = read_file(path)?;
    let fail = |reports| LoadErrors { file: path.to_owned(), reports };
    let tree = Tree::parse(&text).map_err(|errors| {
        let told = |error: tree::SyntaxError| report(&text, error.place, "syntax", Path::root(), error.message);
        fail(errors.into_iter().map(told).collect())
    })?;
    let mut found = Found::default();
    let (file, problems) =
        read::<TestFile>(&tree.to_value(), &tree.spellings(), &[], |value| serde_path_to_error::deserialize(value));
    found.add(problems);
    let tests = file.unwrap_or_default().tests;
    found.add(rules::test_problems(&tests, &declared(&pipeline.graph)));
    if found.problems.is_empty() { Ok(tests) } else { Err(fail(found.reports(&text, &tree))) }
}

/// The operators of a graph as far as tests name them.
fn declared(graph: &Graph) -> Vec<Declared> {
    let section = |node: &Node| if node.inputs.is_empty() { Role::Source } else { Role::Transform };
    let of = |node: &Node| Declared {
        section: section(node),
        id: node.id.clone(),
        type_name: Some(node.type_name.clone()),
        inputs: Vec::new(),
        running: node.running.clone(),
        options: node.options.clone(),
        spellings: Spellings::new(),
    };
    graph.nodes.iter().map(of).collect()
}

fn read_file(path: &FilePath) -> Result<String, LoadErrors> {
    let fail = |code, message| LoadErrors { file: path.to_owned(), reports: vec![Report::whole_file(code, message)] };
    let unreadable = |error: std::io::Error| fail("unreadable", format!("it can't be read: {error}"));
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(fail("too_large", format!("it is larger than {MAX_FILE_BYTES} bytes: no pipeline is")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let before = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..before].iter().filter(|byte| **byte == b'\n').count() + 1;
        fail("not_utf8", format!("it is not UTF-8, in line {line}"))
    })
}

/// Loads a pipeline from the text of its file; `path` is what messages call it.
pub fn load_text(path: &FilePath, text: &str, env: Env<'_>, registry: &Registry) -> Result<Pipeline, LoadErrors> {
    let fail = |mut reports: Vec<Report>| {
        reports.sort_by_key(|report| (report.line, report.column));
        LoadErrors { file: path.to_owned(), reports }
    };
    let digest = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut tree = Tree::parse(text).map_err(|errors| {
        fail(errors.into_iter().map(|error| report(text, error.place, "syntax", Path::root(), error.message)).collect())
    })?;

    let mut found = Found::default();
    let mut refused = Vec::new();
    tree.for_each_leaf(&Path::root(), &mut |path, leaf| {
        if let Err(message) = interpolate::interpolate_leaf(leaf, env) {
            refused.push(Problem::value(path.clone(), Fault::Invalid(message)));
        }
    });
    found.add(refused);
    let (document, problems) = Document::read(&tree);
    found.add(problems);
    let Some(document) = document else { return Err(fail(found.reports(text, &tree))) };
    let (operators, problems) = document.operators(&tree.spellings());
    found.add(problems);
    found.add(rules::broken_rules(&document, &operators));
    let graph = match check(&operators, &document.resources, registry) {
        Ok(plan) => {
            found.add(plan.warnings);
            plan.graph
        }
        Err(problems) => {
            found.add(problems);
            return Err(fail(found.reports(text, &tree)));
        }
    };
    let warnings = found.reports(text, &tree);
    if warnings.iter().any(|report| report.severity == Severity::Error) {
        return Err(fail(warnings));
    }
    let Document { pipeline: name, env, account, resources, services, shutdown_limit, tests, .. } = document;
    let naming = Naming { pipeline: name.clone(), env: env.clone(), account: account.clone() };
    let (path, given) = (path.to_owned(), tree.to_value());
    let declared = operators.into_iter().map(|operator| (operator.id, operator.options)).collect();
    Ok(Pipeline {
        name,
        env,
        account,
        naming,
        resources,
        services,
        shutdown_limit,
        graph,
        declared,
        path,
        digest,
        tests,
        given,
        warnings,
    })
}

/// What was found so far. What a later step says about a place that an earlier one refused is no news.
#[derive(Default)]
struct Found {
    problems: Vec<Problem>,
    refused: BTreeSet<Path>,
}

impl Found {
    fn add(&mut self, problems: Vec<Problem>) {
        let news: Vec<_> = problems.into_iter().filter(|problem| !self.refused.contains(&problem.path)).collect();
        let errors = news.iter().filter(|problem| problem.severity() == Severity::Error);
        self.refused.extend(errors.map(|problem| problem.path.clone()));
        self.problems.extend(news);
    }

    fn reports(&self, text: &str, tree: &Tree) -> Vec<Report> {
        let one = |problem: &Problem| Report {
            severity: problem.severity(),
            ..report(
                text,
                tree.place(&problem.path, problem.part),
                problem.fault.code(),
                problem.path.clone(),
                problem.fault.to_string(),
            )
        };
        self.problems.iter().map(one).collect()
    }
}

fn report(text: &str, place: tree::Place, code: &'static str, path: Path, message: String) -> Report {
    let known = place.line > 0;
    Report {
        severity: Severity::Error,
        code,
        line: known.then_some(place.line),
        column: known.then_some(place.column),
        path: path.to_string(),
        message,
        excerpt: Excerpt::new(text, place),
    }
}

#[cfg(test)]
pub(crate) mod fakes;
#[cfg(test)]
mod tests;
