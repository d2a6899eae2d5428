//! The integration tests, in one binary.

mod envoy;
mod examples;
mod store;
mod support;
