//! x
pub mod admin;
pub mod clock;
pub mod health;
pub mod limit;
pub mod metrics;
pub mod rules;
pub mod service;
pub mod store;
pub mod telemetry;
