//! A line to a node that breaks off or falls silent in the middle.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

/// What happens to a connection that has brought enough bytes from the node.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) enum Then {
    /// It is closed.
    Cut,
    /// It stays open and brings nothing more.
    Hold,
}

/// Passes bytes on between whoever connects to it and a node.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) address: String,
    broken: Arc<AtomicU64>,
    _held: Sender<()>,
}

impl Proxy {
    /// A line to `target`, whose first `times` connections with more than `after` bytes from
    /// there break.
    pub(crate) fn to(target: &str, after: u64, then: Then, times: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (held, release) = channel();
        let (target, release) = (target.to_owned(), Arc::new(Mutex::new(release)));
        let broken = Arc::new(AtomicU64::new(0));
        let count = broken.clone();
        std::thread::spawn(move || {
            // Ends with the process: a listener cannot be woken.
            while let Ok((near, _)) = listener.accept() {
                let Ok(far) = TcpStream::connect(&target) else {
                    continue;
                };
                let (near_in, far_out) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                std::thread::spawn(move || pass(near_in, far_out, u64::MAX));
                let (count, release) = (count.clone(), release.clone());
                std::thread::spawn(move || {
                    let limit = match count.load(Ordering::Acquire) < times {
                        true => after,
                        false => u64::MAX,
                    };
                    let (far, near) = (far, near);
                    if pass(far.try_clone().unwrap(), near.try_clone().unwrap(), limit) {
                        count.fetch_add(1, Ordering::AcqRel);
                        if then == Then::Hold {
                            wait(&release);
                        }
                    }
                    // Whoever is gone already needs no end.
                    let _ = (far.shutdown(Shutdown::Both), near.shutdown(Shutdown::Both));
                });
            }
        });
        Self {
            address,
            broken,
            _held: held,
        }
    }

    /// How many connections it broke so far.
    pub(crate) fn broken(&self) -> u64 {
        self.broken.load(Ordering::Acquire)
    }

    /// The URL under which the node is followed through it.
    pub(crate) fn url(&self) -> String {
        format!("postgres://mainstay@{}", self.address)
    }
}

/// Waits until the proxy is dropped.
fn wait(release: &Mutex<Receiver<()>>) {
    // The sender only ever goes away.
    let _ = release.lock().expect("nobody panics with it").recv();
}

/// Passes at most `limit` bytes on; says whether it stopped for that.
fn pass(mut from: TcpStream, mut to: TcpStream, limit: u64) -> bool {
    let mut bytes = vec![0; 16 << 10];
    let mut left = limit;
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        left = left.saturating_sub(read as u64);
        if left == 0 {
            return true;
        }
        if to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    // The other side may be gone already.
    let _ = to.shutdown(Shutdown::Write);
    false
}
