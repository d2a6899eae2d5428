//! Stopping, in two steps: first we say that we are leaving and go on serving, so that load
//! balancers can send new calls elsewhere; then we stop, and what is under way finishes.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
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
    ///
    /// # Errors
    ///
    /// Fails if signals cannot be listened to.
    pub async fn on_signals(self, delay: Duration) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
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
        Ok(())
    }
}
