//! What can be counted, and what a count costs.

/// Something that can be counted. Measures are disjoint: no token is in two of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Measure {
    /// One for each admission, none for a report.
    Requests,
    /// What Envoy sent as `hits_addend`; one where it sent none.
    Hits,
    /// Prompt tokens that no cache served.
    InputTokens,
    /// Prompt tokens read from the provider's cache.
    CacheReadTokens,
    /// Prompt tokens written into the provider's cache.
    CacheWriteTokens,
    /// Tokens of the answer, reasoning included.
    OutputTokens,
}

impl Measure {
    /// All of them, in the order of [`Formula`]'s weights.
    pub const ALL: [Self; 6] = [
        Self::Requests,
        Self::Hits,
        Self::InputTokens,
        Self::CacheReadTokens,
        Self::CacheWriteTokens,
        Self::OutputTokens,
    ];

    /// The measures that a usage report carries.
    pub const TOKENS: [Self; 4] = [
        Self::InputTokens,
        Self::CacheReadTokens,
        Self::CacheWriteTokens,
        Self::OutputTokens,
    ];

    /// The name in configuration, control entries and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Hits => "hits",
            Self::InputTokens => "input_tokens",
            Self::CacheReadTokens => "cache_read_tokens",
            Self::CacheWriteTokens => "cache_write_tokens",
            Self::OutputTokens => "output_tokens",
        }
    }

    /// The measure of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|measure| measure.name() == name)
    }
}

/// The most that one report may count of one measure: 10^12.
pub const MAX_MEASURED: u64 = 1_000_000_000_000;

/// The weight of one, in [`Weight`]'s unit.
pub const WEIGHT_ONE: u32 = 1000;

/// Where a weighted sum stops growing, in thousandths: the end of Lua's exact integers.
const MAX_WEIGHTED: u64 = 1 << 53;

/// What one unit of a measure costs, in thousandths; at most 1000 (one million thousandths).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Weight(u32);

impl Weight {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// One for one.
    pub const ONE: Self = Self(WEIGHT_ONE);
    /// The largest weight, 1000 for one.
    pub const MAX: Self = Self(1_000_000);

    /// A weight of `thousandths`; `None` above [`Self::MAX`].
    pub const fn from_thousandths(thousandths: u32) -> Option<Self> {
        if thousandths > Self::MAX.0 {
            None
        } else {
            Some(Self(thousandths))
        }
    }

    /// In thousandths.
    pub const fn thousandths(self) -> u32 {
        self.0
    }
}

/// A weighted sum of measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Formula {
    /// What each request costs.
    pub requests: Weight,
    /// What each hit costs.
    pub hits: Weight,
    /// What each token of [`Measure::TOKENS`] costs, in that order.
    pub tokens: [Weight; 4],
}

impl Formula {
    /// `cost: requests`.
    pub const REQUESTS: Self = Self {
        requests: Weight::ONE,
        hits: Weight::ZERO,
        tokens: [Weight::ZERO; 4],
    };
    /// `cost: hits`.
    pub const HITS: Self = Self {
        requests: Weight::ZERO,
        hits: Weight::ONE,
        tokens: [Weight::ZERO; 4],
    };
    /// `cost: tokens`.
    pub const TOKENS: Self = Self {
        requests: Weight::ZERO,
        hits: Weight::ZERO,
        tokens: [Weight::ONE; 4],
    };

    /// Whether any token measure has a weight: then the cost is only known after the answer.
    pub fn counts_tokens(&self) -> bool {
        self.tokens.iter().any(|weight| *weight != Weight::ZERO)
    }

    /// Whether any token of the prompt has a weight, cached or not.
    pub fn counts_input(&self) -> bool {
        let [input, cache_read, cache_write, _] = self.tokens;
        [input, cache_read, cache_write]
            .iter()
            .any(|weight| *weight != Weight::ZERO)
    }

    /// Whether tokens of the answer have a weight.
    pub fn counts_output(&self) -> bool {
        let [.., output] = self.tokens;
        output != Weight::ZERO
    }

    /// Whether hits have a weight.
    pub fn counts_hits(&self) -> bool {
        self.hits != Weight::ZERO
    }

    /// What `requests` and `hits` cost; rounded up.
    pub fn cost_of_calls(&self, requests: u64, hits: u64) -> u64 {
        weigh([(self.requests, requests), (self.hits, hits)])
    }

    /// What counted tokens cost; rounded up.
    pub fn cost_of_tokens(&self, counts: [u64; 4]) -> u64 {
        let [w0, w1, w2, w3] = self.tokens;
        let [c0, c1, c2, c3] = counts;
        weigh([(w0, c0), (w1, c1), (w2, c2), (w3, c3)])
    }
}

fn weigh<const N: usize>(terms: [(Weight, u64); N]) -> u64 {
    terms
        .into_iter()
        .fold(0_u64, |sum, (weight, count)| {
            sum.saturating_add(count.saturating_mul(u64::from(weight.0)))
        })
        .min(MAX_WEIGHTED)
        .div_ceil(u64::from(WEIGHT_ONE))
}

/// What a request really used, as reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Usage {
    /// Tokens by measure, in the order of [`Measure::TOKENS`].
    Measured([u64; 4]),
    /// The answer was cut short after so much was told of it, by measure: it used that or more.
    AtLeast([u64; 4]),
    /// The answer came (or not) and nobody found how much it used.
    Missing,
    /// One number that is the cost itself: an addend with no measure named.
    Total(u64),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_measure_is_found_by_its_name() {
        for measure in Measure::ALL {
            assert_eq!(Measure::from_name(measure.name()), Some(measure));
        }
        assert_eq!(Measure::from_name("tokens"), None);
    }

    #[test]
    fn a_cost_is_the_weighted_sum_rounded_up() {
        let weight = |thousandths| Weight::from_thousandths(thousandths).unwrap();
        let formula = Formula {
            tokens: [weight(1000), weight(100), weight(1250), weight(5000)],
            ..Formula::default()
        };
        assert_eq!(formula.cost_of_tokens([10, 0, 0, 0]), 10);
        assert_eq!(formula.cost_of_tokens([10, 1, 0, 0]), 11);
        assert_eq!(formula.cost_of_tokens([10, 10, 4, 2]), 10 + 1 + 5 + 10);
        assert_eq!(Formula::REQUESTS.cost_of_calls(1, 7), 1);
        assert_eq!(Formula::HITS.cost_of_calls(1, 7), 7);
    }

    #[test]
    fn a_cost_stops_at_the_end_of_exact_numbers() {
        let heaviest = Formula {
            tokens: [Weight::MAX; 4],
            ..Formula::default()
        };
        assert_eq!(
            heaviest.cost_of_tokens([MAX_MEASURED; 4]),
            (1_u64 << 53).div_ceil(1000)
        );
    }
}
