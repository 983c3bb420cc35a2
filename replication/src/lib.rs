//! PostgreSQL's streaming replication protocol, its state machines and their drivers.

mod cluster;
mod config;
mod error;
mod event;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
#[cfg(all(test, turmoil))]
mod partitions;
mod policy;
pub mod protocol;
mod replicator;
mod runtime;
pub mod time;
pub mod wire;

pub use cluster::*;
pub use config::*;
pub use error::*;
pub use event::{Peer, ReplicationEvent};
pub use policy::*;
pub use protocol::pace::APPLY_DELAY_MAX;
pub use protocol::promotion::PossibleLoss;
pub use protocol::slot::{SLOTS_MAX, SlotError};
pub use protocol::verify::{Difference, Findings, Kind as DifferenceKind, Span};
pub use replicator::*;
pub use runtime::{
    Backup, BackupRequest, Bootstrapped, Compared, Contents, Divergence, HandedOver, Mended,
    Outlook, PromoteOptions, SlotState, Subscription, TakeOverRequest, Way, WayBack, WayChosen,
    adopt_backup, bootstrap, finish_bootstrap, holds_backup, keep_alive, restore_backup,
    take_backup, verify_backup,
};
