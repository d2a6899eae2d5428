//! Stopping, in two steps: first we say that we are leaving and go on serving, so that load
//! balancers can send new calls elsewhere; then we stop, and what is under way finishes.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The two steps. Copies are the same.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    leaving: CancellationToken,
    stopping: CancellationToken,
}

impl Shutdown {
    /// Resolves when we begin to leave: from now on we are not ready.
    pub async fn leaving(&self) {
        self.leaving.cancelled().await;
    }

    /// Resolves when nothing new is taken any more.
    pub async fn stopping(&self) {
        self.stopping.cancelled().await;
    }

    /// Cancelled when nothing new is taken any more.
    pub fn stopping_token(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// Whether nothing new is taken any more.
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    /// Whether we began to leave.
    pub fn is_leaving(&self) -> bool {
        self.leaving.is_cancelled()
    }

    /// Both steps, with `delay` between them.
    pub async fn begin(&self, delay: Duration) {
        self.leaving.cancel();
        tokio::time::sleep(delay).await;
        self.stopping.cancel();
    }

    /// Begins when the process is told to: SIGTERM with `delay`; SIGINT (Ctrl-C), or a second
    /// signal, without.
    pub async fn on_signals(self, mut signals: Signals, delay: Duration) {
        let Signals {
            terminate,
            interrupt,
            _hangup,
        } = &mut signals;
        let delay = tokio::select! {
            _ = terminate.recv() => delay,
            _ = interrupt.recv() => Duration::ZERO,
        };
        tracing::info!(?delay, "leaving");
        tokio::select! {
            () = self.begin(delay) => {}
            _ = terminate.recv() => self.stopping.cancel(),
            _ = interrupt.recv() => self.stopping.cancel(),
        }
    }
}

/// The signals that end the process. From [`Signals::listen`] on they end it in order, and not at
/// once, as the system would.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Asks for the configuration to be read again, which its watcher hears by itself. Listened to
    /// here so that it never ends the process, not even before there is a watcher.
    _hangup: Signal,
}

impl Signals {
    /// Listens. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// Fails if signals cannot be listened to.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            _hangup: signal(SignalKind::hangup())?,
        })
    }
}
