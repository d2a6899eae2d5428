//! The samples of all replicas: a hash for each group and slot, of bucket to count.

use std::collections::HashMap;

use redis::{Pipeline, from_redis_value};

use super::super::{SAMPLES_LIFETIME, Samples, StoreError};
use super::connection::Link;
use crate::limit::Sketch;

/// What the keys of samples start with: *prefix* `l:`, then the group's 22 characters, `:`, and the
/// number of the slot.
fn key(prefix: &str, samples: &Samples) -> String {
    format!("{prefix}l:{}:{}", samples.group, samples.slot)
}

/// Adds what is new and reads what all replicas saw, in one round trip.
pub(super) async fn exchange(
    link: &Link,
    prefix: &str,
    told: &[Samples],
) -> Result<Vec<Sketch>, StoreError> {
    let mut pipeline = Pipeline::new();
    for samples in told {
        let key = key(prefix, samples);
        for (bucket, count) in samples.new.counts() {
            pipeline
                .cmd("HINCRBY")
                .arg(&key)
                .arg(bucket)
                .arg(count)
                .ignore();
        }
        if !samples.new.is_empty() {
            let lifetime = SAMPLES_LIFETIME.as_secs();
            pipeline.cmd("EXPIRE").arg(&key).arg(lifetime).ignore();
        }
        pipeline.cmd("HGETALL").arg(&key);
    }
    let answers: Vec<redis::Value> = link.ask_all(&pipeline).await?;
    if answers.len() != told.len() {
        return Err(StoreError::Rejected("answers out of order".to_owned()));
    }
    answers.into_iter().map(read).collect()
}

fn read(answer: redis::Value) -> Result<Sketch, StoreError> {
    let counts: HashMap<u16, u64> =
        from_redis_value(answer).map_err(|error| StoreError::Rejected(error.to_string()))?;
    Ok(Sketch::from_counts(counts.into_iter().map(
        |(bucket, count)| (bucket, u32::try_from(count).unwrap_or(u32::MAX)),
    )))
}
