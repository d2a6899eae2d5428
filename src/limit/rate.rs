//! How much per how long, as an exact fraction.

use std::time::Duration;

use super::{MAX_AMOUNT, Timestamp};

/// An amount per period.
///
/// Kept as written (for answers and metrics) and as the reduced fraction of tokens per microsecond
/// that refills are computed from: 450,000 a minute is 3 tokens every 400 µs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    amount: u64,
    period_micros: u64,
    numerator: u64,
    denominator: u64,
}

/// Why an amount and a period make no rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRate {
    /// The amount is larger than [`MAX_AMOUNT`].
    #[error("an amount may be at most {MAX_AMOUNT}")]
    AmountTooLarge,
    /// The period is zero or longer than [`Rate::MAX_PERIOD`].
    #[error("a period must be between one microsecond and 366 days")]
    PeriodOutOfRange,
}

impl Rate {
    /// The longest period, 366 days: its microseconds and any remainder of them stay exact in Lua.
    pub const MAX_PERIOD: Duration = Duration::from_hours(366 * 24);

    /// `amount` every `period`.
    ///
    /// An amount of zero is a rate too: `requests_per_unit: 0` forbids.
    pub fn new(amount: u64, period: Duration) -> Result<Self, InvalidRate> {
        if amount > MAX_AMOUNT {
            return Err(InvalidRate::AmountTooLarge);
        }
        if period.is_zero()
            || period > Self::MAX_PERIOD
            || !period.subsec_nanos().is_multiple_of(1000)
        {
            return Err(InvalidRate::PeriodOutOfRange);
        }
        let Ok(period_micros) = u64::try_from(period.as_micros()) else {
            return Err(InvalidRate::PeriodOutOfRange);
        };
        let divisor = greatest_common_divisor(amount, period_micros).max(1);
        Ok(Self {
            amount,
            period_micros,
            numerator: amount.checked_div(divisor).unwrap_or(0),
            denominator: period_micros.checked_div(divisor).unwrap_or(1),
        })
    }

    /// The amount, as written.
    pub const fn amount(self) -> u64 {
        self.amount
    }

    /// The period, as written.
    pub const fn period(self) -> Duration {
        Duration::from_micros(self.period_micros)
    }

    /// The period in microseconds; also the length of a fixed window.
    pub const fn period_micros(self) -> u64 {
        self.period_micros
    }

    /// When the window began that `now` lies in: windows are aligned to the Unix epoch.
    pub fn window_start(self, now: Timestamp) -> Timestamp {
        let now = now.as_micros();
        let into = now.checked_rem(self.period_micros).unwrap_or(0);
        Timestamp::from_micros(now.saturating_sub(into))
    }

    /// Tokens that come back every [`Self::denominator`] microseconds.
    pub const fn numerator(self) -> u64 {
        self.numerator
    }

    /// The microseconds in which [`Self::numerator`] tokens come back; below 2^45.
    pub const fn denominator(self) -> u64 {
        self.denominator
    }
}

const fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while let Some(rest) = a.checked_rem(b) {
        a = b;
        b = rest;
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    #[test]
    fn a_rate_is_reduced_to_whole_tokens_per_whole_microseconds() {
        let rate = Rate::new(450_000, MINUTE).unwrap();
        assert_eq!((rate.numerator(), rate.denominator()), (3, 400));
        assert_eq!((rate.amount(), rate.period()), (450_000, MINUTE));
    }

    #[test]
    fn a_rate_of_nothing_is_a_rate() {
        let rate = Rate::new(0, MINUTE).unwrap();
        assert_eq!((rate.numerator(), rate.denominator()), (0, 1));
    }

    #[test]
    fn amounts_and_periods_are_bounded() {
        assert!(Rate::new(MAX_AMOUNT, MINUTE).is_ok());
        assert_eq!(
            Rate::new(MAX_AMOUNT + 1, MINUTE),
            Err(InvalidRate::AmountTooLarge)
        );
        assert_eq!(
            Rate::new(1, Duration::ZERO),
            Err(InvalidRate::PeriodOutOfRange)
        );
        assert!(Rate::new(1, Rate::MAX_PERIOD).is_ok());
        let longer = Rate::MAX_PERIOD + Duration::from_micros(1);
        assert_eq!(Rate::new(1, longer), Err(InvalidRate::PeriodOutOfRange));
    }
}
