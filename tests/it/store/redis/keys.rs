//! What is left in Redis: nothing that stays.

use std::sync::Arc;
use std::time::Duration;

use tollgate::limit::{Limit, Mode, Usage};
use tollgate::store::{Charge, EndResult, Hold, HoldCounts};

use super::eventually;
use crate::store::fixture::{
    Fixture, LIFETIME, MICROSECOND, MINUTE, SECOND, Vary as _, charge, fixed_window, just_before,
    reservation, token_bucket, tokens,
};
use crate::support::redis::RedisServer;
use crate::support::tasks::in_order;

#[tokio::test]
async fn everything_is_remembered_for_as_long_as_it_may_matter() {
    let fixture = Fixture::redis();
    let limits = [token_bucket(10, MINUTE, 100), fixed_window(100, MINUTE)];
    for id in ["open", "settled", "released"] {
        let charges = [tokens("a", limits[0], 30), tokens("b", limits[1], 30)];
        fixture.hold(id, charges).await;
    }
    fixture.settle("settled", Usage::Total(40)).await;
    fixture.release("released").await;
    let mut lifetimes = Vec::new();
    for key in fixture.server().keys(fixture.prefix()) {
        let left: i64 = fixture.server().command(&["PTTL", &key]);
        let name = key.strip_prefix(fixture.prefix()).unwrap();
        let kind = name.split(':').next().unwrap().to_owned();
        lifetimes.push((
            kind,
            Duration::from_millis(u64::try_from(left).unwrap_or(0)),
        ));
    }
    lifetimes.sort_unstable();
    for bucket in ["b", "a"] {
        let left = fixture.bucket_lifetime(bucket).unwrap();
        lifetimes.push((bucket.to_owned(), left));
    }
    let bounds = [
        // The hash of the buckets stays; its fields are swept.
        ("buckets", Duration::ZERO, Duration::ZERO),
        // The count of the open ones stays; its fields go when it is read.
        ("holds", Duration::ZERO, Duration::ZERO),
        ("r", LIFETIME, LIFETIME),
        ("r", LIFETIME, LIFETIME),
        // The open one, and then late for as long again.
        ("r", 2 * LIFETIME, 2 * LIFETIME),
        // The window ends in a minute: at most doubled, and a minute more.
        ("b", MINUTE, 3 * MINUTE),
        // 40 are spent and were 90, which come back in nine minutes.
        ("a", 4 * MINUTE, 19 * MINUTE),
    ];
    assert_eq!(lifetimes.len(), bounds.len());
    for ((kind, left), (expected, least, most)) in lifetimes.iter().zip(bounds) {
        assert_eq!(kind, expected);
        // A little time has passed since they were written.
        let least = least.saturating_sub(Duration::from_secs(30));
        let most = most + Duration::from_secs(1);
        assert!(least <= *left && *left <= most, "{kind}: {left:?}");
    }
}

#[tokio::test]
async fn many_buckets_and_reservations_come_and_go() {
    const MANY: usize = 2000;
    let fixture = Fixture::redis_on(Arc::new(RedisServer::start()), |_| ());
    let server = fixture.server();
    let limit = token_bucket(100, MINUTE, 1000);
    let names: Vec<String> = (0..MANY).map(|name| name.to_string()).collect();
    in_order(
        names
            .iter()
            .map(|name| fixture.hold(name, [tokens(name, limit, 100)])),
    )
    .await;
    assert_eq!(fixture.bucket_count(), MANY);
    // And the buckets' hash, and the count of open reservations.
    assert_eq!(server.keys(fixture.prefix()).len(), MANY + 2);
    let full = server.memory_used();
    in_order(
        names
            .iter()
            .map(|name| fixture.settle(name, Usage::Total(0))),
    )
    .await;
    // Settled to nothing, the buckets are full again and gone; of the reservations it is only
    // remembered that they ended.
    assert_eq!(fixture.bucket_count(), 0);
    assert_eq!(server.keys(fixture.prefix()).len(), MANY + 1);
    assert!(server.memory_used() < full);
    // Used again and refilled by time, they are gone when they are next touched.
    let all = |cost| {
        names
            .iter()
            .map(move |name| charge(name, limit, cost).recorded())
    };
    in_order(all(100).map(|charge| fixture.charge([charge]))).await;
    assert_eq!(fixture.bucket_count(), MANY);
    fixture.clock.advance(LIFETIME + MINUTE);
    in_order(all(0).map(|charge| fixture.charge([charge]))).await;
    assert_eq!(fixture.bucket_count(), 0);
    // And so is the count of the reservations.
    assert_eq!(fixture.count_holds().await, HoldCounts::default());
    assert!(
        !server
            .keys(fixture.prefix())
            .iter()
            .any(|key| key.ends_with("holds"))
    );
}

