//! How amounts are spread: enough of many samples to name any of their quantiles.
//!
//! Amounts are counted in buckets that grow with them: sixteen from each power of two to the next,
//! below 32 one for each amount. An amount is told as the middle of its bucket, which is at most a
//! thirty-second (3.2 %) away from it. So quantiles keep that bound, sketches of the same amounts
//! are equal in whatever order they came, and adding two gives the sketch of both.

/// How many buckets there are for the amounts from one power of two to the next, as a power of two.
const PRECISION: u32 = 4;
const PER_OCTAVE: u64 = 1 << PRECISION;

/// The largest amount that is told from larger ones.
const LARGEST: u64 = (1 << 40) - 1;

/// How many buckets there are.
const BUCKETS: usize = 592;

/// How often amounts were seen, by bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sketch {
    /// Buckets that are not empty, in their order, and how many samples each has.
    counts: Vec<(u16, u32)>,
}

impl Sketch {
    /// A sketch of what [`Self::counts`] told. Buckets that do not exist are left out.
    pub fn from_counts(counts: impl IntoIterator<Item = (u16, u32)>) -> Self {
        let mut sketch = Self::default();
        for (bucket, count) in counts {
            if usize::from(bucket) < BUCKETS && count > 0 {
                sketch.add_to(bucket, count);
            }
        }
        sketch
    }

    /// Counts one amount.
    pub fn record(&mut self, amount: u64) {
        self.add_to(bucket_of(amount), 1);
    }

    /// Counts what another one has counted.
    pub fn add(&mut self, other: &Self) {
        for (bucket, count) in other.counts() {
            self.add_to(bucket, count);
        }
    }

    /// Takes out what another one has counted.
    pub fn subtract(&mut self, other: &Self) {
        for (bucket, count) in other.counts() {
            if let Ok(place) = self.place(bucket)
                && let Some((_, ours)) = self.counts.get_mut(place)
            {
                *ours = ours.saturating_sub(count);
            }
        }
        self.counts.retain(|(_, count)| *count > 0);
    }

    /// Whether it has no samples.
    pub const fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// The buckets that have samples, in their order, and how many.
    pub fn counts(&self) -> impl ExactSizeIterator<Item = (u16, u32)> + '_ {
        self.counts.iter().copied()
    }

    fn add_to(&mut self, bucket: u16, count: u32) {
        match self.place(bucket) {
            Ok(place) => {
                if let Some((_, ours)) = self.counts.get_mut(place) {
                    *ours = ours.saturating_add(count);
                }
            }
            Err(place) => self.counts.insert(place, (bucket, count)),
        }
    }

    fn place(&self, bucket: u16) -> Result<usize, usize> {
        self.counts
            .binary_search_by_key(&bucket, |(known, _)| *known)
    }
}

/// Several sketches, of which each counts for as much as its weight says.
#[derive(Clone, Debug)]
pub struct Mixture {
    weights: [u64; BUCKETS],
    total: u64,
}

impl Mixture {
    /// Of nothing.
    pub const fn new() -> Self {
        Self {
            weights: [0; BUCKETS],
            total: 0,
        }
    }

    /// Adds a sketch; each of its samples has this weight.
    pub fn add(&mut self, sketch: &Sketch, weight: u64) {
        for (bucket, count) in sketch.counts() {
            let weight = u64::from(count).saturating_mul(weight);
            if let Some(sum) = self.weights.get_mut(usize::from(bucket)) {
                *sum = sum.saturating_add(weight);
                self.total = self.total.saturating_add(weight);
            }
        }
    }

    /// The weight of all samples.
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// The smallest amount such that samples of at least this share of the weight, in thousandths,
    /// are no larger; within a thirty-second of it. `None` where there are no samples.
    pub fn quantile(&self, thousandths: u16) -> Option<u64> {
        if self.total == 0 {
            return None;
        }
        let rank = u128::from(self.total)
            .saturating_mul(u128::from(thousandths))
            .div_ceil(1000)
            .max(1);
        let mut below = 0_u128;
        (0_u16..)
            .zip(&self.weights)
            .find(|(_, weight)| {
                below = below.saturating_add(u128::from(**weight));
                below >= rank
            })
            .map(|(bucket, _)| middle_of(bucket))
    }
}

impl Default for Mixture {
    fn default() -> Self {
        Self::new()
    }
}

