//! The integration tests, in one binary.

mod admin;
mod bad_requests;
mod commands;
mod envoy;
mod examples;
mod layering;
mod lifecycle;
mod reload;
mod replicas;
mod service;
mod store;
mod support;
