//! The one error of the seam: what was asked of which resource, and what kind of answer came.

use std::fmt;

/// A result of the seam.
pub type Result<T, E = CloudError> = std::result::Result<T, E>;

/// Why a cloud operation had no result. For a write, an error means that it certainly did not happen; where that is not
/// certain the outcome is [`Unknown`](super::table::Outcome::Unknown) instead.
#[derive(Debug)]
pub struct CloudError {
    /// What kind of failure it is: decides whether a caller retries, restarts or gives up.
    pub kind: ErrorKind,
    /// The operation and the resource, e.g. `GetRecords of shard shardId-…`.
    pub operation: String,
    /// The provider's own words.
    pub message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The kinds of failure that a caller can tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The table, stream, shard, queue, bus, bucket or object isn't there.
    NotFound,
    /// Asked too often: back off and ask again.
    Throttled,
    /// A shard iterator is past its 15 minutes: ask for a new one.
    ExpiredIterator,
    /// The records asked for are older than the stream keeps: they are lost to this reader.
    TrimmedData,
    /// The request can't be right, whoever sends it: too large, malformed, a limit crossed. Never retried.
    Invalid,
    /// A precondition of an object read or write didn't hold (If-Match, If-None-Match).
    PreconditionFailed,
    /// Not allowed: credentials or policy.
    Denied,
    /// The endpoint failed or didn't answer. Retrying may help.
    Unavailable,
}

impl CloudError {
    /// An error of `kind`, from `operation` (which names the resource), in the provider's words.
    pub fn new(kind: ErrorKind, operation: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind, operation: operation.into(), message: message.into(), source: None }
    }

    /// The same error with the failure under it kept as its source.
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Whether the same request may succeed later without anyone changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self.kind, ErrorKind::Throttled | ErrorKind::Unavailable)
    }
}

impl fmt::Display for CloudError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed ({}): {}", self.operation, self.kind, self.message)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "not found",
            Self::Throttled => "throttled",
            Self::ExpiredIterator => "iterator expired",
            Self::TrimmedData => "data trimmed",
            Self::Invalid => "invalid request",
            Self::PreconditionFailed => "precondition failed",
            Self::Denied => "access denied",
            Self::Unavailable => "unavailable",
        })
    }
}

impl std::error::Error for CloudError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as _)
    }
}

impl From<object_store::Error> for CloudError {
    fn from(error: object_store::Error) -> Self {
        use object_store::Error as E;
        let kind = match &error {
            E::NotFound { .. } => ErrorKind::NotFound,
            E::AlreadyExists { .. } | E::Precondition { .. } | E::NotModified { .. } => ErrorKind::PreconditionFailed,
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => ErrorKind::Denied,
            E::InvalidPath { .. } | E::NotSupported { .. } | E::NotImplemented { .. } => ErrorKind::Invalid,
            _ => ErrorKind::Unavailable,
        };
        Self::new(kind, "object request", error.to_string()).with_source(error)
    }
}
