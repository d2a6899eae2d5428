//! Reservations: which, and what they remember.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Held;
use crate::limit::{HeldCharge, MissingUsage, Settlement, Timestamp};
use crate::rules::{BucketKey, LearnKey};

/// Which reservation: a hash of its id and its domain, because callers choose ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HoldKey([u8; 16]);

impl HoldKey {
    /// The key of reservation `id` in `domain`.
    pub fn of(domain: &str, id: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"hold");
        hasher.update(&(domain.len() as u64).to_le_bytes());
        hasher.update(domain.as_bytes());
        hasher.update(id.as_bytes());
        let mut key = [0; 16];
        key.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(key)
    }

    /// Its bytes, uniformly distributed.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// 22 characters.
impl std::fmt::Display for HoldKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

/// What a reservation remembers: all that its settlement needs, so that it does not matter which
/// replica settles, nor whether the configuration changed meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The domain it was made in.
    pub domain: Arc<str>,
    /// What was charged where.
    pub charges: Vec<RecordedCharge>,
}

impl Record {
    /// What it remembers after a settlement, at `now`, that it outlives: what is charged then. What
    /// was told so far is not given back by a report without usage.
    pub(super) fn after(&self, settlement: Settlement, made: Timestamp, now: Timestamp) -> Self {
        let mut after = self.clone();
        for RecordedCharge { held, .. } in &mut after.charges {
            let correction = held.correction(settlement, made, now);
            held.amount = held.amount.saturating_add_signed(correction);
            if matches!(settlement, Settlement::SoFar(_)) {
                held.missing_usage = MissingUsage::Keep;
            }
        }
        after
    }

    /// Adds what it holds of each of `keys` to the place beside it.
    pub(super) fn add_held(&self, keys: &[BucketKey], held: &mut [Held]) {
        for (key, held) in keys.iter().zip(held) {
            let mut charges = self
                .charges
                .iter()
                .filter(|charge| charge.key == *key)
                .peekable();
            held.reservations += u64::from(charges.peek().is_some());
            for charge in charges {
                held.amount = held.amount.saturating_add(charge.held.amount);
            }
        }
    }
}

/// One charge of a reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedCharge {
    /// The bucket.
    pub key: BucketKey,
    /// The limit's name in metrics.
    pub label: Arc<str>,
    /// What was charged and how it is settled.
    pub held: HeldCharge,
    /// The group that the real cost teaches, where the limit's estimate is learned.
    pub group: Option<LearnKey>,
}
