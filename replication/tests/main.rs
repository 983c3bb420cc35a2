//! Integration tests of replication: real nodes on loopback, in one process.

mod streaming;
mod support;
