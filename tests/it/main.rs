//! The integration tests, in one binary.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::string_slice,
    reason = "a test fails where it stands, and shows the logs of what it started"
)]

mod admin;
mod bad_requests;
mod bench;
mod commands;
mod envoy;
mod exactly_once;
mod examples;
mod layering;
mod leaks;
mod learned;
mod lifecycle;
mod metrics_table;
mod observed;
mod overshoot;
mod reload;
mod replicas;
mod report_batch;
mod scale;
mod service;
mod store;
mod store_away;
mod support;
mod usage;
