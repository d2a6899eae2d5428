//! Ids of reservations.

use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use smallvec::SmallVec;

use super::plan::Planned;

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
        cut(&hash)
    }
}

/// The id that every try of one request gets: made of Envoy's request id, of the buckets, and of
/// what the request stated for each, so that two filters that ask for different things are not
/// taken for one that asks twice. Estimates are left out: they differ between replicas, and from
/// one try to the next.
pub(super) fn id_of_retry(request_id: &str, charges: &[Planned<'_>]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(request_id.as_bytes());
    for charge in charges {
        hasher.update(charge.key.as_bytes());
        hasher.update(&charge.cost.stated.to_le_bytes());
    }
    cut(&hasher.finalize())
}

/// The id that every report on one request gets where no reservation is named: made of Envoy's
/// request id and of the buckets, in whatever order. Amounts are left out: two ways in that counted
/// the same usage differently tell of one usage. One that gives back is not the same as one that
/// charges.
pub(super) fn id_of_report(request_id: &str, charges: &[Planned<'_>]) -> String {
    let mut buckets: SmallVec<[(&[u8; 16], bool); 4]> = charges
        .iter()
        .map(|charge| (charge.key.as_bytes(), charge.cost.amount < 0))
        .collect();
    buckets.sort_unstable();
    buckets.dedup();
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"report ");
    hasher.update(request_id.as_bytes());
    for (bucket, gives_back) in buckets {
        hasher.update(bucket);
        hasher.update(&[u8::from(gives_back)]);
    }
    cut(&hasher.finalize())
}

fn cut(hash: &blake3::Hash) -> String {
    URL_SAFE_NO_PAD.encode(&hash.as_bytes()[..16])
}
