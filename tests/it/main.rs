//! The integration tests, in one binary.

mod admin;
mod examples;
mod store;
mod support;
