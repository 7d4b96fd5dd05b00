//! Where a pipeline lives: its resources, and what only one kind of cloud has.
//!
//! Commands and services work on the seam's [`Cloud`]; what a folder of this machine has beyond it (a folder for each
//! bucket, an owner, a watch on what is copied in) they ask for through [`Home::local`].

use std::{path::Path, sync::Arc};

use penstock_engine::cloud::{
    Cloud,
    local::{LocalCloud, LocalOptions},
};

use crate::loader::Pipeline;

/// A pipeline's cloud.
#[derive(Clone)]
pub struct Home {
    cloud: Arc<dyn Cloud>,
    local: Option<Arc<LocalCloud>>,
}

impl Home {
    /// The local cloud in `dir`, made if it isn't there. This process owns it until the last handle is dropped.
    pub fn open_local(dir: &Path, pipeline: &Pipeline) -> anyhow::Result<Self> {
        let (naming, resources) = (pipeline.naming.clone(), &pipeline.resources);
        Ok(LocalCloud::open(dir, naming, resources, LocalOptions::default())?.into())
    }

    /// The local cloud in `dir`, for looking only, beside whoever owns it.
    pub async fn look_at_local(dir: &Path, pipeline: &Pipeline) -> anyhow::Result<Self> {
        Ok(LocalCloud::open_read_only(dir, pipeline.naming.clone(), &pipeline.resources).await?.into())
    }

    /// Its resources.
    pub fn cloud(&self) -> &Arc<dyn Cloud> {
        &self.cloud
    }

    /// The local cloud, if it is one.
    pub fn local(&self) -> Option<&Arc<LocalCloud>> {
        self.local.as_ref()
    }
}

impl From<Arc<LocalCloud>> for Home {
    fn from(local: Arc<LocalCloud>) -> Self {
        Self { cloud: Arc::clone(&local) as Arc<dyn Cloud>, local: Some(local) }
    }
}
