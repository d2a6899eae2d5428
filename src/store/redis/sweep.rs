//! Forgetting buckets that are full again.
//!
//! A full bucket is what a missing one is, so its field in the hash of buckets is only memory.
//! Fields of a hash do not expire before Redis 7.4, so replicas look through the hash, a little at a
//! time, and drop what is past its time. They share one cursor, and the pace is by Redis's time: a
//! pass takes [`PASS`], however many replicas there are.

use std::time::Duration;

use super::StoreError;
use super::connection::Link;
use super::script::{buckets_key, sweep_key};
use crate::limit::Timestamp;

/// How long one look at all buckets takes: a bucket is forgotten within so much of the time when it
/// may be.
const PASS: Duration = Duration::from_mins(10);

/// About how many buckets one step looks at; Redis does nothing else meanwhile, for some 50 µs.
const STEP: usize = 100;

/// How many steps at one time, at most.
const STEPS: usize = 2000;

/// Looks at the next buckets where they are due; tells whether more are. The state is when the pass
/// began, how many buckets there were, how many it has seen, and the cursor.
const SWEEP: &str = r"
local now = tonumber(ARGV[3])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local total = redis.call('HLEN', KEYS[1])
if total == 0 then
  redis.call('DEL', KEYS[2])
  return 0
end
local state = redis.call('GET', KEYS[2])
local begun, seen, cursor = now, 0, '0'
if state then
  local b, t, s, c = state:match('^(%d+) (%d+) (%d+) (%d+)$')
  if b then begun, total, seen, cursor = b, t, s, c end
end
local elapsed, pass = now - begun, tonumber(ARGV[1])
local more = 0
if elapsed >= pass or seen * pass < total * elapsed then
  local found = redis.call('HSCAN', KEYS[1], cursor, 'COUNT', ARGV[2])
  local fields, over = found[2], {}
  for i = 1, #fields, 2 do
    local value = fields[i + 1]
    if #value ~= 32 or struct.unpack('<d', value, 25) <= now then over[#over + 1] = fields[i] end
  end
  -- A small hash comes whole, however large `hash-max-listpack-entries` makes it.
  for first = 1, #over, 4000 do
    redis.call('HDEL', KEYS[1], unpack(over, first, math.min(first + 3999, #over)))
  end
  cursor, seen, more = found[1], seen + #fields / 2, 1
  if cursor == '0' then
    begun, total, seen, more = now, redis.call('HLEN', KEYS[1]), 0, 0
  end
end
redis.call('SET', KEYS[2], string.format('%.0f %d %d %s', begun, total, seen, cursor))
return more
";

/// Forgets what is due.
pub(super) async fn sweep(
    link: &Link,
    prefix: &str,
    time: Option<Timestamp>,
) -> Result<(), StoreError> {
    let mut command = redis::cmd("EVAL");
    command
        .arg(SWEEP)
        .arg(2)
        .arg(buckets_key(prefix))
        .arg(sweep_key(prefix))
        .arg(PASS.as_micros().to_string())
        .arg(STEP)
        .arg(time.map_or(String::new(), |time| time.as_micros().to_string()));
    for _ in 0..STEPS {
        let more: bool = link.ask(&command).await?;
        if !more {
            break;
        }
    }
    Ok(())
}
