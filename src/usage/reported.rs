//! What a caller says was used, by name; and which measures that is.
//!
//! Our own names are disjoint. Those that callers have at hand often are not: OpenAI's
//! `prompt_tokens` contain the cached ones. Both may be said, and taken apart here, once for all
//! ways in. Whatever is said twice must agree, because where it does not, one of the two is a
//! mistake, and nobody can know which.
//!
//! | name | what it counts |
//! |---|---|
//! | `input_tokens`, `cache_read_tokens`, `cache_write_tokens` | the three disjoint parts of the prompt |
//! | `prompt_tokens` | all three |
//! | `cached_tokens` | the same as `cache_read_tokens` |
//! | `output_tokens`, `completion_tokens` | the answer, reasoning included |
//! | `total_tokens` | prompt and answer |
//! | `total` | one number that is the cost itself, whatever a limit weighs |

/// The name of a count in a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    /// Prompt tokens that no cache served.
    InputTokens,
    /// Prompt tokens read from the provider's cache.
    CacheReadTokens,
    /// Prompt tokens written into the provider's cache.
    CacheWriteTokens,
    /// Tokens of the answer, reasoning included.
    OutputTokens,
    /// All tokens of the prompt, those of caches included.
    PromptTokens,
    /// Another name of [`Self::CacheReadTokens`].
    CachedTokens,
    /// Another name of [`Self::OutputTokens`].
    CompletionTokens,
    /// All tokens of prompt and answer.
    TotalTokens,
    /// The cost itself.
    Total,
}

/// What a report says, name by name; not yet taken apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reported([Option<u64>; Name::ALL.len()]);

/// What a report comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// It says nothing.
    Nothing,
    /// By measure, in the order of [`Measure::TOKENS`](crate::limit::Measure::TOKENS).
    Measures([u64; 4]),
    /// All tokens together, which cannot be taken apart.
    Tokens(u64),
    /// One number that is the cost itself.
    Total(u64),
}

/// A report that cannot be true. Who sends it has to change it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// Two names of one count, and two counts.
    #[error("{one} is {said_one} and {other} is {said_other}, but both count the same")]
    Twice {
        /// A name.
        one: &'static str,
        /// What is said under it.
        said_one: u64,
        /// The other.
        other: &'static str,
        /// What is said under that.
        said_other: u64,
    },
    /// Parts are more than the whole.
    #[error("{whole} is {said}, but {parts} are part of it and come to {sum}")]
    MoreThanWhole {
        /// The whole's name.
        whole: &'static str,
        /// What is said of it.
        said: u64,
        /// The names of its parts.
        parts: &'static str,
        /// Their sum.
        sum: u64,
    },
    /// All parts are said, and are not the whole.
    #[error("{whole} is {said}, but {parts} come to {sum}")]
    NotTheWhole {
        /// The whole's name.
        whole: &'static str,
        /// What is said of it.
        said: u64,
        /// The names of its parts.
        parts: &'static str,
        /// Their sum.
        sum: u64,
    },
    /// A total beside a part of the prompt, so that neither prompt nor answer is known.
    #[error("total_tokens cannot be taken apart; say prompt_tokens or completion_tokens, too")]
    Inseparable,
    /// A total, and something else.
    #[error("usage has either a total or measures, not both")]
    Ambiguous,
}

impl Name {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::InputTokens,
        Self::CacheReadTokens,
        Self::CacheWriteTokens,
        Self::OutputTokens,
        Self::PromptTokens,
        Self::CachedTokens,
        Self::CompletionTokens,
        Self::TotalTokens,
        Self::Total,
    ];

    /// The name, as it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InputTokens => "input_tokens",
            Self::CacheReadTokens => "cache_read_tokens",
            Self::CacheWriteTokens => "cache_write_tokens",
            Self::OutputTokens => "output_tokens",
            Self::PromptTokens => "prompt_tokens",
            Self::CachedTokens => "cached_tokens",
            Self::CompletionTokens => "completion_tokens",
            Self::TotalTokens => "total_tokens",
            Self::Total => "total",
        }
    }

    /// The one that is written so.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name() == name)
    }
}

impl Reported {
    /// A report by measure, in the order of [`Measure::TOKENS`](crate::limit::Measure::TOKENS).
    pub const fn of_measures(measures: [Option<u64>; 4]) -> Self {
        let [input, read, write, output] = measures;
        Self([input, read, write, output, None, None, None, None, None])
    }

    /// A report of one number that is the cost itself.
    pub const fn of_total(total: u64) -> Self {
        let mut counts = [None; Name::ALL.len()];
        counts[Name::Total as usize] = Some(total);
        Self(counts)
    }

    /// What is said under a name.
    pub fn get(&self, name: Name) -> Option<u64> {
        self.0.get(name as usize).copied().flatten()
    }

    /// Says `count` under a name, instead of what was said.
    pub fn set(&mut self, name: Name, count: Option<u64>) {
        if let Some(place) = self.0.get_mut(name as usize) {
            *place = count;
        }
    }

