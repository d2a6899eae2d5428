//! Where providers put what: the places in their documents, from the root.
//!
//! One tree for all of them, because their paths do not collide: which provider it was shows in the
//! names that were found.

use super::counts::Field;

/// An object, or a list of such objects, at a known path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    /// A document: a body, the data of one event, or an element of a body that is a list (Gemini).
    Root,
    /// `usage` where a provider tells it last.
    Usage,
    /// `message.usage` of Anthropic's `message_start`: more is to come.
    FirstUsage,
    /// Gemini's `usageMetadata`.
    UsageMetadata,
    /// Cohere's `meta` (v1, embeddings).
    Meta,
    /// `prompt_tokens_details`, `input_tokens_details`.
    InputDetails,
    /// Anthropic's `cache_creation`.
    CacheCreation,
    /// Cohere's `tokens`.
    Tokens,
    /// Cohere's `billed_units`.
    BilledUnits,
    /// `response` of an event of OpenAI's Responses API.
    Response,
    /// `message` of Anthropic's `message_start`, of Cohere's answer, of Bedrock's `output`.
    Message,
    /// `delta` of Anthropic, Bedrock and Cohere; of the Responses API it is the text itself.
    Delta,
    /// OpenAI's `choices`.
    Choices,
    /// `message` or `delta` of a choice, and Cohere's `delta.message`.
    ChoiceMessage,
    /// `tool_calls` of a choice.
    ToolCalls,
    /// Gemini's `candidates`.
    Candidates,
    /// `content` of a candidate.
    CandidateContent,
    /// `content` where it is a text, or a list of parts that have texts; also Gemini's `parts`.
    Content,
    /// `output`: a list (Responses API) or an object with a `message` (Bedrock).
    Output,
    /// An object that has only its text of interest: `function`, `toolUse`, `reasoningContent`.
    TextHolder,
}

/// What a value is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nothing.
    Unwanted,
    /// An object to go into.
    Node(Node),
    /// A count.
    Count(Field),
    /// A text of the model.
    Text,
    /// A text here says that the answer is at its end.
    Finish,
}

impl Node {
    /// Whether a list of such objects may stand in its place.
    pub(super) const fn may_be_list(self) -> bool {
        matches!(
            self,
            Self::Root
                | Self::Choices
                | Self::ToolCalls
                | Self::Candidates
                | Self::Content
                | Self::Output
        )
    }

    /// Whether a text in its place is a text of the model.
    pub(super) const fn may_be_text(self) -> bool {
        matches!(self, Self::Delta | Self::Content)
    }

    /// Whether counts are taken over when it closes.
    pub(super) const fn is_usage(self) -> bool {
        matches!(
            self,
            Self::Usage | Self::FirstUsage | Self::UsageMetadata | Self::Meta
        )
    }

    /// Where the value of `key` stands.
    pub(super) fn child(self, key: &[u8]) -> Place {
        match self {
            Self::Root => root(key),
            Self::Usage | Self::FirstUsage | Self::Tokens => usage(key),
            Self::UsageMetadata => usage_metadata(key),
            Self::Meta => match key {
                b"tokens" => Place::Node(Self::Tokens),
                b"billed_units" => Place::Node(Self::BilledUnits),
                _ => Place::Unwanted,
            },
            Self::InputDetails => match key {
                b"cached_tokens" => Place::Count(Field::CachedInside),
                b"cache_write_tokens" => Place::Count(Field::WrittenInside),
                _ => Place::Unwanted,
            },
            Self::CacheCreation => match key {
                b"ephemeral_5m_input_tokens" => Place::Count(Field::WrittenFor5Minutes),
                b"ephemeral_1h_input_tokens" => Place::Count(Field::WrittenFor1Hour),
                _ => Place::Unwanted,
            },
            Self::BilledUnits => match key {
                b"input_tokens" => Place::Count(Field::BilledInput),
                b"output_tokens" => Place::Count(Field::BilledOutput),
                _ => Place::Unwanted,
            },
            Self::Response => match key {
                b"usage" => Place::Node(Self::Usage),
                b"usageMetadata" => Place::Node(Self::UsageMetadata),
                b"candidates" => Place::Node(Self::Candidates),
                b"meta" => Place::Node(Self::Meta),
                _ => Place::Unwanted,
            },
            _ => text(self, key),
        }
    }
}