/// Which bucket counts an amount.
fn bucket_of(amount: u64) -> u16 {
    let amount = amount.min(LARGEST);
    let octave = amount
        .checked_ilog2()
        .unwrap_or(0)
        .saturating_sub(PRECISION);
    let within = amount.checked_shr(octave).unwrap_or(0);
    let bucket = u64::from(octave)
        .saturating_mul(PER_OCTAVE)
        .saturating_add(within);
    u16::try_from(bucket).unwrap_or(u16::MAX)
}

/// The amount in the middle of a bucket.
fn middle_of(bucket: u16) -> u64 {
    let bucket = u64::from(bucket);
    let Some(octave) = (bucket >> PRECISION).checked_sub(1) else {
        return bucket;
    };
    let within = (bucket % PER_OCTAVE).saturating_add(PER_OCTAVE);
    let width = 1_u64
        .checked_shl(u32::try_from(octave).unwrap_or(u32::MAX))
        .unwrap_or(0);
    let least = within.saturating_mul(width);
    least.saturating_add(width.saturating_sub(1) / 2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const END: u16 = 592;

    fn of(amounts: &[u64]) -> Sketch {
        let mut sketch = Sketch::default();
        for amount in amounts {
            sketch.record(*amount);
        }
        sketch
    }

    fn quantile(sketch: &Sketch, thousandths: u16) -> Option<u64> {
        let mut mixture = Mixture::new();
        mixture.add(sketch, 1);
        mixture.quantile(thousandths)
    }

    #[test]
    fn every_bucket_has_its_middle_and_none_is_left_over() {
        for bucket in 0..END {
            assert_eq!(bucket_of(middle_of(bucket)), bucket);
        }
        assert_eq!(bucket_of(LARGEST), END.strict_sub(1));
        assert_eq!(bucket_of(u64::MAX), END.strict_sub(1));
    }

    #[test]
    fn small_amounts_are_told_exactly() {
        for amount in 0..32 {
            assert_eq!(quantile(&of(&[amount]), 900), Some(amount));
        }
    }

    #[test]
    fn a_quantile_is_the_first_amount_that_enough_samples_do_not_exceed() {
        let ten: Vec<u64> = (1..=10).collect();
        for (thousandths, expected) in [(1, 1), (100, 1), (101, 2), (900, 9), (901, 10), (999, 10)]
        {
            assert_eq!(
                quantile(&of(&ten), thousandths),
                Some(expected),
                "{thousandths}"
            );
        }
        assert_eq!(quantile(&Sketch::default(), 900), None);
    }

    #[test]
    fn what_weighs_nothing_does_not_count() {
        let mut mixture = Mixture::new();
        mixture.add(&of(&[30; 100]), 0);
        assert_eq!(mixture.quantile(900), None);
        mixture.add(&of(&[7]), 1);
        assert_eq!(mixture.quantile(900), Some(7));
        mixture.add(&of(&[8; 2]), 500);
        assert_eq!((mixture.total(), mixture.quantile(900)), (1001, Some(8)));
    }

    #[test]
    fn counts_of_buckets_that_do_not_exist_are_left_out() {
        let sketch = Sketch::from_counts([(END, 3), (u16::MAX, 1), (4, 0), (5, 2), (5, 1)]);
        assert_eq!(sketch, of(&[5, 5, 5]));
    }

    fn amounts() -> impl Strategy<Value = Vec<u64>> {
        let amount = prop_oneof![0..100_u64, 1_000..30_000_u64, 0..=LARGEST];
        prop::collection::vec(amount, 1..200)
    }

    proptest! {
        #[test]
        fn a_quantile_is_a_thirty_second_from_the_exact_one_at_most(
            mut amounts in amounts(),
            thousandths in 1..1000_u16,
        ) {
            let told = quantile(&of(&amounts), thousandths).unwrap();
            amounts.sort_unstable();
            let rank = amounts.len().strict_mul(usize::from(thousandths)).div_ceil(1000).max(1);
            let exact = amounts[rank.strict_sub(1)];
            prop_assert!(told.abs_diff(exact) <= exact / 32, "{told} for {exact}");
        }

        #[test]
        fn sketches_add_up_and_are_taken_apart(one in amounts(), other in amounts()) {
            let both: Vec<u64> = other.iter().chain(&one).copied().collect();
            let mut sum = of(&one);
            sum.add(&of(&other));
            prop_assert_eq!(&sum, &of(&both));
            prop_assert_eq!(&Sketch::from_counts(sum.counts()), &sum);
            sum.subtract(&of(&other));
            prop_assert_eq!(&sum, &of(&one));
            sum.subtract(&of(&both));
            prop_assert!(sum.is_empty());
        }
    }
}
