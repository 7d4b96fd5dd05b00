//! Who does what a command wants done: the same for a command that comes over the socket and for one that works itself.

use std::sync::Arc;

use anyhow::{Context, bail};
use penstock_engine::{
    cloud::Cloud,
    runtime::{Handle, meter::Measured},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::protocol::Command;
use crate::{
    loader::Pipeline,
    oncall::{Layout, flush, redrive},
};

/// An operator that runs, as told over the socket.
#[derive(Debug, Serialize)]
struct Seen {
    id: String,
    state: Value,
    measured: Value,
}

/// What is needed to carry commands out.
#[derive(Clone)]
pub struct Hands {
    cloud: Arc<dyn Cloud>,
    pipeline: Arc<Pipeline>,
    /// The operators that run in this process.
    operators: Option<Handle>,
}

impl Hands {
    /// Hands on a pipeline's cloud; `operators` are those that this process runs.
    pub fn new(cloud: Arc<dyn Cloud>, pipeline: Arc<Pipeline>, operators: Option<Handle>) -> Self {
        Self { cloud, pipeline, operators }
    }

    /// The operators that run in this process.
    pub fn operators(&self) -> anyhow::Result<&Handle> {
        self.operators.as_ref().context("no service runs there: start one with `penstock run`")
    }

    /// Whether an operator has no outputs that anybody reads: then what goes in is what there is to see.
    pub fn is_sink(&self, id: &str) -> bool {
        !self.pipeline.graph.nodes.iter().flat_map(|node| &node.inputs).any(|input| input.id == id)
    }

    /// Carries a command out.
    pub async fn carry_out(&self, command: &Command) -> anyhow::Result<Value> {
        match command {
            Command::Hello {} => Ok(json!({
                "pid": std::process::id(),
                "release": env!("CARGO_PKG_VERSION"),
                "pipeline": self.pipeline.name,
                "env": self.pipeline.env,
            })),
            Command::Look {} => {
                let operators = self.operators()?;
                let (meters, mut states) = (operators.meters().snapshot(), operators.states());
                let seen = |(id, measured): (String, Measured)| {
                    let state = states.remove(&id).map(|state| json!(state)).unwrap_or_default();
                    Seen { id, state, measured: json!(measured) }
                };
                Ok(json!(meters.into_iter().map(seen).collect::<Vec<_>>()))
            }
            Command::Tap(_) => bail!("records can be seen only where a service runs: start one with `penstock run`"),
            Command::Flush { date } => {
                let request = flush::ask(&*self.cloud, &Layout::of(&self.pipeline)?, date).await?;
                Ok(serde_json::to_value(request)?)
            }
            Command::Redrive(request) => {
                let steps = redrive::redrive(&*self.cloud, &self.pipeline, request).await?;
                Ok(serde_json::to_value(steps)?)
            }
        }
    }
}
