//! Which keys requests have.

use std::fmt;
use std::str::FromStr;

use fastrand::Rng;

/// More would take more memory than the service under load.
const MAX_KEYS: usize = 10_000_000;

/// A distribution of keys: how many there are, and how often each is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Keys {
    /// Always the same.
    One,
    /// So many, each as often as the others.
    Uniform(usize),
    /// So many, the n-th as often as 1 in n to the power of the exponent.
    Zipf(usize, f64),
}

/// What [`Keys`] are written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "write `one`, `uniform:N`, `zipf:N` or `zipf:N:S`, N from 1 to {MAX_KEYS} and S from 0 to 10"
)]
pub struct BadKeys;

impl FromStr for Keys {
    type Err = BadKeys;

    fn from_str(text: &str) -> Result<Self, BadKeys> {
        let count = |text: &str| match text.parse() {
            Ok(count @ 1..=MAX_KEYS) => Ok(count),
            _ => Err(BadKeys),
        };
        let mut parts = text.split(':');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("one"), None, None, None) => Ok(Self::One),
            (Some("uniform"), Some(keys), None, None) => Ok(Self::Uniform(count(keys)?)),
            (Some("zipf"), Some(keys), None, None) => Ok(Self::Zipf(count(keys)?, 1.0)),
            (Some("zipf"), Some(keys), Some(exponent), None) => match exponent.parse() {
                Ok(exponent) if (0.0..=10.0).contains(&exponent) => {
                    Ok(Self::Zipf(count(keys)?, exponent))
                }
                _ => Err(BadKeys),
            },
            _ => Err(BadKeys),
        }
    }
}

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One => f.write_str("one"),
            Self::Uniform(count) => write!(f, "uniform:{count}"),
            Self::Zipf(count, exponent) => write!(f, "zipf:{count}:{exponent}"),
        }
    }
}

impl Keys {
    /// How many there are.
    pub const fn count(self) -> usize {
        match self {
            Self::One => 1,
            Self::Uniform(count) | Self::Zipf(count, _) => count,
        }
    }
}

/// Draws keys, the same ones in every run.
#[derive(Clone, Debug)]
pub struct Draw {
    random: Rng,
    count: usize,
    /// Of a Zipf distribution: how much of all draws each key and those before it get.
    shares: Vec<f64>,
}

impl Draw {
    /// Draws from `keys`, in an order that `seed` decides.
    pub fn new(keys: Keys, seed: u64) -> Self {
        let mut shares = Vec::new();
        if let Keys::Zipf(count, exponent) = keys {
            let mut sum = 0.0;
            let mut number = 0.0_f64;
            for _ in 0..count {
                number += 1.0;
                sum += number.powf(-exponent);
                shares.push(sum);
            }
            for share in &mut shares {
                *share /= sum;
            }
        }
        Self {
            random: Rng::with_seed(seed),
            count: keys.count(),
            shares,
        }
    }

    /// The next one: a number below the count of keys.
    pub fn key(&mut self) -> usize {
        if self.shares.is_empty() {
            return self.random.usize(..self.count);
        }
        let drawn = self.random.f64();
        let place = self.shares.partition_point(|share| *share <= drawn);
        place.min(self.count - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_and_written() {
        for (text, keys) in [
            ("one", Keys::One),
            ("uniform:10000", Keys::Uniform(10_000)),
            ("zipf:7", Keys::Zipf(7, 1.0)),
            ("zipf:7:0.9", Keys::Zipf(7, 0.9)),
        ] {
            assert_eq!(text.parse(), Ok(keys));
            assert_eq!(keys.to_string().parse(), Ok(keys));
        }
        for bad in [
            "",
            "two",
            "one:1",
            "uniform",
            "uniform:0",
            "uniform:x",
            "uniform:1:1",
            "zipf",
            "zipf:5:-1",
            "zipf:5:nan",
            "zipf:5:11",
            "zipf:5:1:1",
            "uniform:10000001",
        ] {
            assert_eq!(bad.parse::<Keys>(), Err(BadKeys), "{bad}");
        }
    }

    /// How often each key is drawn in 100,000 times.
    fn drawn(keys: Keys) -> Vec<f64> {
        let mut draw = Draw::new(keys, 7);
        let mut times = vec![0.0; keys.count()];
        for _ in 0..100_000 {
            times[draw.key()] += 1e-5;
        }
        times
    }

    #[test]
    fn each_key_is_drawn_as_often_as_it_should() {
        let near = |keys: Keys, shares: &[f64]| {
            for (drawn, share) in drawn(keys).iter().zip(shares) {
                assert!(
                    (drawn - share).abs() < 0.01,
                    "{keys}: {drawn} is not {share}"
                );
            }
        };
        near(Keys::One, &[1.0]);
        near(Keys::Uniform(4), &[0.25; 4]);
        // One and a half and a third and a quarter are 25 twelfths.
        near(Keys::Zipf(4, 1.0), &[0.48, 0.24, 0.16, 0.12]);
        near(Keys::Zipf(2, 2.0), &[0.8, 0.2]);
        near(Keys::Zipf(4, 0.0), &[0.25; 4]);
    }
}
