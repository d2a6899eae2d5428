//! Numbers as people write them, exactly: amounts, rates, weights, shares.
//!
//! Everything is read from the text, never through floating point: `1.5M` is 1,500,000 and not
//! about so much, and what would not come out whole is refused instead of rounded.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::limit::{Algorithm, MAX_AMOUNT, Rate, Weight};
use crate::rules::{BytesPerToken, CALENDAR_MONTH, Quantile, Share, Unit};

use super::error::Complaint;
use super::words::nearest;

/// A whole number of hits or tokens: `5000`, `5_000`, `50k`, `1.5M`, `2G`.
pub(super) fn amount(text: &str) -> Result<u64, Complaint> {
    let (digits, zeros) = match text.strip_suffix(['k', 'K', 'M', 'G']) {
        Some(digits) if text.ends_with('M') => (digits, 6),
        Some(digits) if text.ends_with('G') => (digits, 9),
        Some(digits) => (digits, 3),
        None => (text, 0),
    };
    let amount = match scaled(digits, zeros) {
        Scaled::Whole(amount) => amount,
        Scaled::Broken => return Err(Complaint::new(format!("'{text}' is not a whole number"))),
        Scaled::NotANumber => {
            return Err(Complaint::new(format!("'{text}' is not an amount"))
                .hint("write a number, such as 5000, 5_000, 50k, 1.5M or 2G"));
        }
        Scaled::TooLarge => u64::MAX,
    };
    if amount > MAX_AMOUNT {
        return Err(Complaint::new(format!("'{text}' is too large"))
            .hint(format!("an amount may be at most {MAX_AMOUNT}")));
    }
    Ok(amount)
}

/// An amount per time, as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WrittenRate {
    /// Of a calendar month, per 30 days.
    pub(super) rate: Rate,
    pub(super) calendar_month: bool,
}

/// The names of all units that a window may have.
pub(super) fn unit_names() -> Vec<&'static str> {
    let units = Unit::ALL.into_iter().map(Unit::name);
    units.chain([CALENDAR_MONTH]).collect()
}

/// An amount per time: `5/minute`, `50k/minute`, `100/30s`, `10M/calendar_month`.
pub(super) fn rate(text: &str) -> Result<WrittenRate, Complaint> {
    let Some((number, per)) = text.split_once('/') else {
        return Err(Complaint::new(format!("'{text}' is not a rate"))
            .hint("write an amount per time, such as 5/minute or 100/30s"));
    };
    let amount = amount(number.trim())?;
    let calendar_month = per.trim().eq_ignore_ascii_case(CALENDAR_MONTH);
    let period = if calendar_month {
        Unit::Month.period()
    } else {
        period(per.trim())?
    };
    match Rate::new(amount, period) {
        Ok(rate) => Ok(WrittenRate {
            rate,
            calendar_month,
        }),
        Err(error) => Err(error.to_string().into()),
    }
}

/// A unit of time by its name, or a duration such as `30s`.
pub(super) fn period(text: &str) -> Result<Duration, Complaint> {
    if let Some(unit) = Unit::from_name(text) {
        return Ok(unit.period());
    }
    let letters = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = text.strip_suffix(letters).unwrap_or_default();
    let millis_each = match letters {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => 0,
    };
    match digits.parse::<u64>() {
        Ok(count) if millis_each > 0 => {
            Ok(Duration::from_millis(count.saturating_mul(millis_each)))
        }
        _ => {
            let complaint = Complaint::new(format!("'{text}' is not a time"));
            let units = unit_names();
            let short = ["s", "m", "h", "d"];
            Err(match nearest(text, units.iter().copied()) {
                _ if short.contains(&text) => complaint.hint(format!("write 1{text}")),
                Some(unit) => complaint.hint(format!("did you mean '{unit}'?")),
                None => complaint.hint(format!(
                    "write one of {}, or a number with ms, s, m, h or d, such as 30s",
                    units.join(", ")
                )),
            })
        }
    }
}

