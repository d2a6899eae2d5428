//! What a provider counted, and which measures that is.

use crate::limit::MAX_MEASURED;

/// A count of a provider's, by what it means. Inclusive and exclusive names are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    /// All of the input, caches included: `prompt_tokens`, `promptTokenCount`.
    Prompt,
    /// The input: caches that are told in details are inside, those told beside it are not.
    Input,
    /// Inside the input: read from the cache.
    CachedInside,
    /// Inside the input: written to the cache.
    WrittenInside,
    /// Beside the input (inside, where all of it is a `Prompt`): read from the cache.
    CacheRead,
    /// Beside the input (inside, where all of it is a `Prompt`): written to the cache.
    CacheWritten,
    /// The parts of `CacheWritten`.
    WrittenFor5Minutes,
    WrittenFor1Hour,
    /// Beside the input: what the results of the provider's own tools added to the prompt.
    ToolPrompt,
    /// Cohere's bill, which leaves out what it adds to a prompt itself.
    BilledInput,
    /// The output; without thoughts, where they are told beside it.
    Output,
    /// Beside the output: thoughts.
    Thoughts,
    /// Cohere's bill.
    BilledOutput,
    /// All of both, where the provider said so.
    Total,
}

/// How many fields there are, and how many of the first of them are about the input.
const FIELDS: usize = 14;
const OF_INPUT: usize = 10;

/// The counts of one usage object, or of several that told more and more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts([Option<u64>; FIELDS]);

impl Counts {
    /// Notes a count.
    pub(super) fn set(&mut self, field: Field, count: u64) {
        if let Some(place) = self.0.get_mut(index(field)) {
            *place = Some(count);
        }
    }

    /// Whether the provider tells the whole prompt, as OpenAI's chat API does.
    pub(super) const fn is_of_chat(&self) -> bool {
        self.0[index(Field::Prompt)].is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// Takes over what a later usage object of the same answer says.
    ///
    /// The later one is right, count by count: Anthropic's are cumulative, and some that speak its
    /// protocol begin with the whole prompt as input and take the cached part out of it at the end.
    /// But nothing said, or zero, is no correction: there are streams that fill in zeros where they
    /// do not know. An input is all zero or it was counted; then its zeros are counts too.
    pub(super) fn take_over(&mut self, later: &Self) {
        let (input, output) = self.0.split_at_mut(OF_INPUT);
        let (later_input, later_output) = later.0.split_at(OF_INPUT);
        let counted = |count: &Option<u64>| count.is_some_and(|count| count > 0);
        let input_counted = later_input.iter().any(counted);
        for (place, later) in input.iter_mut().zip(later_input) {
            if later.is_some() && (input_counted || place.is_none()) {
                *place = *later;
            }
        }
        for (place, later) in output.iter_mut().zip(later_output) {
            if later.is_some() && (counted(later) || place.is_none()) {
                *place = *later;
            }
        }
    }

    /// The disjoint measures, in the order of [`Measure::TOKENS`](crate::limit::Measure::TOKENS).
    ///
    /// Never negative: where a provider says that it read more from the cache than the prompt has,
    /// nothing of the prompt is left uncached.
    pub(super) fn measures(&self) -> Option<[u64; 4]> {
        if self.is_empty() {
            return None;
        }
        let parts = self
            .sum(&[Field::WrittenFor5Minutes, Field::WrittenFor1Hour])
            .filter(|parts| *parts > 0);
        let written_beside = self.of(Field::CacheWritten).or(parts);
        let cached_inside = self.of(Field::CachedInside);
        let written_inside = self.of(Field::WrittenInside);
        let mut read = cached_inside.or_else(|| self.of(Field::CacheRead));
        let mut written = written_inside.or(written_beside);
        // A gateway may fill in zeros in the details of the one protocol and count in the other's.
        if cached_inside == Some(0) {
            read = self.of(Field::CacheRead).or(read);
        }
        if written_inside == Some(0) {
            written = written_beside.or(written);
        }
        let input = match self.of(Field::Prompt) {
            Some(prompt) => Some(without(prompt, [read, written])),
            None => self
                .of(Field::Input)
                .map(|input| without(input, [cached_inside, written_inside]))
                .or_else(|| self.of(Field::BilledInput)),
        };
        let tools = self.of(Field::ToolPrompt).unwrap_or_default();
        let input = input.map(|input| input.saturating_add(tools));
        let [read, written] = [read, written].map(Option::unwrap_or_default);
        let output = self
            .sum(&[Field::Output, Field::Thoughts])
            .or_else(|| self.of(Field::BilledOutput));
        let total = self.of(Field::Total).unwrap_or_default();
        let (input, output) = match (input, output) {
            (Some(input), Some(output)) => {
                let rest = without(total, [Some(input), Some(read), Some(written)]);
                // Where the prompt is known as a whole, what a total has beyond it is of the
                // answer: some tell reasoning beside it, and only the total has it.
                let whole = self.of(Field::Prompt).is_some();
                (input, if whole { output.max(rest) } else { output })
            }
            // Embeddings have no output and say so by leaving it out; their total is the input.
            (Some(input), None) => (
                input,
                without(total, [Some(input), Some(read), Some(written)]),
            ),
            (None, output) => {
                let output = output.unwrap_or_default();
                (
                    without(total, [Some(output), Some(read), Some(written)]),
                    output,
                )
            }
        };
        Some([input, read, written, output].map(|count| count.min(MAX_MEASURED)))
    }

    fn of(&self, field: Field) -> Option<u64> {
        self.0.get(index(field)).copied().flatten()
    }

    /// The sum of those that were said; `None`: none was.
    fn sum(&self, fields: &[Field]) -> Option<u64> {
        let said = fields.iter().filter_map(|field| self.of(*field));
        said.reduce(u64::saturating_add)
    }
}

fn without<const N: usize>(count: u64, parts: [Option<u64>; N]) -> u64 {
    parts.into_iter().flatten().fold(count, u64::saturating_sub)
}

const fn index(field: Field) -> usize {
    field as usize
}
