//! Asks Tollgate's own HTTP port: async, one request on one connection, and strict about what comes
//! back (lengths, types, no header twice). For answers in pieces, and for hanging up, see `client`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot talk to its server has failed"
)]

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::process::PATIENCE;

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(known, _)| known == name);
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "two headers {name}");
        value
    }

    /// The body, which has to say that it is JSON and be it.
    pub(crate) fn json(&self) -> serde_json::Value {
        assert_eq!(self.header("content-type"), Some("application/json"));
        serde_json::from_str(&self.body).expect("JSON")
    }
}

/// Sends a request and reads the whole answer.
pub(crate) async fn send(to: SocketAddr, method: &str, path: &str, body: &[u8]) -> Reply {
    tokio::time::timeout(PATIENCE, exchange(to, method, path, body))
        .await
        .expect("an answer in time")
}

/// The value of a series on a page of `/metrics`; it has to be there.
pub(crate) fn metric(page: &str, series: &str) -> u64 {
    let value = page
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    let value = value.unwrap_or_else(|| panic!("no {series} in\n{page}"));
    value.parse().expect("a whole number")
}

async fn exchange(to: SocketAddr, method: &str, path: &str, body: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: tollgate\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    parse(&String::from_utf8(answer).unwrap(), method)
}

fn parse(answer: &str, method: &str) -> Reply {
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let mut lines = head.split("\r\n");
    let status_line = lines.next().unwrap();
    let status = status_line
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3))
        .expect("a status");
    let headers = lines
        .map(|line| line.split_once(": ").expect("a header"))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let reply = Reply {
        status: status.parse().unwrap(),
        headers,
        body: body.to_owned(),
    };
    if method != "HEAD" {
        let length = reply.header("content-length").expect("a length");
        assert_eq!(length.parse(), Ok(body.len()));
    }
    reply
}
