//! The integration tests, in one binary.

mod admin;
mod envoy;
mod examples;
mod service;
mod store;
mod support;
