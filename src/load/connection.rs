//! One HTTP/2 connection, by the frame: one state machine, and what each kind of frame does to it.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use super::frame::{
    self, Frame, LAST_STREAM, flag, frame_at, kind, length_at, push_header, setting,
};
use super::headers::{Block, Blocks, DEFAULT_TABLE, RequestBlocks};
use super::messages::payload_of;
use super::{LoadError, Target};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS_WITHIN: Duration = Duration::from_secs(5);

/// What is read at once. Larger than any frame that we let the peer send, so that one always fits.
const READ: usize = 64 * 1024;
const MAX_FRAME: usize = 16_384;

/// Given back to the peer whenever it has used this much of it.
const CONNECTION_WINDOW: u32 = 1 << 30;
/// Of a stream, and of ours to the peer at first.
const MAX_WINDOW: u32 = (1 << 31) - 1;
const DEFAULT_WINDOW: u32 = 65_535;

/// The codes of gRPC that we come to by ourselves.
const CANCELLED: u32 = 1;
const UNKNOWN: u32 = 2;
const RESOURCE_EXHAUSTED: u32 = 8;
const INTERNAL: u32 = 13;
const UNAVAILABLE: u32 = 14;

/// What became of a call.
#[derive(Debug)]
pub(super) struct Ended<'c> {
    /// Which message it sent.
    pub(super) message: usize,
    /// When it was to be sent.
    pub(super) sent: Instant,
    /// The message that answers it, or the code of gRPC and what was said.
    pub(super) answer: Result<&'c [u8], (u32, &'c str)>,
}

/// A call under way.
#[derive(Debug)]
struct Call {
    message: usize,
    sent: Instant,
    answer: Vec<u8>,
    ended: bool,
}

/// A connection that serves calls. It never waits: what cannot be read or written now is left.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    input: Box<[u8]>,
    filled: usize,
    output: Vec<u8>,
    written: usize,
    request: RequestBlocks,
    begun: bool,
    /// Calls by their streams, the oldest first; it has `oldest`.
    calls: VecDeque<Call>,
    oldest: u32,
    in_flight: usize,
    spare: Vec<Vec<u8>>,
    peer: Peer,
    /// What the peer has sent that we have not given back to its window.
    received: u32,
    leaving: bool,
}

/// What the peer lets us do.
#[derive(Debug)]
struct Peer {
    window: i64,
    stream_window: u32,
    streams: u32,
    table: u32,
}

impl Connection {
    /// A connection whose peer has shown that it speaks HTTP/2.
    pub(super) fn open(target: &Target) -> Result<Self, LoadError> {
        let stream = target.connect()?;
        let mut connection = Self {
            stream,
            input: vec![0; READ].into_boxed_slice(),
            filled: 0,
            output: PREFACE.to_vec(),
            written: 0,
            request: RequestBlocks::new(target, DEFAULT_TABLE),
            begun: false,
            calls: VecDeque::new(),
            oldest: 1,
            in_flight: 0,
            spare: Vec::new(),
            peer: Peer {
                window: DEFAULT_WINDOW.into(),
                stream_window: DEFAULT_WINDOW,
                streams: u32::MAX,
                table: DEFAULT_TABLE,
            },
            received: 0,
            leaving: false,
        };
        connection.push_settings();
        connection
            .shake_hands()
            .map_err(|why| LoadError::NotHttp2 {
                address: target.authority.clone(),
                why,
            })?;
        connection.request = RequestBlocks::new(target, connection.peer.table);
        Ok(connection)
    }

