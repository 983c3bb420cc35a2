//! An embedded, replicated store.

#[cfg(feature = "node")]
pub mod cli;
#[cfg(feature = "node")]
mod client;
mod commit;
#[cfg(feature = "node")]
mod config;
mod database;
#[cfg(feature = "node")]
mod demo;
mod encoding;
mod engine;
mod error;
mod events;
#[cfg(feature = "node")]
mod export;
#[cfg(feature = "node")]
pub mod http;
#[cfg(feature = "node")]
mod import;
mod keeper;
mod moment;
mod node;
mod standby_signal;
mod status;
mod transaction;
mod units;
mod upstream;

pub use commit::Receipt;
pub use database::*;
pub use engine::TABLE_NAME_MAX;
pub use error::{Error, Result};
pub use events::{EVENTS_DEFAULT, EVENTS_MAX, Event, EventFilter, EventType};
pub use mainstay_replication::protocol::level::{Level, OnMiss};
pub use mainstay_replication::protocol::policy::SyncPolicy;
pub use mainstay_storage::{Lsn, SegmentSize, Timeline};
pub use node::*;
pub use status::*;
pub use transaction::{Snapshot, WriteTransaction};
