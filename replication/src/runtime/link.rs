//! One connection's bytes: what came in and is not read yet, what waits to go out.
//!
//! A [`Link`] never holds up one direction for the other: [`Link::turn`] reads when there is
//! something to read and writes when there is room, and may be dropped at any await without losing
//! a byte, so it can stand in a `select!`. Log bytes are queued as shared slices and written with
//! vectored calls, never copied. It knows no message.

mod chunks;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use mainstay_storage::canary;
use tokio::io::Interest;
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::runtime::net::{TcpStream, keep_alive};
use chunks::Chunks;

/// Most bytes that are taken in before somebody reads them.
pub(crate) const INPUT_BYTES_MAX: usize = 4 << 20;

/// Slices handed to one write call.
const SLICES_MAX: usize = 32;

/// A TCP connection with its two buffers.
#[derive(Debug)]
pub(crate) struct Link {
    stream: TcpStream,
    peer: String,
    /// What came in and was not taken yet.
    pub(crate) input: BytesMut,
    chunks: Chunks,
    /// Bytes of the message that `input` begins with; 0 while that is not known.
    message: usize,
    output: VecDeque<Bytes>,
    queued: usize,
}

/// What a turn brought.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) enum Turn {
    /// More input, or output went.
    Moved,
    /// The peer closed its side; what is in `input` is all there will be.
    Ended,
}

impl Link {
    pub(crate) fn new(stream: TcpStream) -> Self {
        // Small messages go out at once; the kernel refusing this costs only latency.
        let _ = stream.set_nodelay(true);
        if let Err(error) = keep_alive(&stream) {
            tracing::debug!(%error, "a connection stays without TCP keepalive");
        }
        let peer = stream
            .peer_addr()
            .map_or_else(|_| "a peer".to_owned(), |at| at.to_string());
        Self {
            stream,
            peer,
            input: BytesMut::new(),
            chunks: Chunks::new(),
            message: 0,
            output: VecDeque::new(),
            queued: 0,
        }
    }

    /// Connects to `address` (`host:port`).
    pub(crate) async fn connect(address: &str) -> Result<Self> {
        match TcpStream::connect(address).await {
            Ok(stream) => Ok(Self {
                peer: address.to_owned(),
                ..Self::new(stream)
            }),
            Err(source) => Err(Error::Connection {
                peer: address.to_owned(),
                op: "connect",
                source,
            }),
        }
    }

    /// Who is at the other end, for people.
    pub(crate) fn peer(&self) -> &str {
        &self.peer
    }

    /// Says how many bytes the message has that `input` begins with, so that it is read into one
    /// piece of memory; 0 when that is not known.
    pub(crate) fn expect(&mut self, message: usize) {
        self.message = message;
    }

    /// Puts bytes behind what waits to go out.
    pub(crate) fn queue(&mut self, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        if !bytes.is_empty() {
            self.queued += bytes.len();
            self.output.push_back(bytes);
        }
    }

    /// Bytes that wait to go out.
    pub(crate) fn queued(&self) -> usize {
        self.queued
    }

