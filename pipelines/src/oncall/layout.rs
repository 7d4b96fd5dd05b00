//! Where a pipeline keeps its things, by what its own operators are told.

use anyhow::{Context, bail};
use penstock_operators::{attempt::AttemptOptions, fold::FoldOptions, sweep::SweepOptions, track::TrackOptions};
use serde::de::DeserializeOwned;

use crate::loader::Pipeline;

/// The options of the operators that the commands for people on call follow.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Makes items of files.
    pub track: TrackOptions,
    /// Makes manifests.
    pub fold: FoldOptions,
    /// Makes Parquet.
    pub convert: AttemptOptions,
    /// Finds what was left behind.
    pub sweep: SweepOptions,
}

impl Layout {
    /// Reads it from a checked pipeline. A pipeline without these operators has no files and no manifests.
    pub fn of(pipeline: &Pipeline) -> anyhow::Result<Self> {
        Ok(Self {
            track: options(pipeline, "track")?,
            fold: options(pipeline, "fold")?,
            convert: options(pipeline, "convert")?,
            sweep: options(pipeline, "sweep")?,
        })
    }

    /// Below which prefix of the input bucket files lie.
    pub fn input_prefix(&self) -> &str {
        &self.track.input_prefix
    }
}

fn options<T: DeserializeOwned>(pipeline: &Pipeline, type_name: &str) -> anyhow::Result<T> {
    let Some(node) = pipeline.graph.nodes.iter().find(|node| node.type_name == type_name) else {
        bail!(
            "{} has no operator of type `{type_name}`: this command is for pipelines from files to Parquet",
            pipeline.path.display()
        );
    };
    serde_json::from_value(node.options.clone()).with_context(|| format!("options of {}", node.id))
}
