//! `penstock tap`: records as they pass an operator of a service that runs.

use std::{fs, io::Write, path::PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use penstock_engine::cloud::pattern::Pattern;
use serde_json::Value;

use super::{App, Exit, place::PlaceArguments};
use crate::{
    control::{
        Client,
        protocol::{Command, Line, TapRequest},
        remote::Remote,
    },
    token,
};

/// The longest line that people are shown of a record.
const SHOWN: usize = 300;

/// Show records as they pass an operator of a service that runs: here, or with --url anywhere. It isn't slowed, and what
/// can't be shown in time is skipped and counted.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The pipeline's file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The operator's id.
    #[arg(value_name = "OPERATOR")]
    operator: String,
    #[command(flatten)]
    place: PlaceArguments,
    /// Ask the service at this address, http://HOST:8650, instead of the one that runs in a folder of this machine. It must
    /// have been started with --allow-tap.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The file with the token of that service; without it PENSTOCK_ACTION_TOKEN is looked at.
    #[arg(long, value_name = "FILE", requires = "url")]
    token_file: Option<PathBuf>,
    /// Only what goes in. Otherwise that is shown of sinks, and of others what goes out.
    #[arg(long)]
    input: bool,
    /// End after so many records.
    #[arg(long, value_name = "COUNT")]
    limit: Option<u64>,
    /// Only records whose JSON matches this pattern, in EventBridge's syntax: '{"new":{"status":[{"prefix":"failed"}]}}'.
    #[arg(long, value_name = "PATTERN")]
    filter: Option<String>,
    /// Only records whose JSON holds this text.
    #[arg(long, value_name = "TEXT")]
    contains: Option<String>,
    /// Print each record whole, an object a line.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(app: &App, arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let pipeline = arguments.place.load(app, &arguments.file)?;
    if !pipeline.graph.nodes.iter().any(|node| node.id == arguments.operator) {
        let known: Vec<&str> = pipeline.graph.nodes.iter().map(|node| node.id.as_str()).collect();
        bail!("{} has no operator `{}`; it has: {}", pipeline.name, arguments.operator, known.join(", "));
    }
    let runtime = tokio::runtime::Runtime::new().context("no runtime could be started")?;
    runtime.block_on(async {
        let mut lines = arguments.open(app).await?;
        loop {
            let line = tokio::select! {
                line = lines.next() => line?,
                stopped = tokio::signal::ctrl_c() => {
                    stopped.context("Ctrl-C can't be listened for")?;
                    return Ok(Exit::Ok);
                }
            };
            match line {
                Line::Part(part) => arguments.show(&part, out)?,
                Line::Done(_) => return Ok(Exit::Ok),
                Line::Failed(why) => bail!(why),
            }
        }
    })
}

/// Where the lines come from.
enum Lines {
    Socket(Client),
    Http(Remote),
}

impl Lines {
    async fn next(&mut self) -> anyhow::Result<Line> {
        match self {
            Self::Socket(client) => client.next_line().await,
            Self::Http(remote) => remote.next_line().await,
        }
    }
}

impl Arguments {
    async fn open(&self, app: &App) -> anyhow::Result<Lines> {
        let request = self.request()?;
        if let Some(url) = &self.url {
            return Ok(Lines::Http(Remote::ask(url, &self.token(app)?, &request).await?));
        }
        let Some(dir) = self.place.local_dir() else {
            bail!(
                "say which process to ask: --url http://HOST:8650 of a service that was started with --allow-tap, and its \
                 token with --token-file"
            );
        };
        let Some(mut client) = Client::connect(dir).await? else {
            bail!("no service runs on {}: start one with `penstock run`", dir.display());
        };
        client.send(&Command::Tap(request)).await?;
        Ok(Lines::Socket(client))
    }

    fn token(&self, app: &App) -> anyhow::Result<String> {
        let text = match &self.token_file {
            Some(path) => fs::read_to_string(path).with_context(|| format!("{} can't be read", path.display()))?,
            None => match (app.env)(token::VARIABLE) {
                Some(text) => text,
                None => bail!("--url needs the token of that service: --token-file FILE, or {}", token::VARIABLE),
            },
        };
        Ok(text.trim().to_owned())
    }

    fn request(&self) -> anyhow::Result<TapRequest> {
        let filter = match &self.filter {
            Some(text) => {
                let pattern: Value = serde_json::from_str(text).context("--filter is no JSON")?;
                if let Err(why) = Pattern::parse(&pattern) {
                    bail!("--filter is no pattern: {why}");
                }
                Some(pattern)
            }
            None => None,
        };
        Ok(TapRequest {
            operator: self.operator.clone(),
            input: self.input,
            limit: self.limit,
            filter,
            contains: self.contains.clone(),
        })
    }

    fn show(&self, part: &Value, out: &mut dyn Write) -> anyhow::Result<()> {
        if let Some(skipped) = part.get("skipped") {
            // Beside the records, not among them.
            tracing::warn!("{skipped} records passed too fast to be shown.");
            return Ok(());
        }
        if self.json {
            writeln!(out, "{part}")?;
        } else {
            let text = part["record"].to_string();
            let shown: String = text.chars().take(SHOWN).collect();
            let more = if shown.len() < text.len() { "…" } else { "" };
            writeln!(out, "{:<8} {shown}{more}", part["way"].as_str().unwrap_or_default())?;
        }
        out.flush()?;
        Ok(())
    }
}
