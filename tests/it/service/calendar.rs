//! Windows that begin at local midnight, and with a month.

use std::time::Duration;

use crate::support::limiter::Limiter;

const RULES: &str = "
descriptors:
  - key: tenant
    limits:
      - { name: day, rate: 10/day, algorithm: fixed_window, cost: hits, timezone: America/Los_Angeles }
  - key: month
    rate_limit: { unit: calendar_month, requests_per_unit: 10 }
answer: { headers: [ietf] }
";

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const MICROSECOND: Duration = Duration::from_micros(1);

#[tokio::test]
async fn a_day_ends_at_local_midnight_and_is_told_so() {
    // 2027-01-15T08:00:00Z is midnight in Los Angeles.
    let limiter = Limiter::new(RULES);
    limiter.advance(2 * HOUR);
    limiter.ask(&["tenant=a @10"]).await;
    let refused = limiter.ask(&["tenant=a @1"]).await;
    assert!(refused.over_limit);
    assert_eq!(refused.statuses[0].reset, Some(22 * HOUR));
    let limit = refused.statuses[0].limit.as_ref().unwrap();
    assert_eq!((limit.requests_per_unit, limit.unit.name()), (10, "day"));
    limiter.advance((22 * HOUR).saturating_sub(MICROSECOND));
    assert!(!limiter.passes("tenant=a @1").await);
    limiter.advance(MICROSECOND);
    assert!(limiter.passes("tenant=a @10").await);
    assert!(!limiter.passes("tenant=a @1").await);
}

#[tokio::test]
async fn days_on_which_clocks_change_are_shorter_and_longer() {
    let limiter = Limiter::new(RULES);
    // Midnight of 2027-03-14, a day of 23 hours, and of 2027-11-07, one of 25.
    for (days_ahead, hours) in [(58, 23), (237, 25)] {
        limiter.advance(days_ahead * DAY);
        assert!(limiter.passes("tenant=a @10").await, "{hours}");
        limiter.advance((hours * HOUR).saturating_sub(MICROSECOND));
        assert!(!limiter.passes("tenant=a @1").await, "{hours}");
        limiter.advance(MICROSECOND);
        assert!(limiter.passes("tenant=a @1").await, "{hours}");
    }
}

#[tokio::test]
async fn a_calendar_month_ends_with_its_last_day() {
    let limiter = Limiter::new(RULES);
    // To 2027-02-01, whatever the month was up to.
    limiter.advance(16 * DAY + 16 * HOUR);
    let full = limiter.ask(&["month=a @10"]).await;
    let limit = full.statuses[0].limit.as_ref().unwrap();
    assert_eq!((limit.requests_per_unit, limit.unit.name()), (10, "month"));
    assert_eq!(full.statuses[0].reset, Some(28 * DAY));
    limiter.advance((28 * DAY).saturating_sub(MICROSECOND));
    assert!(!limiter.passes("month=a @1").await);
    limiter.advance(MICROSECOND);
    assert!(limiter.passes("month=a @10").await);
    assert!(!limiter.passes("month=a @1").await);
}

#[tokio::test]
async fn another_zone_is_another_bucket_and_another_rate_is_not() {
    let limiter = Limiter::new(RULES);
    limiter.ask(&["tenant=a @10"]).await;
    let install = |from: &str, to: &str| {
        let rules = RULES.replace(from, to);
        limiter.install(&[&format!("domain: llm\n{rules}")]);
    };
    install("10/day", "12/day");
    assert_eq!(limiter.level("tenant=a", "day").await, 2);
    install("Los_Angeles", "New_York");
    assert_eq!(limiter.level("tenant=a", "day").await, 10);
    install("10/day", "10/2d");
    assert_eq!(limiter.level("tenant=a", "day").await, 10);
    install("", "");
    assert_eq!(limiter.level("tenant=a", "day").await, 0);
}
