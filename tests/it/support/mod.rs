//! What the tests stand on: real servers, started for them and ended with them, and those who call
//! them.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test's scaffolding fails the test where it stands, and shows a log"
)]

pub(crate) mod client;
pub(crate) mod http;
pub(crate) mod process;
pub(crate) mod redis;
