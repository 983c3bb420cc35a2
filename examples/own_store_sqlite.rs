//! A storage engine of your own under Mainstay's log: SQLite, on a primary and its standby.
//!
//!     cargo run --example own_store_sqlite
//!
//! The engine brings a `Store`; log, standbys and exactly-once application are Mainstay's.

use std::path::Path;

use mainstay_replication::protocol::level::Level;
use mainstay_replication::{WalReplicator, WalStreamingConfig, bootstrap};
use mainstay_storage::{Error, Lsn, Store, Transaction, WalEntry, WalEntryType};
use rusqlite::Connection;

/// Each entry of the log is an SQL statement; a table of one row holds the position.
struct Sqlite {
    db: Connection,
    applied: Lsn,
}

impl Sqlite {
    fn open(dir: &Path) -> rusqlite::Result<Self> {
        let db = Connection::open(dir.join("app.db"))?;
        db.execute_batch(
            "CREATE TABLE IF NOT EXISTS position (lsn INTEGER NOT NULL);
             INSERT INTO position SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM position);",
        )?;
        let at: i64 = db.query_row("SELECT lsn FROM position", [], |row| row.get(0))?;
        let applied = Lsn::new(at.cast_unsigned());
        Ok(Self { db, applied })
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Store(Box::new(error))
}

impl Store for Sqlite {
    fn applied(&self) -> Lsn {
        self.applied
    }

    /// SQLite syncs every commit, so what is applied is durable.
    fn durable(&self) -> Lsn {
        self.applied
    }

    /// The statements and the position go into one SQLite transaction: both or neither.
    fn apply(&mut self, transaction: &Transaction) -> Result<(), Error> {
        let tx = self.db.transaction().map_err(failed)?;
        for entry in transaction.entries() {
            let entry = entry?;
            let sql = std::str::from_utf8(&entry.data).map_err(failed)?;
            tx.execute_batch(sql).map_err(failed)?;
        }
        let at = transaction.end.get().cast_signed();
        tx.execute("UPDATE position SET lsn = ?", [at])
            .map_err(failed)?;
        tx.commit().map_err(failed)?;
        self.applied = transaction.end;
        Ok(())
    }

    fn checkpoint(&mut self, _upto: Lsn) -> Result<Lsn, Error> {
        Ok(self.applied)
    }

    /// A copy for a new standby, taken online.
    fn snapshot(&mut self, into: &Path) -> Result<Lsn, Error> {
        let file = into.join("app.db").display().to_string();
        self.db.execute("VACUUM INTO ?", [file]).map_err(failed)?;
        Ok(self.applied)
    }

    fn close(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// A node whose SQLite database lies in `store/`, where a base backup puts its copy.
async fn start(config: &WalStreamingConfig) -> Result<WalReplicator, Box<dyn std::error::Error>> {
    let dir = config.data_dir.join("store");
    std::fs::create_dir_all(&dir)?;
    let store = Box::new(Sqlite::open(&dir)?);
    let node = WalReplicator::with_store(config.clone(), vec![], store);
    node.start().await?;
    Ok(node)
}

fn sql(tx: Option<u64>, text: &str) -> WalEntry {
    WalEntry::new(WalEntryType::Insert, tx, text.to_owned())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (first, second) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let config = |dir: &Path, name: &str| WalStreamingConfig {
        data_dir: dir.to_owned(),
        name: name.to_owned(),
        listen: Some("127.0.0.1:0".to_owned()),
        sync: (name == "a").then(|| "ANY 1 (*)".parse().expect("a policy")),
        ..WalStreamingConfig::default()
    };
    let a = start(&config(first.path(), "a")).await?;
    a.append(sql(None, "CREATE TABLE city (name TEXT, people INTEGER)"))
        .await?;

    let mut follow = config(second.path(), "b");
    follow.follow = vec![a.listen_addr().expect("it listens").to_string()];
    bootstrap(&follow).await?;
    let b = start(&follow).await?;

    // Statements between TxBegin and TxCommit are applied together, on every node.
    let last = a
        .append_all(vec![
            WalEntry::new(WalEntryType::TxBegin, Some(1), ""),
            sql(Some(1), "INSERT INTO city VALUES ('Oslo', 700000)"),
            sql(Some(1), "INSERT INTO city VALUES ('Turin', 850000)"),
            WalEntry::new(WalEntryType::TxCommit, Some(1), ""),
        ])
        .await?;
    a.wait_for(Lsn::new(last.end.get() - 1), Level::RemoteApply)
        .await?;
    a.applied()?.wait(last.end).await?; // its own store follows the log too
    println!("two cities are in both databases");

    for dir in [first.path(), second.path()] {
        let db = Connection::open(dir.join("store/app.db"))?;
        let query = "SELECT count(*), sum(people) FROM city";
        let row = db.query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let (cities, people): (i64, i64) = row;
        println!("{cities} cities, {people} people");
        assert_eq!((cities, people), (2, 1_550_000));
    }
    b.stop().await?;
    a.stop().await?;
    Ok(())
}
