//! The decisions of replication: who, when, whether and how much; never how.
//!
//! Every machine here has one shape: `new(config, now)`, `on(event, now, &mut actions)` as the only
//! mutation, `deadline()` for the next `Tick`, `status()` for humans. Machines speak numbers: an
//! action says `SendWal(a..b)`, and the driver moves the bytes. After each `on` the driver performs
//! all actions, in order, before it brings the next event.
//!
//! The way of a commit through this room:
//!
//! ```text
//!   log flushed ──▶ sender ──SendWal──▶ (link) ──▶ receiver ──WriteWal──▶ log of the standby
//!                     ▲                                │ written, flushed, applied
//!                     └────────── status ◀─────────────┘
//!                     │ Reported
//!                     ▼
//!                   commit ──CommitMoved──▶ waiters, and with the next ADVANCE the standbys
//! ```
//!
//! * [`progress`]: one standby's ladder of positions and its lag.
//! * [`name`], [`level`], [`policy`]: what operators write.
//! * [`commit`]: the commit LSN, and what happens while a policy cannot be met.
//! * [`sender`], [`receiver`]: the two ends of a connection.
//! * [`liveness`]: silence, lag, and the words operators see for them.
//! * [`slot`]: what log is kept, and for whom.
//! * [`pace`]: a standby that stays behind on purpose.
//! * [`throttle`]: a transfer that keeps to a rate.
//! * [`promotion`]: how a timeline is opened, and who must agree.
//! * [`verify`]: whether two stores are alike, and where they are not.
//! * [`vote`]: which data speak for a standby's name.
//!
//! Input from a peer is refused with an action and costs the peer its connection at most; what this
//! room itself promises is asserted, in release builds too.
//!
//! What this room does not do: it opens no socket and no file, reads no clock, draws no random
//! number, knows no message layout and never waits.

pub mod commit;
pub mod level;
pub mod liveness;
pub mod name;
pub mod outcome;
pub mod pace;
pub mod policy;
pub mod progress;
pub mod promotion;
pub mod rebuild;
pub mod receiver;
pub mod sender;
pub mod slot;
pub mod throttle;
pub mod verify;
pub mod vote;

#[cfg(test)]
mod edges;
#[cfg(test)]
mod script;
