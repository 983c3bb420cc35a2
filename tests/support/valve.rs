//! A line to a node whose two ways are held, let go and cut one by one.
//!
//! What is held is kept and passed on when the way is let go; what is held when the line is cut
//! never arrives. Nothing passes a way any more once [`Valve::hold`] has returned.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

/// A way through a [`Valve`].
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) enum Way {
    /// From whoever dialled to the node: confirmations of a standby.
    ToNode,
    /// From the node to whoever dialled: log, and how far it is committed.
    FromNode,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Valve {
    pub(crate) address: String,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// One for each way, so that neither waits for the other.
    gates: [Gate; 2],
    lines: Mutex<Vec<[TcpStream; 2]>>,
}

#[derive(Debug, Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes that still pass; `None` lets all through.
    left: Option<usize>,
    /// Climbs when every line is cut.
    cuts: u64,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    /// Waits until `bytes` may pass, and keeps the gate as it is; `None` when the line was cut.
    fn passes(&self, bytes: usize, since: u64) -> Option<MutexGuard<'_, State>> {
        let mut state = self.lock();
        while state.left.is_some_and(|left| left < bytes) && state.cuts == since {
            // What does not fit is the end of what passes.
            state.left = Some(0);
            state = self.changed.wait(state).expect("nobody panics with it");
        }
        if state.cuts != since {
            return None;
        }
        state.left = state.left.map(|left| left - bytes);
        Some(state)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

impl Valve {
    /// An open line to `target`.
    pub(crate) fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared::default());
        let (target, ways) = (target.to_owned(), shared.clone());
        // It ends with the test binary.
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let (target, ways) = (target.clone(), ways.clone());
                // Either side may be gone by now, which the other one notices.
                thread::spawn(move || connect(near, &target, &ways));
            }
        });
        Self { address, shared }
    }

    /// The URL under which the node is followed through it.
    pub(crate) fn url(&self) -> String {
        format!("postgres://mainstay@{}", self.address)
    }

    /// Holds what goes this way, on every line, present and future.
    pub(crate) fn hold(&self, way: Way) {
        self.hold_after(way, 0);
    }

    /// As [`hold`](Self::hold), once about so many bytes more have passed.
    pub(crate) fn hold_after(&self, way: Way, bytes: usize) {
        self.shared.gates[way as usize].change(|state| state.left = Some(bytes));
    }

    /// Passes on what was held, and all that follows.
    pub(crate) fn release(&self, way: Way) {
        self.shared.gates[way as usize].change(|state| state.left = None);
    }

    /// Waits until somebody has dialled that was not cut.
    pub(crate) fn until_dialled(&self) {
        let lines = || {
            self.shared
                .lines
                .lock()
                .expect("nobody panics with it")
                .len()
        };
        super::until("somebody dials", || lines() > 0);
    }

    /// Ends every line. What was held on it is lost; later ones are held as before.
    pub(crate) fn cut(&self) {
        for gate in &self.shared.gates {
            gate.change(|state| state.cuts += 1);
        }
        let lines = std::mem::take(&mut *self.shared.lines.lock().expect("nobody panics with it"));
        lines.iter().for_each(end);
    }
}

/// Whoever is gone already needs no end.
fn end(line: &[TcpStream; 2]) {
    for side in line {
        let _ = side.shutdown(Shutdown::Both);
    }
}

fn connect(near: TcpStream, target: &str, shared: &Arc<Shared>) -> io::Result<()> {
    let [to_node, from_node] = [0, 1].map(|way| shared.gates[way].lock().cuts);
    let far = TcpStream::connect(target)?;
    let kept = [near.try_clone()?, far.try_clone()?];
    shared
        .lines
        .lock()
        .expect("nobody panics with it")
        .push(kept);
    let (near_in, far_out, back) = (near.try_clone()?, far.try_clone()?, shared.clone());
    let gate = move || pass(near_in, far_out, &back.gates[Way::ToNode as usize], to_node);
    thread::spawn(gate);
    pass(far, near, &shared.gates[Way::FromNode as usize], from_node);
    Ok(())
}

fn pass(mut from: TcpStream, mut to: TcpStream, gate: &Gate, since: u64) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        let Some(open) = gate.passes(read, since) else {
            break;
        };
        let written = to.write_all(&bytes[..read]);
        drop(open);
        if written.is_err() {
            break;
        }
    }
    // The end comes behind what it follows, and is held as that is.
    drop(gate.passes(1, since));
    let _ = to.shutdown(Shutdown::Write);
}
