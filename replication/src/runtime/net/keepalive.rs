//! Whether a peer that says nothing is still there.
//!
//! A stream has timers of its own. A session between two commands has none, and neither has a
//! client of HTTP that thinks: one whose machine is gone would keep what it holds, a connection or
//! a temporary slot, until this node ends. So the system asks, and only the machine must answer.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// Silence after which the system asks for the first time.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);

/// How long it waits for an answer before it asks again.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Unanswered questions after which the connection is broken.
const KEEPALIVE_COUNT: u32 = 6;

/// Lets the system end `stream` when its peer is gone without a word: after two minutes of silence.
/// What is on its way to the peer is sent again for as long as the system does that anyway.
///
/// # Errors
/// The system's; the connection works all the same.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// let stream = tokio::net::TcpStream::connect(listener.local_addr()?).await?;
/// mainstay_replication::keep_alive(&stream)
/// # }
/// ```
pub fn keep_alive(stream: &tokio::net::TcpStream) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_COUNT);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn the_system_asks_after_a_peer_that_is_silent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await;
        let stream = stream.unwrap();
        keep_alive(&stream).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        let gone_after = socket.tcp_keepalive_time().unwrap()
            + socket.tcp_keepalive_interval().unwrap() * socket.tcp_keepalive_retries().unwrap();
        assert_eq!(gone_after, Duration::from_secs(120));
    }
}
