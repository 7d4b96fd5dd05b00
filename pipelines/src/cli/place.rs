//! Which cloud a command is about: the arguments that all commands share.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use anyhow::bail;
use clap::Args;
use penstock_engine::cloud::aws::AwsOptions;

use super::App;
use crate::{
    home::Home,
    loader::{Pipeline, load},
};

/// Where the pipeline lives.
#[derive(Debug, Clone, Args)]
pub struct PlaceArguments {
    /// On this machine, with all state in this folder; no AWS account is needed.
    #[arg(long, value_name = "DIR", env = "PENSTOCK_LOCAL", required_unless_present = "env", conflicts_with = "env")]
    local: Option<PathBuf>,
    /// On AWS, in this environment (`dev`, `prod`) of the account that the environment's credentials are of.
    #[arg(long, value_name = "NAME")]
    env: Option<String>,
    /// Another server than AWS's own, for tests.
    #[arg(long, value_name = "URL")]
    endpoint_url: Option<String>,
}

impl PlaceArguments {
    /// The pipeline of a file. Its variables are told the environment's name.
    pub fn load(&self, app: &App, file: &Path) -> anyhow::Result<Pipeline> {
        let env = |name: &str| match &self.env {
            Some(env) if name == "PENSTOCK_ENV" => Some(env.clone()),
            _ => (app.env)(name),
        };
        Ok(load(file, &env, &app.registry)?)
    }

    /// Its cloud, to run it there.
    pub async fn open(&self, pipeline: &mut Pipeline) -> anyhow::Result<Home> {
        match &self.local {
            Some(dir) => Home::open_local(dir, pipeline),
            None => self.connect(pipeline).await,
        }
    }

    /// Its cloud, to look at it beside whoever runs it.
    pub async fn look(&self, pipeline: &mut Pipeline) -> anyhow::Result<Home> {
        match &self.local {
            Some(dir) => Home::look_at_local(dir, pipeline).await,
            None => self.connect(pipeline).await,
        }
    }

    async fn connect(&self, pipeline: &mut Pipeline) -> anyhow::Result<Home> {
        let Some(env) = &self.env else { bail!("say where the pipeline lives: --local DIR or --env NAME") };
        let options = AwsOptions { endpoint_url: self.endpoint_url.clone(), ..AwsOptions::default() };
        Home::connect_to_aws(env, &options, pipeline).await
    }

    /// The folder, if it is on this machine.
    pub fn local_dir(&self) -> Option<&Path> {
        self.local.as_deref()
    }
}

impl fmt::Display for PlaceArguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.local, &self.env) {
            (Some(dir), _) => write!(f, "{}", dir.display()),
            (None, Some(env)) => write!(f, "environment {env}"),
            (None, None) => f.write_str("no place"),
        }
    }
}
