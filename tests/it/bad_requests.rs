//! What nobody should send: each is refused or answered with an error, and harms nobody else.
#![expect(
    clippy::unwrap_used,
    reason = "a test's scaffolding fails the test where it stands"
)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::RateLimitOverride;
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use tonic::Code::{self, InvalidArgument, OutOfRange, Unimplemented};
use tonic::transport::Channel;

use crate::support::rls::{Client, admitted, ask, channel, descriptor, request};
use crate::support::served::Tollgate;

const TENANT: &[(&str, &str)] = &[("tenant", "acme")];

/// The built-in example, with a connection that stays.
struct Bad {
    tollgate: Tollgate,
    connection: Channel,
    client: Client,
}

impl Bad {
    async fn start() -> Self {
        let tollgate = Tollgate::serve(&[]);
        let connection = channel(tollgate.grpc).await;
        let client = Client::new(connection.clone());
        Self {
            tollgate,
            connection,
            client,
        }
    }

    async fn error(&self, request: RateLimitRequest) -> (Code, String) {
        let answer = self.client.clone().should_rate_limit(request).await;
        let error = answer.expect_err("an error");
        (error.code(), error.message().to_owned())
    }

    /// Others are served, on the same connection and on new ones.
    async fn serves(&mut self) {
        assert!(self.tollgate.runs());
        let new = Client::new(channel(self.tollgate.grpc).await);
        for client in [&self.client, &new] {
            let answer = ask(client, with(&[("tollgate.phase", "peek")])).await;
            assert!(admitted(&answer), "{answer:?}");
            assert_eq!(
                answer.statuses[0].limit_remaining, 50,
                "nothing was charged"
            );
        }
    }
}

fn with(control: &[(&str, &str)]) -> RateLimitRequest {
    request("llm", [descriptor(TENANT, None), descriptor(control, None)])
}

fn overridden(unit: i32) -> RateLimitRequest {
    let mut limited = descriptor(TENANT, None);
    limited.limit = Some(RateLimitOverride {
        requests_per_unit: 1,
        unit,
    });
    request("llm", [limited])
}

/// Requests that are none, and what their error says.
fn errors() -> Vec<(RateLimitRequest, &'static str)> {
    let long = "x".repeat(1 << 20);
    let many = |count| (0..count).map(|_| descriptor(TENANT, None));
    let entries = vec![("tenant", "acme"); 65];
    vec![
        (request("", many(1)), "domain must not be empty"),
        (request("llm", []), "descriptor list must not be empty"),
        (request("llm", many(10_000)), "at most 256 descriptors"),
        (
            request("llm", [descriptor(&entries, None)]),
            "at most 64 entries",
        ),
        (
            with(&[("tollgate.phase", "admit!")]),
            "tollgate.phase=admit!",
        ),
        (with(&[("tollgate.", "")]), "no such control entry"),
        (
            with(&[("tollgate.inptu_tokens", "1")]),
            "no such control entry",
        ),
        (
            with(&[("tollgate.measure", "money")]),
            "a measure is one of",
        ),
        (
            with(&[("tollgate.phase", &long[..60_000])]),
            "a phase is one of",
        ),
        (overridden(0), "unit"),
        (overridden(4_711), "unit"),
        (overridden(-1), "unit"),
    ]
}

/// Requests whose numbers are none, or whose texts are too long. They may come from a client's header, and an error would let
/// that client pass where Envoy fails open: so the answer is a refusal.
fn refusals() -> Vec<RateLimitRequest> {
    let addend = |addend| request("llm", [descriptor(TENANT, Some(addend))]);
    let mut everywhere = request("llm", [descriptor(TENANT, None)]);
    everywhere.hits_addend = u32::MAX;
    let mut both = addend(1 << 63);
    both.descriptors
        .insert(0, descriptor(&[("tenant", "b")], Some(1)));
    let mut refund = addend(1 << 63);
    refund.descriptors[0].is_negative_hits = true;
    let long = "x".repeat(1 << 20);
    vec![
        request("llm", [descriptor(&[("tenant", &long)], None)]),
        request("llm", [descriptor(&[(&long, "v")], None)]),
        addend(1 << 63),
        addend(u64::MAX),
        addend(1_000_000_001),
        everywhere,
        both,
        refund,
        with(&[("tollgate.input_tokens", "nan")]),
        with(&[("tollgate.output_tokens", "-1")]),
        with(&[("tollgate.max_output_tokens", "99999999999999999999999")]),
    ]
}

#[tokio::test]
async fn what_is_no_request_is_an_error_that_says_why() {
    let mut bad = Bad::start().await;
    for (request, part) in errors() {
        let (code, message) = bad.error(request).await;
        assert_eq!(code, InvalidArgument, "{message}");
        assert!(message.contains(part), "'{part}' is not in: {message}");
        assert!(message.len() < 500, "{} bytes of message", message.len());
        bad.serves().await;
    }
}

#[tokio::test]
async fn a_number_that_is_none_is_refused_and_costs_nothing() {
    let mut bad = Bad::start().await;
    for request in refusals() {
        let said = format!("{request:?}");
        let answer = ask(&bad.client, request).await;
        assert!(!admitted(&answer), "{said}");
        bad.serves().await;
    }
}

/// A request as bytes that no honest encoder makes of it.
#[derive(Clone, PartialEq, prost::Message)]
struct Bytes {
    #[prost(bytes = "vec", tag = "1")]
    domain: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    descriptor: Vec<u8>,
}

