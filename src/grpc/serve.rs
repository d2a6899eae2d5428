//! The connections of the gRPC edge, and which call goes where.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::service::Routes;
use tower::Service as _;

use super::unary::Message;
use super::{rls, unary};
use crate::connections::{self, Bounds};
use crate::service::Service;

const BOUNDS: Bounds = Bounds {
    connections: 16_384,
    // Whoever stops us has the last word on that.
    drain: Duration::MAX,
};

/// What a client says first, and how long it may take to.
const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PREFACE_TIME: Duration = Duration::from_secs(10);

/// How often to look for the rest, where it comes in parts; few clients send it so.
const PREFACE_PAUSE: Duration = Duration::from_millis(50);

/// How long it may be under way still when we stop.
const PREFACE_GRACE: Duration = Duration::from_millis(100);

/// Serves until `shutdown`, then until the calls under way are done.
///
/// # Errors
///
/// Fails only where `listener` does not listen any more.
pub(super) async fn serve(
    listener: TcpListener,
    edge: Edge,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    connections::serve(listener, BOUNDS, shutdown, |stream, stopping| {
        connection(stream, edge.clone(), stopping)
    })
    .await
}

/// What answers.
#[derive(Clone, Debug)]
pub(super) struct Edge {
    /// The rate-limit service: by itself, because everything else is rare beside it.
    pub(super) service: Service,
    /// All others.
    pub(super) routes: Routes,
}

async fn connection(stream: TcpStream, edge: Edge, stopping: CancellationToken) {
    let begun = tokio::select! {
        begun = begin(&stream, PREFACE_TIME) => begun,
        () = async {
            stopping.cancelled().await;
            tokio::time::sleep(PREFACE_GRACE).await;
        } => return,
    };
    if let Err(error) = begun {
        tracing::debug!(%error, "a connection did not begin");
        return;
    }
    // Counted for each connection by itself: requests of two need not share a line of cache.
    let edge = Arc::new(edge);
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        let edge = Arc::clone(&edge);
        // On the heap: hyper moves what it is given into a task of its own, which lives longer than
        // the answer takes, and of which many are made before the first of them runs.
        Box::pin(async move {
            Ok::<_, Infallible>(if request.uri().path() == rls::METHOD {
                edge.limit(&mut request).await.map(Answer::Message)
            } else {
                // Apart, so that the other calls need no room for it.
                Box::pin(edge.route(request)).await
            })
        })
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        // An observed request is a stream for as long as it runs; Envoy has limits of its own.
        .max_concurrent_streams(None)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), service);
    connections::drive(connection, stopping).await;
}

/// Waits until a client has sent its preface, or what is none: hyper says what is wrong with it.
///
/// hyper itself would wait for ever. To look before it reads costs a connection a system call, and a
/// request nothing.
async fn begin(stream: &TcpStream, patience: Duration) -> io::Result<()> {
    let begun = async {
        let mut seen = [0; PREFACE.len()];
        loop {
            let length = stream.peek(&mut seen).await?;
            let Some(seen) = seen.get(..length).filter(|seen| !seen.is_empty()) else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            if length == PREFACE.len() || !PREFACE.starts_with(seen) {
                return Ok(());
            }
            tokio::time::sleep(PREFACE_PAUSE).await;
        }
    };
    tokio::time::timeout(patience, begun).await?
}

impl Edge {
    async fn route(&self, request: http::Request<Incoming>) -> http::Response<Answer> {
        let patience = grpc_timeout(request.headers());
        let answered = self.routes.clone().call(request);
        let answered = match patience {
            Some(patience) => tokio::time::timeout(patience, answered).await,
            None => Ok(answered.await),
        };
        match answered {
            Ok(Ok(response)) => response.map(Answer::Routed),
            Ok(Err(never)) => match never {},
            Err(_) => unary::fail(Status::deadline_exceeded("no answer within grpc-timeout"))
                .map(Answer::Message),
        }
    }