/// What a limit that refills needs beyond a rate.
pub(super) fn refillable(algorithm: Algorithm, rate: Rate) -> Result<(), Complaint> {
    match algorithm {
        Algorithm::TokenBucket if rate.amount() == 0 => Err(Complaint::new(
            "a token_bucket with a rate of 0 never refills",
        )
        .hint("to forbid, write algorithm: fixed_window with the rate 0")),
        Algorithm::CalendarWindow(_) | Algorithm::FixedWindow | Algorithm::TokenBucket => Ok(()),
    }
}

/// What one of a measure costs: a number from 0 to 1000 with at most three decimals.
pub(super) fn weight(text: &str) -> Result<Weight, Complaint> {
    let thousandths = match scaled(text, 3) {
        Scaled::Whole(thousandths) => u32::try_from(thousandths).unwrap_or(u32::MAX),
        Scaled::Broken => {
            return Err(format!("the weight '{text}' has more than three decimals").into());
        }
        Scaled::NotANumber => {
            return Err(Complaint::new(format!("'{text}' is not a weight"))
                .hint("write a number from 0 to 1000, such as 1, 0.1 or 1.25"));
        }
        Scaled::TooLarge => u32::MAX,
    };
    Weight::from_thousandths(thousandths)
        .ok_or_else(|| format!("the weight '{text}' is more than 1000").into())
}

/// A share of a limit: `0.7` or `70%`; above none and at most all, with at most three decimals.
pub(super) fn share_of_limit(text: &str) -> Result<Share, Complaint> {
    let scaled = match text.strip_suffix('%') {
        Some(percent) => scaled(percent.trim_end(), 1),
        None => scaled(text, 3),
    };
    let share = match scaled {
        Scaled::Whole(thousandths) => u16::try_from(thousandths)
            .ok()
            .and_then(Share::from_thousandths),
        Scaled::Broken => {
            return Err(format!("the share '{text}' is finer than a thousandth").into());
        }
        Scaled::NotANumber | Scaled::TooLarge => None,
    };
    share.ok_or_else(|| {
        Complaint::new(format!("'{text}' is not a share of a limit"))
            .hint("write a number above 0 and up to 1, such as 0.7, or 70%")
    })
}

/// A share of requests: `0.9`, `p90`, `p99.9`; above none and below all, with at most three
/// decimals.
pub(super) fn quantile(text: &str) -> Result<Quantile, Complaint> {
    let scaled = match text.strip_prefix(['p', 'P']) {
        Some(percent) => scaled(percent, 1),
        None => scaled(text, 3),
    };
    let quantile = match scaled {
        Scaled::Whole(thousandths) => u16::try_from(thousandths)
            .ok()
            .and_then(Quantile::from_thousandths),
        Scaled::Broken => {
            return Err(format!("the quantile '{text}' is finer than a thousandth").into());
        }
        Scaled::NotANumber | Scaled::TooLarge => None,
    };
    quantile.ok_or_else(|| {
        Complaint::new(format!("'{text}' is not a quantile"))
            .hint("write a number between 0 and 1, such as 0.9, or p90")
    })
}

/// How many bytes make a token: a number above 0, at most 1000, with at most three decimals.
pub(super) fn bytes_per_token(text: &str) -> Result<BytesPerToken, Complaint> {
    let thousandths = match scaled(text, 3) {
        Scaled::Whole(thousandths @ ..=1_000_000) => u32::try_from(thousandths).ok(),
        Scaled::Broken => {
            return Err(format!("the bytes '{text}' have more than three decimals").into());
        }
        Scaled::Whole(_) | Scaled::NotANumber | Scaled::TooLarge => None,
    };
    thousandths
        .and_then(NonZeroU32::new)
        .map(BytesPerToken::from_thousandths)
        .ok_or_else(|| {
            Complaint::new(format!("'{text}' is not a number of bytes"))
                .hint("write a number above 0 and up to 1000, such as 4 or 3.5")
        })
}

