use std::collections::VecDeque;

use tonic::Code;

use super::*;

/// A body of these frames.
#[derive(Default)]
struct Frames {
    frames: VecDeque<Frame<Bytes>>,
    end: End,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum End {
    /// With the last frame.
    #[default]
    Last,
    /// After it: the body knows that it is at its end only when it is asked again.
    Own,
    Never,
    Breaks,
}

impl Body for Frames {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match (self.frames.pop_front(), self.end) {
            (Some(frame), _) => Poll::Ready(Some(Ok(frame))),
            (None, End::Last | End::Own) => Poll::Ready(None),
            (None, End::Never) => Poll::Pending,
            (None, End::Breaks) => Poll::Ready(Some(Err("reset"))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && self.end == End::Last
    }
}

fn frames(parts: &[&[u8]], end: End) -> Frames {
    let data = |part: &&[u8]| Frame::data(Bytes::copy_from_slice(part));
    Frames {
        frames: parts.iter().map(data).collect(),
        end,
    }
}

async fn read_all(mut body: Frames) -> Result<Bytes, Code> {
    let read = read_within(&mut body, Duration::from_millis(1)).await;
    read.map_err(|status| status.code())
}

#[tokio::test]
async fn a_message_is_read_however_it_is_split() {
    const MESSAGE: &[u8] = b"\0\0\0\0\x06abcdef";
    for end in [End::Last, End::Own] {
        for first in 0..=MESSAGE.len() {
            for second in first..=MESSAGE.len() {
                let parts = [
                    &MESSAGE[..first],
                    &MESSAGE[first..second],
                    &MESSAGE[second..],
                ];
                let read = read_all(frames(&parts, end)).await;
                assert_eq!(read.unwrap(), "abcdef", "{parts:?} {end:?}");
            }
        }
        let bytes: Vec<&[u8]> = MESSAGE.chunks(1).collect();
        assert_eq!(read_all(frames(&bytes, end)).await.unwrap(), "abcdef");
        // An end of its own.
        let read = read_all(frames(&[MESSAGE, b""], end)).await;
        assert_eq!(read.unwrap(), "abcdef");
        let empty = read_all(frames(&[b"\0\0\0\0\0"], end)).await;
        assert_eq!(empty.unwrap(), "");
    }
}

#[tokio::test]
async fn trailers_say_nothing() {
    let trailers = || Frame::trailers(HeaderMap::new());
    let mut body = frames(&[b"\0\0\0\0\x01a"], End::Last);
    body.frames.push_back(trailers());
    assert_eq!(read_all(body).await.unwrap(), "a");
    let mut body = frames(&[b"\0\0\0\0\x02a"], End::Last);
    body.frames.push_back(trailers());
    assert_eq!(read_all(body).await, Err(Code::Internal));
    let mut body = frames(&[], End::Own);
    body.frames.push_back(trailers());
    assert_eq!(read_all(body).await, Err(Code::Internal));
}

#[tokio::test]
async fn what_is_no_message_is_an_error() {
    let cases: [&[&[u8]]; 8] = [
        &[],
        &[b""],
        // Cut off: in the prefix, and in the message.
        &[b"\0\0\0"],
        &[b"\0\0\0\0\x02"],
        &[b"\0\0\0\0\x02", b"a"],
        // Another follows.
        &[b"\0\0\0\0\x01a\0\0\0\0\x01b"],
        &[b"\0\0\0\0\x01a", b"\0\0\0\0\x01b"],
        &[b"\0\0\0\0\0", b"\0"],
    ];
    for end in [End::Last, End::Own] {
        for case in cases {
            let read = read_all(frames(case, end)).await;
            assert_eq!(read, Err(Code::Internal), "{case:?} {end:?}");
        }
    }
}

#[tokio::test]
async fn what_can_be_no_message_is_an_error_before_it_ends() {
    let cases: [(&[&[u8]], Code); 7] = [
        (&[b"\x01\0\0\0\x01"], Code::Unimplemented),
        (&[b"\x01", b"\0\0\0\x01"], Code::Unimplemented),
        (&[b"\0\0\x40\0\x01"], Code::OutOfRange),
        (&[b"\0\xff\xff\xff", b"\xff"], Code::OutOfRange),
        (&[b"\0\0\0\0\x01ab"], Code::Internal),
        (&[b"\0\0\0\0\x01", b"ab"], Code::Internal),
        (&[b"\0\0\0\0\x01", b"a", b"b"], Code::Internal),
    ];
    for (case, code) in cases {
        assert_eq!(
            read_all(frames(case, End::Never)).await,
            Err(code),
            "{case:?}"
        );
    }
}

#[tokio::test]
async fn a_body_that_does_not_end_is_given_up_on() {
    let cases: [&[&[u8]]; 5] = [
        &[],
        &[b"\0\0"],
        &[b"\0\0\0\0\x02a"],
        &[b"\0\0\x40\0\0"],
        &[b"\0\0\0\0\x01a", b""],
    ];
    for case in cases {
        let read = read_all(frames(case, End::Never)).await;
        assert_eq!(read, Err(Code::DeadlineExceeded), "{case:?}");
        let read = read_all(frames(case, End::Breaks)).await;
        assert_eq!(read, Err(Code::Cancelled), "{case:?}");
    }
}
