//! What sharing costs when nothing is decided: scripts combined as Tollgate combines them, that
//! read and write a value of the size of a bucket for each request.
//!
//! What Tollgate's Redis store takes beyond this is its decision.

use anyhow::Result;
use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitRequest;
use redis::aio::MultiplexedConnection;
use tokio::sync::{mpsc, oneshot};

/// A `GET` and a `SET … PX` for each key: the least that keeps a bucket with an expiry.
const SCRIPT: &str = "
local value = string.rep('x', 32)
for _, key in ipairs(KEYS) do
  redis.call('GET', key)
  redis.call('SET', key, value, 'PX', 86400000)
end
return #KEYS";

/// The most keys in one call.
const MAX_KEYS: usize = 512;

type Asked = (String, oneshot::Sender<()>);

/// A connection that sends what arrives while a call is under way as the next one.
#[derive(Clone, Debug)]
pub(crate) struct Combined(mpsc::Sender<Asked>);

impl Combined {
    pub(crate) async fn connect(url: &str) -> Result<Self> {
        let mut connection = redis::Client::open(url)?
            .get_multiplexed_async_connection()
            .await?;
        let sha: String = redis::cmd("SCRIPT")
            .arg("LOAD")
            .arg(SCRIPT)
            .query_async(&mut connection)
            .await?;
        let (sender, asked) = mpsc::channel(16_384);
        tokio::spawn(send(asked, connection, sha));
        Ok(Self(sender))
    }

    /// Reads and writes the key that stands for a request. Without an answer the request has none
    /// either, which ends the run.
    pub(crate) async fn touch(&self, request: &RateLimitRequest) -> Option<()> {
        let entry = request.descriptors.first()?.entries.first()?;
        let (reply, answer) = oneshot::channel();
        let key = format!("combined:b:{}", entry.value);
        self.0.send((key, reply)).await.ok()?;
        answer.await.ok()
    }
}

async fn send(
    mut asked: mpsc::Receiver<Asked>,
    mut connection: MultiplexedConnection,
    sha: String,
) {
    let mut batch = Vec::new();
    while asked.recv_many(&mut batch, MAX_KEYS).await > 0 {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&sha).arg(batch.len());
        for (key, _) in &batch {
            command.arg(key);
        }
        let done: redis::RedisResult<usize> = command.query_async(&mut connection).await;
        for (_, reply) in batch.drain(..) {
            if done.is_ok() {
                reply.send(()).unwrap_or_default(); // Whoever went away needs no answer.
            }
        }
    }
}
