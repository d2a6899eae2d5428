//! x
pub mod limit;
pub mod rules;
