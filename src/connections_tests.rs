use super::*;

const PATIENCE: Duration = Duration::from_secs(5);

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_is_not_acknowledged_ends_the_connection() {
    let listener = listener().await;
    let places = Arc::new(Semaphore::new(1));
    let full = Throttle::new(WARN_EVERY);
    let client = TcpStream::connect(listener.local_addr().unwrap());
    let (_client, accepted) = tokio::join!(client, accept(&listener, &places, &full));
    let (stream, _place) = accepted.unwrap();
    let socket = SockRef::from(&stream);
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
    assert!(socket.keepalive().unwrap() && stream.nodelay().unwrap());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn where_the_listener_fails_nobody_waits_for_connections() {
    let listener = listener().await;
    let address = listener.local_addr().unwrap();
    let socket = SockRef::from(&listener).try_clone().unwrap();
    let bounds = Bounds {
        connections: 2,
        drain: Duration::MAX,
    };
    let (begun, mut connections) = tokio::sync::mpsc::unbounded_channel();
    let served = serve(
        listener,
        bounds,
        std::future::pending(),
        |stream, stopping| {
            begun.send(()).unwrap();
            async move {
                std::future::pending::<()>().await;
                drop((stream, stopping));
            }
        },
    );
    let fail = async {
        let client = TcpStream::connect(address).await.unwrap();
        connections.recv().await.unwrap();
        socket.shutdown(std::net::Shutdown::Both).unwrap();
        client
    };
    let ended = async { tokio::join!(served, fail) };
    let (served, _client) = tokio::time::timeout(PATIENCE, ended).await.unwrap();
    assert_eq!(served.unwrap_err().kind(), io::ErrorKind::InvalidInput);
}
