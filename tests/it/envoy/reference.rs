//! In place of Envoy's reference service, as Envoy Gateway uses one for costs that only the response
//! tells: a check that takes nothing, and a charge when the response is done.

use super::stage::{Stage, chat};

#[test]
fn a_check_passes_until_the_charges_have_used_up_the_limit() {
    let stage = Stage::check_and_charge();
    for request in 1..=3 {
        let answer = stage.ask(&chat("acme", false));
        assert_eq!(answer.status, 200, "request {request}: {}", answer.body);
        let calls = stage.calls(2 * request);
        let [check, charge] = calls.last_chunk().unwrap();
        assert_eq!(check.descriptors(), ["tenant=acme @0"]);
        assert_eq!(charge.descriptors(), ["tenant=acme @10"]);
        let left = [21, 11, 1][request - 1].to_string();
        assert_eq!(
            answer.header("x-ratelimit-remaining"),
            Some(left.as_str()),
            "request {request}"
        );
    }

    let refusal = stage.ask(&chat("acme", false));
    assert_eq!(refusal.status, 429);
    let limit = format!("21, 21;w={}", 365 * 24 * 60 * 60);
    let told = refusal.header("x-ratelimit-limit").unwrap();
    assert!(told.starts_with(&limit), "{told}");
    assert_eq!(refusal.header("x-ratelimit-remaining"), Some("0"));
    let wait: u64 = refusal.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=366 * 24 * 60 * 60).contains(&wait), "{wait}");
    assert_eq!(stage.upstream.requests(), 3);

    assert_eq!(stage.ask(&chat("other", false)).status, 200);
}