    /// Waits until bytes came in or went out. Safe to drop.
    pub(crate) async fn turn(&mut self) -> Result<Turn> {
        let mut interest = None;
        if self.input.len() < INPUT_BYTES_MAX {
            interest = Some(Interest::READABLE);
        }
        if !self.output.is_empty() {
            let write = Interest::WRITABLE;
            interest = Some(interest.map_or(write, |interest| interest.add(write)));
        }
        let Some(interest) = interest else {
            // Nothing may be read and nothing is to be written: the reader must take first.
            return Ok(Turn::Moved);
        };
        let ready = self
            .stream
            .ready(interest)
            .await
            .map_err(|error| self.failed("wait", error))?;
        if ready.is_writable() && !self.output.is_empty() {
            self.write_some()
                .map_err(|error| self.failed("write", error))?;
        }
        if ready.is_readable() && self.input.len() < INPUT_BYTES_MAX {
            self.chunks.make_room(&mut self.input, self.message);
            match self.stream.try_read_buf(&mut self.input) {
                Ok(0) => return Ok(Turn::Ended),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Err(self.failed("read", error));
                }
                _ => {}
            }
        }
        Ok(Turn::Moved)
    }

    /// Waits until everything queued went out. Reads meanwhile, so that a peer that is writing too
    /// does not hold it up.
    pub(crate) async fn flush(&mut self) -> Result<()> {
        while !self.output.is_empty() {
            if self.turn().await? == Turn::Ended {
                self.drain_without_reading().await?;
            }
        }
        Ok(())
    }

    /// As [`flush`](Self::flush), for a peer that may take nothing in any more.
    ///
    /// # Errors
    /// Also when nothing went out for `patience`.
    pub(crate) async fn flush_unless_stalled(&mut self, patience: Duration) -> Result<()> {
        loop {
            let before = self.queued;
            match timeout(patience, self.flush()).await {
                Ok(flushed) => return flushed,
                Err(_) if self.queued < before => {}
                Err(_) => return Err(self.failed("write", io::ErrorKind::TimedOut.into())),
            }
        }
    }

    async fn drain_without_reading(&mut self) -> Result<()> {
        while !self.output.is_empty() {
            self.stream
                .writable()
                .await
                .map_err(|error| self.failed("wait", error))?;
            self.write_some()
                .map_err(|error| self.failed("write", error))?;
        }
        Ok(())
    }

    fn write_some(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            let slices = self
                .output
                .iter()
                .take(SLICES_MAX)
                .map(|bytes| IoSlice::new(bytes));
            let slices = slices.collect::<Vec<_>>();
            let mut written = match self.stream.try_write_vectored(&slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                written => written?,
            };
            self.queued -= written;
            while let Some(first) = self.output.front_mut() {
                let step = written.min(first.len());
                first.advance(step);
                written -= step;
                if !first.is_empty() && !canary("forget-the-rest-of-a-write") {
                    break;
                }
                self.output.pop_front();
            }
        }
        Ok(())
    }

    fn failed(&self, op: &'static str, source: io::Error) -> Error {
        Error::Connection {
            peer: self.peer.clone(),
            op,
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::net::TcpListener;

    async fn pair() -> (Link, Link) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (dialled, accepted) = tokio::join!(Link::connect(&address), listener.accept());
        (dialled.unwrap(), Link::new(accepted.unwrap().0))
    }

    #[tokio::test]
    async fn both_sides_may_write_more_than_the_sockets_hold_before_they_read() {
        let (mut a, mut b) = pair().await;
        let chunk = Bytes::from(vec![7; 1 << 20]);
        for link in [&mut a, &mut b] {
            for _ in 0..3 {
                link.queue(chunk.clone());
            }
        }
        assert_eq!(a.queued(), 3 << 20);
        let (one, two) = tokio::join!(a.flush(), b.flush());
        one.unwrap();
        two.unwrap();
        while b.input.len() < 3 << 20 {
            assert_eq!(b.turn().await.unwrap(), Turn::Moved);
        }
        assert!(b.input.iter().all(|&byte| byte == 7));
    }

    #[cfg(not(turmoil))]
    #[tokio::test]
    async fn the_system_asks_after_either_end() {
        let (a, b) = pair().await;
        for link in [&a, &b] {
            let socket = socket2::SockRef::from(&link.stream);
            assert!(socket.keepalive().unwrap());
        }
    }

    #[tokio::test]
    async fn a_closed_peer_ends_the_input() {
        let (mut a, mut b) = pair().await;
        b.queue(&b"last words"[..]);
        b.flush().await.unwrap();
        drop(b);
        while a.turn().await.unwrap() == Turn::Moved {}
        assert_eq!(&a.input[..], b"last words");
    }
}