    /// Waits for the peer's settings, without which nothing may be sent that depends on them.
    fn shake_hands(&mut self) -> Result<(), String> {
        let said = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!("it said nothing for {} s", SETTINGS_WITHIN.as_secs())
            }
            _ => error.to_string(),
        };
        self.stream
            .set_read_timeout(Some(SETTINGS_WITHIN))
            .map_err(said)?;
        self.stream.write_all(&self.output).map_err(said)?;
        self.output.clear();
        // The first frame has to be the settings, and it is short.
        loop {
            let read = self.stream.read(&mut self.input[self.filled..]);
            match read.map_err(said)? {
                0 => return Err("it closed the connection".to_owned()),
                read => self.filled += read,
            }
            let input = &self.input[..self.filled];
            if input.get(3).is_some_and(|kind| *kind != kind::SETTINGS) {
                return Err("its first bytes are no settings".to_owned());
            }
            if frame_at(input).is_some() {
                break;
            }
            if self.filled == self.input.len() {
                return Err("its settings are endless".to_owned());
            }
        }
        self.stream.set_nonblocking(true).map_err(said)?;
        let nothing = &mut |_: Ended<'_>| Ok(());
        self.take_frames(&mut Blocks::default(), nothing)
            .map_err(|error| error.to_string())
    }

    /// For waiting on it.
    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Calls under way.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether it has to be replaced, now that nothing is under way.
    pub(super) fn is_spent(&self) -> bool {
        self.leaving && self.in_flight == 0
    }

    /// Whether a call of this frame may begin now.
    pub(super) fn has_room(&self, frame: &[u8]) -> bool {
        let payload = payload_of(frame);
        !self.leaving
            && usize::try_from(self.peer.streams).is_ok_and(|streams| self.in_flight < streams)
            && i64::try_from(payload).is_ok_and(|payload| payload <= self.peer.window)
            && usize::try_from(self.peer.stream_window).is_ok_and(|window| payload <= window)
    }

    /// Begins a call, which goes out with the next [`Self::flush`]. There has to be room for it.
    pub(super) fn begin(&mut self, message: usize, frame: &[u8], sent: Instant) {
        let stream = self.next_stream();
        let block = if self.begun {
            &self.request.next
        } else {
            &self.request.first
        };
        push_header(
            &mut self.output,
            block.len(),
            kind::HEADERS,
            flag::END_HEADERS,
            stream,
        );
        self.output.extend_from_slice(block);
        let start = self.output.len();
        self.output.extend_from_slice(frame);
        if let Some(place) = self.output.get_mut(start + 5..start + frame::HEADER) {
            place.copy_from_slice(&stream.to_be_bytes());
        }
        self.begun = true;
        self.peer.window -= i64::try_from(payload_of(frame)).unwrap_or_default();
        self.calls.push_back(Call {
            message,
            sent,
            answer: self.spare.pop().unwrap_or_default(),
            ended: false,
        });
        self.in_flight += 1;
        self.leaving |= stream >= LAST_STREAM;
    }

    /// Whether there is something that the system did not take yet.
    pub(super) fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Sends what it can.
    pub(super) fn flush(&mut self) -> Result<(), Lost> {
        while self.written < self.output.len() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(0) => return Err(Lost::closed()),
                Ok(written) => self.written += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Lost::Connection(error.to_string())),
            }
        }
        self.output.clear();
        self.written = 0;
        Ok(())
    }

    /// Reads what is there, and tells of every call that ended.
    pub(super) fn receive(
        &mut self,
        blocks: &mut Blocks,
        ended: &mut impl FnMut(Ended<'_>) -> Result<(), LoadError>,
    ) -> Result<(), Lost> {
        match self.stream.read(&mut self.input[self.filled..]) {
            Ok(0) => return Err(Lost::closed()),
            Ok(read) => self.filled += read,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                return Ok(());
            }
            Err(error) => return Err(Lost::Connection(error.to_string())),
        }
        self.take_frames(blocks, ended)
    }

    /// Closes it. Where that fails, it is closed already.
    pub(super) fn close(&self) {
        self.stream.shutdown(Shutdown::Both).unwrap_or_default();
    }

    /// Ends every call under way, because the connection is gone.
    pub(super) fn fail_all(
        &mut self,
        why: &str,
        ended: &mut impl FnMut(Ended<'_>) -> Result<(), LoadError>,
    ) -> Result<(), LoadError> {
        for call in self.calls.drain(..).filter(|call| !call.ended) {
            ended(Ended {
                message: call.message,
                sent: call.sent,
                answer: Err((UNAVAILABLE, why)),
            })?;
        }
        self.in_flight = 0;
        Ok(())
    }

    fn take_frames(
        &mut self,
        blocks: &mut Blocks,
        ended: &mut impl FnMut(Ended<'_>) -> Result<(), LoadError>,
    ) -> Result<(), Lost> {
        // Out of `self`, so that frames can be read while it changes.
        let mut input = std::mem::take(&mut self.input);
        let mut rest = &input[..self.filled];
        let mut result = Ok(());
        while let Some((frame, after)) = frame_at(rest) {
            result = self.take(&frame, blocks, ended);
            if result.is_err() {
                break;
            }
            rest = after;
        }
        if result.is_ok() && length_at(rest).is_some_and(|length| length > MAX_FRAME) {
            result = Err(broken("it sends frames longer than it may"));
        }
        let used = self.filled - rest.len();
        input.copy_within(used..self.filled, 0);
        self.filled -= used;
        self.input = input;
        if self.received > CONNECTION_WINDOW / 2 {
            let update = (self.received).to_be_bytes();
            push_header(&mut self.output, update.len(), kind::WINDOW_UPDATE, 0, 0);
            self.output.extend_from_slice(&update);
            self.received = 0;
        }
        result
    }

    fn take(
        &mut self,
        frame: &Frame<'_>,
        blocks: &mut Blocks,
        ended: &mut impl FnMut(Ended<'_>) -> Result<(), LoadError>,
    ) -> Result<(), Lost> {
        match frame.kind {
            kind::DATA => {
                let length = u32::try_from(frame.payload.len()).unwrap_or(MAX_WINDOW);
                self.received = self.received.saturating_add(length);
                let data = frame.unpadded().map_err(broken)?;
                let Some(call) = self.call(frame.stream) else {
                    return Ok(());
                };
                call.answer.extend_from_slice(data);
                if frame.has(flag::END_STREAM) {
                    return self.end(frame.stream, Err((INTERNAL, "no status came")), ended);
                }
                Ok(())
            }
            kind::HEADERS => {
                if !frame.has(flag::END_HEADERS) {
                    return Err(broken(
                        "it continues its headers in a second frame (CONTINUATION), which is not \
                         understood here",
                    ));
                }
                let block = blocks
                    .read(frame.unpadded().map_err(broken)?)
                    .ok_or_else(|| broken("its headers cannot be read"))?;
                if !frame.has(flag::END_STREAM) {
                    return Ok(());
                }
                let told;
                let status = match block {
                    Block {
                        grpc_status: Some(0),
                        ..
                    } => Ok(()),
                    Block {
                        grpc_status: Some(code),
                        message,
                        ..
                    } => Err((*code, message.as_str())),
                    Block { http_error, .. } => {
                        told = match http_error {
                            Some(status) => format!("HTTP status {status} and no status of gRPC"),
                            None => "no status of gRPC".to_owned(),
                        };
                        Err((UNKNOWN, told.as_str()))
                    }
                };
                self.end(frame.stream, status, ended)
            }
            kind::RST_STREAM => {
                let (code, why) = match frame.number(0) {
                    Some(7) => (UNAVAILABLE, "the stream was refused"),
                    Some(8) => (CANCELLED, "the stream was cancelled"),
                    Some(11) => (RESOURCE_EXHAUSTED, "the stream was too much"),
                    _ => (INTERNAL, "the stream was reset"),
                };
                self.end(frame.stream, Err((code, why)), ended)
            }
            kind::SETTINGS => self.take_settings(frame),
            kind::PING => {
                if !frame.has(flag::ACK) {
                    push_header(
                        &mut self.output,
                        frame.payload.len(),
                        kind::PING,
                        flag::ACK,
                        0,
                    );
                    self.output.extend_from_slice(frame.payload);
                }
                Ok(())
            }
            kind::GOAWAY => {
                self.leaving = true;
                let last = frame.number(0).unwrap_or_default();
                let error = frame.number(4).unwrap_or_default();
                let dropped = self.streams_after(last);
                for stream in dropped {
                    let why = format!("the service goes away (error {error})");
                    self.end(stream, Err((UNAVAILABLE, &why)), ended)?;
                }
                Ok(())
            }
            kind::WINDOW_UPDATE => {
                // The window of a stream is as large as its only message, or it would not have
                // been begun.
                if frame.stream == 0 {
                    self.peer.window += i64::from(frame.number(0).unwrap_or_default() & MAX_WINDOW);
                }
                Ok(())
            }
            kind::PUSH_PROMISE | kind::CONTINUATION => {
                Err(broken("it sends frames that nobody asked for"))
            }
            // Of a kind that came later than HTTP/2 itself, or a priority.
            _ => Ok(()),
        }
    }

    fn take_settings(&mut self, frame: &Frame<'_>) -> Result<(), Lost> {
        if frame.has(flag::ACK) {
            return Ok(());
        }
        let mut table = self.peer.table;
        for field in frame.payload.chunks_exact(6) {
            let [a, b, value @ ..] = field else { continue };
            let value = value.try_into().map(u32::from_be_bytes).unwrap_or_default();
            match u16::from_be_bytes([*a, *b]) {
                setting::HEADER_TABLE_SIZE => table = value,
                setting::MAX_CONCURRENT_STREAMS => self.peer.streams = value,
                setting::INITIAL_WINDOW_SIZE => self.peer.stream_window = value,
                _ => {}
            }
        }
        if self.begun && table < self.peer.table {
            return Err(broken("it changed its mind about the table of headers"));
        }
        self.peer.table = table;
        push_header(&mut self.output, 0, kind::SETTINGS, flag::ACK, 0);
        Ok(())
    }

    fn push_settings(&mut self) {
        let settings: [(u16, u32); 3] = [
            (setting::HEADER_TABLE_SIZE, 0),
            (setting::ENABLE_PUSH, 0),
            (setting::INITIAL_WINDOW_SIZE, MAX_WINDOW),
        ];
        push_header(&mut self.output, settings.len() * 6, kind::SETTINGS, 0, 0);
        for (name, value) in settings {
            self.output.extend_from_slice(&name.to_be_bytes());
            self.output.extend_from_slice(&value.to_be_bytes());
        }
        push_header(&mut self.output, 4, kind::WINDOW_UPDATE, 0, 0);
        let more = CONNECTION_WINDOW - DEFAULT_WINDOW;
        self.output.extend_from_slice(&more.to_be_bytes());
    }

    /// Ends a call, if it has not ended before. `status`: whether the service said that all is well.
    fn end(
        &mut self,
        stream: u32,
        status: Result<(), (u32, &str)>,
        ended: &mut impl FnMut(Ended<'_>) -> Result<(), LoadError>,
    ) -> Result<(), Lost> {
        let Some(call) = self.call(stream) else {
            return Ok(());
        };
        call.ended = true;
        let answer = match status {
            Ok(()) => message_of(&call.answer).ok_or((INTERNAL, "an answer without a message")),
            Err(error) => Err(error),
        };
        let told = ended(Ended {
            message: call.message,
            sent: call.sent,
            answer,
        });
        self.in_flight -= 1;
        while self.calls.front().is_some_and(|call| call.ended) {
            if let Some(mut call) = self.calls.pop_front() {
                call.answer.clear();
                self.spare.push(call.answer);
            }
            self.oldest += 2;
        }
        told.map_err(Lost::Load)
    }

    fn call(&mut self, stream: u32) -> Option<&mut Call> {
        let place = usize::try_from(stream.checked_sub(self.oldest)? / 2).ok()?;
        self.calls.get_mut(place).filter(|call| !call.ended)
    }

    fn next_stream(&self) -> u32 {
        let under_way = u32::try_from(self.calls.len()).unwrap_or(LAST_STREAM);
        self.oldest.saturating_add(under_way.saturating_mul(2))
    }

    fn streams_after(&self, last: u32) -> Vec<u32> {
        let next = self.next_stream();
        let streams = (self.oldest..next).step_by(2);
        streams.filter(|stream| *stream > last).collect()
    }
}

/// Why a connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    /// It broke off. A new one may do.
    #[error("the connection was lost: {0}")]
    Connection(String),
    /// There is no going on.
    #[error(transparent)]
    Load(LoadError),
}

impl Lost {
    fn closed() -> Self {
        Self::Connection("the service closed it".to_owned())
    }
}

fn broken(what: &str) -> Lost {
    Lost::Load(LoadError::Protocol(format!(
        "the service is not understood: {what}"
    )))
}

/// The one message that an answer consists of, uncompressed.
fn message_of(answer: &[u8]) -> Option<&[u8]> {
    let (prefix, message) = answer.split_first_chunk::<5>()?;
    let [compressed, length @ ..] = *prefix;
    let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
    (compressed == 0 && length == message.len()).then_some(message)
}