/// A request with a number where the domain should be.
#[derive(Clone, PartialEq, prost::Message)]
struct Number {
    #[prost(uint64, tag = "1")]
    domain: u64,
}

async fn raw<M>(connection: &Channel, path: &'static str, message: M) -> Code
where
    M: prost::Message + Default + 'static,
{
    let mut grpc = tonic::client::Grpc::new(connection.clone());
    grpc.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static(path);
    let codec = tonic_prost::ProstCodec::<M, RateLimitResponse>::default();
    let answer = grpc.unary(tonic::Request::new(message), path, codec).await;
    answer.expect_err("an error").code()
}

#[tokio::test]
async fn bytes_that_are_no_message_are_an_error() {
    const CALL: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
    let mut bad = Bad::start().await;
    let bytes = |domain: &[u8], descriptor: &[u8]| Bytes {
        domain: domain.to_vec(),
        descriptor: descriptor.to_vec(),
    };
    let undecodable = [
        // Not UTF-8.
        bytes(b"ll\xff", b""),
        // An entry that says it is longer than the message.
        bytes(b"llm", b"\x0a\xff\xff\xff\xff\x0f"),
        // Groups within groups.
        bytes(b"llm", &[0x0b; 1_000]),
    ];
    for message in undecodable {
        let code = raw(&bad.connection, CALL, message).await;
        assert_eq!(code, Code::Internal);
        bad.serves().await;
    }
    let code = raw(&bad.connection, CALL, Number { domain: 7 }).await;
    assert_eq!(code, Code::Internal);

    // Longer than gRPC's 4 MiB.
    let code = raw(&bad.connection, CALL, bytes(&vec![b'x'; 5 << 20], b"")).await;
    assert_eq!(code, OutOfRange);
    bad.serves().await;

    let code = raw(&bad.connection, "/a.Service/Call", bytes(b"llm", b"")).await;
    assert_eq!(code, Unimplemented);
    bad.serves().await;
}

/// Says something to the gRPC port and listens until it is hung up.
fn say(address: SocketAddr, parts: &[&[u8]]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    for part in parts {
        // We may be hung up on before we are done.
        if stream.write_all(part).is_err() {
            break;
        }
    }
    drop(stream.shutdown(std::net::Shutdown::Write));
    let mut heard = Vec::new();
    match stream.read_to_end(&mut heard) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("not hung up on"),
        _ => heard,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_http_2_is_hung_up_on() {
    const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const NO_SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
    let noise: Vec<u8> = (0..100_000_u32)
        .map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .collect();
    let mut bad = Bad::start().await;
    let conversations: [&[&[u8]]; 9] = [
        &[],
        &[b"\0"],
        &[b"GET /healthcheck HTTP/1.1\r\nhost: a\r\n\r\n"],
        &[b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"],
        &[&noise],
        &[HELLO, &noise],
        &[HELLO, NO_SETTINGS, &noise],
        // A frame of 16 MiB, and one that only begins.
        &[HELLO, NO_SETTINGS, b"\xff\xff\xff\x00\0\0\0\0\x01"],
        &[HELLO, NO_SETTINGS, b"\0\x10\0\x01\x04\0\0\0\x01half"],
    ];
    for conversation in conversations {
        let heard = say(bad.tollgate.grpc, conversation);
        let text = String::from_utf8_lossy(&heard);
        assert!(!text.contains("HTTP/1.1 200"), "{text}");
        bad.serves().await;
    }

    // Many who hold the line and say nothing are no reason not to serve others.
    let silent: Vec<TcpStream> = (0..200)
        .map(|_| TcpStream::connect(bad.tollgate.grpc).unwrap())
        .collect();
    bad.serves().await;
    drop(silent);
    bad.serves().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_them_take_no_memory_and_no_log() {
    const CALLS: usize = 3_000;
    const BOUND: u64 = 48 << 20;
    let mut bad = Bad::start().await;
    let client = bad.client.clone();
    let errors = errors();
    let round = async |calls: usize, begin: usize| {
        let mut sent = 0;
        while sent < calls {
            for (number, (request, _)) in errors.iter().enumerate() {
                // The heavy ones are few: they are about what one takes, and this about many.
                let heavy = prost::Message::encoded_len(request) > 10_000;
                if heavy && (begin + sent) % 20 != number {
                    continue;
                }
                let answer = client.clone().should_rate_limit(request.clone()).await;
                assert!(answer.is_err());
                sent += 1;
            }
            for request in refusals() {
                assert!(!admitted(&ask(&client, request).await));
                sent += 1;
            }
            // New values each time, which must not be remembered for ever.
            let value = format!("{begin}-{sent}");
            let unknown = request("llm", [descriptor(&[("nobody", &value)], None)]);
            assert!(admitted(&ask(&client, unknown).await));
        }
    };
    round(CALLS / 10, 0).await;
    let before = bad.tollgate.resident();
    round(CALLS, CALLS).await;
    let after = bad.tollgate.resident();
    println!("resident: {before} bytes, then {after}");
    assert!(after < before + BOUND, "{before} bytes, then {after}");
    bad.serves().await;

    let lines = bad.tollgate.log().lines().count();
    assert!(bad.tollgate.lines_with("invalid request") > 0);
    assert!(lines < 100, "{lines} lines of log");
    let longest = bad.tollgate.log().lines().map(str::len).max();
    assert!(longest < Some(1_000), "a line of {longest:?} bytes");
}
