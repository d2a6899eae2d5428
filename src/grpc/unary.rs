//! One message in, one message out: gRPC's framing for the one call that is on the path of every
//! request.
//!
//! tonic's own way through it (boxed bodies, a stream of messages on each side, a router) costs more
//! than a decision does; see docs/performance.md. The format is gRPC over HTTP/2's: a byte that says
//! whether the message is compressed, its length in four bytes, the message; `grpc-status` in the
//! trailers.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
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

/// Reads the one message of a request.
pub(super) async fn read<B>(body: &mut B) -> Result<Bytes, Status>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let mut read: Option<Bytes> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Status::cancelled(error.to_string()))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        let all = match read.take() {
            // Nearly always all of it comes at once.
            None => data,
            Some(before) => [before, data].concat().into(),
        };
        if all.len() > PREFIX + MAX_MESSAGE {
            return Err(Status::out_of_range(format!(
                "the message is larger than {MAX_MESSAGE} bytes"
            )));
        }
        if is_whole(&all) && body.is_end_stream() {
            return message(all);
        }
        read = Some(all);
    }
    message(read.unwrap_or_default())
}

fn is_whole(bytes: &Bytes) -> bool {
    bytes
        .get(1..PREFIX)
        .is_some_and(|mut length| bytes.len() - PREFIX >= length.get_u32() as usize)
}

/// The message behind its prefix.
fn message(mut bytes: Bytes) -> Result<Bytes, Status> {
    if bytes.is_empty() {
        return Err(Status::internal("there is no message"));
    }
    if bytes.len() < PREFIX {
        return Err(Status::internal("the message is cut off"));
    }
    let compressed = bytes.get_u8() != 0;
    let length = bytes.get_u32() as usize;
    if compressed {
        return Err(Status::unimplemented("compressed messages are not read"));
    }
    if bytes.len() != length {
        return Err(Status::internal(
            "the message is cut off, or another follows it",
        ));
    }
    Ok(bytes)
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
