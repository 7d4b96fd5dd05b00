//! Doing more than look, for whoever has the [token](crate::token): redriving, which is what `penstock redrive` does.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use penstock_engine::cloud::CloudError;
use serde::Deserialize;

use super::{Answer, Dashboard, Failure, Shared};
use crate::oncall::redrive::{self, Outcome, Selection, Step};

impl Dashboard {
    /// Lets through whoever may act.
    pub(super) fn allow(&self, headers: &HeaderMap) -> Result<(), Failure> {
        let Some(token) = &self.token else {
            let why = "this process only shows: start it with --allow-actions to act from here";
            return Err(Failure::new(StatusCode::FORBIDDEN, why));
        };
        token.admit(headers).map_err(|refused| {
            tracing::warn!(reason = %refused, "Action refused.");
            Failure::new(StatusCode::UNAUTHORIZED, refused.to_string())
        })
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
    // To insist on what may double rows takes the command, which whoever is refused is told.
    let request = redrive::Request { selection, act, force: false };
    let redriven = redrive::redrive(&**dashboard.home.cloud(), &dashboard.pipeline, &request).await;
    let steps = redriven.map_err(|error| {
        let is_cloud = error.chain().any(|cause| cause.is::<CloudError>());
        let status = if is_cloud { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::BAD_REQUEST };
        Failure::new(status, format!("{error:#}"))
    })?;
    if act {
        let redriven = steps.iter().filter(|step| step.outcome == Outcome::Redriven).count();
        tracing::info!(selection = ?request.selection, redriven, left = steps.len() - redriven, "Redriven from the dashboard.");
    }
    Ok(Json(steps))
}
