//! What Redis refused is refused again without it, for as long as that is right.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tollgate::limit::{Effect, Limit, Mode, Settlement, Usage, WhenOver};
use tollgate::store::{Admission, Decision, Hold, Verdict};

use super::{Calls, eventually};
use crate::store::fixture::{
    Fixture, MICROSECOND, MINUTE, SECOND, Vary as _, admission, charge, fixed_window, just_before,
    outcome, reservation, token_bucket, tokens,
};
use crate::support::redis::RedisServer;

const MEMORY: Duration = Duration::from_secs(10);

/// Ten, one of which comes back every six seconds.
fn ten() -> Limit {
    token_bucket(10, MINUTE, 10)
}

/// A store that remembers refusals for [`MEMORY`], and what it asks of Redis.
fn remembering() -> (Fixture, Calls) {
    let mut calls = Calls::default();
    let fixture = Fixture::redis_with(|options| {
        options.refusal_memory = MEMORY;
        calls = Calls::of(options);
    });
    (fixture, calls)
}

/// The same, with nothing left in bucket `a`, and a refusal of that heard.
async fn refused() -> (Fixture, Calls) {
    let (fixture, calls) = remembering();
    assert!(fixture.admits("a", ten(), 10).await);
    assert!(!fixture.admits("a", ten(), 1).await);
    calls.forget();
    (fixture, calls)
}

/// Whether `cost` fits into `a`, and whether Redis was asked.
async fn asks(fixture: &Fixture, calls: &Calls, cost: i64) -> (bool, bool) {
    calls.forget();
    let fits = fixture.admits("a", ten(), cost).await;
    (fits, !calls.operations().is_empty())
}

#[tokio::test]
async fn a_cost_is_refused_without_redis_until_it_fits_and_not_a_microsecond_longer() {
    let (fixture, calls) = refused().await;
    fixture.clock.advance(just_before(6 * SECOND));
    assert_eq!(asks(&fixture, &calls, 1).await, (false, false));
    fixture.clock.advance(MICROSECOND);
    assert_eq!(asks(&fixture, &calls, 2).await, (false, false));
    assert_eq!(asks(&fixture, &calls, 1).await, (true, true));
}

#[tokio::test]
async fn a_window_is_over_when_it_ends_and_not_a_microsecond_later() {
    let (fixture, calls) = remembering();
    let limit = fixed_window(10, 5 * SECOND);
    assert!(fixture.admits("a", limit, 10).await);
    fixture.clock.advance(SECOND);
    assert!(!fixture.admits("a", limit, 1).await);
    calls.forget();
    fixture.clock.advance(just_before(4 * SECOND));
    assert!(!fixture.admits("a", limit, 1).await);
    assert!(calls.operations().is_empty());
    fixture.clock.advance(MICROSECOND);
    assert!(fixture.admits("a", limit, 1).await);
    assert_eq!(calls.operations(), [1]);
}

#[tokio::test]
async fn the_answer_is_what_redis_would_say() {
    let (fixture, calls) = remembering();
    let asking = fixture.another_client_with(|options| options.refusal_memory = Duration::ZERO);
    let never = token_bucket(1, MINUTE, 0);
    let charges = || {
        [
            charge("a", ten(), 4),
            charge("a", ten(), 5),
            charge("b", fixed_window(10, MINUTE), 3),
            charge("c", never, 1).with(Effect::Shadow),
        ]
    };
    assert_eq!(fixture.charge(charges()).await.verdict, Verdict::Admitted);
    assert_eq!(fixture.charge(charges()).await.verdict, Verdict::Refused);
    for mode in [Mode::Apply, Mode::Peek] {
        fixture.clock.advance(Duration::from_millis(1_234));
        calls.forget();
        let told = fixture.admit(charges(), mode, None).await;
        assert!(calls.operations().is_empty());
        let asked = Admission {
            mode,
            ..admission(charges())
        };
        assert_eq!(told, asking.admit(asked).await.unwrap());
    }
}

#[tokio::test]
async fn a_look_that_was_refused_is_remembered_too() {
    let (fixture, calls) = remembering();
    assert!(fixture.admits("a", ten(), 10).await);
    let look = || [charge("a", ten(), 1)];
    let first = fixture.admit(look(), Mode::Peek, None).await;
    assert_eq!(first.verdict, Verdict::Refused);
    assert_eq!(asks(&fixture, &calls, 1).await, (false, false));
}

#[tokio::test]
async fn what_another_replica_gives_back_is_seen_when_the_memory_is_over() {
    let (fixture, calls) = refused().await;
    let other = fixture.another_client();
    let refund = admission([charge("a", ten(), -10).recorded()]);
    other.admit(refund).await.unwrap();
    // All that comes back by itself meanwhile is one. Something else is remembered for longer.
    fixture.clock.advance(SECOND);
    assert!(!fixture.admits("b", ten(), 11).await);
    fixture
        .clock
        .advance(just_before(MEMORY.saturating_sub(SECOND)));
    assert_eq!(asks(&fixture, &calls, 2).await, (false, false));
    fixture.clock.advance(MICROSECOND);
    assert_eq!(asks(&fixture, &calls, 2).await, (true, true));
}

