//! The state of one limit for one set of values, and what time and costs do to it.

use std::time::Duration;

use super::{Algorithm, Limit, MAX_SPENT, Timestamp};

/// How much of a limit is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// How much of the burst is taken. More than the burst is a debt. At most [`MAX_SPENT`].
    pub spent: u64,
    /// What a token bucket has refilled beyond whole tokens, in units of 1/denominator of the rate.
    /// Zero where nothing is spent: a full bucket saves nothing up.
    pub fraction: u64,
    /// Token bucket: up to when the refill is counted. Fixed window: when the window began.
    pub at: Timestamp,
}

impl Bucket {
    /// Lets time pass. A `now` before [`Self::at`] changes nothing: a bucket's time never goes back.
    pub fn refill(&mut self, limit: &Limit, now: Timestamp) {
        match limit.algorithm {
            Algorithm::CalendarWindow(_) | Algorithm::FixedWindow => {
                let start = limit.window(now).map(|window| window.start);
                if let Some(start) = start.filter(|start| *start > self.at) {
                    *self = Self {
                        at: start,
                        ..Self::default()
                    };
                }
            }
            Algorithm::TokenBucket => {
                if now <= self.at {
                    return;
                }
                let elapsed = u128::from(now.as_micros().saturating_sub(self.at.as_micros()));
                let denominator = u128::from(limit.rate.denominator());
                // A rate that changed has another denominator: what is left over stays below a token.
                let left = u128::from(self.fraction).min(denominator.saturating_sub(1));
                let parts = elapsed
                    .saturating_mul(u128::from(limit.rate.numerator()))
                    .saturating_add(left);
                let whole = parts.checked_div(denominator).unwrap_or(0);
                self.at = now;
                if whole >= u128::from(self.spent) {
                    self.spent = 0;
                    self.fraction = 0;
                } else {
                    let whole = u64::try_from(whole).unwrap_or(u64::MAX);
                    self.spent = self.spent.saturating_sub(whole);
                    self.fraction =
                        u64::try_from(parts.checked_rem(denominator).unwrap_or(0)).unwrap_or(0);
                }
            }
        }
    }

    /// Takes a cost, or gives one back when it is negative. Asks nobody.
    pub fn spend(&mut self, cost: i64) {
        self.spent = self.spent.saturating_add_signed(cost).min(MAX_SPENT);
        if self.spent == 0 {
            self.fraction = 0;
        }
    }

    /// What is left of the burst; below zero, a debt.
    pub fn level(&self, limit: &Limit) -> i64 {
        limit
            .burst
            .cast_signed()
            .saturating_sub_unsigned(self.spent)
    }

    /// How long until at most `threshold` is spent if nobody takes anything; `None`: never,
    /// because there is no threshold ([`Limit::threshold`]) or nothing comes back.
    ///
    /// One microsecond earlier more than that is spent.
    pub fn wait(&self, limit: &Limit, threshold: Option<u64>, now: Timestamp) -> Option<Duration> {
        self.until_spent(limit, threshold?, now)
    }

    /// How long until nothing is spent any more; `None`: never, because the rate is zero.
    pub fn until_full(&self, limit: &Limit, now: Timestamp) -> Option<Duration> {
        self.until_spent(limit, 0, now)
    }

    /// How long until the current window ends; `None` for a token bucket, which has no windows.
    pub fn until_window_ends(limit: &Limit, now: Timestamp) -> Option<Duration> {
        let window = limit.window(now)?;
        Some(now.until(window.end))
    }

