//! Two histories that broke a limiter of fixed windows elsewhere: what was used in them stays within
//! what the limit allows, burst + rate × time.

use std::time::Duration;

use crate::support::limiter::{Limiter, metadata};
use crate::support::redis::RedisServer;

/// 1,000 in two seconds, as a bucket and as a window.
const RULES: &str = "
descriptors:
  - key: bucket
    limits: [{ name: bucket, rate: 1000/2s, burst: 1000, cost: tokens, algorithm: token_bucket }]
  - key: window
    limits: [{ name: window, rate: 1000/2s, cost: tokens, algorithm: fixed_window }]
";

/// On both stores.
fn limiters(name: &str) -> [Limiter; 2] {
    let redis = RedisServer::shared();
    let [in_redis] = Limiter::replicas(&redis, name, RULES);
    [Limiter::new(RULES), in_redis]
}

/// Reserves tokens; the reservation, if they fit.
async fn reserve(limiter: &Limiter, key: &str, tokens: u64) -> Option<String> {
    let stated = format!("{key}=x tollgate.input_tokens={tokens} tollgate.output_tokens=0");
    let answer = limiter.ask(&[&stated]).await;
    (!answer.over_limit).then(|| metadata(&answer, "reservation").expect("an id").to_owned())
}

/// How much is admitted of calls of 10 tokens that come now, until one is refused.
async fn rest(limiter: &Limiter, key: &str) -> u64 {
    let mut admitted = 0;
    while reserve(limiter, key, 10).await.is_some() {
        admitted += 10;
    }
    admitted
}

#[tokio::test]
async fn a_late_settlement_makes_no_room_in_a_window_that_never_bore_the_charge() {
    for limiter in limiters("replay-late") {
        for (key, most) in [("window", 1000), ("bucket", 1000 + 1000)] {
            // 900 are reserved; the window rolls; 200 are reserved; of the 900 only 10 were used.
            let first = reserve(&limiter, key, 900).await.expect("room");
            limiter.advance(Duration::from_secs(2));
            assert!(reserve(&limiter, key, 200).await.is_some(), "{key}");
            let report = format!(
                "tollgate.phase=report tollgate.id={first} tollgate.input_tokens=10 \
                 tollgate.output_tokens=0"
            );
            limiter.ask(&[&report]).await;
            let rest = rest(&limiter, key).await;
            let (used, in_window) = (10 + 200 + rest, 200 + rest);
            assert!(used <= 1000 + 1000, "{key}: {used}");
            assert!(in_window <= most, "{key}: {in_window} in the second window");
            assert!(limiter.level(&format!("{key}=x"), key).await >= 0);
            limiter.advance(Duration::from_mins(1));
        }
    }
}

#[tokio::test]
async fn a_token_bucket_has_no_edge_to_wait_for() {
    for limiter in limiters("replay-edge") {
        // 900 at the end of one window, and as much as there is at the beginning of the next, one
        // second later: 1,900 where windows are fixed.
        limiter.advance(Duration::from_millis(1500));
        assert!(reserve(&limiter, "bucket", 900).await.is_some());
        limiter.advance(Duration::from_secs(1));
        assert!(reserve(&limiter, "bucket", 1000).await.is_none());
        let rest = rest(&limiter, "bucket").await;
        // 100 were left of the burst, and 500 came back.
        assert_eq!(900 + rest, 1000 + 500);
    }
}
