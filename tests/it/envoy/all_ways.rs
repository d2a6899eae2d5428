//! Envoy's own call, the access log and the observer, all for the same requests: charged once.

use super::dialects::DIALECTS;
use super::stage::{Stage, counts};
use crate::support::envoy::Config;

/// Descriptors for the end of a stream, of what the access log's example finds in OpenAI's answers.
fn reports() -> String {
    let report = |last: &str| {
        format!(
            "
              - actions:
                - generic_key: {{ descriptor_key: tollgate.phase, descriptor_value: report }}
                - metadata: {{ descriptor_key: tollgate.id, metadata_key: {{ key: envoy.filters.http.ratelimit, path: [{{ key: reservation }}] }} }}
{last}
                apply_on_stream_done: true"
        )
    };
    let measure = |name: &str, place: &str| {
        report(&format!(
            "                - generic_key: {{ descriptor_key: tollgate.measure, descriptor_value: {name} }}
                hits_addend: {{ format: \"%DYNAMIC_METADATA(tollgate.usage:{place})%\" }}"
        ))
    };
    [
        measure("prompt_tokens", "usage.prompt_tokens"),
        measure("cached_tokens", "usage.prompt_tokens_details.cached_tokens"),
        measure(
            "cache_write_tokens",
            "usage.prompt_tokens_details.cache_write_tokens",
        ),
        measure("completion_tokens", "usage.completion_tokens"),
        report("                hits_addend: { number: 0 }"),
    ]
    .concat()
}

/// The counts of OpenAI's streams one by one, too: an addend can be made of nothing else.
fn counts_of_streams() -> String {
    let rule = |place: &str| {
        let keys: Vec<String> = place
            .split('.')
            .map(|key| format!("{{ key: {key} }}"))
            .collect();
        let keys = keys.join(", ");
        format!(
            "                    - rule:
                        selectors: [{keys}]
                        on_present: {{ metadata_namespace: tollgate.usage, key: {place}, type: NUMBER }}
"
        )
    };
    [
        "usage.prompt_tokens",
        "usage.prompt_tokens_details.cached_tokens",
        "usage.prompt_tokens_details.cache_write_tokens",
        "usage.completion_tokens",
    ]
    .map(rule)
    .concat()
}

/// The filter of the observer's example.
fn observer() -> String {
    let example = Config::example("ext_proc").text().to_owned();
    let (_, rest) = example
        .split_once("          # Shows Tollgate every")
        .unwrap();
    let (filter, _) = rest
        .split_once("          - name: envoy.filters.http.router")
        .unwrap();
    format!("          # Shows Tollgate every{filter}")
}

#[test]
fn a_call_that_is_reported_in_every_way_is_charged_once() {
    const CALLS: u64 = 12;
    let actions =
        "                - request_headers: { header_name: x-tenant, descriptor_key: tenant }";
    let router = "          - name: envoy.filters.http.router";
    let rules = "                    # OpenAI chat, Mistral; Anthropic, at the end\n";
    let config = Config::example("access_log")
        .replace(actions, &format!("{actions}{}", reports()))
        .replace(router, &format!("{}{router}", observer()))
        .replace(rules, &format!("{rules}{}", counts_of_streams()));
    let stage = Stage::observing_as(config);

    let chat = &DIALECTS[..2];
    for call in 0..CALLS {
        for dialect in chat {
            let tenant = format!("{}-{call}", dialect.name);
            assert_eq!(stage.ask(&dialect.prompt(&tenant)).status, 200, "{tenant}");
        }
    }
    let calls = 2 * CALLS;
    let each = ["access_log", "envoy", "ext_proc"].map(|source| stage.reports(source, calls));
    let mut together = counts([]);
    for (result, count) in each.iter().flatten() {
        *together.entry(result.clone()).or_default() += count;
    }
    let once = counts([("already_settled", 2 * calls), ("settled", calls)]);
    assert_eq!(together, once, "{each:?}");
    for call in 0..CALLS {
        for dialect in chat {
            let tenant = format!("{}-{call}", dialect.name);
            assert_eq!(stage.levels("tenant", &tenant), dialect.left(), "{tenant}");
        }
    }
}
