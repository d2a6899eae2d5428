//! One message in, one message out: gRPC's framing for the one call that is on the path of every
//! request.
//!
//! tonic's own way through it (boxed bodies, a stream of messages on each side, a router) costs more
//! than a decision does; see docs/performance.md. The format is gRPC over HTTP/2's: a byte that says
//! whether the message is compressed, its length in four bytes, the message; `grpc-status` in the
//! trailers.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tonic::Status;

/// The bytes before a message.
const PREFIX: usize = 5;

/// The largest message that is read, in bytes: tonic's default.
const MAX_MESSAGE: usize = 4 << 20;

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const OK: HeaderValue = HeaderValue::from_static("0");

/// How long the rest of a message may take, where its first frame is not all of it. The largest
/// message takes that at 3.4 Mbit/s; Envoy has given up long before.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads the one message of a request.
pub(super) async fn read<B>(body: &mut B) -> Result<Bytes, Status>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    read_within(body, PATIENCE).await
}

async fn read_within<B>(body: &mut B, patience: Duration) -> Result<Bytes, Status>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    // Nearly always all of it is there already, and nothing needs a deadline.
    let first = poll_fn(|context| Poll::Ready(Pin::new(&mut *body).poll_frame(context))).await;
    let first = match first {
        Poll::Ready(Some(frame)) => data(frame)?,
        Poll::Ready(None) => return Err(no_message()),
        Poll::Pending => Bytes::new(),
    };
    if is_whole(&first)? && body.is_end_stream() {
        return Ok(first.slice(PREFIX..));
    }
    // Rare, and larger than all else that a call waits for.
    match Box::pin(tokio::time::timeout(patience, read_rest(body, first))).await {
        Ok(read) => read,
        Err(_) => Err(Status::deadline_exceeded("the message does not end")),
    }
}

async fn read_rest<B>(body: &mut B, first: Bytes) -> Result<Bytes, Status>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let mut first = first;
    let mut all = BytesMut::new();
    while !body.is_end_stream()
        && let Some(frame) = body.frame().await
    {
        let data = data(frame)?;
        if data.is_empty() {
            // Often the end comes in a frame of its own.
            continue;
        }
        if first.is_empty() {
            is_whole(&data)?;
            first = data;
            continue;
        }
        if all.is_empty() {
            all.extend_from_slice(&first);
        }
        all.extend_from_slice(&data);
        is_whole(&all)?;
    }
    let all = if all.is_empty() { first } else { all.freeze() };
    if is_whole(&all)? {
        return Ok(all.slice(PREFIX..));
    }
    if all.is_empty() {
        return Err(no_message());
    }
    Err(Status::internal("the message is cut off"))
}

/// What a frame brings; trailers say nothing to us.
fn data<E: std::fmt::Display>(frame: Result<Frame<Bytes>, E>) -> Result<Bytes, Status> {
    let frame = frame.map_err(|error| Status::cancelled(error.to_string()))?;
    Ok(frame.into_data().unwrap_or_default())
}

fn no_message() -> Status {
    Status::internal("there is no message")
}

/// Whether the message is all there. What can be none is an error as soon as its prefix is there.
fn is_whole(bytes: &[u8]) -> Result<bool, Status> {
    let Some((prefix, message)) = bytes.split_first_chunk::<PREFIX>() else {
        return Ok(false);
    };
    let [compressed, length @ ..] = *prefix;
    let length = u32::from_be_bytes(length) as usize;
    if compressed != 0 {
        return Err(Status::unimplemented("compressed messages are not read"));
    }
    if length > MAX_MESSAGE {
        return Err(Status::out_of_range(format!(
            "the message is larger than {MAX_MESSAGE} bytes"
        )));
    }
    if message.len() > length {
        return Err(Status::internal("another message follows the one"));
    }
    Ok(message.len() == length)
}

/// The response whose message `write` appends.
pub(super) fn respond(write: impl FnOnce(&mut Vec<u8>)) -> http::Response<Message> {
    let mut bytes = Vec::with_capacity(256);
    bytes.extend_from_slice(&[0; PREFIX]);
    write(&mut bytes);
    let length = u32::try_from(bytes.len() - PREFIX).unwrap_or(u32::MAX);
    if let Some(place) = bytes.get_mut(1..PREFIX) {
        place.copy_from_slice(&length.to_be_bytes());
    }
    let mut response = http::Response::new(Message {
        data: Some(bytes.into()),
        ended: false,
    });
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

/// The response that says only how it failed.
pub(super) fn fail(status: Status) -> http::Response<Message> {
    status.into_http()
}

/// The body of a response: a message and then its status, or nothing, where the head says all.
#[derive(Debug)]
pub(super) struct Message {
    data: Option<Bytes>,
    ended: bool,
}

impl Default for Message {
    fn default() -> Self {
        Self {
            data: None,
            ended: true,
        }
    }
}

impl Body for Message {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(data) = self.data.take() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        self.ended = true;
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert(STATUS, OK);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        // Unknown: a length would be sent as a header.
        SizeHint::default()
    }
}

#[cfg(test)]
#[path = "unary_tests.rs"]
mod tests;
