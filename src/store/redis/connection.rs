//! The connection, and getting it back.
//!
//! One multiplexed connection. When it breaks, whatever was under way fails (nobody knows whether
//! Redis did it), and the next use connects again, at most every so often. A connection that Redis
//! closed while nothing was under way (a restart, an idle timeout) is noticed when it closes, so
//! its replacement is made before the next use can fail.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, IntoConnectionInfo as _,
    ServerErrorKind, Value,
};
use secrecy::ExposeSecret as _;

use super::{Options, StoreError, script};
use crate::clock;

/// How long a single response may take before its connection is given up on. Operations have given
/// up long before.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A way to Redis. Copies share the connection.
#[derive(Clone, Debug)]
pub(super) struct Link {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    state: Mutex<State>,
    /// Held while somebody connects, so that only one does.
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    connection: Option<Connection>,
    pause: Duration,
    not_before: Option<Instant>,
    last_error: String,
}

/// A connection, and whether it is known to be closed.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    commands: MultiplexedConnection,
    closed: Arc<AtomicBool>,
}

impl Link {
    pub(super) fn new(options: &Options) -> Result<Self, StoreError> {
        let invalid = |error: redis::RedisError| {
            StoreError::Rejected(format!("this is no Redis URL: {error}"))
        };
        let info = options
            .url
            .expose_secret()
            .into_connection_info()
            .map_err(invalid)?;
        // RESP3, because only there does the client tell when a connection closes.
        let settings = info
            .redis_settings()
            .clone()
            .set_protocol(redis::ProtocolVersion::RESP3);
        let client = Client::open(info.set_redis_settings(settings)).map_err(invalid)?;
        Ok(Self {
            shared: Arc::new(Shared {
                client,
                state: Mutex::default(),
                connecting: tokio::sync::Mutex::default(),
            }),
        })
    }

    /// The connection, made anew if there is none.
    pub(super) async fn connection(&self) -> Result<Connection, StoreError> {
        if let Some(connection) = self.open_connection() {
            return Ok(connection);
        }
        self.may_try()?;
        // In a task of its own, so that whoever gives up waiting does not end the attempt.
        match tokio::spawn(self.clone().connect()).await {
            Ok(connection) => connection,
            Err(error) => Err(StoreError::Connection(error.to_string())),
        }
    }

    async fn connect(self) -> Result<Connection, StoreError> {
        let _one_at_a_time = self.shared.connecting.lock().await;
        if let Some(connection) = self.open_connection() {
            return Ok(connection);
        }
        self.may_try()?;
        let result = connect(self.shared.client.clone()).await;
        let mut state = self.state();
        match result {
            Ok(connection) => {
                state.connection = Some(connection.clone());
                state.pause = Duration::ZERO;
                state.not_before = None;
                Ok(connection)
            }
            Err(error) => {
                state.pause = (state.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
                state.not_before = Some(clock::instant() + state.pause);
                state.last_error = error.to_string();
                Err(StoreError::Connection(state.last_error.clone()))
            }
        }
    }

    /// Fails while the pause after a failed attempt lasts.
    fn may_try(&self) -> Result<(), StoreError> {
        let state = self.state();
        match state.not_before {
            Some(not_before) if clock::instant() < not_before => {
                Err(StoreError::Connection(state.last_error.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Asks for something on the side: not part of a decision.
    pub(super) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        let mut connection = self.connection().await?;
        match connection.send(command).await {
            Ok(value) => redis::from_redis_value(value)
                .map_err(|error| StoreError::Rejected(error.to_string())),
            Err(error) => Err(connection.failed(&error)),
        }
    }

    fn open_connection(&self) -> Option<Connection> {
        self.state()
            .connection
            .as_ref()
            .filter(|connection| !connection.closed.load(Ordering::Acquire))
            .cloned()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// Sends a command. An error that Redis answers with is an error, not a value.
    pub(super) async fn send(&mut self, command: &Cmd) -> Result<Value, redis::RedisError> {
        let answer = self.commands.send_packed_command(command).await;
        answer.and_then(Value::extract_error)
    }

    /// Says what an error means, and gives up on the connection if it is to blame.
    pub(super) fn failed(&self, error: &redis::RedisError) -> StoreError {
        if error.is_io_error()
            || error.is_connection_dropped()
            || error.is_timeout()
            || error.is_unrecoverable_error()
        {
            self.closed.store(true, Ordering::Release);
            return StoreError::Connection(error.to_string());
        }
        if error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly) {
            // This one was the primary. Whoever the address leads to now may be.
            self.closed.store(true, Ordering::Release);
        }
        StoreError::Rejected(error.to_string())
    }
}

async fn connect(client: Client) -> Result<Connection, redis::RedisError> {
    let closed = Arc::new(AtomicBool::new(false));
    let tell = Arc::clone(&closed);
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT))
        .set_push_sender(move |push: redis::PushInfo| {
            if push.kind == redis::PushKind::Disconnection {
                tell.store(true, Ordering::Release);
            }
            Ok::<(), std::convert::Infallible>(())
        });
    let commands = client
        .get_multiplexed_async_connection_with_config(&config)
        .await?;
    let mut connection = Connection { commands, closed };
    // Compiling the script takes milliseconds, which the first decision shall not wait for. Where
    // that is forbidden, the first call brings the script along.
    let mut load = redis::cmd("SCRIPT");
    load.arg("LOAD").arg(script::SOURCE);
    match connection.send(&load).await {
        Err(error) if error.is_io_error() || error.is_timeout() => Err(error),
        Ok(_) | Err(_) => Ok(connection),
    }
}
