//! Everything together: clients, a real Envoy, two replicas of Tollgate, a real Redis, a provider.
//!
//! Envoy runs the examples that users copy, with more patient timeouts, so that a slow machine
//! changes nothing. A machine without Envoy fails these tests; it does not skip them.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test's scaffolding fails the test where it stands"
)]

mod access_log;
mod all_ways;
mod cancelled;
mod dialects;
mod ext_proc;
mod hang_up;
mod providers;
mod quickstart;
mod reference;
mod refusal;
mod repeated;
mod replicas;
mod stage;
mod stalled;
