//! What each provider says that it used is what is charged, to the token, in two calls a request.

use super::stage::{Stage, levels, prompt};

/// A provider, and how a report of what it used has to look.
struct Provider {
    name: &'static str,
    /// Where it answers in one piece, and where it streams.
    paths: [&'static str; 2],
    deployment: &'static str,
    cache_write: i64,
    counts: &'static [&'static str],
}

const INPUT: i64 = 812;
const CACHE_READ: i64 = 204;
const OUTPUT: i64 = 411;
const REASONING: i64 = 160;

const OPEN_AI_COUNTS: &[&str] = &[
    "measure=input_tokens @812",
    "measure=cache_read_tokens @204",
    "measure=output_tokens @411",
];

const PROVIDERS: [Provider; 4] = [
    Provider {
        name: "chat",
        paths: ["/v1/chat/completions"; 2],
        deployment: "azure-eastus-gpt-4o",
        cache_write: 0,
        counts: OPEN_AI_COUNTS,
    },
    Provider {
        name: "responses",
        paths: ["/v1/responses"; 2],
        deployment: "azure-eastus-gpt-4o",
        cache_write: 0,
        counts: OPEN_AI_COUNTS,
    },
    Provider {
        name: "anthropic",
        paths: ["/v1/messages"; 2],
        deployment: "anthropic-claude",
        cache_write: 33,
        counts: &[
            "measure=input_tokens @812",
            "measure=cache_read_tokens @204",
            "measure=cache_write_tokens @33",
            "measure=output_tokens @411",
        ],
    },
    // Thinking is counted apart, and both are output.
    Provider {
        name: "gemini",
        paths: [
            "/v1beta/models/fake:generateContent",
            "/v1beta/models/fake:streamGenerateContent?alt=sse",
        ],
        deployment: "vertex-gemini",
        cache_write: 0,
        counts: &[
            "measure=input_tokens @812",
            "measure=cache_read_tokens @204",
            "measure=output_tokens @251",
            "measure=output_tokens @160",
        ],
    },
];

#[test]
fn every_provider_streamed_or_not_is_charged_to_the_token() {
    let stage = Stage::settle();
    let mut count = 0;
    for provider in &PROVIDERS {
        for (path, stream) in provider.paths.into_iter().zip([false, true]) {
            let tenant = format!("{}-{stream}", provider.name);
            let before = stage.levels("deployment", provider.deployment)["tokens"];
            let request = prompt(path, &tenant, stream)
                .header("x-fake-input-tokens", &INPUT)
                .header("x-fake-cache-read-tokens", &CACHE_READ)
                .header("x-fake-cache-write-tokens", &provider.cache_write)
                .header("x-fake-output-tokens", &OUTPUT)
                .header("x-fake-reasoning-tokens", &REASONING);
            let answer = stage.ask(&request);
            assert_eq!(answer.status, 200, "{tenant}: {}", answer.body);
            assert_eq!(answer.body.contains("data: {"), stream, "{tenant}");

            count += 2;
            let calls = stage.calls(count);
            let [admission, report] = calls.last_chunk().unwrap();
            let asked = [
                format!("tenant={tenant}"),
                format!("deployment={}", provider.deployment),
            ];
            assert_eq!(admission.descriptors(), asked);
            let counts = provider.counts.iter().copied();
            let reported: Vec<String> = counts
                .chain(["outcome=via_upstream @0"])
                .map(|count| format!("phase=report id=id {count}"))
                .collect();
            assert_eq!(report.descriptors(), reported, "{tenant}");
            let reservation = admission.reservation();
            assert_eq!(report.ids(), [reservation.expect("a reservation")]);

            let expected = levels([
                ("requests", 99),
                ("input", 1_000_000 - INPUT),
                ("cache-read", 1_000_000 - CACHE_READ),
                ("cache-write", 1_000_000 - provider.cache_write),
                ("output", 1_000_000 - OUTPUT),
            ]);
            assert_eq!(stage.levels("tenant", &tenant), expected, "{tenant}");
            let used = INPUT + CACHE_READ + provider.cache_write + OUTPUT;
            let after = stage.levels("deployment", provider.deployment)["tokens"];
            assert_eq!(before - after, used, "{tenant}");
        }
    }
    // No call was tried twice, and none was made beside those that the taps saw.
    let sent = stage.envoy.stat("cluster.tollgate.upstream_rq_total");
    assert_eq!(sent, u64::try_from(count).unwrap());
}
