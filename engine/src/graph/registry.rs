//! The types of operator that a pipeline may name: what each takes, gives, uses and needs to be told.

use std::{collections::BTreeMap, marker::PhantomData};

use async_trait::async_trait;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

pub use crate::cloud::resources::Access;
use crate::operator::{Context, Kind, Operator, OperatorError, Source};

/// What part of a graph an operator can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Makes records.
    Source,
    /// Takes records and makes records.
    Transform,
    /// Takes records.
    Sink,
}

impl Role {
    /// What it is called.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Transform => "transform",
            Self::Sink => "sink",
        }
    }

    /// The section of a pipeline's YAML that it is declared in.
    pub fn section(self) -> &'static str {
        match self {
            Self::Source => "sources",
            Self::Transform => "transforms",
            Self::Sink => "sinks",
        }
    }
}

/// A resource that an operator uses, by its short name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// `bucket`, `queue`, `table`, `change_stream` or `bus`.
    pub kind: &'static str,
    /// Its short name.
    pub name: String,
    /// How it is used.
    pub mode: UseMode,
    /// What is done with it, if it is a table or a bucket: what can be tried without changing anything is tried before a
    /// process starts.
    pub access: &'static [Access],
    /// Where in a bucket: below this prefix.
    pub prefix: String,
}

impl Use {
    /// A resource that is read to the end.
    pub fn owned(kind: &'static str, name: &str) -> Self {
        Self { kind, name: name.to_owned(), mode: UseMode::Owned, access: &[], prefix: String::new() }
    }

    /// A resource that is shared.
    pub fn shared(kind: &'static str, name: &str, access: &'static [Access]) -> Self {
        Self { kind, name: name.to_owned(), mode: UseMode::Shared, access, prefix: String::new() }
    }

    /// Below that prefix only.
    pub fn below(self, prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), ..self }
    }
}

/// How a resource is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UseMode {
    /// It is read to the end by this operator alone, as a queue is: two such users would rob each other.
    Owned,
    /// It is shared.
    Shared,
}

/// A type of operator, told by its options. Implemented by the options' own type.
#[async_trait]
pub trait Build: Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static {
    /// The name in `type:`.
    const NAME: &'static str;
    /// One sentence on what it does.
    const ABOUT: &'static str;
    /// What part of a graph it can be.
    const ROLE: Role;

    /// What it takes; `None` for a source.
    fn input() -> Option<Kind>;

    /// What it gives, by output.
    fn outputs() -> Vec<(&'static str, Kind)> {
        Vec::new()
    }

    /// The resources that it uses, with these options.
    fn uses(&self) -> Vec<Use>;

    /// What the types can't say about the options: `Err` says which is wrong, and how to mend it. A
    /// message that begins with a field's name and a colon (`max_age: …`) is shown at that field.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// Builds it. Called again to replace one that panicked.
    async fn build(self, context: Context) -> Result<Built, OperatorError>;
}

/// An operator that was built.
pub enum Built {
    /// A source.
    Source(Box<dyn Source>),
    /// A transform or a sink.
    Operator(Box<dyn Operator>),
}

/// A type of operator, with its options' type erased.
#[async_trait]
pub trait OperatorType: Send + Sync {
    /// The name in `type:`.
    fn name(&self) -> &'static str;
    /// One sentence on what it does.
    fn about(&self) -> &'static str;
    /// What part of a graph it can be.
    fn role(&self) -> Role;
    /// What it takes.
    fn input(&self) -> Option<Kind>;
    /// What it gives, by output.
    fn outputs(&self) -> Vec<(&'static str, Kind)>;
    /// The JSON Schema of its options.
    fn schema(&self, generator: &mut SchemaGenerator) -> Schema;
    /// Checks the options: gives them back with defaults filled in, and says which resources they name.
    ///
    /// The error is that of serde, with its path within the options, or of [`Build::check`].
    fn check(&self, options: &Value) -> Result<(Value, Vec<Use>), serde_path_to_error::Error<serde_json::Error>>;
    /// Builds an operator.
    async fn build(&self, options: &Value, context: Context) -> Result<Built, OperatorError>;
}

struct Typed<T>(PhantomData<fn() -> T>);

impl<T: Build> Typed<T> {
    fn read(options: &Value) -> Result<T, serde_path_to_error::Error<serde_json::Error>> {
        serde_path_to_error::deserialize(options)
    }
}

#[async_trait]
impl<T: Build> OperatorType for Typed<T> {
    fn name(&self) -> &'static str {
        T::NAME
    }

    fn about(&self) -> &'static str {
        T::ABOUT
    }

    fn role(&self) -> Role {
        T::ROLE
    }

    fn input(&self) -> Option<Kind> {
        T::input()
    }

    fn outputs(&self) -> Vec<(&'static str, Kind)> {
        T::outputs()
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<T>()
    }

    fn check(&self, options: &Value) -> Result<(Value, Vec<Use>), serde_path_to_error::Error<serde_json::Error>> {
        let at_root = |error: serde_json::Error| {
            let root = serde_path_to_error::Track::new().path();
            serde_path_to_error::Error::new(root, error)
        };
        let typed = Self::read(options)?;
        typed.check().map_err(|message| at_root(serde::de::Error::custom(message)))?;
        let filled = serde_json::to_value(&typed).map_err(at_root)?;
        Ok((filled, typed.uses()))
    }

    async fn build(&self, options: &Value, context: Context) -> Result<Built, OperatorError> {
        let typed =
            Self::read(options).map_err(|error| OperatorError::permanent(format!("{}: {error}", context.id)))?;
        typed.build(context).await
    }
}

/// The types of operator that a pipeline may name.
#[derive(Default)]
pub struct Registry {
    types: BTreeMap<&'static str, Box<dyn OperatorType>>,
}

impl Registry {
    /// Adds a type of operator.
    pub fn add<T: Build>(&mut self) -> &mut Self {
        self.types.insert(T::NAME, Box::new(Typed::<T>(PhantomData)));
        self
    }

    /// Adds a type of operator that is known by its interface alone, e.g. one that decorates another.
    pub fn add_type(&mut self, operator_type: Box<dyn OperatorType>) -> &mut Self {
        self.types.insert(operator_type.name(), operator_type);
        self
    }

    /// The type of that name.
    pub fn get(&self, name: &str) -> Option<&dyn OperatorType> {
        self.types.get(name).map(AsRef::as_ref)
    }

    /// All types, by name.
    pub fn types(&self) -> impl Iterator<Item = &dyn OperatorType> {
        self.types.values().map(AsRef::as_ref)
    }
}
