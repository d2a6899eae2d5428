//! `envoy.service.ext_proc.v3.ExternalProcessor`: an observer that reads answers while they stream.
//!
//! It is meant for `observability_mode: true`, where Envoy shows everything and waits for nothing.
//! Where it was configured to wait, it is told at once, with every message, that nothing is to be
//! changed; reporting comes after that.

mod observer;
mod reply;

use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_server::{
    ExternalProcessor, ExternalProcessorServer,
};
use envoy_types::pb::envoy::service::ext_proc::v3::{ProcessingRequest, ProcessingResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use self::observer::{Observer, Seen};
use self::reply::Replies;
use super::setup::{Setup, SetupError};
use crate::service::{Service, Source};

pub(super) fn server(service: Service) -> ExternalProcessorServer<ExtProc> {
    ExternalProcessorServer::new(ExtProc(service))
}

pub(super) struct ExtProc(Service);

type Reply = Result<ProcessingResponse, Status>;

#[tonic::async_trait]
impl ExternalProcessor for ExtProc {
    type ProcessStream = ReceiverStream<Reply>;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        let setup = Setup::of(request.metadata());
        let (replies, answered) = mpsc::channel(1);
        // A task of its own: it has to report although Envoy, or its client, is gone.
        tokio::spawn(observe(
            self.0.clone(),
            setup,
            request.into_inner(),
            replies,
        ));
        Ok(Response::new(ReceiverStream::new(answered)))
    }
}

/// Follows one call to its end.
async fn observe(
    service: Service,
    setup: Result<Setup, SetupError>,
    mut messages: Streaming<ProcessingRequest>,
    replies: mpsc::Sender<Reply>,
) {
    let (setup, problem) = match setup {
        Ok(setup) => (Some(setup), None),
        Err(error) => (None, Some(error)),
    };
    if let Some(error) = problem {
        service.refuse_observation(Source::ExtProc, "bad_setup", &error);
    }
    let mut observer = setup.map(Observer::new);
    let mut answering = Replies::default();
    // An error is an end, too: nobody has more to say.
    while let Ok(Some(mut message)) = messages.message().await {
        let seen = observer
            .as_mut()
            .map_or(Seen::Nothing, |observer| observer.see(&message));
        if let Some(reply) = answering.to(&mut message) {
            drop(replies.send(Ok(reply)).await);
        }
        match (seen, observer.take()) {
            (Seen::Nothing, kept) => observer = kept,
            (Seen::SoFar(so_far), Some(kept)) => {
                if let Some(id) = kept.id() {
                    service.observe_progress(Source::ExtProc, kept.domain(), id, so_far);
                }
                observer = Some(kept);
            }
            // Envoy would keep the stream open for some seconds more.
            (Seen::End, Some(over)) if message.observability_mode => {
                return over.report(&service).await;
            }
            // Trailers may come, and be waited for, while the store is slow.
            (Seen::End, Some(over)) => {
                let service = service.clone();
                tokio::spawn(async move { over.report(&service).await });
            }
            (_, None) => {}
        }
    }
    if let Some(cut) = observer {
        cut.report(&service).await;
    }
}