#[tokio::test]
async fn the_memory_is_not_renewed_by_its_own_answers() {
    let (fixture, calls) = refused().await;
    fixture.clock.advance(MEMORY / 2);
    assert_eq!(asks(&fixture, &calls, 5).await, (false, false));
    fixture.clock.advance(MEMORY / 2);
    assert_eq!(asks(&fixture, &calls, 5).await, (false, true));
}

#[tokio::test]
async fn without_a_memory_redis_is_always_asked() {
    let mut calls = Calls::default();
    let fixture = Fixture::redis_with(|options| {
        options.refusal_memory = Duration::ZERO;
        calls = Calls::of(options);
    });
    for cost in [10, 1, 1] {
        assert_eq!(asks(&fixture, &calls, cost).await, (cost == 10, true));
    }
}

#[tokio::test]
async fn a_refund_through_this_replica_is_seen_at_once() {
    let (fixture, calls) = refused().await;
    fixture.charge([charge("a", ten(), -3).recorded()]).await;
    assert_eq!(asks(&fixture, &calls, 3).await, (true, true));
}

#[tokio::test]
async fn a_reservation_that_ends_or_goes_on_through_this_replica_is_seen_at_once() {
    let ends = [
        Settlement::Release,
        Settlement::Settle(Usage::Total(4)),
        Settlement::Settle(Usage::Measured([4, 0, 0, 0])),
        Settlement::SoFar([4, 0, 0, 0]),
    ];
    for settlement in ends {
        let (fixture, calls) = remembering();
        fixture.hold("r", [tokens("a", ten(), 10)]).await;
        assert!(!fixture.admits("a", ten(), 1).await);
        assert_eq!(asks(&fixture, &calls, 1).await, (false, false));
        fixture.end("r", settlement, []).await;
        let room = !matches!(settlement, Settlement::SoFar(_));
        assert_eq!(asks(&fixture, &calls, 1).await, (room, true));
    }
}

#[tokio::test]
async fn a_report_without_a_reservation_that_gives_back_is_seen_at_once() {
    let (fixture, calls) = refused().await;
    let settlement = Settlement::Settle(Usage::Total(0));
    fixture
        .end("unknown", settlement, [charge("a", ten(), -3)])
        .await;
    assert_eq!(asks(&fixture, &calls, 3).await, (true, true));
}

#[tokio::test]
async fn a_limit_that_changed_is_asked_about() {
    let (fixture, calls) = refused().await;
    let faster = token_bucket(20, MINUTE, 10);
    let larger = Limit { burst: 11, ..ten() };
    for limit in [faster, larger] {
        calls.forget();
        fixture.charge([charge("a", limit, 1)]).await;
        assert_eq!(calls.operations(), [1]);
    }
}

#[tokio::test]
async fn a_bucket_that_is_not_remembered_is_asked_about() {
    let (fixture, calls) = refused().await;
    let charges = || [charge("a", ten(), 1), charge("b", ten(), 1)];
    for expected in [vec![1], vec![]] {
        calls.forget();
        let decision = fixture.charge(charges()).await;
        assert_eq!(
            outcome(&decision),
            (Verdict::Refused, vec![(false, 10), (true, 0)])
        );
        assert_eq!(calls.operations(), expected);
    }
}

#[tokio::test]
async fn what_may_be_a_retry_is_asked_about_and_what_cannot_be_is_not() {
    let (fixture, calls) = remembering();
    let token = tokens("a", ten(), 10);
    fixture.hold("r", [token]).await;
    assert!(!fixture.admits("a", ten(), 10).await);
    let ask = async |id: &str, fresh| -> (Decision, usize) {
        calls.forget();
        let hold = Hold {
            fresh,
            ..reservation(id, &[token])
        };
        let decision = fixture.admit([token.0], Mode::Apply, Some(hold)).await;
        (decision, calls.operations().len())
    };
    let (again, asked) = ask("r", false).await;
    assert_eq!((again.verdict, asked), (Verdict::Repeated, 1));
    let (another, asked) = ask("s", false).await;
    assert_eq!((another.verdict, asked), (Verdict::Refused, 1));
    let (new, asked) = ask("t", true).await;
    assert_eq!((new.verdict, asked), (Verdict::Refused, 0));
    assert_eq!(fixture.count_holds().await.open, 1);
    fixture.release("t").await;
    assert_eq!(asks(&fixture, &calls, 10).await, (false, false));
}

