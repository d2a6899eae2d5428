//! What a request is taken to cost in tokens before its answer is known.
//!
//! `docs/design/estimates.md` says how what the caller stated and what is estimated combine.

use std::num::NonZeroU32;

use crate::limit::{Formula, WEIGHT_ONE, Weight};

/// What the tokens are taken to be that nobody stated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Estimate {
    /// So much cost.
    Constant(u64),
    /// What past requests cost.
    Learned(Box<Learning>),
    /// Nothing: admitted while the level is above zero.
    #[default]
    None,
}

/// How an estimate is learned from what past requests of the same group cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Learning {
    /// The share of past requests that cost no more than the estimate.
    pub quantile: Quantile,
    /// The estimate of a group of which nothing is known yet, as a cost.
    pub cold_start: u64,
    /// What makes two requests of the same group.
    pub by: LearnBy,
}

/// What makes two requests learn from each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LearnBy {
    /// The same bucket.
    #[default]
    Bucket,
    /// The same limit, and the same values of the entries with these keys, sorted and each once;
    /// an entry that a request does not have is empty. No keys: the whole limit is one group.
    Entries(Vec<String>),
}

/// A share in thousandths: above 0 and below 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Quantile(u16);

impl Quantile {
    /// The quantile that is taken where none is written: 0.9.
    pub const P90: Self = Self(900);

    /// A quantile of `thousandths`; `None` outside of 1 to 999.
    pub const fn from_thousandths(thousandths: u16) -> Option<Self> {
        match thousandths {
            1..=999 => Some(Self(thousandths)),
            _ => None,
        }
    }

    /// In thousandths.
    pub const fn thousandths(self) -> u16 {
        self.0
    }
}

/// How a limit takes what the caller stated of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Stating {
    /// How many bytes of a request are taken for one input token.
    pub bytes_per_token: BytesPerToken,
    /// What the stated output, which is the most that may come, is charged at admission.
    pub reserve_output: ReserveOutput,
}

/// What an admission takes for the stated output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReserveOutput {
    /// What it costs, beside the prompt.
    #[default]
    AtCost,
    /// The same with a weight of its own: Bedrock weighs answers by five when they are there, but
    /// holds `max_tokens` as it is.
    AtWeight(Weight),
    /// The larger of what prompt and output cost, as OpenAI says it does.
    Larger,
    /// Nothing: it is taken for unknown.
    Nothing,
}

impl ReserveOutput {
    /// What stated tokens cost at admission, in the order of
    /// [`Measure::TOKENS`](crate::limit::Measure::TOKENS).
    pub fn cost(self, formula: &Formula, counts: [u64; 4]) -> u64 {
        let [input, read, write, output] = counts;
        match self {
            Self::AtCost => formula.cost_of_tokens(counts),
            Self::AtWeight(weight) => {
                let [of_input, of_read, of_write, _] = formula.tokens;
                let tokens = [of_input, of_read, of_write, weight];
                Formula { tokens, ..*formula }.cost_of_tokens([input, read, write, output])
            }
            Self::Larger => {
                let prompt = formula.cost_of_tokens([input, read, write, 0]);
                prompt.max(formula.cost_of_tokens([0, 0, 0, output]))
            }
            Self::Nothing => formula.cost_of_tokens([input, read, write, 0]),
        }
    }
}

/// Bytes of a request for each input token, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BytesPerToken(NonZeroU32);

impl BytesPerToken {
    /// A ratio of `thousandths`.
    pub const fn from_thousandths(thousandths: NonZeroU32) -> Self {
        Self(thousandths)
    }

    /// In thousandths.
    pub const fn thousandths(self) -> u32 {
        self.0.get()
    }

    /// The tokens in so many bytes, rounded up.
    pub fn tokens(self, bytes: u64) -> u64 {
        bytes
            .saturating_mul(u64::from(WEIGHT_ONE))
            .div_ceil(u64::from(self.0.get()))
    }
}

/// Four bytes, the usual rule of thumb for English text.
impl Default for BytesPerToken {
    fn default() -> Self {
        Self(NonZeroU32::MIN.saturating_add(4 * WEIGHT_ONE - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_tokens_rounded_up() {
        let four = BytesPerToken::default();
        assert_eq!(four.thousandths(), 4000);
        assert_eq!([0, 1, 4, 5].map(|bytes| four.tokens(bytes)), [0, 1, 1, 2]);
        let ratio = BytesPerToken::from_thousandths(NonZeroU32::new(3500).unwrap());
        assert_eq!([7, 8, 7000].map(|bytes| ratio.tokens(bytes)), [2, 3, 2000]);
    }

    #[test]
    fn a_quantile_is_between_none_and_all() {
        assert_eq!(Quantile::from_thousandths(0), None);
        assert_eq!(Quantile::from_thousandths(1000), None);
        assert_eq!(Quantile::from_thousandths(900), Some(Quantile::P90));
    }
}
