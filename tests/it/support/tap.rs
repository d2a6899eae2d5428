//! A tap on the wire between Envoy and Tollgate: passes every call on, and remembers it.
//!
//! It is how a test knows that there were two calls and not three, what stood in them, and that
//! Tollgate has done with the second one; and it can send a call again.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_server::{
    RateLimitService, RateLimitServiceServer,
};
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use envoy_types::pb::google::protobuf::value::Kind;
use tokio::net::TcpListener;
use tonic::metadata::MetadataMap;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

/// One call of Envoy's.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// The replica that got it.
    pub(crate) replica: usize,
    /// What was asked.
    pub(crate) request: RateLimitRequest,
    /// What came along in headers.
    pub(crate) metadata: MetadataMap,
    /// What became of it.
    pub(crate) end: End,
}

/// What became of a call.
#[derive(Clone, Debug)]
pub(crate) enum End {
    /// Nothing yet.
    Pending,
    /// An answer.
    Answered(Box<RateLimitResponse>),
    /// An error.
    Failed(Status),
    /// Envoy did not wait for the answer.
    Cancelled,
}

impl Call {
    /// Each descriptor: its entries, with `id` for the value of `tollgate.id`, and its addend.
    pub(crate) fn descriptors(&self) -> Vec<String> {
        let descriptors = self.request.descriptors.iter().map(|descriptor| {
            let entries = descriptor.entries.iter().map(|entry| {
                let value = match entry.key.as_str() {
                    "tollgate.id" => "id",
                    _ => entry.value.as_str(),
                };
                format!("{}={value}", entry.key.trim_start_matches("tollgate."))
            });
            let mut text = entries.collect::<Vec<_>>().join(" ");
            if let Some(addend) = descriptor.hits_addend {
                text = format!("{text} @{}", addend.value);
            }
            text
        });
        descriptors.collect()
    }

    /// The reservations that a report names, each once.
    pub(crate) fn ids(&self) -> Vec<&str> {
        let entries = self
            .request
            .descriptors
            .iter()
            .flat_map(|known| &known.entries);
        let mut ids: Vec<&str> = entries
            .filter(|entry| entry.key == "tollgate.id")
            .map(|entry| entry.value.as_str())
            .collect();
        ids.dedup();
        ids
    }

    /// The reservation that the answer to an admission names.
    pub(crate) fn reservation(&self) -> Option<&str> {
        let End::Answered(answer) = &self.end else {
            return None;
        };
        let metadata = answer.dynamic_metadata.as_ref()?;
        match metadata.fields.get("reservation")?.kind.as_ref()? {
            Kind::StringValue(id) => Some(id),
            _ => None,
        }
    }
}

/// All calls so far, of all replicas, in the order of their arrival. Copies are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Calls(Arc<Mutex<Vec<Call>>>);

impl Calls {
    /// The calls so far.
    pub(crate) fn so_far(&self) -> Vec<Call> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Call>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A tap in front of one replica.
#[derive(Debug)]
pub(crate) struct Tap {
    /// Where Envoy connects.
    pub(crate) address: SocketAddr,
    /// The connection to the replica. Everything that the tap sends goes through it, in order.
    pub(crate) replica: Channel,
}

impl Tap {
    /// Opens one on the current runtime.
    pub(crate) async fn open(replica: usize, target: SocketAddr, calls: Calls) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{target}")).expect("an address");
        let channel = endpoint.tcp_nodelay(true).connect_lazy();
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .expect("a port for a tap");
        let address = listener.local_addr().expect("the port of a tap");
        let wire = Wire {
            replica,
            client: RateLimitServiceClient::new(channel.clone()),
            calls,
        };
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let server = Server::builder().add_service(RateLimitServiceServer::new(wire));
        tokio::spawn(server.serve_with_incoming(incoming));
        Self {
            address,
            replica: channel,
        }
    }

    /// Sends a call again, as it was.
    pub(crate) async fn replay(&self, call: &Call) -> Result<RateLimitResponse, Status> {
        let mut request = Request::new(call.request.clone());
        *request.metadata_mut() = call.metadata.clone();
        let mut client = RateLimitServiceClient::new(self.replica.clone());
        let answer = client.should_rate_limit(request).await?;
        Ok(answer.into_inner())
    }
}

struct Wire {
    replica: usize,
    client: RateLimitServiceClient<Channel>,
    calls: Calls,
}

#[tonic::async_trait]
impl RateLimitService for Wire {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let mut entry = Entry::begin(self, &request);
        let result = self.client.clone().should_rate_limit(request).await;
        entry.end = match &result {
            Ok(answer) => End::Answered(Box::new(answer.get_ref().clone())),
            Err(status) => End::Failed(status.clone()),
        };
        result
    }
}

/// Remembers how a call ended when it ends, and that is also when nobody waits for it any more.
struct Entry {
    calls: Calls,
    index: usize,
    end: End,
}

impl Entry {
    fn begin(wire: &Wire, request: &Request<RateLimitRequest>) -> Self {
        let mut calls = wire.calls.lock();
        calls.push(Call {
            replica: wire.replica,
            request: request.get_ref().clone(),
            metadata: request.metadata().clone(),
            end: End::Pending,
        });
        Self {
            calls: wire.calls.clone(),
            index: calls.len() - 1,
            end: End::Cancelled,
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let end = std::mem::replace(&mut self.end, End::Pending);
        if let Some(call) = self.calls.lock().get_mut(self.index) {
            call.end = end;
        }
    }
}
