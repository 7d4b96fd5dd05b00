//! `penstock new`: something to begin with, which works as it stands.

use std::{
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use super::{App, Exit};

const PIPELINE: &str = include_str!("../../ndjson-parquet.yaml");
const OPERATOR: &str = include_str!("../../skeletons/operator.rs");

/// Write a pipeline or an operator to begin with.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A pipeline's file, from files to Parquet, with resources of its own.
    Pipeline {
        /// Its name: the first part of the name of each of its resources.
        name: String,
        /// Where to write it; NAME.yaml by default.
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// The source of an operator, in Rust.
    Operator {
        /// Its name, as pipelines will call it.
        name: String,
        /// Where to write it; NAME.rs by default.
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// Runs the command.
pub fn run(app: &App, arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<Exit> {
    match &arguments.what {
        What::Pipeline { name, output } => {
            let (name, path) = (checked(name, '-')?, output.clone().unwrap_or_else(|| format!("{name}.yaml").into()));
            write_new(&path, &pipeline(name))?;
            writeln!(out, "{} is a pipeline. Next:", path.display())?;
            writeln!(out, "  penstock validate {}", path.display())?;
            writeln!(
                out,
                "  penstock run {} --local ./data --land '/your/files/**/*.ndjson' --until-idle",
                path.display()
            )?;
        }
        What::Operator { name, output } => {
            let (name, path) = (checked(name, '_')?, output.clone().unwrap_or_else(|| format!("{name}.rs").into()));
            if app.registry.get(name).is_some() {
                bail!("there is an operator `{name}` already");
            }
            write_new(&path, &operator(name))?;
            writeln!(out, "{} is an operator. Next, in operators/src/:", path.display())?;
            writeln!(out, "  move it there, and add `pub mod {name};` to lib.rs")?;
            writeln!(out, "  add `.add::<{name}::{}Options>()` to `registry()` in lib.rs", camel(name))?;
            writeln!(out, "  name its type in a pipeline: `type: {name}`")?;
        }
    }
    Ok(Exit::Ok)
}

fn pipeline(name: &str) -> String {
    PIPELINE.replacen("pipeline: ndjson-parquet\n", &format!("pipeline: {name}\n"), 1)
}

fn operator(name: &str) -> String {
    OPERATOR.replace("Skeleton", &camel(name)).replace("skeleton", name)
}

fn checked(name: &str, separator: char) -> anyhow::Result<&str> {
    let is_fine = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == separator)
        && name.len() <= 30;
    if !is_fine {
        bail!("`{name}` can't be its name: use up to 30 small letters, digits and `{separator}`, a letter first");
    }
    Ok(name)
}

fn camel(name: &str) -> String {
    let part =
        |part: &str| part.get(..1).map(str::to_uppercase).unwrap_or_default() + part.get(1..).unwrap_or_default();
    name.split('_').map(part).collect()
}

/// Never over a file that is there.
fn write_new(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .with_context(|| format!("{} can't be made", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("{} can't be written", path.display()))
}

#[cfg(test)]
#[path = "../../skeletons/operator.rs"]
mod skeleton;

#[cfg(test)]
mod tests {
    use penstock_engine::graph::Registry;

    use super::*;
    use crate::loader::load_text;

    #[test]
    fn a_new_pipeline_is_valid() {
        let text = pipeline("web-logs");
        let pipeline = load_text(Path::new("w.yaml"), &text, &|_| None, &penstock_operators::registry()).unwrap();
        assert_eq!(pipeline.naming.bucket("input"), "web-logs-input-dev-000000000000");
    }

    #[test]
    fn a_new_operator_is_one_that_pipelines_may_name() {
        let mut registry = Registry::default();
        registry.add::<skeleton::SkeletonOptions>();
        let known = registry.get("skeleton").unwrap();
        assert!(known.check(&serde_json::json!({ "without": "x" })).is_ok());
        assert!(known.check(&serde_json::json!({ "with": "x" })).is_err());
        let text = operator("drop_small");
        assert!(
            text.contains("pub struct DropSmallOptions") && text.contains("const NAME: &'static str = \"drop_small\"")
        );
        assert!(!text.to_lowercase().contains("skeleton"));
    }

    #[test]
    fn names_are_checked_and_files_are_never_overwritten() {
        for name in ["", "Upper", "1x", "a b", "../x", &"x".repeat(31)] {
            assert!(checked(name, '-').is_err(), "{name}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.yaml");
        write_new(&path, "a").unwrap();
        assert!(write_new(&path, "b").is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a");
    }
}
