//! How a domain wants its answers dressed.

/// The headers and the body of a domain's answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnswerStyle {
    /// The header families, each once.
    pub headers: Vec<HeaderStyle>,
    /// The body of a refusal.
    pub body: BodyStyle,
}

/// A family of rate-limit headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HeaderStyle {
    /// `anthropic-ratelimit-…`.
    Anthropic,
    /// `RateLimit` and `RateLimit-Policy` of the IETF draft.
    Ietf,
    /// `x-ratelimit-…-requests` and `…-tokens`, and `retry-after-ms`.
    OpenAi,
    /// `retry-after`, on refusals.
    RetryAfter,
}

impl HeaderStyle {
    /// All families with their names in configuration.
    pub const NAMES: [(&'static str, Self); 4] = [
        ("retry-after", Self::RetryAfter),
        ("ietf", Self::Ietf),
        ("openai", Self::OpenAi),
        ("anthropic", Self::Anthropic),
    ];
}

/// The body of a refusal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BodyStyle {
    /// Anthropic's error object.
    Anthropic,
    /// No body.
    #[default]
    None,
    /// `OpenAI`'s error object.
    OpenAi,
    /// One sentence of plain text.
    Plain,
}

impl BodyStyle {
    /// All bodies with their names in configuration.
    pub const NAMES: [(&'static str, Self); 4] = [
        ("none", Self::None),
        ("plain", Self::Plain),
        ("openai", Self::OpenAi),
        ("anthropic", Self::Anthropic),
    ];
}
