//! Mainstay is an embedded, replicated store: ordered tables of keys and values, in the program's
//! own process, with transactions, and with warm standbys that take over when the primary dies.
//!
//! Every change goes to a write-ahead log first. The log is what makes a commit survive a crash,
//! and what standbys receive, byte for byte, so a standby is the same database a moment later.
//! Every place in the log has an address, an [`Lsn`], and all that happens to a commit is that some
//! number climbs past its address: flushed here, flushed there, visible there.
//!
//! # Two faces
//!
//! | | [`Database`] | [`Node`] |
//! |---|---|---|
//! | what it is | one store in one directory | a store that has standbys, or is one |
//! | who calls it | any thread; it needs no runtime | tasks of a tokio runtime |
//! | a commit waits for | the disk | the disk, and the standbys that a policy counts |
//!
//! Both have the same tables, transactions and snapshots, and the same files: what a `Database`
//! wrote, a `Node` opens as a primary.
//!
//! A node streams its log in tasks of the runtime that it was started on. As everywhere under
//! tokio, a task that blocks its thread, perhaps to read from the standby what it has just
//! committed, can hold the stream up that it waits for; such work belongs into `spawn_blocking`.
//!
//! # A first database
//!
//! ```
//! use mainstay::Database;
//!
//! # let temporary = tempfile::tempdir().expect("a temporary directory");
//! # let dir = temporary.path();
//! let db = Database::open(dir)?; // creates it if there is none
//! db.put("users", b"ada", b"1815")?; // returns when it survives a power cut
//! db.put("users", b"grace", b"1906")?;
//! assert_eq!(db.get("users", b"ada")?.as_deref(), Some(&b"1815"[..]));
//! for row in db.snapshot()?.scan_prefix("users", b"g")? {
//!     let (name, born) = row?;
//!     assert_eq!((&name[..], &born[..]), (&b"grace"[..], &b"1906"[..]));
//! }
//! db.delete("users", b"grace")?;
//! # Ok::<(), mainstay::Error>(())
//! ```
//!
//! A table begins to exist with its first write. Keys are compared as bytes and have 1 to
//! [`KEY_MAX`] bytes; a value has to fit into a quarter of a log segment, 4 MiB by default; a
//! table's name has 1 to [`TABLE_NAME_MAX`] bytes. What is over a limit is refused by the call that
//! brings it, and nothing else is lost with it.
//!
//! # Transactions and conflicts
//!
//! A [`WriteTransaction`] spans any number of tables and happens whole or not at all. It reads its
//! own writes. It is serializable: its commit fails with a conflict when something that it read or
//! wrote, a row or a range, was changed by a transaction that committed after it began, so what
//! commits could as well have run one after the other. Nobody waits for a lock; the first to commit
//! wins, and the other one runs again. [`Database::transaction`] does that by itself:
//!
//! ```
//! # let dir = tempfile::tempdir().expect("a temporary directory");
//! # let db = mainstay::Database::open(dir.path())?;
//! # db.put("accounts", b"ada", &[100])?;
//! # db.put("accounts", b"grace", &[0])?;
//! let (left, receipt) = db.transaction(|tx| {
//!     let from = tx.get("accounts", b"ada")?.map_or(0, |amount| amount[0]);
//!     let to = tx.get("accounts", b"grace")?.map_or(0, |amount| amount[0]);
//!     tx.put("accounts", b"ada", &[from - 10])?;
//!     tx.put("accounts", b"grace", &[to + 10])?;
//!     Ok(from - 10) // may be called again, so it has no effects but these
//! })?;
//! assert_eq!(left, 90);
//!
//! // By hand: begin, work, commit. Dropping a transaction takes everything back.
//! let mut tx = db.begin()?;
//! let seen = tx.get("accounts", b"ada")?;
//! tx.put("accounts", b"copy", &seen.expect("ada has an account"))?;
//! db.put("accounts", b"ada", &[0])?; // somebody is faster
//! let error = tx.commit_blocking().expect_err("what it read has changed");
//! assert!(error.is_conflict());
//! # assert!(db.snapshot()?.lsn() >= receipt.lsn);
//! # Ok::<(), mainstay::Error>(())
//! ```
//!
//! [`WriteTransaction::commit`] is the same for async code, on any runtime. Dropping its future
//! after it was polled gives up the answer, not the commit.
//!
//! # Snapshots
//!
//! A [`Snapshot`] is the data as of one position. It does not change, however long it is kept and
//! whatever is written meanwhile, and it holds up neither writers nor a standby's replay. `get` on
//! a database or node is a snapshot for one row.
//!
//! ```
//! # let dir = tempfile::tempdir().expect("a temporary directory");
//! # let db = mainstay::Database::open(dir.path())?;
//! db.put("users", b"ada", b"1815")?;
//! let before = db.snapshot()?;
//! db.put("users", b"alan", b"1912")?;
//! assert_eq!(before.scan("users", ..)?.count(), 1);
//! assert_eq!(db.snapshot()?.scan("users", &b"ab"[..]..)?.count(), 2);
//! assert!(before.lsn() < db.snapshot()?.lsn());
//! # Ok::<(), mainstay::Error>(())
//! ```
//!
//! What a snapshot holds is memory and old tables. Beyond limits on both ([`LsmOptions`]) the
//! oldest ends with `SnapshotTooOld`; open a new one.
//!
//! # A primary and a standby
//!
//! A [`Node`] that follows nobody is a primary. One that follows is a standby: it fills an empty
//! directory from its primary, then receives the log, applies what is committed, answers reads, and
//! refuses writes with the name of the primary. When the primary is gone, [`Node::promote`] makes
//! it one.
//!
//! ```
//! use std::time::Duration;
//! use mainstay::{Error, Node};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (one, other) = (tempfile::tempdir()?, tempfile::tempdir()?);
//! # let (dir_a, dir_b) = (one.path(), other.path());
//! let a = Node::builder(dir_a)
//!     .name("a")
//!     .listen("127.0.0.1:0") // 0 takes a free port
//!     .sync("ANY 1 (*)".parse()?) // any one standby has to hold a commit
//!     .start()
//!     .await?;
//! let url = format!("postgres://{}", a.listen_addr().expect("it listens"));
//! let b = Node::builder(dir_b).name("b").listen("127.0.0.1:0").follow(url).start().await?;
//!
//! let receipt = a.put("users", b"ada", b"1815").await?;
//! assert!(receipt.is_durable_elsewhere());
//!
//! // Read your own write on the standby: wait for the position on the receipt.
//! b.wait_for(receipt.lsn, Duration::from_secs(10)).await?;
//! assert!(b.get("users", b"ada")?.is_some());
//! assert!(matches!(b.begin(), Err(Error::NotPrimary { .. })));
//!
//! a.stop().await?; // or it died
//! let promoted = b.promote(false).await?;
//! assert_eq!((promoted.new_primary_name.as_str(), promoted.timeline), ("b", 2));
//! assert!(b.get("users", b"ada")?.is_some());
//! # b.stop().await?;
//! # Ok(())
//! # }
//! ```
//!
//! A promotion opens a new timeline, and is refused while the primary is alive or too few of the
//! nodes that the policy counts agree, so that two primaries never acknowledge under one policy. An
//! old primary that comes back is started with [`follow`](NodeBuilder::follow).
//!
//! # Levels and policies
//!
//! A policy is the primary's: it says which standbys a commit counts, as PostgreSQL's
//! `synchronous_standby_names` does (`FIRST 2 (a, b, c)`, `ANY 1 (*)`). A level is one commit's: it
//! says what its answer waits for.
//!
//! | [`Level`] | the answer comes when the commit is | what it survives |
//! |---|---|---|
//! | `Async` | in the log's memory | nothing is promised |
//! | `Local` | flushed here | a crash of this node |
//! | `RemoteWrite` | also written by the standbys that count | loss of this node, if they keep power |
//! | `RemoteFlush` | flushed by them | loss of this node |
//! | `RemoteApply` | and applied by them | the same; and it can be read there at once |
//!
//! The default is `RemoteFlush` under a policy and `Local` without one. Without a policy no level
//! waits for more than `Local`, and the [`Receipt`] says so. Readers on all nodes see only what is
//! committed: flushed here and by the standbys that count. So what was seen under a policy does not
//! vanish in a failover, and a `Local` commit is seen when it has reached them too, like one whose
//! wait was given up. [`Node::snapshot_at`] with [`ReadLevel::Flushed`] shows both before, on the
//! primary. What happens while there are too few standbys is [`OnMiss`]: by default commits wait.
//!
//! # Errors
//!
//! An [`Error`] says what, where and how to mend it; [`Error::remedy`] says which way to go:
//!
//! | [`Remedy`] | for example | what to do |
//! |---|---|---|
//! | `Retry` | a conflict, a snapshot that is too old, a full disk, a wait that timed out | the same again, later |
//! | `Reconnect` | [`NotPrimary`](Error::NotPrimary), a connection that broke | ask the primary, which the error names; a standby dials again by itself |
//! | `Rebuild` | damage, or log that is gone everywhere | empty the directory and let it be filled from another node |
//! | `Stop` | the disk failed; the node was stopped | stop, and look after the machine; opening again recovers what is safe |
//! | `Refuse` | a key that is too long, a promotion that would break a promise | change the request |
//!
//! [`Error::Unknown`] is none of these. The commit has its place in the log and nobody can say yet
//! whether it stays: it is neither done nor failed. Read the data, or wait for its position with
//! [`Node::wait_for`], before doing it again.
//!
//! # Features
//!
//! `node`, on by default, brings the binary `mainstay` and what only it needs: command line, config
//! file, HTTP, import and export. A program that embeds the library does without:
//! `default-features = false`.

#[cfg(feature = "node")]
mod bench;
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
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
#[cfg(feature = "node")]
pub mod http;
#[cfg(feature = "node")]
mod import;
mod keeper;
mod moment;
mod node;
mod orders;
#[cfg(feature = "node")]
mod scrambled;
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
pub use mainstay_replication::{Outcome, WrittenOn};
pub use mainstay_replication::{PromoteOptions, Role};
pub use mainstay_storage::{
    KEY_MAX, LsmOptions, LsmStatus, Lsn, Remedy, Rows, SegmentSize, Timeline, VALUE_MAX, WalOptions,
};
pub use node::*;
pub use orders::*;
pub use status::*;
pub use transaction::{Snapshot, WriteTransaction};