    /// `grpc-timeout` needs no clock here: the store has a deadline of its own, and a client that
    /// gives up resets its stream, which drops this.
    async fn limit(&self, request: &mut http::Request<Incoming>) -> http::Response<Message> {
        let answered = match unary::read(request.body_mut()).await {
            Ok(message) => rls::answer(&self.service, request.headers(), &message).await,
            Err(status) => Err(status),
        };
        match answered {
            Ok(answer) => unary::respond(|out| rls::encode(&answer, out)),
            Err(status) => unary::fail(status),
        }
    }
}

/// How long the client waits: at most eight digits, and a unit.
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    // `parse` would take a sign, too.
    if digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number = digits.parse::<u64>().ok()?;
    match unit {
        "H" => Some(Duration::from_hours(number)),
        "M" => Some(Duration::from_mins(number)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// The body of an answer.
#[derive(Debug)]
enum Answer {
    Message(Message),
    Routed(tonic::body::Body),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.get_mut() {
            Self::Message(message) => Pin::new(message)
                .poll_frame(cx)
                .map_err(|never| match never {}),
            Self::Routed(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Message(message) => message.is_end_stream(),
            Self::Routed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Message(message) => message.size_hint(),
            Self::Routed(body) => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// How a connection begins on which these parts are sent, one after the other was seen.
    async fn begins(parts: &[&[u8]], hangs_up: bool) -> Result<(), io::ErrorKind> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        let (mut client, (stream, _)) = (client.unwrap(), accepted.unwrap());
        client.set_nodelay(true).unwrap();
        let send = async {
            let mut sent = 0;
            for part in parts {
                client.write_all(part).await.unwrap();
                sent += part.len();
                while stream.peek(&mut [0; 64]).await.unwrap() < sent {
                    tokio::task::yield_now().await;
                }
            }
            if hangs_up {
                client.shutdown().await.unwrap();
            }
        };
        let (begun, ()) = tokio::join!(begin(&stream, Duration::from_millis(500)), send);
        begun.map_err(|error| error.kind())
    }

    #[tokio::test]
    async fn a_connection_begins_with_its_preface_or_with_what_is_none() {
        let [whole, half, rest] = [&PREFACE[..], &PREFACE[..9], &PREFACE[9..]];
        for parts in [
            &[whole][..],
            &[whole, b"more"],
            &[half, rest],
            &[b"GET / HTTP/1.1"],
            &[b"\0"],
            &[half, b"noise"],
        ] {
            assert_eq!(begins(parts, false).await, Ok(()), "{parts:?}");
        }
        let late = Err(io::ErrorKind::TimedOut);
        for parts in [&[][..], &[half], &[b"P"], &[&PREFACE[..23]]] {
            assert_eq!(begins(parts, false).await, late, "{parts:?}");
        }
        let gone = Err(io::ErrorKind::UnexpectedEof);
        assert_eq!(begins(&[], true).await, gone);
    }

    fn timeout(text: &'static str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", text.parse().unwrap());
        grpc_timeout(&headers)
    }

    #[test]
    fn a_timeout_has_at_most_eight_digits_and_a_unit() {
        for (text, expected) in [
            ("2H", Duration::from_hours(2)),
            ("3M", Duration::from_mins(3)),
            ("5S", Duration::from_secs(5)),
            ("7m", Duration::from_millis(7)),
            ("11u", Duration::from_micros(11)),
            ("13n", Duration::from_nanos(13)),
            ("0S", Duration::ZERO),
            ("00000001S", Duration::from_secs(1)),
            ("99999999H", Duration::from_hours(99_999_999)),
        ] {
            assert_eq!(timeout(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "S",
            "5",
            "5s",
            "+5S",
            "-5S",
            " 5S",
            "5 S",
            "0x5S",
            "5.0S",
            "000000001S",
            "5SS",
        ] {
            assert_eq!(timeout(text), None, "{text}");
        }
        assert_eq!(grpc_timeout(&HeaderMap::new()), None);
    }
}
