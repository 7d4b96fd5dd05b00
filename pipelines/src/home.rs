//! Where a pipeline lives: its resources, and what only one kind of cloud has.
//!
//! Commands and services work on the seam's [`Cloud`]; what a folder of this machine has beyond it (a folder for each
//! bucket, an owner, a watch on what is copied in) they ask for through [`Home::local`].

use std::{path::Path, sync::Arc};

use anyhow::bail;
use penstock_engine::{
    cloud::{
        Cloud,
        aws::{AwsCloud, AwsOptions, Finding, Needs, Severity},
        local::{LocalCloud, LocalOptions},
        resources::{Access, Resources},
    },
    graph::{Graph, Registry, UseMode},
};

use crate::{loader::Pipeline, observation::METRICS_TABLE};

/// A pipeline's cloud.
#[derive(Clone)]
pub struct Home {
    cloud: Arc<dyn Cloud>,
    local: Option<Arc<LocalCloud>>,
    aws: Option<Arc<AwsCloud>>,
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

    /// The same place by another way to its resources, e.g. a decorator around them.
    pub fn through(self, way: impl FnOnce(Arc<dyn Cloud>) -> Arc<dyn Cloud>) -> Self {
        Self { cloud: way(self.cloud), local: self.local, aws: self.aws }
    }

    /// The resources in environment `env` of the account that the credentials are of. The pipeline is named by them.
    pub async fn connect_to_aws(env: &str, options: &AwsOptions, pipeline: &mut Pipeline) -> anyhow::Result<Self> {
        let cloud = AwsCloud::connect(&pipeline.name, env, &pipeline.resources, options).await?;
        let account = &cloud.naming().account;
        // A pipeline's file that names no account has this one.
        if pipeline.account != "0".repeat(12) && pipeline.account != *account {
            bail!(
                "the credentials are of account {account}, and {} is for account {}: use that account's credentials, or \
                 leave AWS_ACCOUNT_ID unset",
                pipeline.path.display(),
                pipeline.account
            );
        }
        pipeline.naming = cloud.naming().clone();
        pipeline.env.clone_from(&pipeline.naming.env);
        pipeline.account.clone_from(account);
        let aws = Arc::new(cloud);
        Ok(Self { cloud: Arc::clone(&aws) as Arc<dyn Cloud>, local: None, aws: Some(aws) })
    }

    /// Whatever is wrong with the resources that a graph uses; nothing on one machine, where they are made as needed.
    pub async fn preflight(&self, graph: &Graph, registry: &Registry) -> Vec<Finding> {
        match &self.aws {
            Some(aws) => aws.preflight(&needs(graph, registry, aws.resources())).await,
            None => Vec::new(),
        }
    }

    /// Fails with all that keeps a graph from running; logs what is only odd.
    pub async fn require(&self, graph: &Graph, registry: &Registry) -> anyhow::Result<()> {
        let findings = self.preflight(graph, registry).await;
        let (errors, warnings): (Vec<_>, Vec<_>) =
            findings.into_iter().partition(|finding| finding.severity == Severity::Error);
        for finding in warnings {
            tracing::warn!(resource = finding.resource, "{}", finding.message);
        }
        if errors.is_empty() {
            return Ok(());
        }
        let told: Vec<String> = errors.iter().map(|finding| format!("\n  {finding}")).collect();
        bail!("the account is not ready:{}", told.concat())
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
        Self { cloud: Arc::clone(&local) as Arc<dyn Cloud>, local: Some(local), aws: None }
    }
}

/// The resources that the operators of a graph use, and the table of metrics if there is one.
fn needs(graph: &Graph, registry: &Registry, resources: &Resources) -> Needs {
    let mut needs = Needs::default();
    if resources.tables.contains_key(METRICS_TABLE) {
        needs.tables.insert(METRICS_TABLE.to_owned(), [Access::Get, Access::Put].into());
        needs.optional.insert(METRICS_TABLE.to_owned());
    }
    for node in &graph.nodes {
        // The graph was checked when it was loaded: what can't be read now has no uses to tell.
        let checked = registry.get(&node.type_name).and_then(|of| of.check(&node.options).ok());
        for of in checked.map(|(_, uses)| uses).unwrap_or_default() {
            match of.kind {
                "table" => needs.tables.entry(of.name).or_default().extend(of.access),
                "change_stream" => needs.streams.extend([of.name]),
                "queue" if of.mode == UseMode::Owned => needs.sources.extend([of.name]),
                "queue" => needs.queues.extend([of.name]),
                "bus" => needs.buses.extend([of.name]),
                "bucket" => {
                    let places = of.access.iter().map(|access| (of.prefix.clone(), *access));
                    needs.buckets.entry(of.name).or_default().extend(places);
                }
                _ => {}
            }
        }
    }
    needs
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::loader;

    /// A role holds what its service does: what another service does must not be asked of it.
    #[test]
    fn each_service_needs_what_its_own_operators_do() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("ndjson-parquet.yaml");
        let registry = penstock_operators::registry();
        let pipeline = loader::load(&file, &|_| None, &registry).unwrap();
        let of = |service: &str| {
            let graph = pipeline.graph.subset(&pipeline.services[service]).unwrap();
            needs(&graph, &registry, &pipeline.resources)
        };
        let (engine, worker) = (of("engine"), of("worker"));
        let (table, leases) = ("sqs-file-tracking", "leases");
        assert!(engine.tables[table].contains(&Access::Put) && !worker.tables[table].contains(&Access::Put));
        assert!(engine.tables[leases].contains(&Access::Put) && !worker.tables[leases].contains(&Access::Put));
        assert!(engine.tables[leases].contains(&Access::Query) && !worker.tables[leases].contains(&Access::Query));
        for needs in [&engine, &worker] {
            assert!(needs.tables[leases].contains(&Access::Delete) && !needs.tables[table].contains(&Access::Delete));
            assert_eq!(needs.tables[METRICS_TABLE], BTreeSet::from([Access::Get, Access::Put]));
            assert_eq!(needs.optional, BTreeSet::from([METRICS_TABLE.to_owned()]));
        }
        assert_eq!(
            (&engine.sources, &worker.sources),
            (&["file-events".into()].into(), &["manifest-ready".into()].into())
        );
        assert_eq!((&engine.queues, worker.queues.len()), (&["dlq".into()].into(), 0));
        assert_eq!((engine.streams.len(), worker.streams.len(), worker.buses.len()), (1, 0, 0));
        assert!(!engine.buckets.contains_key("output"));
        let read_only = |needs: &Needs| needs.buckets["input"].iter().all(|(_, access)| *access == Access::Get);
        assert!(read_only(&engine) && read_only(&worker));
        let rejects = [Access::Get, Access::Stage].map(|access| ("rejects/".to_owned(), access));
        assert_eq!(worker.buckets["quarantine"], rejects.into());
    }
}
