//! What happens to breakers: each event is one log line and one metric together.

use super::BreakerState;

/// The breaker before an endpoint was asked, and is in a state now.
pub(super) struct BreakerAsked<'a> {
    pub endpoint: &'a str,
    pub before: Option<BreakerState>,
    pub now: BreakerState,
}

impl BreakerAsked<'_> {
    pub fn emit(self) {
        let Self { endpoint, before, now } = self;
        metrics::gauge!("penstock_breaker_state", "endpoint" => endpoint.to_owned()).set(now.as_number());
        let is_open = |state| matches!(state, BreakerState::Open(_));
        match (before.is_some_and(is_open), is_open(now)) {
            (false, true) => tracing::warn!(endpoint, "Breaker opened: it isn't asked for a while."),
            (true, false) => tracing::info!(endpoint, "Breaker closed: it answers again."),
            _ => {}
        }
    }
}
