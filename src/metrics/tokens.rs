//! What requests used in tokens, and how well that was guessed.

use prometheus::{Histogram, HistogramVec};

use super::Made;

/// Upper bounds in tokens, for requests of 1 to 1,000,000 and more.
const TOKENS: [f64; 19] = [
    1.0,
    2.0,
    5.0,
    10.0,
    20.0,
    50.0,
    100.0,
    200.0,
    500.0,
    1000.0,
    2000.0,
    5000.0,
    10_000.0,
    20_000.0,
    50_000.0,
    100_000.0,
    200_000.0,
    500_000.0,
    1_000_000.0,
];

/// Upper bounds of a guess divided by what it should have been.
const RATIOS: [f64; 13] = [
    0.1, 0.2, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 5.0, 10.0,
];

/// The families.
#[derive(Clone, Debug)]
pub(super) struct TokenFamilies {
    input: HistogramVec,
    output: HistogramVec,
    estimate_ratio: HistogramVec,
    debt: HistogramVec,
}

/// The series of one limit that counts tokens.
#[derive(Clone, Debug)]
pub struct TokenMetrics {
    /// Tokens of a request's prompt, cached ones too.
    pub input: Histogram,
    /// Tokens of its answer.
    pub output: Histogram,
    /// What admission took, divided by what a report replaced it by.
    pub estimate_ratio: Histogram,
    /// How far below zero a report left the level, where it did.
    pub debt: Histogram,
}

impl TokenFamilies {
    pub(super) fn new(made: &Made<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            input: made.histograms(
                "tollgate_request_input_tokens",
                "Tokens of a request's prompt, cached ones too, as reported.",
                &TOKENS,
            )?,
            output: made.histograms(
                "tollgate_request_output_tokens",
                "Tokens of a request's answer, as reported.",
                &TOKENS,
            )?,
            estimate_ratio: made.histograms(
                "tollgate_estimate_ratio",
                "What admission took for a request, divided by what it really cost.",
                &RATIOS,
            )?,
            debt: made.histograms(
                "tollgate_debt_tokens",
                "How far below zero a report left the level, where it did.",
                &TOKENS,
            )?,
        })
    }

    pub(super) fn of(&self, domain: &str, limit: &str) -> TokenMetrics {
        let labels = &[domain, limit];
        TokenMetrics {
            input: self.input.with_label_values(labels),
            output: self.output.with_label_values(labels),
            estimate_ratio: self.estimate_ratio.with_label_values(labels),
            debt: self.debt.with_label_values(labels),
        }
    }
}
