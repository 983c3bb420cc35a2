//! An embedded, replicated store.

#[cfg(feature = "node")]
pub mod cli;
#[cfg(feature = "node")]
mod client;
#[cfg(feature = "node")]
mod config;
#[cfg(feature = "node")]
mod demo;
#[cfg(feature = "node")]
mod encoding;
#[cfg(feature = "node")]
mod export;
#[cfg(feature = "node")]
pub mod http;
#[cfg(feature = "node")]
mod import;
mod node;
#[cfg(feature = "node")]
mod units;

pub use mainstay_replication::protocol::level::{Level, OnMiss};
pub use mainstay_replication::protocol::policy::SyncPolicy;
pub use mainstay_storage::{Lsn, SegmentSize, Timeline};
pub use node::*;
