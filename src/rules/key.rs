//! The keys of buckets.
//!
//! Callers choose the values that a key is made of, so keys are made by a collision-resistant hash
//! (BLAKE3, cut to 128 bits): nobody can find a value that lands in somebody else's bucket, and no
//! value, which may be an API key, is stored. The hash of the entries and the identity of the limit
//! are combined by exclusive or, so that several limits of one descriptor cost one hash.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::limit::Weight;

/// Which bucket.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BucketKey([u8; 16]);

impl BucketKey {
    /// The key of the bucket that `limit` has for these entries.
    pub fn of<'a>(limit: Identity, entries: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        EntriesHash::of(entries).key(limit)
    }

    /// From its bytes, as [`Self::as_bytes`] gave them.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes, uniformly distributed.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// 22 characters, safe in a URL.
impl fmt::Display for BucketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for BucketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BucketKey({self})")
    }
}

/// Which group of requests an estimate is learned from.
///
/// Made like the key of a bucket, and kept apart from those by where it is used: the group of a
/// bucket begins as the bucket's key, so that grouping by the entries of a rule changes nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LearnKey([u8; 16]);

impl LearnKey {
    /// The group of `limit`'s requests with these entries.
    pub fn of<'a>(limit: Identity, entries: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        BucketKey::of(limit, entries).into()
    }

    /// The same requests, as far as their tokens are counted with these weights: what they cost by
    /// others says nothing.
    #[must_use]
    pub fn weighed_by(self, tokens: [Weight; 4]) -> Self {
        let mut input = smallvec::SmallVec::<[u8; 32]>::new();
        input.extend(self.0);
        for weight in tokens {
            input.extend(weight.thousandths().to_le_bytes());
        }
        Self(hash(&input))
    }

    /// From its bytes, as [`Self::as_bytes`] gave them.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes, uniformly distributed.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl From<BucketKey> for LearnKey {
    fn from(key: BucketKey) -> Self {
        Self(key.0)
    }
}

/// 22 characters, safe in a URL.
impl fmt::Display for LearnKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for LearnKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LearnKey({self})")
    }
}

/// What makes a limit the limit it is, whatever its rate and burst: two limits with different
/// identities never share a bucket, and a limit that is changed keeps its buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity([u8; 16]);

impl Identity {
    /// The identity made of `parts`, in their order.
    pub fn of(parts: &[&str]) -> Self {
        let mut input = Vec::new();
        for part in parts {
            push(&mut input, part);
        }
        Self(hash(&input))
    }
}

/// The hash of one descriptor's entries, shared by all limits of its rule.
#[derive(Clone, Copy, Debug)]
pub(super) struct EntriesHash([u8; 16]);

impl EntriesHash {
    pub(super) fn of<'a>(entries: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut input = smallvec::SmallVec::<[u8; 256]>::new();
        for (key, value) in entries {
            push(&mut input, key);
            push(&mut input, value);
        }
        Self(hash(&input))
    }

    pub(super) fn key(self, limit: Identity) -> BucketKey {
        let mut bytes = self.0;
        for (byte, other) in bytes.iter_mut().zip(limit.0) {
            *byte ^= other;
        }
        BucketKey(bytes)
    }
}

/// Length first, so that ("ab", "c") and ("a", "bc") differ.
fn push(input: &mut impl Extend<u8>, part: &str) {
    input.extend((part.len() as u64).to_le_bytes());
    input.extend(part.bytes());
}

fn hash(input: &[u8]) -> [u8; 16] {
    let mut cut = [0; 16];
    cut.copy_from_slice(&blake3::hash(input).as_bytes()[..16]);
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_kept_apart() {
        let limit = Identity::of(&["llm", "tokens"]);
        assert_ne!(limit, Identity::of(&["llmt", "okens"]));
        let ab_c = BucketKey::of(limit, [("ab", "c")]);
        assert_ne!(ab_c, BucketKey::of(limit, [("a", "bc")]));
        assert_ne!(ab_c, BucketKey::of(limit, [("ab", "c"), ("", "")]));
        assert_eq!(ab_c, BucketKey::of(limit, [("ab", "c")]));
    }

    #[test]
    fn limits_do_not_share_buckets() {
        let entries = [("tenant", "acme")];
        let tokens = BucketKey::of(Identity::of(&["llm", "tokens"]), entries);
        assert_ne!(
            tokens,
            BucketKey::of(Identity::of(&["llm", "requests"]), entries)
        );
    }

    #[test]
    fn keys_never_change_between_versions() {
        let key = BucketKey::of(Identity::of(&["llm", "tokens"]), [("tenant", "acme")]);
        assert_eq!(key.to_string(), "JwY0-o2vUt9asbO5waKNYQ");
    }
}
