//! Who may do more than look: whoever has the token. And redriving, which is what `penstock redrive` does.
//!
//! The token comes in a header that no form and no other page can set, so being logged in somewhere is never enough.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
};
use penstock_engine::cloud::CloudError;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{Answer, Dashboard, Failure, Shared};
use crate::oncall::redrive::{self, Outcome, Selection, Step};

/// The shortest token.
const SHORTEST: usize = 16;

/// The digest of the token; the token itself isn't kept.
#[derive(Clone)]
pub struct Token([u8; 32]);

/// Why a text is no token.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It could be guessed.
    #[error("the token of actions has {0} characters: write at least 16, e.g. what `openssl rand -hex 16` prints")]
    Short(usize),
}

impl Token {
    /// A token.
    pub fn new(text: &str) -> Result<Self, TokenError> {
        match text.trim() {
            text if text.len() < SHORTEST => Err(TokenError::Short(text.len())),
            text => Ok(Self(Sha256::digest(text).into())),
        }
    }

    /// Digests are compared, so how long that takes tells nothing of the token.
    fn is(&self, text: &str) -> bool {
        let other: [u8; 32] = Sha256::digest(text.trim()).into();
        self.0 == other
    }
}

impl Dashboard {
    /// Lets through whoever may act.
    pub(super) fn allow(&self, headers: &HeaderMap) -> Result<(), Failure> {
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        match (&self.token, given.and_then(|value| value.strip_prefix("Bearer "))) {
            (None, _) => Err(Failure::new(
                StatusCode::FORBIDDEN,
                "this process only shows: start it with --allow-actions to act from here",
            )),
            (Some(token), Some(given)) if token.is(given) => Ok(()),
            (Some(_), Some(_)) => Err(refused("the token is wrong")),
            (Some(_), None) => Err(refused("actions need the token that the process was started with")),
        }
    }
}

/// What to redrive, and whether to do it: else only what would be done is told.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedriveRequest {
    selection: Selection,
    #[serde(default)]
    act: bool,
}

/// Sets failed or quarantined files back to pending, or sends dead letters back.
pub async fn redrive(
    State(dashboard): State<Shared>,
    headers: HeaderMap,
    Json(RedriveRequest { selection, act }): Json<RedriveRequest>,
) -> Answer<Vec<Step>> {
    dashboard.allow(&headers)?;
    let redriven = redrive::redrive(&**dashboard.home.cloud(), &dashboard.pipeline, &selection, act).await;
    let steps = redriven.map_err(|error| {
        let is_cloud = error.chain().any(|cause| cause.is::<CloudError>());
        let status = if is_cloud { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::BAD_REQUEST };
        Failure::new(status, format!("{error:#}"))
    })?;
    if act {
        let redriven = steps.iter().filter(|step| step.outcome == Outcome::Redriven).count();
        tracing::info!(?selection, redriven, left = steps.len() - redriven, "Redriven from the dashboard.");
    }
    Ok(Json(steps))
}

fn refused(message: &str) -> Failure {
    tracing::warn!(reason = message, "Action refused.");
    Failure::new(StatusCode::UNAUTHORIZED, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_itself_only() {
        let token = Token::new("0123456789abcdef\n").unwrap();
        assert!(token.is("0123456789abcdef"));
        for other in ["", "0123456789abcde", "0123456789abcdeF", "0123456789abcdef0"] {
            assert!(!token.is(other), "{other}");
        }
        assert_eq!(Token::new("short").err(), Some(TokenError::Short(5)));
    }
}
