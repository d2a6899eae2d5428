//! Whether a call can have used anything, by where its response came from.
//!
//! Without this, every request that no provider got would keep its estimate, because nobody reports
//! what it used. Only what is certain counts: a provider that timed out, or whose response broke
//! off, may have worked for nothing and be paid for it all the same. Where Envoy tries again, it
//! tells of the last attempt only.

/// What Envoy calls a response that came from upstream.
const VIA_UPSTREAM: &str = "via_upstream";

/// What Envoy calls an upstream that was given up before there was a response; the reason follows.
const RESET: &str = "upstream_reset_before_response_started{";

/// The reasons for that with which nothing was sent.
const NOT_CONNECTED: [&str; 4] = [
    "connection_timeout",
    "local_connection_failure",
    "overflow",
    "remote_connection_failure",
];

/// Responses of Envoy's own for requests that it did not send on.
const NOT_SENT: [&str; 9] = [
    "cluster_not_found",
    "direct_response",
    "ext_authz_denied",
    "fault_filter_abort",
    "jwt_authn_access_denied",
    "maintenance_mode",
    "no_healthy_upstream",
    "rbac_access_denied",
    "route_not_found",
];

/// What Envoy calls a stream that ended before its answer did. Some have the reason behind them.
const CUT_SHORT: [&str; 7] = [
    "downstream_local_disconnect",
    "downstream_remote_disconnect",
    "duration_timeout",
    "http2.remote_reset",
    "max_duration_timeout",
    "stream_idle_timeout",
    "upstream_reset_after_response_started{",
];

/// Whether a call used nothing for sure, by the status of its response and by what Envoy calls the
/// response code's details: no provider got the request, or one answered it with an error.
///
/// It is asked where no usage was found.
pub fn used_nothing(status: u32, details: &str) -> bool {
    (status >= 400 && details == VIA_UPSTREAM) || never_sent(details)
}

/// Whether the answer began and broke off: what was told of it may be less than what it used.
pub(super) fn cut_short(details: &str) -> bool {
    CUT_SHORT.iter().any(|known| details.starts_with(known))
}

/// Whether no provider got the request.
pub(super) fn never_sent(details: &str) -> bool {
    match details.strip_prefix(RESET) {
        Some(reason) => NOT_CONNECTED.iter().any(|known| reason.starts_with(known)),
        // Some have more behind them, in brackets.
        None => NOT_SENT.iter().any(|known| details.starts_with(known)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_used_nothing_if_no_provider_got_it_or_one_refused_it() {
        for details in [
            "no_healthy_upstream",
            "jwt_authn_access_denied{Jwt_is_expired}",
            "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error}",
            "upstream_reset_before_response_started{overflow}",
        ] {
            assert!(
                never_sent(details) && used_nothing(503, details),
                "{details}"
            );
        }
        for details in [
            "",
            "upstream_response_timeout",
            "upstream_reset_before_response_started{connection_termination}",
            "upstream_reset_after_response_started{remote_connection_failure}",
            "downstream_remote_disconnect",
        ] {
            assert!(!used_nothing(503, details), "{details}");
        }
        for details in [
            "downstream_remote_disconnect",
            "upstream_reset_after_response_started{remote_reset}",
        ] {
            assert!(cut_short(details), "{details}");
        }
        assert!(!cut_short("via_upstream") && !cut_short("no_healthy_upstream"));
        assert!(used_nothing(400, "via_upstream"));
        assert!(!used_nothing(399, "via_upstream"));
        assert!(!never_sent("via_upstream"));
    }
}
