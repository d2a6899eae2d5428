//! Tollgate: a rate-limit service for Envoy that counts what LLM traffic really costs.
//!
//! The map, from the inside out; arrows go up only, and a test holds them:
//!
//! | module | what it is |
//! |---|---|
//! | [`limit`] | pure: buckets, costs, decisions |
//! | [`rules`] | pure: what was configured, compiled |
//! | [`config`] | files to rules; watching them |
//! | [`store`] | where buckets live: memory, Redis |
//! | [`usage`] | what an answer used, read from its body |
//! | [`service`] | the use cases |
//! | [`grpc`], [`admin`] | the edges |
//! | [`load`] | the other side: load for any such service |
//! | [`clock`], [`connections`], [`health`], [`metrics`], [`settings`], [`shutdown`], [`telemetry`] | leaves |
//! | [`cli`], [`run`] | composition |

pub mod admin;
pub mod cli;
pub mod clock;
pub mod config;
pub mod connections;
pub mod grpc;
pub mod health;
pub mod limit;
pub mod load;
pub mod metrics;
pub mod rules;
mod run;
pub mod service;
pub mod settings;
pub mod shutdown;
pub mod store;
pub mod telemetry;
pub mod usage;

pub use run::{Listeners, RunError, run};
