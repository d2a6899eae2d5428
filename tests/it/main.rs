//! The integration tests, in one binary.

mod admin;
mod bad_requests;
mod commands;
mod examples;
mod layering;
mod lifecycle;
mod reload;
mod replicas;
mod store;
mod support;
