//! The samples of all replicas: a hash for each group and slot, of bucket to count.

use std::collections::HashMap;

use redis::{Value, from_redis_value};

use super::super::{SAMPLES_LIFETIME, Samples, StoreError};
use super::connection::Link;
use crate::limit::Sketch;

/// Adds and reads each slot, in one step that either happens or does not.
///
/// Whatever Redis may refuse is tried before anything is added: reading, and setting the expiry. So
/// what fails was not added, and is sent again without counting twice. One slot that fails, because
/// somebody else wrote to its key, does not keep the others from being added. A Redis that takes no
/// writes fails as a whole, so that the connection is given up.
///
/// Arguments: the lifetime in seconds; then for each key how many buckets there are to add to, and
/// for each of them its number and count. Answers for each key with the fields and values from
/// before, or with the error as text.
const EXCHANGE: &str = r"
local next_argument = 2
local answers = {}
for i, key in ipairs(KEYS) do
  local buckets = tonumber(ARGV[next_argument])
  local first = next_argument + 1
  next_argument = first + 2 * buckets
  local before = redis.pcall('HGETALL', key)
  local failed = before.err
  if not failed and buckets > 0 then
    local expiry = redis.pcall('EXPIRE', key, ARGV[1])
    failed = type(expiry) == 'table' and expiry.err
    for argument = first, next_argument - 1, 2 do
      if failed then
        break
      end
      local added = redis.pcall('HINCRBY', key, ARGV[argument], ARGV[argument + 1])
      failed = type(added) == 'table' and added.err
    end
    if failed and failed:find('READONLY', 1, true) then
      return redis.error_reply(failed)
    end
    if #before == 0 then
      redis.pcall('EXPIRE', key, ARGV[1])
    end
  end
  answers[i] = failed or before
end
return answers
";

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
) -> Result<Vec<Result<Sketch, StoreError>>, StoreError> {
    let mut command = redis::cmd("EVAL");
    command.arg(EXCHANGE).arg(told.len());
    for samples in told {
        command.arg(key(prefix, samples));
    }
    command.arg(SAMPLES_LIFETIME.as_secs());
    for samples in told {
        let counts = samples.new.counts();
        command.arg(counts.len());
        for (bucket, count) in counts {
            command.arg(bucket).arg(count);
        }
    }
    let answers: Vec<Value> = link.ask(&command).await?;
    if answers.len() != told.len() {
        return Err(StoreError::Rejected("answers out of order".to_owned()));
    }
    let read = |(answer, samples): (Value, &Samples)| {
        let mut all = read(answer)?;
        all.add(&samples.new);
        Ok(all)
    };
    Ok(answers.into_iter().zip(told).map(read).collect())
}

fn read(answer: Value) -> Result<Sketch, StoreError> {
    if let Value::BulkString(error) = &answer {
        let error = String::from_utf8_lossy(error).into_owned();
        return Err(StoreError::Rejected(error));
    }
    let counts: HashMap<u16, u64> =
        from_redis_value(answer).map_err(|error| StoreError::Rejected(error.to_string()))?;
    Ok(Sketch::from_counts(counts.into_iter().map(
        |(bucket, count)| (bucket, u32::try_from(count).unwrap_or(u32::MAX)),
    )))
}
