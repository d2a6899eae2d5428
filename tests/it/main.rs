//! Behaviour, seen from outside: one binary, one module for each part.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "what a test calls fails it, as the test itself would"
)]

mod service;
mod support;
