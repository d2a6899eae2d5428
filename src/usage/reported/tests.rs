//! Names are taken apart, and contradictions are told.

use super::*;

fn said(counts: &[(&str, u64)]) -> Result<Said, String> {
    let mut reported = Reported::default();
    for (name, count) in counts {
        reported.set(Name::from_name(name).unwrap(), Some(*count));
    }
    reported.resolve().map_err(|error| error.to_string())
}

fn measures(counts: &[(&str, u64)]) -> [u64; 4] {
    match said(counts) {
        Ok(Said::Measures(measures)) => measures,
        other => panic!("{counts:?}: {other:?}"),
    }
}

#[test]
fn every_name_is_found_by_itself() {
    for (index, name) in Name::ALL.into_iter().enumerate() {
        assert_eq!(Name::from_name(name.name()), Some(name));
        assert_eq!(name as usize, index);
    }
    assert_eq!(Name::from_name("tokens"), None);
}

#[test]
fn names_are_taken_apart() {
    for (counts, expected) in [
        (
            &[("input_tokens", 11), ("output_tokens", 31)][..],
            [11, 0, 0, 31],
        ),
        (
            &[("prompt_tokens", 11), ("completion_tokens", 31)],
            [11, 0, 0, 31],
        ),
        (
            &[("prompt_tokens", 100), ("cached_tokens", 64)],
            [36, 64, 0, 0],
        ),
        (
            &[
                ("prompt_tokens", 100),
                ("cache_read_tokens", 64),
                ("cache_write_tokens", 36),
            ],
            [0, 64, 36, 0],
        ),
        (&[("input_tokens", 5), ("cached_tokens", 64)], [5, 64, 0, 0]),
        (&[("cached_tokens", 64)], [0, 64, 0, 0]),
        (&[("completion_tokens", 7)], [0, 0, 0, 7]),
        (
            &[("total_tokens", 100), ("completion_tokens", 30)],
            [70, 0, 0, 30],
        ),
        (
            &[
                ("total_tokens", 100),
                ("output_tokens", 30),
                ("cached_tokens", 20),
            ],
            [50, 20, 0, 30],
        ),
        (
            &[
                ("total_tokens", 100),
                ("prompt_tokens", 70),
                ("cached_tokens", 20),
            ],
            [50, 20, 0, 30],
        ),
        (
            &[
                ("input_tokens", 50),
                ("cache_read_tokens", 20),
                ("cached_tokens", 20),
                ("prompt_tokens", 70),
                ("output_tokens", 30),
                ("completion_tokens", 30),
                ("total_tokens", 100),
            ],
            [50, 20, 0, 30],
        ),
        // Reasoning beside the completion.
        (
            &[
                ("prompt_tokens", 10_120),
                ("cached_tokens", 120),
                ("completion_tokens", 1_499),
                ("total_tokens", 14_428),
            ],
            [10_000, 120, 0, 4_308],
        ),
        (&[("prompt_tokens", 0)], [0; 4]),
    ] {
        assert_eq!(measures(counts), expected, "{counts:?}");
    }
}

#[test]
fn a_total_by_itself_stays_one() {
    assert_eq!(said(&[("total_tokens", 100)]), Ok(Said::Tokens(100)));
    assert_eq!(said(&[("total", 0)]), Ok(Said::Total(0)));
    assert_eq!(said(&[]), Ok(Said::Nothing));
}

#[test]
fn contradictions_are_told() {
    for (counts, message) in [
        (
            &[("prompt_tokens", 3_883), ("cached_tokens", 30_464)][..],
            "prompt_tokens is 3883, but cached tokens, read and written, are part of it and \
             come to 30464",
        ),
        (
            &[("cached_tokens", 5), ("cache_read_tokens", 6)],
            "cache_read_tokens is 6 and cached_tokens is 5, but both count the same",
        ),
        (
            &[("output_tokens", 5), ("completion_tokens", 6)],
            "output_tokens is 5 and completion_tokens is 6, but both count the same",
        ),
        (
            &[
                ("prompt_tokens", 10),
                ("input_tokens", 10),
                ("cached_tokens", 1),
            ],
            "prompt_tokens is 10, but input_tokens, cache_read_tokens and cache_write_tokens \
             come to 11",
        ),
        (
            &[
                ("prompt_tokens", 10),
                ("completion_tokens", 5),
                ("total_tokens", 14),
            ],
            "total_tokens is 14, but prompt and answer come to 15",
        ),
        // Caches may be what is missing here.
        (
            &[
                ("input_tokens", 10),
                ("output_tokens", 5),
                ("total_tokens", 16),
            ],
            "total_tokens is 16, but prompt and answer come to 15",
        ),
        (
            &[("completion_tokens", 5), ("total_tokens", 4)],
            "total_tokens is 4, but the tokens of the prompt or of the answer are part of it \
             and come to 5",
        ),
        (
            &[("cached_tokens", 5), ("total_tokens", 40)],
            "total_tokens cannot be taken apart; say prompt_tokens or completion_tokens, too",
        ),
        (
            &[("total", 5), ("total_tokens", 5)],
            "usage has either a total or measures, not both",
        ),
    ] {
        assert_eq!(said(counts), Err(message.to_owned()), "{counts:?}");
    }
}

mod properties {
    use proptest::prelude::*;

    use super::super::*;

    proptest! {
        /// What is true comes back from any of its names that suffice to know it.
        #[test]
        fn any_names_that_suffice_agree(
            truth in prop::array::uniform4(0_u64..=1_000_000_000_000),
            shown in prop::array::uniform8(any::<bool>()),
        ) {
            let [input, read, write, output] = truth;
            let [by_input, by_read, _, mut by_output, by_prompt, by_cached, by_completion, mut by_total] = shown;
            let knows_output = by_output || by_completion;
            if !by_input && !by_prompt {
                by_total = true;
                by_output = true;
            } else if !knows_output {
                by_total = true;
            }
            let prompt = input + read + write;
            let said = [
                (Name::InputTokens, input, by_input),
                (Name::CacheReadTokens, read, by_read || !by_cached),
                (Name::CacheWriteTokens, write, true),
                (Name::OutputTokens, output, by_output),
                (Name::PromptTokens, prompt, by_prompt),
                (Name::CachedTokens, read, by_cached),
                (Name::CompletionTokens, output, by_completion),
                (Name::TotalTokens, prompt + output, by_total),
            ];
            let mut reported = Reported::default();
            for (name, count, shown) in said {
                reported.set(name, shown.then_some(count));
            }
            prop_assert_eq!(reported.resolve(), Ok(Said::Measures(truth)));
        }

        #[test]
        fn a_report_is_read_or_refused_and_never_panics(
            counts in prop::array::uniform9(any::<Option<u64>>()),
        ) {
            let said = Reported(counts).resolve();
            let nothing = counts.iter().all(Option::is_none);
            prop_assert_eq!(said == Ok(Said::Nothing), nothing);
        }
    }
}
