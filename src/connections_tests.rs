use super::*;

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_is_not_acknowledged_ends_the_connection() {
    let listener = listener().await;
    let places = Arc::new(Semaphore::new(1));
    let client = TcpStream::connect(listener.local_addr().unwrap());
    let (_client, accepted) = tokio::join!(client, accept(&listener, &places));
    let (stream, _place) = accepted.unwrap();
    let socket = SockRef::from(&stream);
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
    assert!(socket.keepalive().unwrap() && stream.nodelay().unwrap());
}
