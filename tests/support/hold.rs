//! A relay in front of a node that can hold connections back.
//!
//! It accepts at once and forwards bytes both ways; while it holds, connections that come are
//! accepted and nothing of them is forwarded, as on a network that stalls.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

/// See the module.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) address: String,
    state: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Debug, Default)]
struct State {
    /// Connections let through before the next ones are held.
    pass: usize,
    held: usize,
    released: bool,
}

impl Relay {
    /// Lets `pass` connections to `target` through, and holds those after them.
    pub(crate) fn start(target: &str, pass: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = State {
            pass,
            ..State::default()
        };
        let state = Arc::new((Mutex::new(state), Condvar::new()));
        let (target, shared) = (target.to_owned(), state.clone());
        // It ends with the test binary.
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (target, shared) = (target.clone(), shared.clone());
                thread::spawn(move || {
                    pass_or_hold(&shared);
                    // Either side may be gone by now, which the other one notices.
                    let _ = forward(client, &target);
                });
            }
        });
        Self { address, state }
    }

    /// How many connections are held.
    pub(crate) fn held(&self) -> usize {
        self.state.0.lock().unwrap().held
    }

    /// Lets everything through from now on.
    pub(crate) fn release(&self) {
        self.state.0.lock().unwrap().released = true;
        self.state.1.notify_all();
    }
}

fn pass_or_hold((state, changed): &(Mutex<State>, Condvar)) {
    let mut state = state.lock().unwrap();
    if state.pass > 0 {
        state.pass -= 1;
        return;
    }
    state.held += 1;
    while !state.released {
        state = changed.wait(state).unwrap();
    }
    state.held -= 1;
}

fn forward(client: TcpStream, target: &str) -> io::Result<()> {
    let server = TcpStream::connect(target)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let (mut from_server, mut to_client) = (server, client);
    let _ = io::copy(&mut from_server, &mut to_client);
    to_client.shutdown(Shutdown::Both)
}
