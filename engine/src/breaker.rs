//! A circuit breaker: stops asking an endpoint that keeps failing, and asks again with a single probe.
//!
//! For endpoints that are only a means (an event bus), so that their outage holds up nothing that matters. Pure: the
//! caller says what time it is.

mod events;

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use events::BreakerAsked;

/// A circuit breaker.
#[derive(Debug)]
pub struct Breaker {
    threshold: u32,
    open_for: Duration,
    state: BreakerState,
}

/// The state of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Requests go through; so many have failed in a row.
    Closed(u32),
    /// No request goes through before then.
    Open(Instant),
    /// One request is under way, and decides.
    HalfOpen,
}

impl BreakerState {
    /// As a metric: 0 closed, 1 half-open, 2 open.
    pub fn as_number(self) -> f64 {
        match self {
            Self::Closed(_) => 0.0,
            Self::HalfOpen => 1.0,
            Self::Open(_) => 2.0,
        }
    }
}

impl Breaker {
    /// Opens after `threshold` failures in a row, for `open_for`.
    pub fn new(threshold: u32, open_for: Duration) -> Self {
        Self { threshold: threshold.max(1), open_for, state: BreakerState::Closed(0) }
    }

    /// Whether a request may be made now. One that may must be followed by [`record`](Self::record).
    pub fn allow(&mut self, now: Instant) -> bool {
        match self.state {
            BreakerState::Closed(_) => true,
            BreakerState::Open(until) if now >= until => {
                self.state = BreakerState::HalfOpen;
                true
            }
            BreakerState::Open(_) | BreakerState::HalfOpen => false,
        }
    }

    /// Takes the outcome of a request.
    pub fn record(&mut self, succeeded: bool, now: Instant) {
        self.state = match (self.state, succeeded) {
            (_, true) => BreakerState::Closed(0),
            (BreakerState::Closed(failures), false) if failures + 1 < self.threshold => {
                BreakerState::Closed(failures + 1)
            }
            (_, false) => BreakerState::Open(now + self.open_for),
        };
    }

    /// Its state.
    pub fn state(&self) -> BreakerState {
        self.state
    }
}

static ENDPOINTS: Mutex<BTreeMap<String, BreakerState>> = Mutex::new(BTreeMap::new());

/// Shows the state of the breaker before an endpoint, as a metric and in [`endpoints_of_process`]. Where several breakers
/// stand before one endpoint the last that was asked speaks: what it saw is newest.
pub fn show(endpoint: &str, state: BreakerState) {
    let before = ENDPOINTS.lock().unwrap_or_else(PoisonError::into_inner).insert(endpoint.to_owned(), state);
    BreakerAsked { endpoint, before, now: state }.emit();
}

/// The breakers of this process, by endpoint.
pub fn endpoints_of_process() -> BTreeMap<String, BreakerState> {
    ENDPOINTS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_and_closes_after_one_good_probe() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut breaker = Breaker::new(3, 10 * second);
        for succeeded in [false, false, true, false, false] {
            assert!(breaker.allow(start));
            breaker.record(succeeded, start);
        }
        assert_eq!(breaker.state(), BreakerState::Closed(2));
        breaker.record(false, start);
        assert!(!breaker.allow(start + 9 * second), "open");
        assert!(breaker.allow(start + 10 * second), "one probe");
        assert!(!breaker.allow(start + 10 * second), "only one probe");
        breaker.record(false, start + 10 * second);
        assert!(!breaker.allow(start + 19 * second), "a failed probe opens it anew");
        assert!(breaker.allow(start + 20 * second));
        breaker.record(true, start + 20 * second);
        assert_eq!(breaker.state(), BreakerState::Closed(0));
    }
}
