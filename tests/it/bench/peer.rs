//! A service that answers by a script, by the frame, and misbehaves where it is told to.
#![expect(
    clippy::unwrap_used,
    reason = "a test's scaffolding fails the test where it stands"
)]

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::process::PATIENCE;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What it does next on a connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Do {
    /// Answers so many requests.
    Answer(usize),
    /// Answers so many, a byte in a packet.
    Dribble(usize),
    /// Answers one by a reset.
    Reset(u32),
    /// Answers one by headers that go on in another frame.
    Continue,
    /// Closes the connection when it has got one more request.
    HangUp,
    /// Waits for a request, then for so many milliseconds. The request is the next one answered.
    Pause(u64),
    /// Asks whether anybody is there.
    Ping,
    /// Says that it goes away when it has got one more request, and answers that.
    GoAway,
}

/// A listening one, with a script for each connection.
#[derive(Debug)]
pub(super) struct Peer {
    address: SocketAddr,
    pongs: Arc<AtomicUsize>,
}

impl Peer {
    /// Serves one connection after the other.
    pub(super) fn start(scripts: &[&[Do]]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let pongs = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&pongs);
        let scripts: Vec<Vec<Do>> = scripts.iter().map(|script| script.to_vec()).collect();
        // It ends when its connections do, which all end with the program that it answers.
        std::thread::spawn(move || {
            for script in scripts {
                let (stream, _) = listener.accept().unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.set_nodelay(true).unwrap();
                let mut served = Served {
                    stream,
                    waiting: Vec::new(),
                    pongs: Arc::clone(&counted),
                };
                // Whoever hangs up on us has what it wanted.
                served.serve(&script).unwrap_or_default();
            }
        });
        Self { address, pongs }
    }

    pub(super) fn address(&self) -> String {
        self.address.to_string()
    }

    /// How often it was told that somebody is there.
    pub(super) fn pongs(&self) -> usize {
        self.pongs.load(Ordering::SeqCst)
    }
}

struct Served {
    stream: TcpStream,
    waiting: Vec<u32>,
    pongs: Arc<AtomicUsize>,
}

impl Served {
    fn serve(&mut self, script: &[Do]) -> std::io::Result<()> {
        let mut preface = [0; 24];
        self.stream.read_exact(&mut preface)?;
        self.stream.write_all(&frame(SETTINGS, 0, 0, &[]))?;
        for step in script {
            match *step {
                Do::Answer(count) => {
                    for _ in 0..count {
                        let answer = answer(self.request()?);
                        self.stream.write_all(&answer)?;
                    }
                }
                Do::Dribble(count) => {
                    for _ in 0..count {
                        for byte in answer(self.request()?) {
                            self.stream.write_all(&[byte])?;
                        }
                    }
                }
                Do::Reset(code) => {
                    let stream = self.request()?;
                    let reset = frame(RST_STREAM, 0, stream, &code.to_be_bytes());
                    self.stream.write_all(&reset)?;
                }
                Do::Continue => {
                    let stream = self.request()?;
                    self.stream.write_all(&frame(HEADERS, 0, stream, &[0x88]))?;
                }
                Do::HangUp => {
                    self.request()?;
                    return Ok(());
                }
                Do::Pause(millis) => {
                    let stream = self.request()?;
                    self.waiting.insert(0, stream);
                    std::thread::sleep(Duration::from_millis(millis));
                }
                Do::Ping => self.stream.write_all(&frame(PING, 0, 0, b"are you?"))?,
                Do::GoAway => {
                    let stream = self.request()?;
                    let last = [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0];
                    self.stream.write_all(&frame(GOAWAY, 0, 0, &last))?;
                    self.stream.write_all(&answer(stream))?;
                }
            }
        }
        // Until the other side has had enough.
        loop {
            self.read()?;
        }
    }

    /// The stream of the next request.
    fn request(&mut self) -> std::io::Result<u32> {
        while self.waiting.is_empty() {
            self.read()?;
        }
        Ok(self.waiting.remove(0))
    }

    fn read(&mut self) -> std::io::Result<()> {
        let mut header = [0; 9];
        self.stream.read_exact(&mut header)?;
        let [a, b, c, kind, flags, stream @ ..] = header;
        let length = u32::from_be_bytes([0, a, b, c]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.stream.read_exact(&mut payload)?;
        match kind {
            DATA => {
                assert_eq!(flags, END_STREAM, "one message, in one frame");
                self.waiting.push(u32::from_be_bytes(stream));
            }
            PING => {
                assert_eq!((flags, payload.as_slice()), (1, &b"are you?"[..]));
                self.pongs.fetch_add(1, Ordering::SeqCst);
            }
            _ => {}
        }
        Ok(())
    }
}

/// Headers, `overall_code: OK`, and the status of gRPC.
fn answer(stream: u32) -> Vec<u8> {
    let mut frames = frame(HEADERS, END_HEADERS, stream, &[0x88]);
    frames.extend(frame(DATA, 0, stream, &[0, 0, 0, 0, 2, 8, 1]));
    let status = b"\x00\x0bgrpc-status\x010";
    frames.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, status));
    frames
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [.., a, b, c] = payload.len().to_be_bytes();
    let mut frame = vec![a, b, c, kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}
