//! Replicators with a store: every transaction whole, in order, once, on every role.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mainstay_replication::{Error, WalReplicator, WalStreamingConfig, bootstrap};
use mainstay_storage::{Lsn, Result, Store, Transaction, WalEntry, WalEntryType};
use parking_lot::Mutex;
use tempfile::TempDir;

use crate::support::{config, put, until, within};

/// What a journal holds: a line for each transaction, `end` and its entries.
pub(super) type Lines = Arc<Mutex<Vec<(Lsn, String)>>>;

/// A store that writes down every transaction it is given, in a file that is replaced whole.
pub(super) struct Journal {
    file: PathBuf,
    pub(super) lines: Lines,
    durable: Lsn,
    closed: Arc<AtomicBool>,
    /// It takes no more.
    pub(super) fails: Arc<AtomicBool>,
}

impl Journal {
    pub(super) fn open(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let file = dir.join("journal");
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let line = |line: &str| {
            let (end, entries) = line.split_once(' ').unwrap();
            (end.parse().unwrap(), entries.to_owned())
        };
        let lines = text.lines().map(line).collect::<Vec<_>>();
        Self {
            file,
            durable: last(&lines),
            lines: Arc::new(Mutex::new(lines)),
            closed: Arc::default(),
            fails: Arc::default(),
        }
    }

    fn write(&self, to: &Path, upto: Lsn) {
        let lines = self.lines.lock();
        let kept = lines.iter().filter(|(end, _)| *end <= upto);
        let text = kept.map(|(end, entries)| format!("{end} {entries}\n"));
        let next = to.with_extension("next");
        std::fs::write(&next, text.collect::<String>()).unwrap();
        std::fs::rename(&next, to).unwrap();
    }
}

fn last(lines: &[(Lsn, String)]) -> Lsn {
    lines.last().map_or(Lsn::ZERO, |(end, _)| *end)
}

impl Store for Journal {
    fn applied(&self) -> Lsn {
        last(&self.lines.lock())
    }

    fn durable(&self) -> Lsn {
        self.durable
    }

    fn apply(&mut self, transaction: &Transaction) -> Result<()> {
        assert!(transaction.end > self.applied(), "given twice");
        assert!(
            !self.closed.load(Ordering::Acquire),
            "used after it was closed"
        );
        if self.fails.load(Ordering::Acquire) {
            return Err(mainstay_storage::Error::Store("no more is taken".into()));
        }
        let texts = transaction
            .entries()
            .map(|entry| Ok(String::from_utf8_lossy(&entry?.data).into_owned()));
        let texts = texts.collect::<Result<Vec<_>>>()?.join("+");
        self.lines.lock().push((transaction.end, texts));
        Ok(())
    }

    fn checkpoint(&mut self, upto: Lsn) -> Result<Lsn> {
        self.write(&self.file, upto);
        let lines = self.lines.lock();
        let kept = lines.iter().rfind(|(end, _)| *end <= upto);
        self.durable = kept.map_or(Lsn::ZERO, |(end, _)| *end);
        Ok(self.durable)
    }

    fn snapshot(&mut self, into: &Path) -> Result<Lsn> {
        self.write(&into.join("journal"), self.durable);
        Ok(self.durable)
    }

    fn close(&mut self) -> Result<()> {
        let closed = self.closed.swap(true, Ordering::AcqRel);
        assert!(!closed, "closed twice");
        Ok(())
    }
}

/// A node with a journal in its data directory, and what the journal holds.
fn journalling(config: &WalStreamingConfig) -> (WalReplicator, Lines) {
    let journal = Journal::open(&config.data_dir.join("store"));
    let lines = journal.lines.clone();
    let node = WalReplicator::with_store(config.clone(), vec![], Box::new(journal));
    (node, lines)
}

pub(super) fn texts(lines: &Lines) -> Vec<String> {
    lines.lock().iter().map(|(_, text)| text.clone()).collect()
}

fn in_tx(id: u64, entry_type: WalEntryType, text: &str) -> WalEntry {
    WalEntry::new(entry_type, Some(id), text.to_owned())
}

