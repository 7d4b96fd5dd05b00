//! One request to AWS: what is asked of which resource, how it is counted, and what its failure means.

use std::future::Future;

use aws_sdk_dynamodb::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};

use crate::cloud::{CloudError, ErrorKind, Result};

/// What is asked of which resource: enough to name it in an error, and to say which permission it takes.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// What kind of thing it is: `table`, `queue`.
    pub noun: &'static str,
    /// Its name, as people know it.
    pub name: String,
    /// Its ARN, as a policy would name it.
    pub arn: String,
}

impl Target {
    /// The operation of an IAM action like `dynamodb:PutItem` on it, for people.
    pub fn operation(&self, action: &str) -> String {
        let name = action.split_once(':').map_or(action, |(_, name)| name);
        format!("{name} of {} {}", self.noun, self.name)
    }

    /// Awaits a request, counts it, and turns its failure into the seam's.
    pub async fn ask<O, E>(
        &self,
        action: &'static str,
        request: impl Future<Output = Result<O, SdkError<E, HttpResponse>>>,
    ) -> Result<O>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let answer = request.await.map_err(|error| self.error(action, error));
        count(action, answer.as_ref().err());
        answer
    }

    /// The seam's error for a failed request.
    pub fn error<E>(&self, action: &'static str, error: SdkError<E, HttpResponse>) -> CloudError
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let kind = kind_of(&error);
        let mut message = match &error {
            SdkError::ServiceError(of) => match (of.err().code(), of.err().message()) {
                (Some(code), Some(message)) => format!("{code}: {message}"),
                (Some(code), None) => code.to_owned(),
                (None, _) => format!("HTTP status {}", of.raw().status().as_u16()),
            },
            other => causes(other),
        };
        if kind == ErrorKind::Denied {
            message.push_str(&self.advice(action, error.code()));
        }
        CloudError::new(kind, self.operation(action), message).with_source(error)
    }

    /// What to do about a request that was not allowed.
    fn advice(&self, action: &str, code: Option<&str>) -> String {
        match code.unwrap_or_default() {
            "ExpiredToken" | "ExpiredTokenException" | "RequestExpired" => {
                "; the credentials have expired: get new ones".to_owned()
            }
            "RequestTimeTooSkewed" | "InvalidSignatureException" | "SignatureDoesNotMatch" => {
                "; compare this machine's clock and its secret key with AWS's".to_owned()
            }
            "UnrecognizedClientException" | "InvalidClientTokenId" | "InvalidAccessKeyId" => {
                "; the access key is not known in this partition or region".to_owned()
            }
            _ => format!(r#"; its role needs {{"Effect":"Allow","Action":"{action}","Resource":"{}"}}"#, self.arn),
        }
    }
}

/// What an error says and what its causes say, each once.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut words: Vec<String> = Vec::new();
    for error in std::iter::successors(Some(error), |error| error.source()) {
        let said = error.to_string();
        if !words.iter().any(|word| word.contains(&said)) {
            words.push(said);
        }
    }
    words.join(": ")
}

/// Counts a request by its action and how it ended.
pub(super) fn count(action: &'static str, error: Option<&CloudError>) {
    let outcome = match error.map(|error| error.kind) {
        None => "ok",
        Some(ErrorKind::NotFound) => "not_found",
        Some(ErrorKind::Throttled) => "throttled",
        Some(ErrorKind::ExpiredIterator) => "expired_iterator",
        Some(ErrorKind::TrimmedData) => "trimmed",
        Some(ErrorKind::Invalid) => "invalid",
        Some(ErrorKind::PreconditionFailed) => "precondition",
        Some(ErrorKind::Denied) => "denied",
        Some(ErrorKind::Unavailable) => "unavailable",
    };
    metrics::counter!("penstock_aws_requests_total", "action" => action, "outcome" => outcome).increment(1);
}

/// What kind of failure it is. What has no answer, or one of the server's own faults, may have had its effect.
fn kind_of<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> ErrorKind {
    match error {
        SdkError::ConstructionFailure(_) => ErrorKind::Invalid,
        SdkError::ServiceError(of) => kind_of_code(of.err().code().unwrap_or_default(), of.raw().status().as_u16()),
        _ => ErrorKind::Unavailable,
    }
}

