//! `penstock graph`: a pipeline, drawn.

use std::{io::Write, path::PathBuf};

use clap::{Args, ValueEnum};
use penstock_engine::graph::Surroundings;

use super::{App, Exit};
use crate::loader::load;

/// Draw a pipeline with its services and resources.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The pipeline's file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The language of the drawing.
    #[arg(long, value_enum, default_value_t = Format::Mermaid)]
    format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// For pages that render Mermaid, as GitHub's do.
    Mermaid,
    /// For Graphviz.
    Dot,
}

/// Runs the command.
pub fn run(app: &App, arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let pipeline = load(&arguments.file, &app.env, &app.registry)?;
    let around = Surroundings { registry: &app.registry, resources: &pipeline.resources, services: &pipeline.services };
    let drawing = match arguments.format {
        Format::Mermaid => pipeline.graph.to_mermaid(&around),
        Format::Dot => pipeline.graph.to_dot(&around),
    };
    out.write_all(drawing.as_bytes())?;
    Ok(Exit::Ok)
}
