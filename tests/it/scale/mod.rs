//! Leases in simulated fleets: that no bound is broken, whatever happens, and what it comes to.
#![expect(
    clippy::unwrap_used,
    reason = "a test's scaffolding fails the test where it stands"
)]

mod bounds;
mod fleet;
mod world;
