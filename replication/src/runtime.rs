//! Where replication waits, locks, spawns and moves bytes.

mod clock;
mod link;
