//! Answers for which no upstream was asked.
//!
//! `tollgate.outcome` carries Envoy's `%RESPONSE_CODE_DETAILS%`. Where it says that a filter or the
//! router answered by itself, the request used nothing, whatever was estimated, and a report
//! without usage gives the reservation back.

/// Details that stand for themselves (Envoy's `ResponseCodeDetails` and its filters' own).
const WHOLE: [&str; 12] = [
    "cluster_not_found",
    "direct_response",
    "ext_authz_denied",
    "ext_authz_error",
    "fault_filter_abort",
    "local_rate_limited",
    "maintenance_mode",
    "no_healthy_upstream",
    "rate_limiter_error",
    "request_payload_too_large",
    "request_rate_limited",
    "route_not_found",
];

/// Details that go on with the reason.
const BEGINNINGS: [&str; 5] = [
    "jwt_authn_access_denied",
    "rbac_access_denied",
    // No connection was made: nothing was sent on it.
    "upstream_reset_before_response_started{connection_failure",
    "upstream_reset_before_response_started{local_connection_failure",
    "upstream_reset_before_response_started{remote_connection_failure",
];

/// Whether a request that ended like this was never sent to an upstream.
pub(super) fn never_sent(outcome: &str) -> bool {
    WHOLE.contains(&outcome) || BEGINNINGS.iter().any(|begins| outcome.starts_with(begins))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_upstream_answered_or_broke_off_was_sent() {
        for sent in [
            "via_upstream",
            "downstream_remote_disconnect",
            "upstream_reset_after_response_started{remote_reset}",
            "upstream_reset_before_response_started{connection_termination}",
            "response_timeout",
            "",
            "ok",
        ] {
            assert!(!never_sent(sent), "{sent}");
        }
    }

    #[test]
    fn what_envoy_answered_by_itself_was_not() {
        for unsent in [
            "request_rate_limited",
            "ext_authz_denied",
            "rbac_access_denied_matched_policy[none]",
            "jwt_authn_access_denied{Jwt_is_missing}",
            "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_111}",
        ] {
            assert!(never_sent(unsent), "{unsent}");
        }
    }
}
