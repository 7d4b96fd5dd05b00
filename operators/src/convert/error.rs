//! Why a conversion had no result, and whether trying again may help.

use datafusion::error::DataFusionError;
use parquet::errors::ParquetError;
use penstock_engine::cloud::CloudError;

/// Why a conversion had no result. What is wrong with a single file is no error: it is that file's outcome.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The caller cancelled it.
    #[error("the conversion was cancelled")]
    Cancelled,
    /// A store didn't answer, or not yet: the same conversion may succeed later.
    #[error("{what}: {message}")]
    Unavailable {
        /// What was asked, of which object.
        what: String,
        /// The store's own words.
        message: String,
    },
    /// Files kept failing anew in every pass, the last one included.
    #[error("files keep changing: {files} failed only in the last pass, after each had been checked alone")]
    Unstable {
        /// How many.
        files: usize,
    },
    /// A store refused, for a reason that time doesn't heal.
    #[error("{what}: {message}")]
    Refused {
        /// What was asked, of which object.
        what: String,
        /// The store's own words.
        message: String,
    },
    /// The options or the conversion can't be right.
    #[error("{0}")]
    Invalid(String),
    /// The catalog of columns failed.
    #[error("the catalog of columns: {message}")]
    Catalog {
        /// The catalog's own words.
        message: String,
        /// Whether the same conversion may succeed later.
        transient: bool,
    },
    /// The plan itself failed.
    #[error("the plan failed: {0}")]
    Plan(DataFusionError),
}

impl ConvertError {
    /// Whether the same conversion may succeed later without anyone changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Cancelled | Self::Unavailable { .. } | Self::Unstable { .. } => true,
            Self::Catalog { transient, .. } => *transient,
            // More memory may be free when other conversions have ended.
            Self::Plan(error) => matches!(error.find_root(), DataFusionError::ResourcesExhausted(_)),
            Self::Refused { .. } | Self::Invalid(_) => false,
        }
    }

    pub(crate) fn from_cloud(what: impl Into<String>, error: &CloudError) -> Self {
        let (what, message) = (what.into(), error.to_string());
        if error.is_transient() { Self::Unavailable { what, message } } else { Self::Refused { what, message } }
    }
}

impl From<DataFusionError> for ConvertError {
    /// Inside a plan what is transient is an `IoError` (any engine that runs the plan may retry it), what is not is an
    /// external error.
    fn from(error: DataFusionError) -> Self {
        match error.find_root() {
            DataFusionError::IoError(io) => Self::Unavailable { what: "a store".to_owned(), message: io.to_string() },
            DataFusionError::External(external) => match external.downcast_ref::<CloudError>() {
                Some(cloud) => Self::Refused { what: cloud.operation.clone(), message: cloud.message.clone() },
                None => Self::Plan(error),
            },
            _ => Self::Plan(error),
        }
    }
}

/// A store's error as the plan carries it.
pub(crate) fn plan_error(error: CloudError) -> DataFusionError {
    if error.is_transient() {
        DataFusionError::IoError(std::io::Error::other(error))
    } else {
        DataFusionError::External(Box::new(error))
    }
}

/// An encoder's error as the plan carries it.
pub(crate) fn parquet_error(error: ParquetError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
