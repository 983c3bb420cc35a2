//! Turmoil's sockets with the faces of tokio's, as far as this crate uses them.
//!
//! What is written leaves in pieces of changing sizes, so that messages are cut anywhere.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, Interest, ReadBuf, Ready};
use turmoil::net;

/// Bytes of the pieces that leave one after the other.
const PIECES: [usize; 5] = [1460, 1, 400, 5, 9000];

/// Bytes taken in at once.
const READ_BYTES: usize = 4 << 10;

/// Nobody vanishes here without the network saying so.
pub(crate) fn keep_alive(_stream: &TcpStream) -> io::Result<()> {
    Ok(())
}

/// As tokio's.
#[derive(Debug)]
pub(crate) struct TcpStream {
    stream: Mutex<net::TcpStream>,
    pieces: AtomicUsize,
}

impl TcpStream {
    fn new(stream: net::TcpStream) -> Self {
        let pieces = AtomicUsize::new(0);
        let stream = Mutex::new(stream);
        Self { stream, pieces }
    }

    pub(crate) async fn connect(address: &str) -> io::Result<Self> {
        net::TcpStream::connect(address).await.map(Self::new)
    }

    pub(crate) fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.stream.lock().set_nodelay(nodelay)
    }

    pub(crate) fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.lock().peer_addr()
    }

    pub(crate) async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        poll_fn(|context| {
            let mut stream = self.stream.lock();
            let mut ready = Ready::EMPTY;
            let mut byte = [0];
            // A connection that is broken is ready too: reading tells why.
            if interest.is_readable()
                && stream
                    .poll_peek(context, &mut ReadBuf::new(&mut byte))
                    .is_ready()
            {
                ready |= Ready::READABLE;
            }
            if interest.is_writable() && pin!(stream.writable()).poll(context).is_ready() {
                ready |= Ready::WRITABLE;
            }
            match ready.is_empty() {
                true => Poll::Pending,
                false => Poll::Ready(Ok(ready)),
            }
        })
        .await
    }

    pub(crate) async fn writable(&self) -> io::Result<()> {
        self.ready(Interest::WRITABLE).await.map(|_| ())
    }

    pub(crate) fn try_read_buf(&self, into: &mut BytesMut) -> io::Result<usize> {
        let mut bytes = [0; READ_BYTES];
        let mut read = ReadBuf::new(&mut bytes);
        let mut context = Context::from_waker(Waker::noop());
        match Pin::new(&mut *self.stream.lock()).poll_read(&mut context, &mut read) {
            Poll::Ready(Ok(())) => {
                into.extend_from_slice(read.filled());
                Ok(read.filled().len())
            }
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    pub(crate) fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let first = slices.first().expect("something to write");
        let piece = PIECES[self.pieces.fetch_add(1, Ordering::Relaxed) % PIECES.len()];
        let piece = &first[..first.len().min(piece)];
        self.stream.lock().try_write(piece)
    }
}

/// As tokio's.
pub(crate) struct TcpListener(net::TcpListener);

impl TcpListener {
    pub(crate) async fn bind(address: &str) -> io::Result<Self> {
        net::TcpListener::bind(address).await.map(Self)
    }

    pub(crate) async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = self.0.accept().await?;
        Ok((TcpStream::new(stream), peer))
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// As tokio's, for addresses that are numbers.
pub(crate) async fn lookup_host(address: &str) -> io::Result<std::iter::Once<SocketAddr>> {
    let address = address.parse().map_err(io::Error::other)?;
    Ok(std::iter::once(address))
}
