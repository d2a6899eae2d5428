//! x
pub mod clock;
pub mod config;
pub mod limit;
pub mod metrics;
pub mod rules;
pub mod service;
pub mod store;
pub mod telemetry;
