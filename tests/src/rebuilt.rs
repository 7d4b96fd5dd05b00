//! The real types of operator, built another way: on a tapped, weak or spoilt cloud.

use std::sync::Arc;

use async_trait::async_trait;
use penstock_engine::{
    graph::{Built, OperatorType, Registry, Role, Use},
    operator::{Context, Kind, OperatorError},
};
use schemars::{Schema, SchemaGenerator};
use serde_json::Value;

/// How an operator is built.
#[async_trait]
pub trait Rebuild: Send + Sync {
    /// Builds an operator of the type `real`, with these options.
    async fn rebuild(&self, real: &dyn OperatorType, options: &Value, context: Context)
    -> Result<Built, OperatorError>;
}

/// The registry of the pipeline, with all operators built in this way.
pub fn registry(how: &Arc<dyn Rebuild>) -> Registry {
    let real = Arc::new(penstock_operators::registry());
    let mut registry = Registry::default();
    for operator_type in real.types() {
        let (real, name, how) = (Arc::clone(&real), operator_type.name(), Arc::clone(how));
        registry.add_type(Box::new(Rebuilt { real, name, how }));
    }
    registry
}

struct Rebuilt {
    real: Arc<Registry>,
    name: &'static str,
    how: Arc<dyn Rebuild>,
}

impl Rebuilt {
    fn real(&self) -> &dyn OperatorType {
        self.real.get(self.name).unwrap()
    }
}

#[async_trait]
impl OperatorType for Rebuilt {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        self.real().about()
    }

    fn role(&self) -> Role {
        self.real().role()
    }

    fn input(&self) -> Option<Kind> {
        self.real().input()
    }

    fn outputs(&self) -> Vec<(&'static str, Kind)> {
        self.real().outputs()
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Schema {
        self.real().schema(generator)
    }

    fn check(&self, options: &Value) -> Result<(Value, Vec<Use>), serde_path_to_error::Error<serde_json::Error>> {
        self.real().check(options)
    }

    async fn build(&self, options: &Value, context: Context) -> Result<Built, OperatorError> {
        self.how.rebuild(self.real(), options, context).await
    }
}
