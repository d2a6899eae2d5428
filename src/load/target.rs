//! Where the load goes, and why it may not get there.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// A method of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `HOST:PORT`.
    pub(super) authority: String,
    /// `/package.Service/Method`.
    pub(super) path: String,
}

/// Why there is no load, or no more of it. Whoever started it has to look; nothing is tried again.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The address is none.
    #[error("'{0}' is no address: write HOST:PORT or http://HOST:PORT")]
    BadAddress(String),
    /// What answers there does not speak HTTP/2.
    #[error("{address} does not speak gRPC (HTTP/2 without TLS): {why}")]
    NotHttp2 {
        /// Where.
        address: String,
        /// What it did instead.
        why: String,
    },
    /// The connection came to something that cannot go on.
    #[error("{0}")]
    Protocol(String),
    /// A message is longer than this client sends.
    #[error("a message of {0} bytes is too long: one frame has 16379")]
    TooLong(usize),
    /// Nobody answers there.
    #[error("cannot reach {address}: {source}")]
    Unreachable {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The system refused to wait for answers.
    #[error("cannot wait for answers: {0}")]
    Wait(io::Error),
    /// An answer was not what it has to be.
    #[error("a wrong answer: {0}")]
    WrongAnswer(String),
}

impl Target {
    /// The method `path` at `HOST:PORT` or `http://HOST:PORT`.
    pub fn new(address: &str, path: &str) -> Result<Self, LoadError> {
        let authority = match address.split_once("://") {
            Some(("http", rest)) => rest.strip_suffix('/').unwrap_or(rest),
            Some(_) => "",
            None => address,
        };
        let port = authority.rsplit_once(':').map(|(_, port)| port);
        let whole = authority.bytes().all(|byte| byte.is_ascii_graphic())
            && !authority.starts_with(':')
            && !authority.contains(['/', '@', '?', '#']);
        match port.map(str::parse::<u16>) {
            Some(Ok(1..)) if whole => Ok(Self {
                authority: authority.to_owned(),
                path: path.to_owned(),
            }),
            _ => Err(LoadError::BadAddress(address.to_owned())),
        }
    }

    /// A connection, to the first of its addresses that takes one.
    pub(super) fn connect(&self) -> Result<TcpStream, LoadError> {
        let unreachable = |source| LoadError::Unreachable {
            address: self.authority.clone(),
            source,
        };
        let addresses: Vec<SocketAddr> = self
            .authority
            .to_socket_addrs()
            .map_err(unreachable)?
            .collect();
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            match TcpStream::connect_timeout(&address, CONNECT_WITHIN) {
                Ok(stream) => {
                    stream.set_nodelay(true).map_err(unreachable)?;
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(unreachable(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_a_host_and_a_port() {
        for good in ["127.0.0.1:80", "http://[::1]:8081", "http://limits:1/"] {
            assert!(Target::new(good, "/").is_ok(), "{good}");
        }
        for bad in [
            "",
            "limits",
            ":80",
            "a:0",
            "a:b",
            "https://a:1",
            "a:1/x",
            "a b:1",
            "a:99999",
        ] {
            assert!(Target::new(bad, "/").is_err(), "{bad}");
        }
    }
}
