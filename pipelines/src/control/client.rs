//! The command's side of the control socket.

use std::{io, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::{
    io::BufReader,
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::Instant,
};

use super::{
    Address, Hands,
    protocol::{Command, Line, MAX_ANSWER_BYTES, Request, VERSION, read_line, write_line},
};
use crate::{cli::PlaceArguments, loader::Pipeline};

/// How long the folder of an owner that doesn't listen yet, or no more, is tried.
const PATIENCE: Duration = Duration::from_secs(3);

/// The wait between two tries.
const WAIT: Duration = Duration::from_millis(100);

/// A connection to the owner of a folder.
pub struct Client {
    from: BufReader<OwnedReadHalf>,
    to: OwnedWriteHalf,
}

impl Client {
    /// Connects to the owner of `dir`; `None` when nobody listens.
    pub async fn connect(dir: &Path) -> anyhow::Result<Option<Self>> {
        let told = || format!("the control socket in {}", dir.display());
        let address = match Address::of(dir) {
            Ok(address) => address,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(told),
        };
        match UnixStream::connect(&address.path).await {
            Ok(stream) => {
                let (from, to) = stream.into_split();
                Ok(Some(Self { from: BufReader::new(from), to }))
            }
            // None was ever there, or a killed owner left it behind.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Ok(None)
            }
            Err(error) => Err(error).with_context(told),
        }
    }

    /// Sends a command. One connection takes one.
    pub async fn send(&mut self, command: &Command) -> anyhow::Result<()> {
        let request = Request { version: VERSION, command: command.clone() };
        write_line(&mut self.to, &request).await.context("the service went away before it was told")
    }

    /// The next line of the answer.
    pub async fn next_line(&mut self) -> anyhow::Result<Line> {
        let line = read_line(&mut self.from, MAX_ANSWER_BYTES).await.context("the service's answer can't be read")?;
        line.context("the service went away before it answered; look at its log, then try again")
    }

    /// Sends a command and waits for what comes of it.
    pub async fn ask(mut self, command: &Command) -> anyhow::Result<Value> {
        self.send(command).await?;
        loop {
            match self.next_line().await? {
                Line::Part(_) => {}
                Line::Done(value) => return Ok(value),
                Line::Failed(why) => bail!(why),
            }
        }
    }
}

/// Has a command carried out: by the owner of the folder if there is one, else by this process.
pub async fn call(place: &PlaceArguments, pipeline: &mut Pipeline, command: &Command) -> anyhow::Result<Value> {
    let began = Instant::now();
    loop {
        if let Some(dir) = place.local_dir()
            && let Some(client) = Client::connect(dir).await?
        {
            return client.ask(command).await;
        }
        if let Some(dir) = place.local_dir()
            && !dir.is_dir()
        {
            bail!("there is no local cloud in {}: start the pipeline there once", dir.display());
        }
        match place.open(pipeline).await {
            Ok(home) => {
                let hands = Hands::new(Arc::clone(home.cloud()), Arc::new(pipeline.clone()), None);
                return hands.carry_out(command).await;
            }
            // An owner that starts, or stops, holds the folder without listening: for a moment.
            Err(error) if place.local_dir().is_none() || began.elapsed() > PATIENCE => return Err(error),
            Err(_) => tokio::time::sleep(WAIT).await,
        }
    }
}
