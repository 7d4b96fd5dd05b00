//! Operators that take records of any kind, so that another pipeline is only YAML.
//!
//! What they see of a record is its [document](penstock_engine::document).
//!
//! | type | what it does |
//! |---|---|
//! | `filter` | hands on the records that an event pattern takes |
//! | `s3_ndjson` | gathers records into NDJSON objects |
//! | `sqs` | sends each record to a queue |
//! | `eventbridge` | publishes each record on a bus |
//! | `log` | writes each record to the log |
//! | `drop` | ends records that nobody wants, and counts them |

mod drop;
mod events;
mod filter;
mod gathering;
mod log;
mod publish;
mod s3_ndjson;
mod send;

pub use drop::DropOptions;
pub use filter::{FilterOptions, UNMATCHED};
pub use log::LogOptions;
pub use publish::EventBridgeOptions;
pub use s3_ndjson::S3NdjsonOptions;
pub use send::SqsOptions;

use penstock_engine::{
    cloud::{CloudError, ErrorKind},
    operator::OperatorError,
};

/// Runs of items that fit into one request: at most `count` of them, of at most `bytes` in all. One that is too large by
/// itself is a run of its own, and is refused by name.
fn requests(sizes: &[usize], count: usize, bytes: usize) -> Vec<std::ops::Range<usize>> {
    let (mut runs, mut start, mut sum) = (Vec::new(), 0, 0);
    for (index, size) in sizes.iter().enumerate() {
        if index > start && (index - start == count || sum + size > bytes) {
            runs.push(start..index);
            (start, sum) = (index, 0);
        }
        sum += size;
    }
    if start < sizes.len() {
        runs.push(start..sizes.len());
    }
    runs
}

/// The failure of an item for which the cloud gave no result.
fn unanswered(what: &str) -> OperatorError {
    OperatorError::transient(format!("{what} gave no result for a record"))
}

/// The failure of a whole request, as that of one of its records.
fn shared(error: &CloudError) -> OperatorError {
    let transient = error.kind != ErrorKind::Invalid;
    OperatorError { transient, message: error.to_string(), source: None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn requests_hold_every_item_once_and_keep_the_limits(sizes in prop::collection::vec(0_usize..50, 0..40)) {
            let runs = requests(&sizes, 10, 60);
            prop_assert_eq!(runs.iter().cloned().flatten().collect::<Vec<_>>(), (0..sizes.len()).collect::<Vec<_>>());
            for run in runs {
                prop_assert!(run.len() <= 10 && sizes[run].iter().sum::<usize>() <= 60);
            }
        }
    }
}
