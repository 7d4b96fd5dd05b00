//! Which cloud a command is about: the arguments that all commands share.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::Args;
use penstock_engine::cloud::aws::{self, AwsOptions};

use super::App;
use crate::{
    home::Home,
    loader::{Env, LoadErrors, MAX_FILE_BYTES, Pipeline, load, load_text},
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

/// A day of a pipeline.
#[derive(Debug, Clone, Args)]
pub struct DayArguments {
    /// The pipeline's file.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The date, YYYY-MM-DD.
    #[arg(value_name = "DATE")]
    pub date: String,
    #[command(flatten)]
    pub place: PlaceArguments,
}

impl DayArguments {
    /// The pipeline of the file.
    pub fn load(&self, app: &App) -> anyhow::Result<Pipeline> {
        self.place.load(app, &self.file)
    }
}

impl PlaceArguments {
    /// The pipeline of a file. Its variables are told the environment's name.
    pub fn load(&self, app: &App, file: &Path) -> anyhow::Result<Pipeline> {
        let env = |name: &str| match &self.env {
            Some(env) if name == "PENSTOCK_ENV" => Some(env.clone()),
            _ => (app.env)(name),
        };
        Ok(load_from(file, &self.options(), &env, app)??)
    }

    fn options(&self) -> AwsOptions {
        AwsOptions { endpoint_url: self.endpoint_url.clone(), ..AwsOptions::default() }
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
        Home::connect_to_aws(env, &self.options(), pipeline).await
    }

    /// The folder, if it is on this machine.
    pub fn local_dir(&self) -> Option<&Path> {
        self.local.as_deref()
    }
}

/// Loads a pipeline from a file of this machine, or from a bucket, `s3://BUCKET/KEY`, as tasks on ECS do: what runs there
/// changes without a new image. The outer error is that the bucket can't be read, the inner one all that is wrong with it.
pub fn load_from(
    file: &Path,
    options: &AwsOptions,
    env: Env<'_>,
    app: &App,
) -> anyhow::Result<Result<Pipeline, LoadErrors>> {
    let Some(place) = file.to_str().and_then(|text| text.strip_prefix("s3://")) else {
        return Ok(load(file, env, &app.registry));
    };
    let Some((bucket, key)) = place.split_once('/').filter(|(bucket, key)| !bucket.is_empty() && !key.is_empty())
    else {
        bail!("{} names no object: it must be s3://BUCKET/KEY", file.display());
    };
    let runtime = tokio::runtime::Runtime::new().context("no runtime could be started")?;
    let text = runtime.block_on(aws::read_text(bucket, key, MAX_FILE_BYTES, options))?;
    Ok(load_text(file, &text, env, &app.registry))
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
