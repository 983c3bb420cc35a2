//! The sockets of this crate.
//!
//! In every build that anybody uses they are tokio's themselves. Where the compiler is given
//! `--cfg turmoil`, as `tests/schedules` does, the unit tests get those of a network that turmoil
//! simulates, which can be cut, held up and mended (`partitions.rs`).

#[cfg(not(all(test, turmoil)))]
pub(crate) use self::keepalive::keep_alive;
#[cfg(not(all(test, turmoil)))]
pub(crate) use tokio::net::{TcpListener, TcpStream, lookup_host};

#[cfg(all(test, turmoil))]
pub(crate) use self::simulated::{TcpListener, TcpStream, keep_alive, lookup_host};

pub(super) mod keepalive;
#[cfg(all(test, turmoil))]
mod simulated;
