//! What an answer used, read from its body as it passes; and what a report's names mean.
//!
//! Every provider counts in its own words: some include the cache in the prompt, some do not; some
//! tell in every chunk, some in the last, some begin with one number and correct it. Here all of
//! that becomes the four disjoint measures of [`Measure::TOKENS`](crate::limit::Measure::TOKENS).
//! `docs/usage.md` has the table.
//!
//! * [`Reader`] observes the body of one answer, JSON, server-sent events or AWS's event stream, in
//!   chunks that are cut anywhere, compressed or not, and finds the usage of whichever provider
//!   without being told which.
//! * [`Reported`] takes what a caller says by name, inclusive names too.
//!
//! **Memory is bounded by construction.** Nothing of an answer is kept but the key or the number
//! that is just being read. A push parser from a crate would have been welcome, but those that
//! exist (actson was looked at) gather every string whole before they tell of it, so an answer of a
//! megabyte in one string costs a megabyte. So `json` has a scanner of its own, which is small
//! because it builds nothing: it follows known paths and skips the rest.
//!
//! **Paths are anchored at the root of each document.** A text of the model, an argument of a tool
//! or an unknown object may contain something that looks like usage; it is never looked at.

mod body;
mod counts;
mod encoding;
mod event_stream;
mod json;
mod paths;
mod reader;
mod reported;
mod sse;

pub use reader::{End, Found, Reader, ResponseHead, SoFar};
pub use reported::{Contradiction, Name, Reported, Said};
