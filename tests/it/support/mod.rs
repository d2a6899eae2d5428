//! What the tests stand on: real servers, started for them and ended with them, and what talks to
//! them.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test's scaffolding fails the test where it stands"
)]

pub(crate) mod client;
pub(crate) mod envoy;
pub(crate) mod gate;
pub(crate) mod http;
pub(crate) mod limiter;
pub(crate) mod process;
pub(crate) mod redis;
pub(crate) mod rls;
pub(crate) mod served;
pub(crate) mod tap;
pub(crate) mod tasks;
pub(crate) mod upstream;