fn following(dir: &TempDir, primary: &WalReplicator) -> WalStreamingConfig {
    WalStreamingConfig {
        follow: vec![primary.listen_addr().unwrap().to_string()],
        ..config(dir.path(), "b")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_gets_every_transaction_once_on_both_nodes_whatever_restarts() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let at = |listen: &str| WalStreamingConfig {
        listen: Some(listen.to_owned()),
        ..config(da.path(), "a")
    };
    let (mut a, mut lines_a) = journalling(&at("127.0.0.1:0"));
    a.start().await.unwrap();
    let listen = a.listen_addr().unwrap().to_string();
    let mut expected = vec!["0".to_owned()];
    a.append(put("0")).await.unwrap();
    let config_b = following(&db, &a);
    within(bootstrap(&config_b)).await.unwrap();
    let (mut b, mut lines_b) = journalling(&config_b);
    b.start().await.unwrap();
    for round in 1..9 {
        for n in 0..20 {
            let text = format!("{round}.{n}");
            a.append(put(&text)).await.unwrap();
            expected.push(text);
        }
        let applied = |lines: &Lines| lines.lock().len() == expected.len();
        until("the primary applied it", || applied(&lines_a)).await;
        if round % 4 == 3 {
            until("the standby applied it", || applied(&lines_b)).await;
        }
        // Stopped, or dropped as a crash would leave it.
        if round % 4 == 1 {
            b.stop().await.unwrap();
        } else if round == 2 || round % 4 == 0 {
            a.stop().await.unwrap();
        }
        if round % 2 == 1 {
            drop(b);
            (b, lines_b) = journalling(&config_b);
            until_started(&b).await;
        } else {
            drop(a);
            (a, lines_a) = journalling(&at(&listen));
            until_started(&a).await;
        }
    }
    until("the standby applied it all", || {
        lines_b.lock().len() >= expected.len()
    })
    .await;
    assert_eq!(texts(&lines_a), expected);
    assert_eq!(texts(&lines_b), expected);
    assert_eq!(*lines_a.lock(), *lines_b.lock(), "at the same positions");
    b.stop().await.unwrap();
    a.stop().await.unwrap();
}

/// Starts a node whose directory may still be held by one that was just dropped.
async fn until_started(node: &WalReplicator) {
    let starting = async {
        while let Err(error) = node.start().await {
            assert!(error.to_string().contains("in use"), "{error}");
            tokio::task::yield_now().await;
        }
    };
    within(starting).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_whole_committed_transactions_are_applied() {
    use WalEntryType::{Insert, TxBegin, TxCommit, TxRollback};
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (a, lines_a) = journalling(&config(da.path(), "a"));
    a.start().await.unwrap();
    let config_b = following(&db, &a);
    within(bootstrap(&config_b)).await.unwrap();
    let (b, lines_b) = journalling(&config_b);
    b.start().await.unwrap();
    // Three transactions of an engine that interleaves them; one is rolled back.
    let entries = [
        in_tx(1, TxBegin, ""),
        in_tx(1, Insert, "one"),
        in_tx(2, TxBegin, ""),
        in_tx(2, Insert, "two"),
        in_tx(3, TxBegin, ""),
        in_tx(3, Insert, "never"),
        put("alone"),
        in_tx(1, Insert, "uno"),
        in_tx(3, TxRollback, ""),
    ];
    for entry in entries {
        a.append(entry).await.unwrap();
    }
    until("what is whole is there", || {
        texts(&lines_b) == ["alone"] && texts(&lines_a) == ["alone"]
    })
    .await;
    a.append(in_tx(2, TxCommit, "")).await.unwrap();
    until("the second is whole", || texts(&lines_b).len() == 2).await;
    // The standby restarts while the first is open, and still applies all of it.
    b.stop().await.unwrap();
    let (b, lines_b) = journalling(&config_b);
    b.start().await.unwrap();
    a.append(in_tx(1, TxCommit, "")).await.unwrap();
    let expected = ["alone", "two", "one+uno"];
    until("all are applied", || {
        texts(&lines_b) == expected && texts(&lines_a) == expected
    })
    .await;
    b.stop().await.unwrap();
    a.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_taken_while_a_transaction_is_open_holds_all_of_it() {
    use WalEntryType::{Insert, TxBegin, TxCommit};
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let config_a = config(da.path(), "a");
    let (a, lines_a) = journalling(&config_a);
    a.start().await.unwrap();
    for entry in [
        put("first"),
        in_tx(1, TxBegin, ""),
        in_tx(1, Insert, "early"),
        put("between"),
    ] {
        a.append(entry).await.unwrap();
    }
    until("it is applied", || texts(&lines_a).len() == 2).await;
    // Stopping makes the store durable past the beginning of the open transaction.
    a.stop().await.unwrap();
    let (a, lines_a) = journalling(&config_a);
    a.start().await.unwrap();
    let config_b = following(&db, &a);
    within(bootstrap(&config_b)).await.unwrap();
    let (b, lines_b) = journalling(&config_b);
    b.start().await.unwrap();
    for entry in [in_tx(1, Insert, "late"), in_tx(1, TxCommit, "")] {
        a.append(entry).await.unwrap();
    }
    let expected = ["first", "between", "early+late"];
    until("the primary applied it", || texts(&lines_a) == expected).await;
    until("the standby applied it", || lines_b.lock().len() == 3).await;
    assert_eq!(texts(&lines_b), expected);
    b.stop().await.unwrap();
    a.stop().await.unwrap();
}

#[tokio::test]
async fn stopping_closes_the_store_once_after_the_last_use_and_it_is_not_used_again() {
    let dir = TempDir::new().unwrap();
    let config = config(dir.path(), "a");
    let journal = Journal::open(&dir.path().join("store"));
    let (lines, closed) = (journal.lines.clone(), journal.closed.clone());
    let node = WalReplicator::with_store(config.clone(), vec![], Box::new(journal));
    node.start().await.unwrap();
    node.append(put("one")).await.unwrap();
    until("it is applied", || texts(&lines) == ["one"]).await;
    assert!(!closed.load(Ordering::Acquire));
    within(node.stop()).await.unwrap();
    assert!(closed.load(Ordering::Acquire), "its store is open");
    node.stop().await.unwrap();
    let refused = node.start().await;
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    let (again, lines) = journalling(&config);
    again.start().await.unwrap();
    assert_eq!(texts(&lines), ["one"], "it was made durable before");
    again.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_whose_store_takes_no_more_is_not_promoted() {
    is_not_promoted_once(|journal| journal.fails.clone()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_whose_store_panicked_is_not_promoted() {
    is_not_promoted_once(|journal| journal.closed.clone()).await;
}

/// A standby applies nothing any more once the flag is set that `of` its journal names.
async fn is_not_promoted_once(of: impl FnOnce(&Journal) -> Arc<AtomicBool>) {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (a, _) = journalling(&config(da.path(), "a"));
    a.start().await.unwrap();
    a.append(put("one")).await.unwrap();
    let config_b = following(&db, &a);
    within(bootstrap(&config_b)).await.unwrap();
    let journal = Journal::open(&config_b.data_dir.join("store"));
    let fails = of(&journal);
    let b = WalReplicator::with_store(config_b.clone(), vec![], Box::new(journal));
    b.start().await.unwrap();
    fails.store(true, Ordering::Release);
    let last = a.append(put("two")).await.unwrap();
    let told = || {
        b.problem()
            .is_some_and(|problem| problem.contains("cannot be applied"))
    };
    until("it says so", told).await;
    let wal = b.wal().unwrap();
    until("it has the log all the same", || wal.flushed().get() > last).await;
    let before = wal.timeline();
    for force in [false, true] {
        let refused = b.promote(force).await.unwrap_err().to_string();
        assert!(refused.contains("cannot be applied"), "{refused}");
    }
    assert_eq!(wal.timeline(), before, "nothing was opened");
    fails.store(false, Ordering::Release);
    b.stop().await.unwrap();
    drop(b);
    let (b, lines) = journalling(&config_b);
    b.start().await.unwrap();
    b.promote(true).await.unwrap();
    until("it is applied now", || lines.lock().len() >= 2).await;
    b.stop().await.unwrap();
    a.stop().await.unwrap();
}
