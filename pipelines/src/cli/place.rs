//! Which cloud a command is about: the arguments that all commands share.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use clap::Args;

use super::App;
use crate::{
    home::Home,
    loader::{Pipeline, load},
};

/// Where the pipeline lives.
#[derive(Debug, Clone, Args)]
pub struct PlaceArguments {
    /// On this machine, with all state in this folder; no AWS account is needed.
    #[arg(long, value_name = "DIR", env = "PENSTOCK_LOCAL")]
    local: PathBuf,
}

impl PlaceArguments {
    /// The pipeline of a file, as it is named there.
    pub fn load(&self, app: &App, file: &Path) -> anyhow::Result<Pipeline> {
        Ok(load(file, &app.env, &app.registry)?)
    }

    /// Its cloud, to run it there.
    pub async fn open(&self, pipeline: &mut Pipeline) -> anyhow::Result<Home> {
        Home::open_local(&self.local, pipeline)
    }

    /// Its cloud, to look at it beside whoever runs it.
    pub async fn look(&self, pipeline: &mut Pipeline) -> anyhow::Result<Home> {
        Home::look_at_local(&self.local, pipeline).await
    }

    /// The folder, if it is on this machine.
    pub fn local_dir(&self) -> Option<&Path> {
        Some(&self.local)
    }
}

impl fmt::Display for PlaceArguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.local.display())
    }
}
