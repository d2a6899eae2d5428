//! The streams in which Envoy shows calls, without an Envoy: what is said in them, also wrongly.

mod access_log;
mod ext_proc;
mod fixture;
