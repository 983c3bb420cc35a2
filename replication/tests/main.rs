//! Integration tests of replication: real nodes on loopback, in one process.

mod replicator;
mod streaming;
mod support;