/// Whether an error says that what was sent didn't arrive as it was: nothing of it was kept.
pub(super) fn is_damaged<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    error.code().is_some_and(damaged_words)
}

/// The same of the words of an error.
pub(super) fn damaged_words(text: &str) -> bool {
    ["BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"].iter().any(|code| text.contains(code))
}

/// What an error code and the HTTP status beside it mean.
pub(super) fn kind_of_code(code: &str, status: u16) -> ErrorKind {
    // Old protocols put a namespace before the name.
    match code.rsplit(['#', '.']).next().unwrap_or_default() {
        "ResourceNotFoundException"
        | "NotFound"
        | "NoSuchKey"
        | "NoSuchBucket"
        | "NoSuchUpload"
        | "NoSuchVersion"
        | "QueueDoesNotExist"
        | "NonExistentQueue" => ErrorKind::NotFound,
        "ProvisionedThroughputExceededException"
        | "ThrottlingException"
        | "Throttling"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "RequestLimitExceeded"
        | "LimitExceededException"
        | "OverLimit"
        | "SlowDown"
        | "TooManyRequestsException" => ErrorKind::Throttled,
        "ExpiredIteratorException" => ErrorKind::ExpiredIterator,
        "TrimmedDataAccessException" => ErrorKind::TrimmedData,
        "PreconditionFailed" | "ConditionalRequestConflict" | "ConditionalCheckFailedException" => {
            ErrorKind::PreconditionFailed
        }
        "AccessDenied"
        | "AccessDeniedException"
        | "UnauthorizedOperation"
        | "UnrecognizedClientException"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "RequestExpired"
        | "InvalidToken"
        | "InvalidClientTokenId"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "InvalidSignatureException"
        | "RequestTimeTooSkewed"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "Forbidden"
        | "KMSAccessDeniedException"
        | "KmsAccessDenied" => ErrorKind::Denied,
        code if damaged_words(code) => ErrorKind::Unavailable,
        _ => match status {
            304 => ErrorKind::PreconditionFailed,
            401 | 403 => ErrorKind::Denied,
            404 => ErrorKind::NotFound,
            412 => ErrorKind::PreconditionFailed,
            429 => ErrorKind::Throttled,
            400..=499 => ErrorKind::Invalid,
            _ => ErrorKind::Unavailable,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_statuses_have_their_kinds() {
        for (code, status, kind) in [
            ("com.amazonaws.dynamodb.v20120810#ResourceNotFoundException", 400, ErrorKind::NotFound),
            ("AWS.SimpleQueueService.NonExistentQueue", 400, ErrorKind::NotFound),
            ("ValidationException", 400, ErrorKind::Invalid),
            ("SlowDown", 503, ErrorKind::Throttled),
            ("BadDigest", 400, ErrorKind::Unavailable),
            ("", 304, ErrorKind::PreconditionFailed),
            ("InternalServerError", 500, ErrorKind::Unavailable),
            ("", 403, ErrorKind::Denied),
            ("", 200, ErrorKind::Unavailable),
        ] {
            assert_eq!(kind_of_code(code, status), kind, "{code} {status}");
        }
    }

    #[test]
    fn causes_are_said_once_each() {
        let inner = std::io::Error::other("connection refused");
        let middle =
            CloudError::new(ErrorKind::Unavailable, "GetItem of table t", "connection refused").with_source(inner);
        let outer = std::io::Error::other(middle);
        assert_eq!(causes(&outer), "GetItem of table t failed (unavailable): connection refused");
    }

    #[test]
    fn a_denied_action_names_its_statement() {
        let target = Target { noun: "table", name: "t".into(), arn: "arn:aws:dynamodb:r:1:table/t".into() };
        assert_eq!(target.operation("dynamodb:PutItem"), "PutItem of table t");
        assert_eq!(
            target.advice("dynamodb:PutItem", Some("AccessDeniedException")),
            r#"; its role needs {"Effect":"Allow","Action":"dynamodb:PutItem","Resource":"arn:aws:dynamodb:r:1:table/t"}"#
        );
        assert!(target.advice("dynamodb:PutItem", Some("ExpiredTokenException")).contains("expired"));
    }
}
