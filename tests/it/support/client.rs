//! Asks through Envoy, as an application does: blocking, takes an answer piece by piece while it
//! streams, and can hang up at any moment. Tollgate's own HTTP port is asked by `http`.

use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::net::TcpStream;

use super::process::PATIENCE;

/// What to send.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    text: String,
    body: String,
}

impl Request {
    /// A GET.
    pub(crate) fn get(path: &str) -> Self {
        Self {
            text: format!("GET {path} HTTP/1.1\r\nhost: test\r\n"),
            body: String::new(),
        }
    }

    /// A POST of JSON.
    pub(crate) fn post(path: &str, body: &serde_json::Value) -> Self {
        let body = body.to_string();
        let length = body.len();
        let text = format!(
            "POST {path} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n"
        );
        Self { text, body }
    }

    /// With one more header.
    #[must_use]
    pub(crate) fn header(mut self, name: &str, value: &(impl ToString + ?Sized)) -> Self {
        self.text = format!("{}{name}: {}\r\n", self.text, value.to_string());
        self
    }

    /// Sends it, without waiting for an answer. Dropping what is returned hangs up.
    pub(crate) fn send(&self, port: u16) -> io::Result<Sent> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "{}\r\n{}", self.text, self.body)?;
        Ok(Sent(BufReader::new(stream)))
    }

    /// Sends it and reads the whole answer.
    pub(crate) fn ask(&self, port: u16) -> io::Result<Answer> {
        self.send(port)?.begin()?.finish()
    }
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct Sent(BufReader<TcpStream>);

impl Sent {
    /// Waits for the head of the answer.
    pub(crate) fn begin(mut self) -> io::Result<Exchange> {
        let status_line = line(&mut self.0)?;
        let status = status_line
            .split_whitespace()
            .nth(1)
            .and_then(|status| status.parse().ok())
            .ok_or_else(|| strange(&status_line))?;
        let mut headers = Vec::new();
        loop {
            let line = line(&mut self.0)?;
            match line.split_once(':') {
                Some((name, value)) => {
                    headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
                }
                None if line.is_empty() => break,
                None => return Err(strange(&line)),
            }
        }
        Ok(Exchange {
            stream: self.0,
            answer: Answer {
                status,
                headers,
                body: String::new(),
            },
        })
    }
}

/// An answer that is coming in. Dropping it hangs up.
#[derive(Debug)]
pub(crate) struct Exchange {
    stream: BufReader<TcpStream>,
    answer: Answer,
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    /// The value of a header that comes once.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(known, _)| known == name);
        let (_, value) = values.next()?;
        assert!(values.next().is_none(), "{name} came twice");
        Some(value)
    }

    /// The body, as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

impl Exchange {
    /// Reads until the body contains `text`, and not much further.
    pub(crate) fn read_until(&mut self, text: &str) -> io::Result<()> {
        while !self.answer.body.contains(text) {
            if !self.read_piece()? {
                return Err(strange(&self.answer.body));
            }
        }
        Ok(())
    }

    /// Reads the rest.
    pub(crate) fn finish(mut self) -> io::Result<Answer> {
        while self.read_piece()? {}
        Ok(self.answer)
    }

    /// Reads a chunk, or a whole body that does not come in chunks; false at the end.
    fn read_piece(&mut self) -> io::Result<bool> {
        let piece = if self.answer.header("transfer-encoding") == Some("chunked") {
            let size = line(&mut self.stream)?;
            let size = u64::from_str_radix(&size, 16).map_err(|_| strange(&size))?;
            let piece = self.take(size)?;
            line(&mut self.stream)?;
            piece
        } else {
            let length = self.answer.header("content-length").unwrap_or("0");
            let length: u64 = length.parse().map_err(|_| strange(length))?;
            let missing = length.saturating_sub(self.answer.body.len() as u64);
            self.take(missing)?
        };
        self.answer.body.push_str(&piece);
        Ok(!piece.is_empty())
    }

    fn take(&mut self, size: u64) -> io::Result<String> {
        let mut piece = Vec::new();
        (&mut self.stream).take(size).read_to_end(&mut piece)?;
        if piece.len() as u64 == size {
            Ok(String::from_utf8_lossy(&piece).into_owned())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}

fn line(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    match line.strip_suffix("\r\n") {
        Some(line) => Ok(line.to_owned()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn strange(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.to_owned())
}
