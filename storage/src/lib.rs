//! Positions, disk, write-ahead log, recovery and stores of Mainstay.

mod apply;
mod canary;
mod control;
mod disk;
mod entry;
mod error;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
mod lsn;
mod redo;
#[cfg(all(test, shuttle))]
mod schedules;
mod signal;
mod store;
mod sync;
mod timeline;
mod transaction;
mod wal;

pub use apply::*;
pub use canary::canary;
pub use control::*;
pub use disk::*;
pub use entry::*;
pub use error::*;
pub use lsn::*;
pub use redo::*;
pub use signal::*;
pub use store::*;
pub use timeline::*;
pub use transaction::*;
pub use wal::*;
