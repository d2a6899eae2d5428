//! The decision: numbers and a time in, a verdict and the next state out.
//!
//! Everything here is pure: no clock, no store, no logging. A store loads the buckets that a
//! request touches, calls [`decide`], and writes back what it left in them; the Redis store says
//! the same in Lua, and a property test holds the two and a naive model equal to the last bit.
//!
//! **State is what was spent, not what is left.** A bucket holds `spent`: how much of the burst is
//! taken. A full bucket has spent nothing, so a bucket nobody has seen is a full one, and one that
//! became full again may be forgotten. A limit that is raised takes effect at once, and time does
//! the same thing to both algorithms: it makes `spent` smaller (a token bucket bit by bit, a fixed
//! window all at once when the next window begins). The level that users see is `burst − spent`;
//! below zero it is a debt.
//!
//! **All arithmetic is exact.** Rates are reduced fractions, refills keep their remainder, and all
//! amounts stay within [`MAX_AMOUNT`], so that a double (all that Lua has) holds each of them.
#![warn(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::float_arithmetic,
    clippy::indexing_slicing
)]

mod bucket;
mod cost;
mod decision;
mod hold;
mod lease;
mod rate;
mod refusal;
mod sketch;
mod spec;
mod time;
mod window;

pub use bucket::Bucket;
pub use cost::{Formula, MAX_MEASURED, Measure, Usage, WEIGHT_ONE, Weight};
pub use decision::{Charge, Effect, Mode, Reading, Verdict, decide};
pub use hold::{HeldCharge, MissingUsage, Settlement};
pub use lease::{Lease, LeaseTerms, Returned, Seen, TRAVEL, Tick};
pub use rate::{InvalidRate, Rate};
pub use refusal::surely_refused;
pub use sketch::{Mixture, Sketch};
pub use spec::{Algorithm, Limit, Oversize, WhenOver, ZeroCost};
pub use time::Timestamp;
pub use window::{Span, Window};

/// The largest amount that a limit may have, in hits or tokens: 10^15.
///
/// Bounded so that every sum that a store makes stays below 2^53, the largest range in which
/// Lua's numbers are exact.
pub const MAX_AMOUNT: u64 = 1_000_000_000_000_000;

/// Where `spent` stops growing: a debt deeper than this is not told apart any more.
pub const MAX_SPENT: u64 = 4_000_000_000_000_000;
