//! Where the process stands in its life, as everybody who is asked for its health sees it.
//!
//! One value, shared: the composition moves it, the HTTP probes read it and gRPC's health service
//! follows it. It only ever goes forward, so a late "ready" cannot call traffic back to a process
//! that is going away. Whether the *store* answers is not kept here; see `Service::ready`.

use std::sync::Arc;

use tokio::sync::watch;

/// Where the process stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Not yet asked to take requests.
    #[default]
    Starting,
    /// Takes requests.
    Ready,
    /// Finishes what it has begun, and wants nothing new.
    Draining,
}

impl Stage {
    /// The name, for people and programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }
}

/// The stage of this process. Copies are the same value; a new one is [`Stage::Starting`].
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<watch::Sender<Stage>>);

impl Health {
    /// Where the process stands now.
    pub fn stage(&self) -> Stage {
        *self.0.borrow()
    }

    /// Everything is up. Says nothing once the process drains.
    pub fn ready(&self) {
        self.advance(Stage::Ready);
    }

    /// The process is going away.
    pub fn drain(&self) {
        self.advance(Stage::Draining);
    }

    /// Tells of every change from now on.
    pub fn subscribe(&self) -> watch::Receiver<Stage> {
        self.0.subscribe()
    }

    fn advance(&self, to: Stage) {
        self.0.send_if_modified(|stage| {
            let forward = to > *stage;
            if forward {
                *stage = to;
            }
            forward
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_drains_is_never_ready_again() {
        let health = Health::default();
        let mut follower = health.subscribe();
        assert_eq!(health.stage(), Stage::Starting);
        health.ready();
        assert_eq!(health.stage(), Stage::Ready);
        health.drain();
        assert!(follower.has_changed().unwrap());
        assert_eq!(*follower.borrow_and_update(), Stage::Draining);
        health.ready();
        assert_eq!(health.stage(), Stage::Draining);
        assert!(!follower.has_changed().unwrap());
    }
}
