//! Behaviour, seen from outside: one binary, one module for each part.

mod service;
mod support;
