//! `tollgate.v1.Tollgate`: reserve, progress, settle, release, report, inspect.

use std::time::Duration;

use tonic::{Code, Request, Response, Status};

use super::proto;
use super::proto::tollgate_server::{Tollgate, TollgateServer};
use crate::service::{
    ApiError, BucketView, ReportAnswer, ReportResult, Service, Target, check_batch, do_each,
};
use crate::usage::{Name, Reported};

pub(super) fn server(service: Service) -> TollgateServer<Api> {
    TollgateServer::new(Api(service))
}

pub(super) struct Api(Service);

type Answered<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Tollgate for Api {
    async fn reserve(
        &self,
        request: Request<proto::ReserveRequest>,
    ) -> Answered<proto::ReserveResponse> {
        let request = request.get_ref();
        let target = target(&request.domain, &request.descriptors);
        let estimate = usage(request.estimate.as_ref());
        let priority = Some(request.priority.as_str()).filter(|class| !class.is_empty());
        let answer = self
            .0
            .reserve(&target, estimate, Some(&request.id), priority)
            .await
            .map_err(|error| status(&error))?;
        Ok(Response::new(proto::ReserveResponse {
            admitted: answer.admitted,
            id: answer.id.unwrap_or_default(),
            buckets: buckets(answer.buckets),
            retry_after_ms: answer.retry_after.map(millis),
        }))
    }

    async fn progress(
        &self,
        request: Request<proto::ProgressRequest>,
    ) -> Answered<proto::ProgressResponse> {
        let request = request.get_ref();
        let used = usage(request.usage.as_ref());
        let answer = self
            .0
            .progress(&request.domain, &request.id, used)
            .await
            .map_err(|error| status(&error))?;
        let (result, buckets) = reported(answer);
        Ok(Response::new(proto::ProgressResponse { result, buckets }))
    }

    async fn settle(
        &self,
        request: Request<proto::SettleRequest>,
    ) -> Answered<proto::SettleResponse> {
        let request = request.get_ref();
        let target = target(&request.domain, &request.descriptors);
        let used = usage(request.usage.as_ref());
        let answer = self
            .0
            .settle(&request.id, used, &target)
            .await
            .map_err(|error| status(&error))?;
        let (result, buckets) = reported(answer);
        Ok(Response::new(proto::SettleResponse { result, buckets }))
    }

    async fn release(
        &self,
        request: Request<proto::ReleaseRequest>,
    ) -> Answered<proto::ReleaseResponse> {
        let request = request.get_ref();
        let answer = self
            .0
            .release(&request.domain, &request.id)
            .await
            .map_err(|error| status(&error))?;
        let (result, buckets) = reported(answer);
        Ok(Response::new(proto::ReleaseResponse { result, buckets }))
    }

    async fn report(
        &self,
        request: Request<proto::ReportRequest>,
    ) -> Answered<proto::ReportResponse> {
        let answer = report(&self.0, request.get_ref())
            .await
            .map_err(|error| status(&error))?;
        let (result, buckets) = reported(answer);
        Ok(Response::new(proto::ReportResponse { result, buckets }))
    }

    async fn report_batch(
        &self,
        request: Request<proto::ReportBatchRequest>,
    ) -> Answered<proto::ReportBatchResponse> {
        let reports = request.into_inner().reports;
        check_batch(reports.len()).map_err(|error| {
            self.0.count_refused_report();
            status(&error)
        })?;
        let each = reports.into_iter().map(|request| {
            let service = self.0.clone();
            async move { report(&service, &request).await }
        });
        let answers = do_each(each).await;
        let reports = answers.into_iter().map(batched).collect();
        Ok(Response::new(proto::ReportBatchResponse { reports }))
    }

    async fn inspect(
        &self,
        request: Request<proto::InspectRequest>,
    ) -> Answered<proto::InspectResponse> {
        let request = request.get_ref();
        let target = target(&request.domain, request.descriptor.as_slice());
        let answer = self
            .0
            .inspect(&target)
            .await
            .map_err(|error| status(&error))?;
        let mut buckets = buckets(answer.buckets);
        for (bucket, held) in buckets.iter_mut().zip(answer.held.unwrap_or_default()) {
            bucket.held_reservations = Some(held.reservations);
            bucket.held_amount = Some(held.amount);
        }
        let rule = answer.rule.unwrap_or_default();
        Ok(Response::new(proto::InspectResponse { rule, buckets }))
    }
}

