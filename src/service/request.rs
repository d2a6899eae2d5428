//! What is asked, in our own terms: neither gRPC nor HTTP.

use smallvec::SmallVec;

use crate::rules::{Entry, Unit};

/// A request to be limited, or a report of what one used.
#[derive(Clone, Debug, Default)]
pub struct Request<'a> {
    /// Whose rules.
    pub domain: &'a str,
    /// What walks into them.
    pub descriptors: Vec<Descriptor<'a>>,
    /// The addend of every descriptor that has none of its own; 0: none was sent.
    pub hits_addend: u32,
    /// Envoy's id of the HTTP request, the same on every try of one call; where it was sent.
    pub request_id: Option<&'a str>,
}

/// One descriptor.
#[derive(Clone, Debug, Default)]
pub struct Descriptor<'a> {
    /// Its entries, control entries among them.
    pub entries: SmallVec<[Entry<'a>; 4]>,
    /// Its own addend.
    pub hits_addend: Option<u64>,
    /// Whether the addend is given back instead of taken (`is_negative_hits`).
    pub refund: bool,
    /// The limit that the request brought along.
    pub limit: Option<RequestedLimit>,
}

/// A limit that a request brought along.
#[derive(Clone, Copy, Debug)]
pub struct RequestedLimit {
    /// How much.
    pub requests_per_unit: u32,
    /// Per how long; `None`: the unit is unknown, which is an error.
    pub unit: Option<Unit>,
}

/// The most descriptors that a request may have.
pub const MAX_DESCRIPTORS: usize = 256;

/// The most entries that a descriptor may have.
pub const MAX_ENTRIES: usize = 64;

/// The longest key or value, in bytes: as much as Envoy's largest default header block.
pub const MAX_TEXT: usize = 64 * 1024;

/// The largest addend that is one: Envoy sends 2^63 for `nan`.
pub const MAX_ADDEND: u64 = 1_000_000_000;

/// A request that is none. The caller (or its configuration) is at fault; trying again is no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No descriptors.
    #[error("rate limit descriptor list must not be empty")]
    NoDescriptors,
    /// No domain.
    #[error("rate limit domain must not be empty")]
    NoDomain,
    /// Nothing was ever loaded. Trying again later may help.
    #[error("no rate limit configuration loaded")]
    NotConfigured,
    /// An entry's key or value is too long.
    #[error("a descriptor's key or value is longer than {MAX_TEXT} bytes")]
    TextTooLong,
    /// Too many limits apply.
    #[error(
        "more limits apply to one request than the {} that are allowed",
        crate::store::MAX_CHARGES
    )]
    TooManyCharges,
    /// Too many descriptors.
    #[error("a request may have at most {MAX_DESCRIPTORS} descriptors")]
    TooManyDescriptors,
    /// Too many entries.
    #[error("a descriptor may have at most {MAX_ENTRIES} entries")]
    TooManyEntries,
    /// A control entry that means nothing.
    #[error("control entry '{key}={value}': {problem}")]
    UnknownControl {
        /// Its key.
        key: String,
        /// Its value, shortened.
        value: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A limit override whose unit is unknown.
    #[error("a descriptor's limit override has no known unit")]
    UnknownUnit,
}

impl RequestError {
    /// The kind, for a metric's label and for programs.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::NoDescriptors => "no_descriptors",
            Self::NoDomain => "no_domain",
            Self::NotConfigured => "not_configured",
            Self::TextTooLong => "text_too_long",
            Self::TooManyCharges => "too_many_charges",
            Self::TooManyDescriptors => "too_many_descriptors",
            Self::TooManyEntries => "too_many_entries",
            Self::UnknownControl { .. } => "unknown_control",
            Self::UnknownUnit => "unknown_unit",
        }
    }
}

impl Request<'_> {
    /// Checks what holds for every request, whatever the rules.
    pub(super) fn check(&self) -> Result<(), RequestError> {
        if self.domain.is_empty() {
            return Err(RequestError::NoDomain);
        }
        if self.descriptors.is_empty() {
            return Err(RequestError::NoDescriptors);
        }
        if self.descriptors.len() > MAX_DESCRIPTORS {
            return Err(RequestError::TooManyDescriptors);
        }
        for descriptor in &self.descriptors {
            if descriptor.entries.len() > MAX_ENTRIES {
                return Err(RequestError::TooManyEntries);
            }
            let too_long = |(key, value): &Entry<'_>| key.len().max(value.len()) > MAX_TEXT;
            if descriptor.entries.iter().any(too_long) {
                return Err(RequestError::TextTooLong);
            }
        }
        Ok(())
    }
}
