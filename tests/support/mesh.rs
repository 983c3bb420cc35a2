//! Lines between all nodes of a cluster: one for each that dials and each that is dialled.
//!
//! A node has one address for everybody, so who dials is read from the first message, in which a
//! node says its name. The address outlasts the node: where it listens now is told with
//! [`Mesh::lead_to`], so that one that was killed may come back on any port.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use super::valve::Line;

/// Most bytes of a first message.
const STARTUP_BYTES_MAX: u32 = 10_000;

/// See the module.
#[derive(Debug)]
pub(crate) struct Mesh {
    addresses: Vec<String>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    names: Vec<String>,
    targets: Vec<Mutex<Option<String>>>,
    /// From the first to the second.
    lines: BTreeMap<(usize, usize), Line>,
    ended: AtomicBool,
}

impl Mesh {
    /// Open lines between nodes of these names.
    pub(crate) fn between(names: &[&str]) -> Self {
        let count = names.len();
        let pairs = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
        let shared = Arc::new(Shared {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            targets: (0..count).map(|_| Mutex::default()).collect(),
            lines: pairs.map(|pair| (pair, Line::default())).collect(),
            ended: AtomicBool::new(false),
        });
        let listen = |to: usize| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let shared = shared.clone();
            thread::spawn(move || accept(&listener, to, &shared));
            address
        };
        Self {
            addresses: (0..count).map(listen).collect(),
            shared,
        }
    }

    /// Where everybody dials node `to`.
    pub(crate) fn address(&self, to: usize) -> &str {
        &self.addresses[to]
    }

    /// Says where node `to` listens.
    pub(crate) fn lead_to(&self, to: usize, address: &str) {
        *self.shared.target(to) = Some(address.to_owned());
    }

    /// The line on which node `from` dials node `to`.
    pub(crate) fn line(&self, from: usize, to: usize) -> &Line {
        &self.shared.lines[&(from, to)]
    }

    /// The lines between node `one` and all others, whoever dialled.
    pub(crate) fn around(&self, one: usize) -> impl Iterator<Item = &Line> {
        let lines = self.shared.lines.iter();
        let around = lines.filter(move |((from, to), _)| (*from == one) != (*to == one));
        around.map(|(_, line)| line)
    }

    /// Every line.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &Line> {
        self.shared.lines.values()
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        for address in &self.addresses {
            // Who accepts wakes up for it and ends; one that cannot be woken ends with the process.
            let _ = TcpStream::connect(address);
        }
    }
}

impl Shared {
    fn target(&self, to: usize) -> std::sync::MutexGuard<'_, Option<String>> {
        self.targets[to].lock().expect("nobody panics with it")
    }
}

fn accept(listener: &TcpListener, to: usize, shared: &Arc<Shared>) {
    for near in listener.incoming().map_while(Result::ok) {
        if shared.ended.load(Ordering::Acquire) {
            return;
        }
        let shared = shared.clone();
        // Either side may be gone by now, which the other one notices.
        thread::spawn(move || pass(near, to, &shared));
    }
}

fn pass(mut near: TcpStream, to: usize, shared: &Shared) -> io::Result<()> {
    let first = startup(&mut near)?;
    let from = shared.names.iter().position(|name| says(&first, name));
    let from = from.ok_or_else(|| io::Error::other("nobody that is known"))?;
    let target = shared.target(to).clone();
    let target = target.ok_or_else(|| io::Error::other("it was never started"))?;
    shared.lines[&(from, to)].connect(near, &target, &first)
}

/// The first message, as it came: its length, which counts itself, and the rest.
fn startup(near: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    near.read_exact(&mut length)?;
    let bytes = u32::from_be_bytes(length);
    if !(8..STARTUP_BYTES_MAX).contains(&bytes) {
        return Err(io::Error::other("no first message"));
    }
    let mut message = vec![0; bytes as usize];
    message[..4].copy_from_slice(&length);
    near.read_exact(&mut message[4..])?;
    Ok(message)
}

/// Whether the first message was sent by a node of this name.
fn says(message: &[u8], name: &str) -> bool {
    let parameter = format!("application_name\0{name}\0");
    let parameter = parameter.as_bytes();
    message
        .windows(parameter.len())
        .any(|part| part == parameter)
}
