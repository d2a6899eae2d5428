//! The stores: one behaviour suite for all of them, and what only a real Redis can show.
#![expect(
    clippy::unwrap_used,
    reason = "a test's scaffolding fails the test where it stands"
)]

mod conformance;
mod fixture;
mod leasing;
mod memory;
mod model;
mod redis;