    fn until_spent(&self, limit: &Limit, target: u64, now: Timestamp) -> Option<Duration> {
        let excess = self.spent.saturating_sub(target);
        if excess == 0 {
            return Some(Duration::ZERO);
        }
        match limit.algorithm {
            Algorithm::CalendarWindow(_) | Algorithm::FixedWindow => {
                // Not `at` plus a period: that window may have been one of another length.
                let window = limit.window(now.max(self.at))?;
                Some(now.until(window.end))
            }
            Algorithm::TokenBucket => {
                let denominator = u128::from(limit.rate.denominator());
                let left = u128::from(self.fraction).min(denominator.saturating_sub(1));
                let parts = u128::from(excess)
                    .saturating_mul(denominator)
                    .saturating_sub(left);
                let numerator = u128::from(limit.rate.numerator());
                if numerator == 0 {
                    return None;
                }
                let micros = u64::try_from(parts.div_ceil(numerator)).unwrap_or(u64::MAX);
                let ahead = self.at.as_micros().saturating_sub(now.as_micros());
                Some(Duration::from_micros(micros.saturating_add(ahead)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Oversize, Rate, WhenOver, ZeroCost};
    use super::*;

    const START: u64 = 1_700_000_000_000_000;

    fn limit(algorithm: Algorithm, amount: u64, period: Duration, burst: u64) -> Limit {
        Limit {
            algorithm,
            rate: Rate::new(amount, period).unwrap(),
            burst,
            when_over: WhenOver::Refuse,
            oversize: Oversize::Refuse,
            zero_cost: ZeroCost::NeedsRoom,
        }
    }

    fn fits(bucket: &Bucket, limit: &Limit, cost: i64) -> bool {
        limit
            .threshold(cost, 0)
            .is_some_and(|threshold| bucket.spent <= threshold)
    }

    fn wait(bucket: &Bucket, limit: &Limit, cost: i64, now: Timestamp) -> Option<Duration> {
        bucket.wait(limit, limit.threshold(cost, 0), now)
    }

    fn at(micros: u64) -> Timestamp {
        Timestamp::from_micros(START).plus(Duration::from_micros(micros))
    }

    #[test]
    fn a_bucket_nobody_has_seen_is_full() {
        let limit = limit(Algorithm::TokenBucket, 5, Duration::from_mins(1), 10);
        let mut bucket = Bucket::default();
        bucket.refill(&limit, at(0));
        assert_eq!(bucket.level(&limit), 10);
        assert!(fits(&bucket, &limit, 10));
        assert!(!fits(&bucket, &limit, 11));
    }

    #[test]
    fn a_cost_fits_exactly_when_the_wait_says_and_not_a_microsecond_before() {
        // 7 a second: a token every 142,857.14… µs.
        let limit = limit(Algorithm::TokenBucket, 7, Duration::from_secs(1), 7);
        let mut bucket = Bucket {
            at: at(0),
            ..Bucket::default()
        };
        bucket.spend(7);
        let wait = wait(&bucket, &limit, 3, at(0)).unwrap();
        assert_eq!(wait, Duration::from_micros(428_572));
        let mut before = bucket;
        before.refill(&limit, at(428_571));
        assert!(!fits(&before, &limit, 3));
        bucket.refill(&limit, at(428_572));
        assert!(fits(&bucket, &limit, 3));
    }

    #[test]
    fn refills_in_small_steps_add_up_to_one_large_step() {
        let limit = limit(Algorithm::TokenBucket, 7, Duration::from_secs(1), 1000);
        let spent = Bucket {
            spent: 1000,
            fraction: 0,
            at: at(0),
        };
        let mut steps = spent;
        for micros in 1..=1000 {
            steps.refill(&limit, at(micros * 997));
        }
        let mut once = spent;
        once.refill(&limit, at(997_000));
        assert_eq!(steps, once);
    }

    #[test]
    fn time_that_goes_back_refills_nothing() {
        let limit = limit(Algorithm::TokenBucket, 1, Duration::from_secs(1), 10);
        let mut bucket = Bucket {
            spent: 5,
            fraction: 0,
            at: at(1_000_000),
        };
        bucket.refill(&limit, at(0));
        assert_eq!(
            bucket,
            Bucket {
                spent: 5,
                fraction: 0,
                at: at(1_000_000)
            }
        );
        bucket.refill(&limit, at(2_000_000));
        assert_eq!(bucket.spent, 4);
    }

    #[test]
    fn a_window_ends_at_its_boundary_and_not_a_microsecond_before() {
        let limit = limit(Algorithm::FixedWindow, 10, Duration::from_secs(1), 10);
        let mut bucket = Bucket {
            spent: 10,
            fraction: 0,
            at: at(0),
        };
        assert_eq!(
            wait(&bucket, &limit, 1, at(400_000)),
            Some(Duration::from_millis(600))
        );
        bucket.refill(&limit, at(999_999));
        assert_eq!(bucket.spent, 10);
        bucket.refill(&limit, at(1_000_000));
        assert_eq!(
            bucket,
            Bucket {
                spent: 0,
                fraction: 0,
                at: at(1_000_000)
            }
        );
    }

    #[test]
    fn a_cost_larger_than_the_burst_never_fits_or_fits_when_full() {
        let refuse = limit(Algorithm::TokenBucket, 5, Duration::from_secs(1), 10);
        let when_full = Limit {
            oversize: Oversize::WhenFull,
            ..refuse
        };
        let mut bucket = Bucket {
            at: at(0),
            ..Bucket::default()
        };
        assert_eq!(wait(&bucket, &refuse, 11, at(0)), None);
        assert!(fits(&bucket, &when_full, 11));
        bucket.spend(11);
        assert_eq!(bucket.level(&when_full), -1);
        assert!(!fits(&bucket, &when_full, 11));
        assert_eq!(
            wait(&bucket, &when_full, 11, at(0)),
            Some(Duration::from_millis(2200))
        );
    }

    #[test]
    fn a_cost_of_zero_passes_at_a_level_of_zero_only_under_rate_limit() {
        let ours = limit(Algorithm::FixedWindow, 10, Duration::from_secs(1), 10);
        let theirs = Limit {
            zero_cost: ZeroCost::PassesAtZero,
            ..ours
        };
        let mut bucket = Bucket {
            spent: 10,
            fraction: 0,
            at: at(0),
        };
        assert!(!fits(&bucket, &ours, 0));
        assert!(fits(&bucket, &theirs, 0));
        bucket.spend(1);
        assert!(!fits(&bucket, &theirs, 0));
        let banned = Limit { burst: 0, ..theirs };
        assert!(fits(&Bucket::default(), &banned, 0));
        assert!(!fits(&Bucket::default(), &banned, 1));
    }

    #[test]
    fn a_refund_stops_at_full_and_spending_stops_at_the_bound() {
        let mut bucket = Bucket {
            spent: 3,
            fraction: 2,
            at: at(0),
        };
        bucket.spend(-5);
        assert_eq!(
            bucket,
            Bucket {
                spent: 0,
                fraction: 0,
                at: at(0)
            }
        );
        bucket.spend(i64::MAX);
        assert_eq!(bucket.spent, MAX_SPENT);
    }
}
