//! Bytes that mean nothing, and answers with mistakes in them, fifty million bytes of them: nothing
//! panics, and nothing of them is kept.

use std::ops::Range;
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write;
use tollgate::limit::MAX_MEASURED;
use tollgate::usage::{Found, Reader, ResponseHead};

use super::fixture::{ALL, body, gzip};

/// Steele, Lea and Flood's `SplitMix`: the same bytes on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn of(&mut self, range: Range<usize>) -> usize {
        let width = u64::try_from(range.len()).expect("a range").max(1);
        range.start + usize::try_from(self.next() % width).expect("in the range")
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.of(0..of.len())]
    }
}

/// How much is fed.
const BYTES: usize = 50_000_000;

/// What makes a scanner's life hard.
const PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    "\"",
    "\\",
    ":",
    ",",
    "\n",
    "\r",
    "\r\n\r\n",
    "data:",
    "data: ",
    "[DONE]",
    "null",
    "\"usage\":{",
    "\"usage\":",
    "\"prompt_tokens\":",
    "\"input_tokens\":",
    "-",
    "0.0",
    "1e9",
    "18446744073709551616",
    "\"usageMetadata\":{",
    "\"delta\":",
    "\"choices\":[{",
    "\\u0000",
    "\u{feff}",
    "\"message\":{",
    "\"response\":{",
    "\"tokens\":{",
    "\0\0\0\x10\0\0\0\0",
    "9999999999999",
];

fn mutated(random: &mut Random, bodies: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = bodies[random.of(0..bodies.len())].clone();
    match random.of(0..8) {
        0 => {
            let length = random.of(0..4096);
            bytes = (0..length).map(|_| random.byte()).collect();
        }
        1 => {
            let length = random.of(0..400);
            bytes = (0..length)
                .flat_map(|_| random.one(PIECES).bytes())
                .collect();
        }
        _ => {}
    }
    for _ in 0..random.of(0..12) {
        let at = random.of(0..bytes.len() + 1);
        match random.of(0..6) {
            0 if at < bytes.len() => bytes[at] = random.byte(),
            1 if at < bytes.len() => bytes[at] ^= 1 << random.of(0..8),
            2 => drop(bytes.splice(at..at, random.one(PIECES).bytes())),
            3 => {
                let end = (at + random.of(0..64)).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                let end = (at + random.of(0..256)).min(bytes.len());
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            _ => {
                let other = &bodies[random.of(0..bodies.len())];
                bytes.truncate(at);
                bytes.extend(&other[random.of(0..other.len())..]);
            }
        }
    }
    bytes
}

fn fed(random: &mut Random, bytes: &[u8]) -> Found {
    let types = [
        "",
        "application/json",
        "text/event-stream",
        "application/vnd.amazon.eventstream",
        "\u{e9};;",
    ];
    let encodings = ["", "", "", "gzip", "deflate", "gzip, gzip"];
    let (content_type, encoding) = (random.one(&types), random.one(&encodings));
    let mut reader = Reader::new(&ResponseHead {
        content_type: Some(content_type),
        content_encoding: Some(encoding),
    });
    let packed = encoding == "gzip" && random.of(0..4) > 0;
    let mut bytes = if packed { gzip(bytes) } else { bytes.to_vec() };
    if packed && random.of(0..2) == 0 {
        let at = random.of(0..bytes.len());
        bytes[at] = random.byte();
    }
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let size = random.one(&[&1, &7, &64, &1500, &65536]);
        let (chunk, after) = rest.split_at((*size).min(rest.len()));
        reader.feed(chunk);
        reader.so_far();
        rest = after;
    }
    reader.finish()
}

#[test]
fn nothing_panics_and_no_count_is_above_its_bound() {
    let bodies: Vec<Vec<u8>> = ALL.iter().map(|(name, _)| body(name).0).collect();
    let mut random = Random(3);
    let (mut done, mut found_some, mut runs) = (0, 0, 0);
    while done < BYTES {
        let input = mutated(&mut random, &bodies);
        done += input.len();
        runs += 1;
        let found = fed(&mut random, &input);
        if let Some(usage) = found.so_far.usage {
            found_some += 1;
            assert!(
                usage.iter().all(|count| *count <= MAX_MEASURED),
                "{found:?}"
            );
        }
        let text = usize::try_from(found.so_far.text_bytes).expect("less than was sent");
        assert!(text <= input.len(), "{found:?}");
        assert_eq!(found.missing().is_none(), found.so_far.usage.is_some());
    }
    // It must not all have been thrown away at the first byte.
    assert!(found_some > runs / 20, "{found_some} of {runs}");
}

#[test]
fn a_reader_is_small_and_may_move_between_threads() {
    const fn moves<T: Send + 'static>() {}
    moves::<Reader>();
    assert!(size_of::<Reader>() <= 1024, "{}", size_of::<Reader>());
}

const ALONE: &str = "TOLLGATE_TEST_ALONE";

#[test]
fn an_answer_of_any_size_costs_the_same_memory() {
    // Other tests allocate; so this one's bytes are counted in a process of its own.
    let name = "usage::fuzz::memory_of_a_reader_alone";
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(ALONE, "1")
        .output()
        .expect("it starts");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && told.contains("grew by"),
        "{output:?}"
    );
}

#[test]
fn memory_of_a_reader_alone() {
    if std::env::var_os(ALONE).is_none() {
        return;
    }
    let mega = vec![b'a'; 1 << 20];
    let nested = vec![b'['; 1 << 20];
    let digits = vec![b'7'; 1 << 20];
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(b"{\"content\":\"").expect("into memory");
    for _ in 0..8 {
        packed.write_all(&mega).expect("into memory");
    }
    let packed = packed.finish().expect("into memory");
    let feed = |start: &str, mega: &[u8], times: usize| {
        let mut reader = Reader::new(&ResponseHead {
            content_type: Some("application/json"),
            content_encoding: None,
        });
        reader.feed(start.as_bytes());
        for _ in 0..times {
            reader.feed(mega);
        }
        reader.finish()
    };
    let all = |times| {
        feed("{\"content\":\"", &mega, times);
        feed("{\"", &mega, times);
        feed("{\"usage\":{\"prompt_tokens\":", &digits, times);
        feed("{\"content\":", &nested, times);
        let mut reader = Reader::new(&ResponseHead {
            content_type: Some("application/json"),
            content_encoding: Some("gzip"),
        });
        for chunk in packed.chunks(1 + packed.len() / times) {
            reader.feed(chunk);
        }
        assert!(reader.so_far().text_bytes > 7 << 20);
    };
    // What is used for the first time is loaded then, code too.
    all(1);
    let before = peak_kib();
    all(8);
    let grew = peak_kib() - before;
    println!("grew by {grew} KiB");
    // Eight mebibytes of each kind went through; the kernel counts roughly.
    assert!(grew < 2048, "{grew} KiB");
}

/// The most memory that this process ever had.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).expect("kB")
}