async fn report(
    service: &Service,
    request: &proto::ReportRequest,
) -> Result<ReportAnswer, ApiError> {
    let target = target(&request.domain, &request.descriptors);
    let used = usage(request.usage.as_ref());
    service.report_under(Some(&request.id), used, &target).await
}

fn batched(answer: Option<Result<ReportAnswer, ApiError>>) -> proto::BatchedReport {
    match answer.unwrap_or(Err(ApiError::StoreUnavailable)) {
        Ok(answer) => {
            let (result, buckets) = reported(answer);
            proto::BatchedReport {
                result,
                buckets,
                error: None,
            }
        }
        Err(error) => proto::BatchedReport {
            error: Some(proto::Error {
                reason: error.reason().to_owned(),
                message: error.to_string(),
            }),
            ..proto::BatchedReport::default()
        },
    }
}

fn target<'a>(domain: &'a str, descriptors: &'a [proto::Descriptor]) -> Target<'a> {
    let entries = |descriptor: &'a proto::Descriptor| {
        let entry = |entry: &'a proto::Entry| (entry.key.as_str(), entry.value.as_str());
        descriptor.entries.iter().map(entry).collect()
    };
    Target {
        domain,
        descriptors: descriptors.iter().map(entries).collect(),
    }
}

fn usage(usage: Option<&proto::Usage>) -> Reported {
    let mut reported = Reported::default();
    let Some(usage) = usage else {
        return reported;
    };
    for name in Name::ALL {
        let count = match name {
            Name::InputTokens => usage.input_tokens,
            Name::CacheReadTokens => usage.cache_read_tokens,
            Name::CacheWriteTokens => usage.cache_write_tokens,
            Name::OutputTokens => usage.output_tokens,
            Name::PromptTokens => usage.prompt_tokens,
            Name::CachedTokens => usage.cached_tokens,
            Name::CompletionTokens => usage.completion_tokens,
            Name::TotalTokens => usage.total_tokens,
            Name::Total => usage.total,
        };
        reported.set(name, count);
    }
    reported
}

fn status(error: &ApiError) -> Status {
    let code = match error {
        ApiError::BadUsage { .. }
        | ApiError::Contradiction(_)
        | ApiError::NoId
        | ApiError::TooManyReports(_) => Code::InvalidArgument,
        ApiError::Request(error) => return super::rls::status(error),
        ApiError::StoreUnavailable => Code::Unavailable,
        ApiError::UnknownDomain(_) => Code::NotFound,
    };
    Status::new(code, error.to_string())
}

fn reported(answer: ReportAnswer) -> (i32, Vec<proto::Bucket>) {
    let result = match answer.result {
        ReportResult::AlreadySettled => proto::ReportResult::AlreadySettled,
        ReportResult::Charged => proto::ReportResult::Charged,
        // Told as an error before.
        ReportResult::Failed => proto::ReportResult::Unspecified,
        ReportResult::Grown => proto::ReportResult::Grown,
        ReportResult::Invalid => proto::ReportResult::Invalid,
        ReportResult::Released => proto::ReportResult::Released,
        ReportResult::Settled => proto::ReportResult::Settled,
        ReportResult::UnknownId => proto::ReportResult::UnknownId,
        ReportResult::WithoutUsage => proto::ReportResult::WithoutUsage,
    };
    (result.into(), buckets(answer.buckets))
}

fn buckets(views: Vec<BucketView>) -> Vec<proto::Bucket> {
    views
        .into_iter()
        .map(|view| proto::Bucket {
            key: view.key.to_string(),
            burst: view.terms.burst,
            rate: view.terms.rate.amount(),
            period_ms: millis(view.terms.rate.period()),
            level: view.level,
            charged: view.charged,
            fits: view.fits,
            retry_after_ms: view.retry_after.map(millis),
            full_after_ms: view.full_after.map(millis),
            held_reservations: None,
            held_amount: None,
            limit: view.limit,
        })
        .collect()
}

/// Rounded up.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