#[tokio::test]
async fn an_ended_reservation_is_forgotten_by_the_servers_own_clock() {
    let fixture = Fixture::redis_with(|options| options.clock = None);
    let limit = token_bucket(1, MINUTE, 1000);
    let (charge, held) = tokens("a", limit, 100);
    let hold = |lifetime| Hold {
        lifetime,
        ..reservation("id", &[(charge, held)])
    };
    let brief = hold(Duration::from_millis(1));
    fixture.admit([charge], Mode::Apply, Some(brief)).await;
    eventually("it is forgotten", || async {
        fixture.release("id").await.result == EndResult::Unknown
    })
    .await;
    let prefix = format!("{}r:", fixture.prefix());
    eventually("its key is gone", || async {
        fixture.server().keys(&prefix).is_empty()
    })
    .await;
}

/// Buckets to be forgotten: more than one step looks at, and more than Redis packs into one list.
const SWEPT: usize = 700;

async fn charge_each(fixture: &Fixture, limit: Limit) {
    let names = (0..SWEPT).map(|name| name.to_string());
    let charges: Vec<Charge> = names.map(|name| charge(&name, limit, 1)).collect();
    fixture.charge(charges).await;
}

#[tokio::test]
async fn buckets_that_are_full_again_are_swept_within_ten_minutes() {
    let fixture = Fixture::redis();
    charge_each(&fixture, token_bucket(1, SECOND, 10)).await;
    let lasting = charge("lasting", token_bucket(1, MINUTE, 1000), 1000);
    fixture.charge([lasting]).await;
    // Begins a pass.
    fixture.store.forget_full().await.unwrap();
    assert_eq!(fixture.bucket_count(), SWEPT + 1);

    // A little later, a part of them is due, and all of them are past their time.
    fixture.clock.advance(5 * MINUTE);
    fixture.store.forget_full().await.unwrap();
    let left = fixture.bucket_count();
    assert!(1 < left && left < SWEPT + 1, "{left}");

    // Another replica goes on where this one was.
    fixture.clock.advance(5 * MINUTE);
    fixture.another_client().forget_full().await.unwrap();
    assert_eq!(fixture.bucket_count(), 1);
    assert_eq!(
        fixture
            .spent("lasting", token_bucket(1, MINUTE, 1000))
            .await,
        990
    );

    // The next pass finds those that came later.
    charge_each(&fixture, token_bucket(1, SECOND, 10)).await;
    fixture.clock.advance(10 * MINUTE);
    fixture.store.forget_full().await.unwrap();
    assert_eq!(fixture.bucket_count(), 1);
}

#[tokio::test]
async fn a_bucket_is_swept_at_its_time_and_not_before() {
    let fixture = Fixture::redis();
    let limit = token_bucket(1, SECOND, 10);
    fixture.charge([charge("earlier", limit, 1)]).await;
    fixture.clock.advance(SECOND);
    fixture.charge([charge("a", limit, 1)]).await;
    // Begins a pass. It has seen nothing, so the next sweep is due as soon as any time has passed,
    // and looks at both: so few come in one step, which ends the pass and begins another.
    fixture.store.forget_full().await.unwrap();
    let left = fixture.bucket_lifetime("a").unwrap();
    fixture.clock.advance(just_before(left));
    assert_eq!(fixture.bucket_count(), 2);
    fixture.store.forget_full().await.unwrap();
    // The other one is gone, so this one was looked at.
    assert_eq!(fixture.bucket_lifetime("earlier"), None);
    assert_eq!(fixture.bucket_lifetime("a"), Some(MICROSECOND));
    fixture.clock.advance(MICROSECOND);
    fixture.store.forget_full().await.unwrap();
    assert_eq!(fixture.bucket_count(), 0);
}

#[tokio::test]
async fn a_bucket_takes_200_bytes_of_redis_at_most() {
    // A little less than the 65,536 at which Redis's table doubles, as a million is for the fourth
    // doubling from there.
    const BUCKETS: u64 = 65_000;
    const AT_ONCE: u64 = 1000;
    let fixture = Fixture::redis_on(Arc::new(RedisServer::start()), |options| {
        options.prefix = "tollgate:".to_owned();
    });
    let limit = token_bucket(1, MINUTE, 100);
    let before = used_by_keys(fixture.server());
    for batch in 0..BUCKETS / AT_ONCE {
        let charges = (0..AT_ONCE).map(|bucket| charge(&format!("{batch}/{bucket}"), limit, 1));
        fixture.charge(charges).await;
    }
    let bytes = (used_by_keys(fixture.server()) - before) / BUCKETS;
    assert!((100..=200).contains(&bytes), "{bytes}");
}

/// What a server uses without what scripts and clients have for the moment.
fn used_by_keys(server: &RedisServer) -> u64 {
    let info: String = server.command(&["INFO", "memory"]);
    let number = |name: &str| -> u64 {
        let line = info.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().parse().unwrap()
    };
    number("used_memory:") - number("used_memory_lua:") - number("mem_clients_normal:")
}
