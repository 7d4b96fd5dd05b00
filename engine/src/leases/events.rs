//! What happens to leases: each event is one log line and one metric together.

use std::time::Duration;

use crate::cloud::{CloudError, table::Key};

/// A lease was taken.
pub(super) struct LeaseAcquired<'a> {
    pub key: &'a Key,
    pub owner: &'a str,
    /// Whose it was before, if it was taken over from a dead holder.
    pub taken_from: Option<&'a str>,
}

impl LeaseAcquired<'_> {
    pub fn emit(self) {
        let (scope, id) = (&self.key.partition, &self.key.sort);
        let how = if self.taken_from.is_some() { "taken_over" } else { "free" };
        metrics::counter!("penstock_leases_acquired_total", "scope" => scope.clone(), "how" => how).increment(1);
        match self.taken_from {
            Some(from) => tracing::warn!(%scope, %id, owner = self.owner, from, "Lease taken over from a dead holder."),
            None => tracing::debug!(%scope, %id, owner = self.owner, "Lease taken."),
        }
    }
}

/// Another process was faster.
pub(super) struct LeaseContended<'a> {
    pub key: &'a Key,
}

impl LeaseContended<'_> {
    pub fn emit(self) {
        let (scope, id) = (&self.key.partition, &self.key.sort);
        metrics::counter!("penstock_leases_contended_total", "scope" => scope.clone()).increment(1);
        tracing::debug!(%scope, %id, "Lease went to another process.");
    }
}

/// A held lease is gone without having been given back.
pub(super) struct LeaseLost<'a> {
    pub key: &'a Key,
    pub owner: &'a str,
    pub reason: &'a str,
}

impl LeaseLost<'_> {
    pub fn emit(self) {
        let (scope, id) = (&self.key.partition, &self.key.sort);
        metrics::counter!("penstock_leases_lost_total", "scope" => scope.clone()).increment(1);
        tracing::warn!(%scope, %id, owner = self.owner, reason = self.reason, "Lease lost.");
    }
}

/// A renewal failed; the lease is kept until it expires locally.
pub(super) struct RenewalFailed<'a> {
    pub key: &'a Key,
    pub error: &'a CloudError,
}

impl RenewalFailed<'_> {
    pub fn emit(self) {
        let (scope, id) = (&self.key.partition, &self.key.sort);
        metrics::counter!("penstock_lease_renewals_failed_total", "scope" => scope.clone()).increment(1);
        tracing::warn!(%scope, %id, error = %self.error, "Lease not renewed yet; trying again until it expires.");
    }
}

/// A lease was given back.
pub(super) struct LeaseReleased<'a> {
    pub key: &'a Key,
}

impl LeaseReleased<'_> {
    pub fn emit(self) {
        let (scope, id) = (&self.key.partition, &self.key.sort);
        metrics::counter!("penstock_leases_released_total", "scope" => scope.clone()).increment(1);
        tracing::debug!(%scope, %id, "Lease given back.");
    }
}

/// A lease could not be given back: others have to wait until it is dead.
pub(super) struct ReleaseFailed<'a> {
    pub key: &'a Key,
    pub error: &'a CloudError,
    pub length: Duration,
}

impl ReleaseFailed<'_> {
    pub fn emit(self) {
        let (scope, id) = (&self.key.partition, &self.key.sort);
        metrics::counter!("penstock_lease_releases_failed_total", "scope" => scope.clone()).increment(1);
        let free_in_secs = self.length.as_secs();
        tracing::warn!(%scope, %id, free_in_secs, error = %self.error, "Lease not given back; it has to expire.");
    }
}