#[tokio::test]
async fn what_is_charged_although_it_is_refused_is_charged_every_time() {
    let (fixture, _) = refused().await;
    let counting = Limit {
        when_over: WhenOver::Charge,
        ..ten()
    };
    for _ in 0..3 {
        let charges = [charge("a", ten(), 1), charge("b", counting, 1)];
        assert_eq!(fixture.charge(charges).await.verdict, Verdict::Refused);
    }
    assert_eq!(fixture.spent("b", counting).await, 3);
}

#[tokio::test]
async fn quotas_are_refused_without_redis_when_all_of_them_are_over() {
    let (fixture, calls) = refused().await;
    let quota = |name, cost| charge(name, ten(), cost).with(Effect::Quota);
    assert!(fixture.admits("b", ten(), 9).await);
    let two = |cost| [quota("a", 1), quota("b", cost)];
    for (cost, verdict, asked) in [
        (2, Verdict::Refused, 1),
        (2, Verdict::Refused, 0),
        (1, Verdict::Admitted, 1),
    ] {
        calls.forget();
        let decision = fixture.charge(two(cost)).await;
        assert_eq!(
            (decision.verdict, calls.operations().len()),
            (verdict, asked)
        );
    }
}

#[tokio::test]
async fn nothing_is_remembered_of_a_redis_that_failed() {
    let server = Arc::new(RedisServer::start());
    let mut calls = Calls::default();
    let fixture = Fixture::redis_on(server, |options| {
        options.refusal_memory = MEMORY;
        calls = Calls::of(options);
    });
    assert!(fixture.admits("a", ten(), 10).await);
    assert!(!fixture.admits("a", ten(), 1).await);
    assert_eq!(asks(&fixture, &calls, 1).await, (false, false));
    fixture.server().stop();
    let other = || admission([charge("b", ten(), 1)]);
    assert!(fixture.store.admit(other()).await.is_err());
    fixture.server().restart();
    eventually("a connection", || async {
        fixture.store.admit(other()).await.is_ok()
    })
    .await;
    assert_eq!(asks(&fixture, &calls, 1).await, (true, true));
}

#[tokio::test]
async fn redis_does_nothing_for_refusals_that_it_is_not_asked_for() {
    const REFUSED: usize = 1000;
    let server = Arc::new(RedisServer::start());
    let told = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&told);
    // On the server's own clock.
    let fixture = Fixture::redis_on(server, |options| {
        options.clock = None;
        options.refusal_memory = Duration::from_mins(10);
        options.on_local_refusal = Some(Arc::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        }));
    });
    let limit = token_bucket(10, Duration::from_hours(24), 10);
    assert!(fixture.admits("a", limit, 10).await);
    assert!(!fixture.admits("a", limit, 1).await);
    let before = commands(fixture.server());
    for _ in 0..REFUSED {
        assert!(!fixture.admits("a", limit, 1).await);
    }
    assert_eq!(commands(fixture.server()), before);
    assert_eq!(told.load(Ordering::Relaxed), REFUSED);
}

#[tokio::test]
async fn the_wait_that_is_told_is_not_too_short() {
    // On the server's own clock: a token comes back every 20 ms.
    let fixture = Fixture::redis_with(|options| {
        options.clock = None;
        options.refusal_memory = MEMORY;
    });
    let asking = fixture.another_client_with(|options| {
        options.clock = None;
        options.refusal_memory = Duration::ZERO;
    });
    let limit = token_bucket(50, SECOND, 10_000);
    let asked = charge("a", limit, 10_000);
    let threshold = asked.charge.threshold;
    assert_eq!(fixture.charge([asked]).await.verdict, Verdict::Admitted);
    for _ in 0..20 {
        let told = fixture.charge([asked]).await;
        let asked = asking.admit(admission([asked])).await.unwrap();
        let fits_at = |decision: &Decision| {
            let wait = decision.readings[0]
                .bucket
                .wait(&limit, threshold, decision.now);
            decision.now.plus(wait.unwrap())
        };
        assert!(told.now <= asked.now);
        // The same instant; what is not known of the time makes it no earlier.
        let (told, asked) = (fits_at(&told), fits_at(&asked));
        assert!(asked <= told.plus(MICROSECOND), "{told:?} {asked:?}");
        assert!(told <= asked.plus(MICROSECOND), "{told:?} {asked:?}");
    }
}

/// How many calls of the script a server has answered.
fn commands(server: &RedisServer) -> u64 {
    let stats: String = server.command(&["INFO", "commandstats"]);
    stats
        .lines()
        .filter(|line| line.starts_with("cmdstat_eval"))
        .filter_map(|line| line.split_once("calls=")?.1.split(',').next())
        .map(|calls| calls.parse::<u64>().unwrap())
        .sum()
}

#[tokio::test]
async fn an_unknown_reservation_changes_nothing_of_what_is_remembered() {
    let (fixture, calls) = refused().await;
    fixture.release("nobody").await;
    assert_eq!(asks(&fixture, &calls, 1).await, (false, false));
}