/// An amount, or a share of `whole` such as `20%`, rounded up.
pub(super) fn share(text: &str, whole: u64) -> Result<u64, Complaint> {
    let Some(percent) = text.strip_suffix('%') else {
        return amount(text);
    };
    // In thousandths of a percent.
    match scaled(percent.trim_end(), 3) {
        Scaled::Whole(share @ 0..=100_000) => {
            let part = (u128::from(whole) * u128::from(share)).div_ceil(100_000);
            Ok(u64::try_from(part).unwrap_or(u64::MAX))
        }
        Scaled::Whole(_) | Scaled::TooLarge => Err(format!("'{text}' is more than 100%").into()),
        Scaled::Broken => Err(format!("'{text}' has more than three decimals").into()),
        Scaled::NotANumber => {
            Err(Complaint::new(format!("'{text}' is not a share")).hint("write it as in 20%"))
        }
    }
}

/// A whole number as envoyproxy/ratelimit reads it: also hexadecimal, octal and binary.
pub(super) fn integer(text: &str) -> Option<i128> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let digits = digits.replace('_', "").to_ascii_lowercase();
    let (digits, radix) = match digits.get(..2) {
        Some("0x") => (digits.get(2..)?, 16),
        Some("0o") => (digits.get(2..)?, 8),
        Some("0b") => (digits.get(2..)?, 2),
        Some(_) if digits.starts_with('0') => (digits.get(1..)?, 8),
        _ => (digits.as_str(), 10),
    };
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
        return None;
    }
    Some(sign * i128::from(u64::from_str_radix(digits, radix).ok()?))
}

/// How a decimal comes out after it is multiplied by a power of ten.
enum Scaled {
    Broken,
    NotANumber,
    TooLarge,
    Whole(u64),
}

