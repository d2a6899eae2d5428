//! A proxy whose answers can be held back: what was asked is done, and nobody hears of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A proxy in front of a server. Open at first. Ends with the runtime that it was made on.
#[derive(Debug)]
pub(crate) struct Gate {
    port: u16,
    open: watch::Sender<bool>,
    connections: Arc<AtomicUsize>,
    held_back: Arc<AtomicUsize>,
}

impl Gate {
    /// In front of what listens on `port`.
    pub(crate) async fn before(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let (open, is_open) = watch::channel(true);
        let gate = Self {
            port: listener.local_addr().unwrap().port(),
            open,
            connections: Arc::default(),
            held_back: Arc::default(),
        };
        let connections = Arc::clone(&gate.connections);
        let held_back = Arc::clone(&gate.held_back);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::Relaxed);
                let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let held_back = Arc::clone(&held_back);
                tokio::spawn(pass(client, server, is_open.clone(), held_back));
            }
        });
        gate
    }

    /// Where it listens.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Holds answers back from now on.
    pub(crate) fn close(&self) {
        self.open.send_replace(false);
    }

    /// Lets through what was held back, and all that follows.
    pub(crate) fn open(&self) {
        self.open.send_replace(true);
    }

    /// How many connections were made through it.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// How many answers were held back so far: something was asked, and waits.
    pub(crate) fn held_back(&self) -> usize {
        self.held_back.load(Ordering::Relaxed)
    }
}

/// Passes both directions on until one side ends.
async fn pass(
    client: TcpStream,
    server: TcpStream,
    mut open: watch::Receiver<bool>,
    held_back: Arc<AtomicUsize>,
) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let asked = tokio::io::copy(&mut from_client, &mut to_server);
    let answered = async {
        let mut bytes = vec![0; 1 << 16];
        while let Ok(count @ 1..) = from_server.read(&mut bytes).await {
            held_back.fetch_add(usize::from(!*open.borrow()), Ordering::Relaxed);
            let opened = open.wait_for(|open| *open).await.is_ok();
            if !opened || to_client.write_all(&bytes[..count]).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        _ = asked => {}
        () = answered => {}
    }
}
