//! What can be wrong with a pipeline, and how people are told.

use std::fmt;

use super::{Role, near::Hint, path::Path};
use crate::operator::Kind;

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{}{fault}", At(path))]
pub struct Problem {
    /// Where in the YAML.
    pub path: Path,
    /// Which part of that entry.
    pub part: Part,
    /// What is wrong.
    pub fault: Fault,
}

/// A path before a message; nothing for the root.
struct At<'a>(&'a Path);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.steps().is_empty() { Ok(()) } else { write!(f, "{}: ", self.0) }
    }
}

/// Which part of an entry a problem is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Its key.
    Key,
    /// Its value.
    Value,
}

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The pipeline can't run.
    Error,
    /// The pipeline can run, but somebody should look.
    Warning,
}

impl Problem {
    /// A problem with a key.
    pub fn key(path: Path, fault: Fault) -> Self {
        Self { path, part: Part::Key, fault }
    }

    /// A problem with a value.
    pub fn value(path: Path, fault: Fault) -> Self {
        Self { path, part: Part::Value, fault }
    }

    /// The same problem, seen from a document in which this one stands at `head`.
    pub fn under(self, head: &Path) -> Self {
        Self { path: head.join(&self.path), ..self }
    }

    /// How bad it is.
    pub fn severity(&self) -> Severity {
        self.fault.severity()
    }
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Fault {
    /// A field that the type doesn't have.
    #[error("unknown field{0}")]
    UnknownField(Hint),
    /// A field that the type must have.
    #[error("it is missing")]
    Missing,
    /// A value of another type.
    #[error("expected {expected}, found {found}{}", after(hint))]
    WrongType {
        /// What should stand there.
        expected: String,
        /// What stands there.
        found: String,
        /// How to mend it, if that is known.
        hint: Option<String>,
    },
    /// A word that is none of those allowed.
    #[error("unknown value `{0}`{1}")]
    UnknownValue(String, Hint),
    /// Anything that a type or a check says in its own words.
    #[error("{0}")]
    Invalid(String),
    /// The same in its own words, as a warning.
    #[error("{0}")]
    Doubtful(String),
    /// A type of operator that isn't registered.
    #[error("unknown type of operator `{0}`{1}")]
    UnknownType(String, Hint),
    /// An operator under the wrong heading.
    #[error("`{type_name}` is a {}: move it from `{}` to `{}`", role.noun(), section.section(), role.section())]
    WrongSection {
        /// Its type.
        type_name: String,
        /// What that type can be.
        role: Role,
        /// Where it stands.
        section: Role,
    },
    /// One id for two operators.
    #[error("the id `{id}` is taken by `{first}`: ids are unique across sources, transforms and sinks")]
    DuplicateId {
        /// The id.
        id: String,
        /// Where it was declared first.
        first: Path,
    },
    /// An operator that reads nothing.
    #[error("a {} reads at least one output: list them, e.g. `inputs: [{example}]`", role.noun())]
    NoInputs {
        /// What the operator is.
        role: Role,
        /// The id of some operator.
        example: String,
    },
    /// Inputs where none can be.
    #[error("`{type_name}` reads no other operator: remove `inputs`")]
    UnwantedInputs {
        /// The operator's type.
        type_name: String,
    },
    /// An input that names no operator.
    #[error("there is no operator `{0}`{1}")]
    UnknownInput(String, Hint),
    /// An input that names no output of its operator.
    #[error("`{0}` has no output `{1}`{2}")]
    UnknownOutput(String, String, Hint),
    /// An input listed twice.
    #[error("`{0}` is listed twice: each record would come twice")]
    RepeatedInput(String),
    /// An input of another kind.
    #[error("`{type_name}` takes {takes}, but `{input}` gives {gives}")]
    KindMismatch {
        /// The reader's type.
        type_name: String,
        /// What it takes.
        takes: Kind,
        /// The input.
        input: String,
        /// What that gives.
        gives: Kind,
    },
    /// Operators that feed themselves.
    #[error("operators read each other in a loop: {}", .0.join(" → "))]
    Cycle(Vec<String>),
    /// A resource that isn't declared.
    #[error("there is no {kind} `{name}` under `resources`{hint}")]
    UnknownResource {
        /// `bucket`, `queue`, `table` or `bus`.
        kind: &'static str,
        /// Its short name.
        name: String,
        /// The nearest that is declared.
        hint: Hint,
    },
    /// A change stream of a table without one.
    #[error("the table `{0}` has no change stream: set `resources.tables.{0}.stream` to true")]
    NoStream(String),
    /// Two readers of what one alone may read.
    #[error("the {kind} `{name}` is already read by `{owner}`: two readers would rob each other")]
    TwoOwners {
        /// The resource's kind.
        kind: &'static str,
        /// Its short name.
        name: String,
        /// Who had it first.
        owner: String,
    },
    /// An output that nobody reads.
    #[error("nobody reads its output `{0}`: records there are dropped")]
    UnreadOutput(String),
}

impl Fault {
    /// How bad it is.
    pub fn severity(&self) -> Severity {
        match self {
            Self::UnreadOutput(_) | Self::Doubtful(_) => Severity::Warning,
            _ => Severity::Error,
        }
    }

    /// A stable word for it, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownField(_) => "unknown_field",
            Self::Missing => "missing",
            Self::WrongType { .. } => "wrong_type",
            Self::UnknownValue(..) => "unknown_value",
            Self::Invalid(_) => "invalid",
            Self::Doubtful(_) => "doubtful",
            Self::UnknownType(..) => "unknown_type",
            Self::WrongSection { .. } => "wrong_section",
            Self::DuplicateId { .. } => "duplicate_id",
            Self::NoInputs { .. } => "no_inputs",
            Self::UnwantedInputs { .. } => "unwanted_inputs",
            Self::UnknownInput(..) => "unknown_input",
            Self::UnknownOutput(..) => "unknown_output",
            Self::RepeatedInput(_) => "repeated_input",
            Self::KindMismatch { .. } => "kind_mismatch",
            Self::Cycle(_) => "cycle",
            Self::UnknownResource { .. } => "unknown_resource",
            Self::NoStream(_) => "no_stream",
            Self::TwoOwners { .. } => "two_owners",
            Self::UnreadOutput(_) => "unread_output",
        }
    }
}

fn after(hint: &Option<String>) -> String {
    hint.as_ref().map(|hint| format!(": {hint}")).unwrap_or_default()
}
