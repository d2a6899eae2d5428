//! The integration tests, in one binary.

mod admin;
mod support;
