//! What each provider is asked, and what it answers to have used, for the ways in that read answers.

use super::stage::{Levels, levels, prompt};
use crate::support::client::Request;

pub(super) const INPUT: i64 = 812;
pub(super) const CACHE_READ: i64 = 204;
pub(super) const OUTPUT: i64 = 411;
const REASONING: i64 = 160;

/// One provider, streamed or not.
pub(super) struct Dialect {
    pub(super) name: &'static str,
    path: &'static str,
    pub(super) stream: bool,
    cache_write: i64,
}

const fn dialect(
    name: &'static str,
    path: &'static str,
    stream: bool,
    cache_write: i64,
) -> Dialect {
    Dialect {
        name,
        path,
        stream,
        cache_write,
    }
}

/// All that the provider of the examples knows.
#[rustfmt::skip]
pub(super) const DIALECTS: [Dialect; 10] = [
    dialect("chat",             "/v1/chat/completions",                               false, 21),
    dialect("chat-stream",      "/v1/chat/completions",                               true,  21),
    dialect("responses",        "/v1/responses",                                      false, 0),
    dialect("responses-stream", "/v1/responses",                                      true,  0),
    dialect("anthropic",        "/v1/messages",                                       false, 33),
    dialect("anthropic-stream", "/v1/messages",                                       true,  33),
    dialect("gemini",           "/v1beta/models/fake:generateContent",                false, 0),
    dialect("gemini-stream",    "/v1beta/models/fake:streamGenerateContent?alt=sse",  true,  0),
    dialect("bedrock",          "/model/fake/converse",                               false, 33),
    dialect(BEDROCK_STREAM,     "/model/fake/converse-stream",                        true,  33),
];

/// The one that is no event stream of the web's.
pub(super) const BEDROCK_STREAM: &str = "bedrock-stream";

impl Dialect {
    /// A question that costs what the constants say, on account of `tenant`.
    pub(super) fn prompt(&self, tenant: &str) -> Request {
        prompt(self.path, tenant, self.stream)
            .header("x-fake-input-tokens", &INPUT)
            .header("x-fake-cache-read-tokens", &CACHE_READ)
            .header("x-fake-cache-write-tokens", &self.cache_write)
            .header("x-fake-output-tokens", &OUTPUT)
            .header("x-fake-reasoning-tokens", &REASONING)
    }

    /// What is left of its tenant's buckets after that.
    pub(super) fn left(&self) -> Levels {
        left(INPUT, CACHE_READ, self.cache_write, OUTPUT)
    }
}

/// What is left of a tenant's buckets after one request that used so much.
pub(super) fn left(input: i64, cache_read: i64, cache_write: i64, output: i64) -> Levels {
    levels([
        ("requests", 99),
        ("input", 1_000_000 - input),
        ("cache-read", 1_000_000 - cache_read),
        ("cache-write", 1_000_000 - cache_write),
        ("output", 1_000_000 - output),
    ])
}
