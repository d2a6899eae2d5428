//! The same call once more, as a retry of Envoy's sends it, changes nothing: neither on the replica
//! that had it before nor on another.

use super::stage::{Stage, chat};
use crate::support::tap::{Call, End};

#[test]
fn a_call_that_comes_again_counts_once_on_whatever_replica() {
    let stage = Stage::settle();
    let request = chat("twice", false)
        .header("x-fake-input-tokens", &70)
        .header("x-fake-output-tokens", &9);
    assert_eq!(stage.ask(&request).status, 200);
    let calls = stage.calls(2);
    let [admission, report] = calls.first_chunk().unwrap();
    assert!(admission.metadata.get("x-request-id").is_some());
    let replicas = [admission.replica, report.replica];
    assert_ne!(replicas[0], replicas[1], "Envoy asks them in turn");

    let levels = || {
        [
            stage.levels("tenant", "twice"),
            stage.levels("deployment", "azure-eastus-gpt-4o"),
        ]
    };
    let before = levels();
    assert_eq!(
        [before[0]["input"], before[0]["output"]],
        [999_930, 999_991]
    );
    let replay = |call: &Call, replica: usize| {
        let again = stage.taps[replica].replay(call);
        let answer = stage.runtime.block_on(again).unwrap();
        End::Answered(Box::new(answer))
    };
    for replica in replicas {
        let again = replay(report, replica);
        assert!(matches!(again, End::Answered(_)));
        assert_eq!(levels(), before, "a report, again on replica {replica}");

        let again = Call {
            end: replay(admission, replica),
            ..admission.clone()
        };
        assert_eq!(again.reservation(), admission.reservation());
        assert_eq!(levels(), before, "an admission, again on replica {replica}");
    }

    // The reservation alone is enough to tell that a report came before.
    let mut nameless = report.clone();
    nameless.metadata.clear();
    replay(&nameless, admission.replica);
    assert_eq!(levels(), before);
}