fn root(key: &[u8]) -> Place {
    Place::Node(match key {
        b"usage" => Node::Usage,
        b"usageMetadata" => Node::UsageMetadata,
        b"meta" => Node::Meta,
        b"response" => Node::Response,
        b"message" => Node::Message,
        b"delta" => Node::Delta,
        b"choices" => Node::Choices,
        b"candidates" => Node::Candidates,
        b"content" => Node::Content,
        b"output" => Node::Output,
        _ => return Place::Unwanted,
    })
}

/// `usage` of OpenAI (both APIs), Anthropic, Bedrock, Mistral and Cohere.
fn usage(key: &[u8]) -> Place {
    match key {
        b"prompt_tokens" => Place::Count(Field::Prompt),
        b"completion_tokens" | b"output_tokens" | b"outputTokens" => Place::Count(Field::Output),
        b"input_tokens" | b"inputTokens" => Place::Count(Field::Input),
        b"total_tokens" => Place::Count(Field::Total),
        b"cached_tokens" => Place::Count(Field::CachedInside),
        b"cache_read_input_tokens" | b"cacheReadInputTokens" => Place::Count(Field::CacheRead),
        b"cache_creation_input_tokens" | b"cacheWriteInputTokens" => {
            Place::Count(Field::CacheWritten)
        }
        b"prompt_tokens_details" | b"input_tokens_details" => Place::Node(Node::InputDetails),
        b"cache_creation" => Place::Node(Node::CacheCreation),
        b"tokens" => Place::Node(Node::Tokens),
        b"billed_units" => Place::Node(Node::BilledUnits),
        _ => Place::Unwanted,
    }
}

fn usage_metadata(key: &[u8]) -> Place {
    match key {
        b"promptTokenCount" => Place::Count(Field::Prompt),
        b"cachedContentTokenCount" => Place::Count(Field::CachedInside),
        b"candidatesTokenCount" => Place::Count(Field::Output),
        b"thoughtsTokenCount" => Place::Count(Field::Thoughts),
        b"toolUsePromptTokenCount" => Place::Count(Field::ToolPrompt),
        _ => Place::Unwanted,
    }
}

/// Where the model's texts are; and, on the way, the usage that stands beside them.
fn text(node: Node, key: &[u8]) -> Place {
    match (node, key) {
        (Node::Message, b"usage") => Place::Node(Node::FirstUsage),
        (Node::Delta, b"usage") => Place::Node(Node::Usage),
        (Node::Delta | Node::Output, b"message") | (Node::Choices, b"message" | b"delta") => {
            Place::Node(Node::ChoiceMessage)
        }
        (Node::Delta, b"toolUse" | b"reasoningContent") | (Node::ToolCalls, b"function") => {
            Place::Node(Node::TextHolder)
        }
        (Node::Message | Node::ChoiceMessage | Node::Output, b"content")
        | (Node::CandidateContent, b"parts") => Place::Node(Node::Content),
        (Node::ChoiceMessage, b"tool_calls") => Place::Node(Node::ToolCalls),
        (Node::Candidates, b"content") => Place::Node(Node::CandidateContent),
        (Node::Candidates, b"finishReason") => Place::Finish,
        (
            Node::Choices | Node::Content | Node::Delta | Node::TextHolder,
            b"text" | b"partial_json" | b"thinking" | b"arguments" | b"input",
        )
        | (Node::ChoiceMessage, b"reasoning" | b"reasoning_content" | b"refusal" | b"tool_plan") => {
            Place::Text
        }
        _ => Place::Unwanted,
    }
}
