//! Ids of reservations.

use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::store::Charges;

/// Makes ids that nobody can guess and no other process makes.
#[derive(Debug)]
pub(super) struct Ids {
    seed: [u8; 32],
    next: AtomicU64,
}

impl Default for Ids {
    fn default() -> Self {
        let mut seed = [0; 32];
        for chunk in seed.chunks_exact_mut(8) {
            // The standard library's only source of randomness: keys from the operating system,
            // mixed per instance.
            use std::hash::{BuildHasher as _, RandomState};
            chunk.copy_from_slice(
                &RandomState::new()
                    .hash_one(std::process::id())
                    .to_le_bytes(),
            );
        }
        Self {
            seed,
            next: AtomicU64::new(0),
        }
    }
}

impl Ids {
    /// A new id: 22 characters, safe in a header and a URL.
    pub(super) fn new_id(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let hash = blake3::keyed_hash(&self.seed, &number.to_le_bytes());
        URL_SAFE_NO_PAD.encode(&hash.as_bytes()[..16])
    }
}

/// The id that every try of one request gets: made of Envoy's request id and of what is charged,
/// so that two filters that ask for different things are not taken for one that asks twice.
pub(super) fn id_of_retry(request_id: &str, charges: &Charges) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(request_id.as_bytes());
    for charge in charges {
        hasher.update(charge.key.as_bytes());
        hasher.update(&charge.charge.amount.to_le_bytes());
    }
    URL_SAFE_NO_PAD.encode(&hasher.finalize().as_bytes()[..16])
}