/// `text`, a decimal number without a sign, times ten to the power of `zeros`.
fn scaled(text: &str, zeros: usize) -> Scaled {
    let text = text.replace('_', "");
    let (whole, decimals) = text.split_once('.').unwrap_or((&text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(decimals) {
        return Scaled::NotANumber;
    }
    let decimals = decimals.trim_end_matches('0');
    if decimals.len() > zeros {
        return Scaled::Broken;
    }
    format!("{whole}{decimals:0<zeros$}")
        .parse()
        .map_or(Scaled::TooLarge, Scaled::Whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact() {
        let cases = [
            ("0", 0),
            ("5000", 5000),
            ("5_000", 5000),
            ("50k", 50_000),
            ("50K", 50_000),
            ("1.5M", 1_500_000),
            ("1.234567M", 1_234_567),
            ("2G", 2_000_000_000),
            ("2.0", 2),
            ("1_000_000G", 1_000_000_000_000_000),
        ];
        for (text, expected) in cases {
            assert_eq!(amount(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_amount_says_so() {
        let cases = [
            ("1.5", "'1.5' is not a whole number"),
            ("1.2345k", "'1.2345k' is not a whole number"),
            ("", "'' is not an amount"),
            ("k", "'k' is not an amount"),
            ("-1", "'-1' is not an amount"),
            ("1e3", "'1e3' is not an amount"),
            ("5m", "'5m' is not an amount"),
            ("1000000000000001", "'1000000000000001' is too large"),
            (
                "99999999999999999999999G",
                "'99999999999999999999999G' is too large",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(amount(text).unwrap_err().message, expected);
        }
    }

    #[test]
    fn a_rate_is_an_amount_per_unit_or_per_duration() {
        let cases = [
            ("5/minute", 5, 60_000),
            ("5 / MINUTE", 5, 60_000),
            ("50k/day", 50_000, 86_400_000),
            ("1/year", 1, 365 * 86_400_000),
            ("100/30s", 100, 30_000),
            ("7/250ms", 7, 250),
            ("7/5m", 7, 300_000),
            ("7/6h", 7, 21_600_000),
            ("7/28d", 7, 28 * 86_400_000),
        ];
        for (text, amount, millis) in cases {
            let rate = rate(text).unwrap().rate;
            assert_eq!(
                (rate.amount(), rate.period()),
                (amount, Duration::from_millis(millis))
            );
        }
    }

    #[test]
    fn what_is_no_rate_says_what_to_write() {
        let hint = |text| rate(text).unwrap_err().hint.unwrap_or_default();
        assert_eq!(
            hint("5"),
            "write an amount per time, such as 5/minute or 100/30s"
        );
        assert_eq!(hint("5/minutes"), "did you mean 'minute'?");
        assert_eq!(hint("5/s"), "write 1s");
        assert!(hint("5/30us").starts_with("write one of second"));
        assert_eq!(
            rate("5/0s").unwrap_err().message,
            rate("5/367d").unwrap_err().message
        );
        assert!(rate("5/366d").is_ok());
    }

    #[test]
    fn weights_have_three_decimals_at_most() {
        let thousandths = |text| weight(text).map(Weight::thousandths);
        assert_eq!(thousandths("1"), Ok(1000));
        assert_eq!(thousandths("0.1"), Ok(100));
        assert_eq!(thousandths("1.25"), Ok(1250));
        assert_eq!(thousandths("1000"), Ok(1_000_000));
        assert_eq!(thousandths("0.0010"), Ok(1));
        for text in ["1000.001", "0.0001", "-1", "x", "", "99999999999999999999"] {
            assert!(weight(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_quantile_is_a_share_or_a_percentile() {
        let thousandths = |text| quantile(text).map(Quantile::thousandths);
        for (text, expected) in [("0.9", 900), ("p90", 900), ("P99.9", 999), ("0.001", 1)] {
            assert_eq!(thousandths(text), Ok(expected), "{text}");
        }
        for text in [
            "0", "1", "1.0", "p100", "p0", "0.9999", "p99.99", "90%", "-0.9", "x", "",
        ] {
            assert!(quantile(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_share_of_a_limit_is_above_none_and_at_most_all() {
        let shown = |text| share_of_limit(text).map(|share| share.to_string());
        for (text, expected) in [
            ("0.7", "0.7"),
            ("70%", "0.7"),
            ("1", "1"),
            ("99.9 %", "0.999"),
        ] {
            assert_eq!(shown(text), Ok(expected.to_owned()), "{text}");
        }
        for text in [
            "0", "1.001", "100.1%", "0.0001", "-0.5", "half", "", "%", "7",
        ] {
            assert!(share_of_limit(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bytes_of_a_token_are_positive() {
        let thousandths = |text| bytes_per_token(text).map(BytesPerToken::thousandths);
        for (text, expected) in [
            ("4", 4000),
            ("3.5", 3500),
            ("0.001", 1),
            ("1000", 1_000_000),
        ] {
            assert_eq!(thousandths(text), Ok(expected), "{text}");
        }
        for text in ["0", "0.0", "1000.001", "0.0001", "-4", "four", ""] {
            assert!(bytes_per_token(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_share_is_rounded_up() {
        assert_eq!(share("20%", 1000), Ok(200));
        assert_eq!(share("12.5%", 1000), Ok(125));
        assert_eq!(share("33%", 10), Ok(4));
        assert_eq!(share("100%", MAX_AMOUNT), Ok(MAX_AMOUNT));
        assert_eq!(share("0%", 10), Ok(0));
        assert_eq!(share("2k", 10), Ok(2000));
        for text in ["101%", "%", "-1%", "1.2345%"] {
            assert!(share(text, 10).is_err(), "{text}");
        }
    }

    #[test]
    fn integers_are_read_as_the_reference_reads_them() {
        let cases = [
            ("7", Some(7)),
            ("0", Some(0)),
            ("1_000", Some(1000)),
            ("+3", Some(3)),
            ("-1", Some(-1)),
            ("0x1F", Some(31)),
            ("0o17", Some(15)),
            ("017", Some(15)),
            ("0b11", Some(3)),
            ("08", None),
            ("1.5", None),
            ("1e3", None),
            ("", None),
            ("0x", None),
            ("0x+1", None),
            ("--1", None),
        ];
        for (text, expected) in cases {
            assert_eq!(integer(text), expected, "{text}");
        }
    }
}
