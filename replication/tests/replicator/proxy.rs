//! A line between a standby and its primary that can be held, as a network that swallows packets.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Passes bytes on until it is told to hold them; connections stay open meanwhile.
pub(crate) struct Proxy {
    pub(crate) address: String,
    held: watch::Sender<bool>,
    _task: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let held = watch::Sender::new(false);
        let holds = held.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut lines = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(&target).await else {
                    continue;
                };
                let (near, far) = (near.into_split(), far.into_split());
                lines.spawn(pass(near.0, far.1, holds.subscribe()));
                lines.spawn(pass(far.0, near.1, holds.subscribe()));
            }
        });
        Self {
            address,
            held,
            _task: task,
        }
    }

    pub(crate) fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut held: watch::Receiver<bool>) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(len @ 1..) = from.read(&mut bytes).await {
        let free = held.wait_for(|held| !held).await.is_ok();
        if !free || to.write_all(&bytes[..len]).await.is_err() {
            return;
        }
    }
}
