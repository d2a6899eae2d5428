//! What sharing costs when nothing is decided: a script that reads and writes a value of the size of
//! a bucket for each request.
//!
//! Either each request runs it for itself, or requests are combined as Tollgate combines them: what
//! arrives while a call is under way is the next call. What Tollgate's Redis store takes beyond the
//! latter is its decision.

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

/// A Redis that is asked for nothing.
#[derive(Clone, Debug)]
pub(crate) enum Sharing {
    /// By each request for itself.
    Alone(MultiplexedConnection, String),
    /// By many together.
    Combined(mpsc::Sender<Asked>),
}

impl Sharing {
    /// Connects, and loads the script.
    pub(crate) async fn connect(url: &str, combined: bool) -> Result<Self> {
        let mut connection = redis::Client::open(url)?
            .get_multiplexed_async_connection()
            .await?;
        let sha: String = redis::cmd("SCRIPT")
            .arg("LOAD")
            .arg(SCRIPT)
            .query_async(&mut connection)
            .await?;
        if !combined {
            return Ok(Self::Alone(connection, sha));
        }
        let (sender, asked) = mpsc::channel(16_384);
        tokio::spawn(send(asked, connection, sha));
        Ok(Self::Combined(sender))
    }

    /// Reads and writes the key that stands for a request. Without an answer the request has none
    /// either, which ends the run.
    pub(crate) async fn touch(&self, request: &RateLimitRequest) -> Option<()> {
        let entry = request.descriptors.first()?.entries.first()?;
        let key = format!("shared:b:{}", entry.value);
        match self {
            Self::Alone(connection, sha) => {
                let mut connection = connection.clone();
                let mut command = redis::cmd("EVALSHA");
                command.arg(sha).arg(1).arg(key);
                let touched: usize = command.query_async(&mut connection).await.ok()?;
                (touched == 1).then_some(())
            }
            Self::Combined(sender) => {
                let (reply, answer) = oneshot::channel();
                sender.send((key, reply)).await.ok()?;
                answer.await.ok()
            }
        }
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
