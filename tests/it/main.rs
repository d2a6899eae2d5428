//! The integration tests, in one binary.

mod examples;
mod store;
mod support;
