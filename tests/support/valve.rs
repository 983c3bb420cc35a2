//! A line to a node whose two ways are held, slowed, let go and broken one by one.
//!
//! What is held is kept and passed on when the way is let go; what is held when the line is cut
//! never arrives. Nothing passes a way any more once [`Line::hold`] has returned.

use std::io::{self, Read, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

/// How long a way that trickles rests between two morsels.
const TRICKLE_REST: Duration = Duration::from_millis(2);

/// A way through a [`Line`].
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) enum Way {
    /// From whoever dialled to the node: confirmations of a standby.
    ToNode,
    /// From the node to whoever dialled: log, and how far it is committed.
    FromNode,
}

/// How a line ends.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// Both sides see the end of what the other one sent.
    Close,
    /// Both sides see an error, whatever is still on its way.
    Reset,
}

/// A [`Line`] with an address of its own.
#[derive(Debug)]
pub(crate) struct Valve {
    pub(crate) address: String,
    line: Line,
}

/// All connections from somebody to a node, present and future.
#[derive(Debug, Clone, Default)]
pub(crate) struct Line {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// One for each way, so that neither waits for the other.
    gates: [Gate; 2],
    /// Who dialled and the node, of each connection that is open.
    open: Mutex<Vec<Weak<[TcpStream; 2]>>>,
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
    /// What happens to the line when they have passed; it is held if nothing is said.
    end: Option<End>,
    /// Most bytes that pass at once, with a rest behind each.
    morsel: Option<usize>,
    /// Climbs when every line is cut.
    cuts: u64,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    /// Waits until some of `bytes` may pass, and keeps the gate as it is with how many those are;
    /// `None` when the line was cut.
    fn passes(&self, bytes: usize, since: u64) -> Option<(MutexGuard<'_, State>, usize)> {
        let mut state = self.lock();
        while state.left == Some(0) && state.cuts == since {
            state = self.changed.wait(state).expect("nobody panics with it");
        }
        if state.cuts != since {
            return None;
        }
        let now = bytes.min(state.left.unwrap_or(bytes));
        let now = now.min(state.morsel.unwrap_or(now));
        state.left = state.left.map(|left| left - now);
        Some((state, now))
    }

    /// Rests behind a morsel, unless something else is wanted meanwhile.
    fn rest(&self) {
        let state = self.lock();
        if state.morsel.is_some() {
            let rested = self.changed.wait_timeout(state, TRICKLE_REST);
            drop(rested.expect("nobody panics with it"));
        }
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
        let line = Line::default();
        let (target, shared) = (target.to_owned(), line.clone());
        // It ends with the test binary.
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let (target, line) = (target.clone(), shared.clone());
                // Either side may be gone by now, which the other one notices.
                thread::spawn(move || line.connect(near, &target, &[]));
            }
        });
        Self { address, line }
    }

    /// The URL under which the node is followed through it.
    pub(crate) fn url(&self) -> String {
        format!("postgres://mainstay@{}", self.address)
    }
}

impl Deref for Valve {
    type Target = Line;

    fn deref(&self) -> &Line {
        &self.line
    }
}

impl Line {
    /// Holds what goes this way, on every connection, present and future.
    pub(crate) fn hold(&self, way: Way) {
        self.hold_after(way, 0);
    }

    /// As [`hold`](Self::hold), once so many bytes more have passed.
    pub(crate) fn hold_after(&self, way: Way, bytes: usize) {
        self.gate(way).change(|state| {
            (state.left, state.end) = (Some(bytes), None);
        });
    }

    /// Breaks every connection there is once so many bytes more have passed this way.
    pub(crate) fn break_after(&self, way: Way, bytes: usize, end: End) {
        self.gate(way).change(|state| {
            (state.left, state.end) = (Some(bytes.max(1)), Some(end));
        });
    }

    /// Passes at most `morsel` bytes at once this way, and slowly.
    pub(crate) fn trickle(&self, way: Way, morsel: usize) {
        self.gate(way).change(|state| state.morsel = Some(morsel));
    }

    /// Passes on what was held, and all that follows.
    pub(crate) fn release(&self, way: Way) {
        self.gate(way).change(|state| {
            (state.left, state.end, state.morsel) = (None, None, None);
        });
    }

    /// Waits until somebody has dialled that was not cut.
    pub(crate) fn until_dialled(&self) {
        super::until("somebody dials", || {
            let open = self.open();
            open.iter().any(|sides| sides.strong_count() > 0)
        });
    }

    /// Ends every connection. What was held on it is lost; later ones are held as before.
    pub(crate) fn cut(&self) {
        self.break_off(End::Close);
    }

    fn break_off(&self, end: End) {
        for gate in &self.shared.gates {
            gate.change(|state| state.cuts += 1);
        }
        let open = std::mem::take(&mut *self.open());
        let open = open.iter().filter_map(Weak::upgrade).collect::<Vec<_>>();
        for side in open.iter().flat_map(|sides| sides.iter()) {
            // Whoever is gone already needs no end.
            let _ = match end {
                End::Close => side.shutdown(Shutdown::Both),
                // Who reads of it wakes up, and with the last handle the connection is reset.
                End::Reset => SockRef::from(side)
                    .set_linger(Some(Duration::ZERO))
                    .and_then(|()| side.shutdown(Shutdown::Read)),
            };
        }
    }

    fn gate(&self, way: Way) -> &Gate {
        &self.shared.gates[way as usize]
    }

    fn open(&self) -> MutexGuard<'_, Vec<Weak<[TcpStream; 2]>>> {
        self.shared.open.lock().expect("nobody panics with it")
    }

    /// Passes on `first`, which was read already, and all that follows from `near` to `target` and
    /// back, until either side ends.
    pub(super) fn connect(&self, near: TcpStream, target: &str, first: &[u8]) -> io::Result<()> {
        let [to_node, from_node] = [Way::ToNode, Way::FromNode].map(|way| {
            let gate = self.gate(way).lock();
            gate.cuts
        });
        let sides = Arc::new([near, TcpStream::connect(target)?]);
        let mut open = self.open();
        open.retain(|sides| sides.strong_count() > 0);
        open.push(Arc::downgrade(&sides));
        drop(open);
        let (there, line, first) = (sides.clone(), self.clone(), first.to_vec());
        thread::spawn(move || {
            let from = first.as_slice().chain(&there[0]);
            line.pass(from, &there[1], Way::ToNode, to_node);
        });
        self.pass(&sides[1], &sides[0], Way::FromNode, from_node);
        Ok(())
    }

    fn pass(&self, mut from: impl Read, mut to: &TcpStream, way: Way, since: u64) {
        let gate = self.gate(way);
        let mut bytes = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from.read(&mut bytes) {
            let mut rest = &bytes[..read];
            while !rest.is_empty() {
                let Some((mut open, now)) = gate.passes(rest.len(), since) else {
                    return;
                };
                let written = to.write_all(&rest[..now]);
                let end = open.end.filter(|_| open.left == Some(0));
                if end.is_some() {
                    (open.left, open.end) = (None, None);
                }
                drop(open);
                if let Some(end) = end {
                    return self.break_off(end);
                }
                if written.is_err() {
                    return;
                }
                rest = &rest[now..];
                gate.rest();
            }
        }
        // The end comes behind what it follows, and is held as that is.
        if gate.passes(0, since).is_some() {
            let _ = to.shutdown(Shutdown::Write);
        }
    }
}
