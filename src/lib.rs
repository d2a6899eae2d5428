//! x
pub mod config;
pub mod limit;
pub mod rules;
