//! The HTTP edge, over real connections.

mod envoy_json;
mod errors;
mod fixture;
mod lifecycle;
mod probes;
mod reports;
mod v1;
