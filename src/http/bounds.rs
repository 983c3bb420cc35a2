//! How much HTTP may hold at once, connections and bytes of bodies, and for how long in silence.
//!
//! Beyond either limit newcomers wait. What is held for a client that is gone, or that stops in the
//! middle of a body, is given back after a while. Requests without a body never wait for the second
//! limit, so a node whose writers all wait for a standby still answers reads and orders.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use axum::serve::Listener;
use mainstay_replication::keep_alive;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::StreamExt as _;

use super::{
    Api, ApiError, BODIES_BYTES_MAX, BODY_SILENCE_MAX, CONNECTIONS_MAX, TRANSACTION_BYTES_MAX,
};

/// What a permit for bytes of a body stands for, in bytes.
const GRAIN: usize = 1 << 10;

/// The permits for bytes of bodies.
pub(crate) fn bodies() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(BODIES_BYTES_MAX / GRAIN))
}

/// Holds back a request until there is room for its body.
pub(crate) async fn admit(State(api): State<Api>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    if headers.contains_key(TRANSFER_ENCODING) {
        let hint = "send the body with a Content-Length; with curl, from a file";
        return ApiError::new(411, "a body of unknown length is not taken")
            .hint(hint)
            .into_response();
    }
    let len = headers
        .get(CONTENT_LENGTH)
        .and_then(|len| len.to_str().ok()?.parse().ok());
    // A longer one is refused by the limit of its route before much of it is read.
    let len = len.unwrap_or(0_usize).min(TRANSACTION_BYTES_MAX);
    let grains = u32::try_from(len.div_ceil(GRAIN)).unwrap_or(u32::MAX);
    match api.bodies.acquire_many(grains).await {
        Ok(_room) if len > 0 => {
            let request = request.map(|body| without_silence(body, BODY_SILENCE_MAX));
            next.run(request).await
        }
        Ok(_) => next.run(request).await,
        Err(closed) => ApiError::new(503, closed.to_string()).into_response(),
    }
}

/// `body`, which breaks off when nothing of it comes for `longest`.
pub(super) fn without_silence(body: Body, longest: Duration) -> Body {
    let pieces = body.into_data_stream().timeout(longest);
    Body::from_stream(pieces.map(|piece| match piece {
        Ok(piece) => piece.map_err(io::Error::other),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }))
}

/// A listener that accepts up to [`CONNECTIONS_MAX`] connections at a time.
#[derive(Debug)]
pub(crate) struct BoundedListener {
    listener: TcpListener,
    room: Arc<Semaphore>,
}

impl BoundedListener {
    pub(crate) fn new(listener: TcpListener) -> Self {
        Self {
            listener,
            room: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        }
    }
}

impl Listener for BoundedListener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let room = self.room.clone().acquire_owned().await;
        let room = room.expect("nobody closes this semaphore");
        let (stream, address) = Listener::accept(&mut self.listener).await;
        // Answers are small and somebody waits for each; without this they are held back.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "an HTTP connection stays without TCP_NODELAY");
        }
        if let Err(error) = keep_alive(&stream) {
            tracing::debug!(%error, "an HTTP connection stays without TCP keepalive");
        }
        (
            Connection {
                stream,
                _room: room,
            },
            address,
        )
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that gives its place back when it ends.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    _room: OwnedSemaphorePermit,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Bytes, to_bytes};
    use tokio_stream::{iter, pending};

    use super::*;

    #[tokio::test]
    async fn a_body_that_breaks_off_is_not_waited_for() {
        let piece = || iter([Ok::<_, io::Error>(Bytes::from_static(b"begin"))]);
        let whole = without_silence(Body::from_stream(piece()), BODY_SILENCE_MAX);
        assert_eq!(to_bytes(whole, usize::MAX).await.unwrap(), "begin");
        let broken_off = Body::from_stream(piece().chain(pending()));
        let broken_off = without_silence(broken_off, Duration::from_millis(1));
        let error = to_bytes(broken_off, usize::MAX).await.unwrap_err();
        assert!(error.to_string().contains("timed out"), "{error}");
    }

    #[tokio::test]
    async fn the_system_asks_after_a_client_and_its_place_is_given_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut listener = BoundedListener::new(listener);
        let address = listener.local_addr().unwrap();
        let (client, (connection, _)) =
            tokio::join!(TcpStream::connect(address), listener.accept());
        let socket = socket2::SockRef::from(&connection.stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(listener.room.available_permits(), CONNECTIONS_MAX - 1);
        drop((client, connection));
        assert_eq!(listener.room.available_permits(), CONNECTIONS_MAX);
    }
}