    /// Whether something is said of the prompt, cached or not.
    pub fn says_prompt(&self) -> bool {
        self.says_of(Self::PROMPT) || (self.says(Name::TotalTokens) && self.says_of(Self::ANSWER))
    }

    /// Whether something is said of the answer.
    pub fn says_answer(&self) -> bool {
        self.says_of(Self::ANSWER) || (self.says(Name::TotalTokens) && self.says_of(Self::PROMPT))
    }

    const PROMPT: &[Name] = &[
        Name::InputTokens,
        Name::CacheReadTokens,
        Name::CacheWriteTokens,
        Name::PromptTokens,
        Name::CachedTokens,
    ];
    const ANSWER: &[Name] = &[Name::OutputTokens, Name::CompletionTokens];

    fn says_of(&self, names: &[Name]) -> bool {
        names.iter().any(|name| self.says(*name))
    }

    fn says(&self, name: Name) -> bool {
        self.get(name).is_some()
    }

    /// Takes the names apart. No bound is checked here: sums stop at the largest number there is.
    pub fn resolve(&self) -> Result<Said, Contradiction> {
        let total = self.get(Name::Total);
        if self.0.iter().all(Option::is_none) {
            return Ok(Said::Nothing);
        }
        if let Some(total) = total {
            let others = self.0.iter().flatten().count() > 1;
            return if others {
                Err(Contradiction::Ambiguous)
            } else {
                Ok(Said::Total(total))
            };
        }
        let read = self.same(Name::CacheReadTokens, Name::CachedTokens)?;
        let write = self.get(Name::CacheWriteTokens);
        let cached = sum([read, write]);
        let output = self.same(Name::OutputTokens, Name::CompletionTokens)?;
        let input = self.input(cached)?;
        let prompt = input.map(|input| input.saturating_add(cached));
        let (input, output) = match (self.get(Name::TotalTokens), prompt, output) {
            (None, _, output) => (input, output),
            (Some(total), Some(prompt), Some(output)) => {
                let parts = prompt.saturating_add(output);
                // With a prompt that is known as a whole, the rest is of the answer: some tell
                // reasoning beside it, and only the total has it.
                let beyond = total > parts && self.says(Name::PromptTokens);
                if parts != total && !beyond {
                    return Err(not_the_total(total, parts));
                }
                (input, Some(total.saturating_sub(prompt)))
            }
            (Some(total), Some(prompt), None) => (input, Some(rest_of_total(total, prompt)?)),
            (Some(total), None, Some(output)) => {
                let known = output.saturating_add(cached);
                (Some(rest_of_total(total, known)?), Some(output))
            }
            (Some(total), None, None) if read.or(write).is_none() => {
                return Ok(Said::Tokens(total));
            }
            (Some(_), None, None) => return Err(Contradiction::Inseparable),
        };
        Ok(Said::Measures(
            [input, read, write, output].map(Option::unwrap_or_default),
        ))
    }

    /// The uncached part of the prompt, said by itself or in the whole.
    fn input(&self, cached: u64) -> Result<Option<u64>, Contradiction> {
        let input = self.get(Name::InputTokens);
        let Some(prompt) = self.get(Name::PromptTokens) else {
            return Ok(input);
        };
        let whole = Name::PromptTokens.name();
        let Some(rest) = prompt.checked_sub(cached) else {
            return Err(Contradiction::MoreThanWhole {
                whole,
                said: prompt,
                parts: "cached tokens, read and written,",
                sum: cached,
            });
        };
        match input {
            Some(input) if input != rest => Err(Contradiction::NotTheWhole {
                whole,
                said: prompt,
                parts: "input_tokens, cache_read_tokens and cache_write_tokens",
                sum: input.saturating_add(cached),
            }),
            _ => Ok(Some(rest)),
        }
    }

    /// A count that has two names.
    fn same(&self, one: Name, other: Name) -> Result<Option<u64>, Contradiction> {
        match (self.get(one), self.get(other)) {
            (Some(said_one), Some(said_other)) if said_one != said_other => {
                Err(Contradiction::Twice {
                    one: one.name(),
                    said_one,
                    other: other.name(),
                    said_other,
                })
            }
            (said, other) => Ok(said.or(other)),
        }
    }
}

fn sum(counts: [Option<u64>; 2]) -> u64 {
    counts
        .into_iter()
        .flatten()
        .fold(0, |sum: u64, count| sum.saturating_add(count))
}

fn rest_of_total(total: u64, known: u64) -> Result<u64, Contradiction> {
    total
        .checked_sub(known)
        .ok_or(Contradiction::MoreThanWhole {
            whole: Name::TotalTokens.name(),
            said: total,
            parts: "the tokens of the prompt or of the answer",
            sum: known,
        })
}

const fn not_the_total(total: u64, sum: u64) -> Contradiction {
    Contradiction::NotTheWhole {
        whole: Name::TotalTokens.name(),
        said: total,
        parts: "prompt and answer",
        sum,
    }
}

#[cfg(test)]
mod tests;
