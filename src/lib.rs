//! x
pub mod clock;
pub mod limit;
pub mod rules;
pub mod store;
