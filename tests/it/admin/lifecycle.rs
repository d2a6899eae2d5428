//! Connections, and the end of them.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot talk to its server has failed"
)]

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tollgate::admin;

use super::fixture::Edge;

/// Longer than a drain may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// A connection with a request whose body is not there yet; the server has read its head.
async fn half_a_request(to: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let head = "POST /v1/release HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 26\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    // Comes when the handler asks for the body.
    let mut line = [0; 25];
    stream.read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream
}

#[tokio::test]
async fn a_request_under_way_is_finished_before_the_end() {
    let edge = Edge::start().await;
    let mut stream = half_a_request(edge.address).await;
    edge.shutdown.cancel();
    stream
        .write_all(br#"{"domain":"llm","id":"r1"}"#)
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    let served = tokio::time::timeout(PATIENCE, edge.served).await.unwrap();
    assert!(served.unwrap().is_ok());
    assert!(TcpStream::connect(edge.address).await.is_err());
}

#[tokio::test]
async fn a_request_that_never_ends_does_not_keep_the_process() {
    let edge = Edge::start().await;
    let mut stream = half_a_request(edge.address).await;
    edge.shutdown.cancel();
    let served = tokio::time::timeout(PATIENCE, edge.served).await.unwrap();
    assert!(served.unwrap().is_ok());
    // Cut off without an answer.
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_connection_serves_many_requests() {
    let edge = Edge::start().await;
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    for _ in 0..3 {
        stream
            .write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nlive") {
            answer.push(stream.read_u8().await.unwrap());
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_listener_that_stopped_listening_is_an_error() {
    let edge = Edge::start().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let same = std::os::fd::OwnedFd::from(listener.try_clone().unwrap());
    std::net::TcpStream::from(same)
        .shutdown(std::net::Shutdown::Both)
        .unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let router = admin::router(edge.service.clone(), edge.health.clone());
    let served = admin::serve(listener, router, std::future::pending());
    assert!(
        tokio::time::timeout(PATIENCE, served)
            .await
            .unwrap()
            .is_err()
    );
}
