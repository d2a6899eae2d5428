//! `envoy.service.accesslog.v3.AccessLogService`: Envoy's access log as a source of usage reports.
//!
//! Envoy sends entries once, in batches, and asks for no answer: what is lost is lost, so a report
//! from here is at most once. An entry that cannot be used is counted and logged, and never ends the
//! stream, because the entries behind it would be lost with it.

mod counted;

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::data::accesslog::v3::{
    AccessLogCommon, AccessLogType, HttpAccessLogEntry,
};
use envoy_types::pb::envoy::service::accesslog::v3::access_log_service_server::{
    AccessLogService, AccessLogServiceServer,
};
use envoy_types::pb::envoy::service::accesslog::v3::stream_access_logs_message::LogEntries;
use envoy_types::pb::envoy::service::accesslog::v3::{
    StreamAccessLogsMessage, StreamAccessLogsResponse,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use self::counted::counted;
use super::setup::{Setup, SetupError, reservation};
use crate::service::{Observed, Service, Source, do_each, used_nothing};
use crate::usage::Reported;

/// The largest message, in bytes. The first of a stream tells all about the Envoy that sends it,
/// some 60 KiB, before any entry.
const MAX_MESSAGE: usize = 16 << 20;

pub(super) fn server(
    service: Service,
    stopping: CancellationToken,
) -> AccessLogServiceServer<AccessLog> {
    AccessLogServiceServer::new(AccessLog { service, stopping })
        .max_decoding_message_size(MAX_MESSAGE)
}

pub(super) struct AccessLog {
    service: Service,
    /// Envoy never ends its stream, so we do, when nothing new is taken any more.
    stopping: CancellationToken,
}

#[tonic::async_trait]
impl AccessLogService for AccessLog {
    async fn stream_access_logs(
        &self,
        request: Request<Streaming<StreamAccessLogsMessage>>,
    ) -> Result<Response<StreamAccessLogsResponse>, Status> {
        let setup = Arc::new(Setup::of(request.metadata()));
        let mut messages = request.into_inner();
        loop {
            let message = tokio::select! {
                // First, because a busy stream always has a message.
                biased;
                () = self.stopping.cancelled() => break,
                message = messages.message() => message,
            };
            // However it ended, there is nobody to tell.
            let Ok(Some(message)) = message else { break };
            if let Some(LogEntries::HttpLogs(logs)) = message.log_entries {
                let each = logs.log_entry.into_iter().map(|entry| {
                    let (service, setup) = (self.service.clone(), Arc::clone(&setup));
                    async move { take(&service, &setup, &entry).await }
                });
                do_each(each).await;
            }
        }
        Ok(Response::new(StreamAccessLogsResponse {}))
    }
}

/// Reports what one entry says.
async fn take(service: &Service, setup: &Result<Setup, SetupError>, entry: &HttpAccessLogEntry) {
    let Some(common) = entry
        .common_properties
        .as_ref()
        .filter(|it| is_of_a_call(it))
    else {
        return;
    };
    let setup = match setup {
        Ok(setup) => setup,
        Err(error) => {
            service.refuse_observation(Source::AccessLog, "bad_setup", error);
            return;
        }
    };
    let none = Metadata::default();
    let metadata = common.metadata.as_ref().unwrap_or(&none);
    let request = entry.request.as_ref();
    let id = reservation(metadata);
    let descriptors = setup.descriptors(|name| {
        let tagged = common.custom_tags.get(name);
        let logged = || request?.request_headers.get(name);
        tagged.or_else(logged).map(String::as_str)
    });
    if id.is_none() && descriptors.is_empty() {
        return;
    }
    let usage = match counted(metadata, &setup.usage) {
        Ok(Some(usage)) => usage,
        Ok(None) if is_without_use(entry) => Reported::of_measures([Some(0); 4]),
        Ok(None) => {
            service.observation_without_usage(Source::AccessLog, "no_usage");
            Reported::default()
        }
        Err(error) => {
            service.refuse_observation(Source::AccessLog, "bad_usage", &error);
            return;
        }
    };
    let request_id = request.map(|request| request.request_id.as_str());
    let observed = Observed {
        source: Source::AccessLog,
        domain: setup.domain.as_deref(),
        id,
        request_id: request_id.filter(|id| !id.is_empty()),
        descriptors,
        outcome: entry
            .response
            .as_ref()
            .map(|response| response.response_code_details.as_str()),
        usage,
    };
    service.observed(observed).await;
}

/// Whether an entry is about a call that is over and was not refused by a rate limit.
fn is_of_a_call(common: &AccessLogCommon) -> bool {
    let flags = common.response_flags.as_ref();
    let is_last = matches!(
        common.access_log_type(),
        AccessLogType::NotSet | AccessLogType::DownstreamEnd
    );
    is_last && !flags.is_some_and(|flags| flags.rate_limited)
}

/// Whether nothing can have been used.
fn is_without_use(entry: &HttpAccessLogEntry) -> bool {
    entry.response.as_ref().is_some_and(|response| {
        let code = response.response_code.as_ref().map_or(0, |code| code.value);
        used_nothing(code, &response.response_code_details)
    })
}
