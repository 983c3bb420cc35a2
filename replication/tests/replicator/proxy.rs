//! A line between a standby and its primary that can be held, as a network that swallows packets,
//! and cut anywhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Passes bytes on until it is told to hold them; connections stay open meanwhile.
pub(crate) struct Proxy {
    pub(crate) address: String,
    held: watch::Sender<bool>,
    /// Bytes that still pass from the primary before all lines are cut, once.
    left: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let held = watch::Sender::new(false);
        let holds = held.clone();
        let left = Arc::new(AtomicUsize::new(usize::MAX));
        let counted = left.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut lines = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(&target).await else {
                    continue;
                };
                let (near, far) = (near.into_split(), far.into_split());
                let free = Arc::new(AtomicUsize::new(usize::MAX));
                lines.spawn(pass(near.0, far.1, holds.subscribe(), free));
                lines.spawn(pass(far.0, near.1, holds.subscribe(), counted.clone()));
            }
        });
        Self {
            address,
            held,
            left,
            _task: task,
        }
    }

    /// Cuts the line after so many more bytes from the primary; the next one is whole again.
    pub(crate) fn cut_after(&self, bytes: usize) {
        self.left.store(bytes, Ordering::SeqCst);
    }

    pub(crate) fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut held: watch::Receiver<bool>,
    left: Arc<AtomicUsize>,
) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(len @ 1..) = from.read(&mut bytes).await {
        let free = held.wait_for(|held| !held).await.is_ok();
        let cut = left.load(Ordering::SeqCst);
        let passes = len.min(cut);
        if !free || to.write_all(&bytes[..passes]).await.is_err() {
            return;
        }
        if passes < len {
            left.store(usize::MAX, Ordering::SeqCst);
            return;
        }
        if cut < usize::MAX {
            left.fetch_sub(passes, Ordering::SeqCst);
        }
    }
}
