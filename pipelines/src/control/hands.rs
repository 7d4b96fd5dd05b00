//! Who does what a command wants done: the same for a command that comes over the socket and for one that works itself.

use std::sync::Arc;

use penstock_engine::cloud::Cloud;
use serde_json::{Value, json};

use super::protocol::Command;
use crate::{
    loader::Pipeline,
    oncall::{Layout, flush, redrive},
};

/// What is needed to carry commands out.
#[derive(Clone)]
pub struct Hands {
    cloud: Arc<dyn Cloud>,
    pipeline: Arc<Pipeline>,
}

impl Hands {
    /// Hands on a pipeline's cloud.
    pub fn new(cloud: Arc<dyn Cloud>, pipeline: Arc<Pipeline>) -> Self {
        Self { cloud, pipeline }
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
            Command::Flush { date } => {
                let request = flush::ask(&*self.cloud, &Layout::of(&self.pipeline)?, date).await?;
                Ok(serde_json::to_value(request)?)
            }
            Command::Redrive { selection, act } => {
                let steps = redrive::redrive(&*self.cloud, &self.pipeline, selection, *act).await?;
                Ok(serde_json::to_value(steps)?)
            }
        }
    }
}
