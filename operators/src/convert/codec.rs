//! The wire form of a conversion's plan: any process with this codec can run it.
//!
//! A node is a versioned envelope around its plain data as JSON. What a node needs besides (stores, sessions, memory) it
//! finds in the process that runs it.

use std::sync::Arc;

use datafusion::common::{Result, exec_datafusion_err, internal_datafusion_err, internal_err};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{AsExecutionPlan, PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use datafusion_proto::protobuf::PhysicalPlanNode;
use prost::Message;
use serde::{Deserialize, Serialize};

use super::sink::{ParquetParts, ParquetPartsExec};
use super::source::ScanNode;

/// What every node of ours begins with; the last byte is the version.
const MAGIC: &[u8] = b"penstock\x01";

/// The codec of a conversion's nodes.
#[derive(Debug, Default)]
pub struct ConvertCodec;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Node {
    Scan(ScanNode),
    ParquetParts(ParquetParts),
}

impl PhysicalExtensionCodec for ConvertCodec {
    fn try_decode(
        &self,
        bytes: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        _: &TaskContext,
        _: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let json =
            bytes.strip_prefix(MAGIC).ok_or_else(|| exec_datafusion_err!("not a node of this version of penstock"))?;
        let node =
            serde_json::from_slice(json).map_err(|error| exec_datafusion_err!("a node can't be read: {error}"))?;
        match (node, inputs) {
            (Node::Scan(scan), []) => Ok(scan.into_plan()?),
            (Node::ParquetParts(parts), [input]) => {
                Ok(Arc::new(ParquetPartsExec::try_new(Arc::new(parts), input.clone())?))
            }
            _ => internal_err!("a node with {} inputs", inputs.len()),
        }
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        bytes: &mut Vec<u8>,
        _: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let encoded = if let Some(parts) = node.downcast_ref::<ParquetPartsExec>() {
            Node::ParquetParts(parts.node().clone())
        } else if let Some(scan) = node.downcast_ref::<DataSourceExec>().and_then(ScanNode::from_plan) {
            Node::Scan(scan)
        } else {
            return internal_err!("{} is no node of ours", node.name());
        };
        bytes.extend_from_slice(MAGIC);
        serde_json::to_writer(bytes, &encoded).map_err(|error| internal_datafusion_err!("a node: {error}"))
    }
}

/// A plan as bytes.
pub fn encode(plan: Arc<dyn ExecutionPlan>) -> Result<Vec<u8>> {
    Ok(PhysicalPlanNode::try_from_physical_plan(plan, &ConvertCodec)?.encode_to_vec())
}

/// The plan that bytes stand for.
pub fn decode(bytes: &[u8], context: &TaskContext) -> Result<Arc<dyn ExecutionPlan>> {
    PhysicalPlanNode::decode(bytes)
        .map_err(|error| exec_datafusion_err!("a plan can't be read: {error}"))?
        .try_into_physical_plan(context, &ConvertCodec)
}
