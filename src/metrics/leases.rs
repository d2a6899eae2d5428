//! What leases save, and what they cost.

use super::{Counter, Made};
use crate::store::LeaseEvent;

/// The series of leases.
#[derive(Clone, Debug)]
pub struct LeaseMetrics {
    granted: Counter,
    taken: Counter,
    given_back: Counter,
    dropped: Counter,
    renewed: Counter,
    refused: Counter,
    failed: Counter,
}

impl LeaseMetrics {
    pub(super) fn new(made: &Made<'_>) -> Result<Self, prometheus::Error> {
        let hits = made.counters(
            "tollgate_lease_hits_total",
            "Hits taken from the store in advance, given back to it, or dropped: refilled meanwhile, \
             or lost until they refill.",
            &["result"],
        )?;
        let renewals = made.counters(
            "tollgate_lease_renewals_total",
            "Renewals of leases, by result (taken, refused, failed).",
            &["result"],
        )?;
        Ok(Self {
            granted: made.counter(
                "tollgate_lease_grants_total",
                "Requests (not hits) let in by leases, without asking the store.",
            )?,
            taken: hits.with_label_values(&["taken"]),
            given_back: hits.with_label_values(&["given_back"]),
            dropped: hits.with_label_values(&["dropped"]),
            renewed: renewals.with_label_values(&["taken"]),
            refused: renewals.with_label_values(&["refused"]),
            failed: renewals.with_label_values(&["failed"]),
        })
    }

    /// Counts what happened.
    pub fn count(&self, event: LeaseEvent) {
        match event {
            LeaseEvent::Dropped(hits) => self.dropped.inc_by(hits),
            LeaseEvent::Failed => self.failed.inc(),
            LeaseEvent::GivenBack(hits) => self.given_back.inc_by(hits),
            LeaseEvent::Granted => self.granted.inc(),
            LeaseEvent::Refused => self.refused.inc(),
            LeaseEvent::Taken(hits) => {
                self.renewed.inc();
                self.taken.inc_by(hits);
            }
        }
    }
}
