//! What was configured, compiled: domains, the tree of rules that a descriptor walks into, the
//! limits at its nodes, and the keys of their buckets.
//!
//! Pure like [`crate::limit`]: nothing here reads a file or asks a clock. Matching follows
//! envoyproxy/ratelimit to the letter, quirks included, because people replace it with this.

mod answer;
mod budget;
mod calendar;
mod configured;
mod domain;
mod estimate;
mod key;
mod limits;
mod metadata;
mod pattern;

pub use answer::{AnswerStyle, BodyStyle, HeaderStyle};
pub use budget::{Budget, Share};
pub use calendar::{CALENDAR_MONTH, Calendar, CalendarWindows};
pub(crate) use configured::rate_limit_terms;
pub use configured::{ConfiguredLimit, LimitIndex, OnStoreError, Origin, Override, Terms, Unit};
pub use domain::{Domain, DuplicateRule, Entry, Level, Match, Rule};
pub use estimate::{BytesPerToken, Estimate, LearnBy, Learning, Quantile, ReserveOutput, Stating};
pub use key::{BucketKey, Identity, LearnKey};
pub use limits::Limits;
pub use metadata::Metadata;
pub use pattern::Pattern;
