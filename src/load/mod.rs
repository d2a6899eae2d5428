//! Load for any gRPC service that answers one message with one: who sends it, how fast, and what
//! came of it.
//!
//! The generator must not be what is measured. It shares a machine with the servers that it
//! drives, and a client that needs as much CPU as they do gives them one request at a time, so that
//! each pays for a wake-up of its own. So this is HTTP/2 by the frame and nothing between: one
//! thread, one buffer to read and one to write for each connection, header blocks and messages
//! encoded once, all that is due sent in one write, all that has come read in one read. What
//! repeats in answers is looked up and not decoded again.
//!
//! It gives up what it need not have: TLS, continued header blocks, messages of more than a frame.
//!
//! [`Generator`] is told by a [`Traffic`] which [`Messages`] to send, and what answers mean.

mod connection;
mod cpu;
mod frame;
mod generator;
mod headers;
mod keys;
mod measured;
mod messages;
mod target;

pub use cpu::{CpuError, CpuReading};
pub use generator::{End, Generator, Pace, Traffic, Watch};
pub use keys::{BadKeys, Draw, Keys};
pub use measured::{Failure, Latency, Measured, Verdict};
pub use messages::Messages;
pub use target::{LoadError, Target};
