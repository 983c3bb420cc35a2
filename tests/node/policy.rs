//! A policy makes commits wait for standbys; whoever waits holds up nobody else.

use std::time::Duration;

use mainstay::{Database, Error, Level, Lsn, Node, NodeBuilder, Receipt, WalOptions};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::{everything, lsn, node, on_one_worker, reach, small, until, url};
use crate::support::assert_says;

/// Starts a primary that waits for one standby, of which there is none.
async fn waiting(dir: &TempDir) -> Node {
    let policy = "ANY 1 (*)".parse().unwrap();
    let a = node(dir, "a").store(small()).sync(policy);
    a.start().await.unwrap()
}

/// Waits until everything that was appended is flushed, so that only the policy holds it back.
async fn flushed(a: &Node) {
    until("the log is flushed", || {
        let at = a.status().lsn;
        at.flushed == at.appended
    })
    .await;
}

#[test]
fn a_commit_waits_for_the_standby_that_the_policy_counts() {
    on_one_worker(async || {
        let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let a = waiting(&dirs[0]).await;
        let committing = a.clone();
        let commit = tokio::spawn(async move { committing.put("t", b"k", b"v").await });
        until("it has its place in the log", || {
            let at = a.status().lsn;
            lsn(&at.applied) > lsn(&at.commit)
        })
        .await;
        flushed(&a).await;
        // Own flush is enough for `Local`, and for nobody who reads.
        let mut tx = a.begin().unwrap();
        tx.put("t", b"local", b"v").unwrap();
        let local = tx.commit_at(Level::Local).await.unwrap();
        assert_eq!(local.level, Level::Local);
        let at = a.status().lsn;
        assert!(
            lsn(&at.flushed) >= local.lsn && lsn(&at.commit) < local.lsn,
            "{at:?}"
        );
        assert!(!commit.is_finished());
        assert_eq!(a.get("t", b"k").unwrap(), None);
        assert_eq!(a.get("t", b"local").unwrap(), None);
        let never = a.wait_for(local.lsn, Duration::from_millis(20)).await;
        assert!(matches!(never, Err(Error::TimedOut { .. })), "{never:?}");
        let b = node(&dirs[1], "b").follow(url(&a)).start().await.unwrap();
        let receipt = commit.await.unwrap().unwrap();
        assert_eq!(receipt.level, Level::RemoteFlush);
        assert!(receipt.is_durable_elsewhere());
        assert_eq!(a.get("t", b"k").unwrap().as_deref(), Some(&b"v"[..]));
        assert!(lsn(&b.status().lsn.flushed) >= receipt.lsn);
        // The strongest level is there to be read as soon as it is answered.
        let mut tx = a.begin().unwrap();
        tx.put("t", b"applied", b"v").unwrap();
        let applied = tx.commit_at(Level::RemoteApply).await.unwrap();
        assert_eq!(applied.level, Level::RemoteApply);
        b.wait_for(applied.lsn, Duration::ZERO).await.unwrap();
        assert_eq!(b.get("t", b"applied").unwrap().as_deref(), Some(&b"v"[..]));
        assert_eq!(everything(&a), everything(&b));
        b.stop().await.unwrap();
        a.stop().await.unwrap();
    });
}

#[test]
fn a_commit_that_waits_to_be_applied_needs_no_heartbeat() {
    on_one_worker(async || {
        let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let rare = |node: NodeBuilder| {
            node.heartbeat(Duration::from_secs(3600), Duration::from_secs(7200))
        };
        let a = node(&dirs[0], "a").sync("ANY 1 (*)".parse().unwrap());
        let a = rare(a).start().await.unwrap();
        let b = node(&dirs[1], "b").follow(url(&a));
        let b = rare(b).start().await.unwrap();
        for key in [&b"one"[..], b"two", b"three"] {
            let mut tx = a.begin().unwrap();
            tx.put("t", key, b"v").unwrap();
            let receipt = tx.commit_at(Level::RemoteApply).await.unwrap();
            b.wait_for(receipt.lsn, Duration::ZERO).await.unwrap();
        }
        b.stop().await.unwrap();
        a.stop().await.unwrap();
    });
}

#[test]
fn a_commit_that_finds_memory_full_holds_up_nobody_else() {
    on_one_worker(async || {
        let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let a = waiting(&dirs[0]).await;
        // What is not committed may not leave memory, so one of these has to wait.
        let writing = a.clone();
        let writer = tokio::spawn(async move {
            for row in 0..100_u32 {
                let mut tx = writing.begin().unwrap();
                tx.put("t", &row.to_be_bytes(), &[7; 8 << 10]).unwrap();
                tx.commit_at(Level::Async).await.unwrap();
            }
        });
        until("one is in the log, and not in the store", || {
            let at = a.status().lsn;
            let some = lsn(&at.applied) > lsn(&at.commit);
            let more = lsn(&at.appended) > lsn(&at.applied) + (8 << 10);
            some && more && at.flushed == at.appended
        })
        .await;
        assert!(!writer.is_finished());
        free_of_the_stalled(&a).await;
        let b = node(&dirs[1], "b").follow(url(&a)).start().await.unwrap();
        writer.await.unwrap();
        let receipt = a.put("t", b"last", b"v").await.unwrap();
        reach(&b, receipt.lsn).await;
        assert_eq!(everything(&a)["t"].len(), 101);
        assert_eq!(everything(&a), everything(&b));
        b.stop().await.unwrap();
        a.stop().await.unwrap();
    });
}

/// Does what must not wait for a commit that waits.
async fn free_of_the_stalled(a: &Node) {
    let mut tx = a.begin().unwrap();
    tx.put("t", b"own", b"v").unwrap();
    assert!(tx.get("t", b"own").unwrap().is_some());
    drop(tx);
    assert_eq!(a.snapshot().unwrap().tables().unwrap(), [""; 0]);
    let end = lsn(&a.status().lsn.appended);
    let never = a.wait_for(end, Duration::from_millis(20)).await;
    assert!(matches!(never, Err(Error::TimedOut { .. })), "{never:?}");
}

#[test]
fn a_transaction_larger_than_memory_holds_up_nobody_else() {
    on_one_worker(async || {
        let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let a = waiting(&dirs[0]).await;
        let mut tx = a.begin().unwrap();
        for row in 0..40_u32 {
            tx.put("t", &row.to_be_bytes(), &[7; 8 << 10]).unwrap();
        }
        let commit = tokio::spawn(tx.commit());
        until("it is in the log", || {
            let at = a.status().lsn;
            lsn(&at.appended) > lsn(&at.commit) + (300 << 10)
        })
        .await;
        flushed(&a).await;
        free_of_the_stalled(&a).await;
        assert!(!commit.is_finished());
        let b = node(&dirs[1], "b").follow(url(&a)).start().await.unwrap();
        let receipt = commit.await.unwrap().unwrap();
        reach(&b, receipt.lsn).await;
        assert_eq!(everything(&a)["t"].len(), 40);
        assert_eq!(everything(&a), everything(&b));
        b.stop().await.unwrap();
        a.stop().await.unwrap();
    });
}

/// Writes a row that memory can hold and one that it cannot, neither of which is confirmed.
async fn leave_waiting(a: &Node) -> [JoinHandle<mainstay::Result<Receipt>>; 2] {
    let (one, other) = (a.clone(), a.clone());
    let small = tokio::spawn(async move { one.put("t", b"k", b"v").await });
    until("the small one is in the log and in the store", || {
        let at = a.status().lsn;
        lsn(&at.applied) > lsn(&at.commit)
    })
    .await;
    let large = tokio::spawn(async move { other.put("t", b"l", &[7; 100 << 10]).await });
    until("the large one is in the log", || {
        let at = a.status().lsn;
        lsn(&at.appended) > lsn(&at.commit) + (100 << 10)
    })
    .await;
    flushed(a).await;
    [small, large]
}

async fn assert_unknown(commits: [JoinHandle<mainstay::Result<Receipt>>; 2], flushed: Lsn) {
    for commit in commits {
        match commit.await.unwrap() {
            Err(Error::Unknown { lsn, .. }) => assert!(lsn <= flushed, "{lsn}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_node_that_restarts_while_commits_wait_says_so_and_finishes_them() {
    on_one_worker(async || {
        let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let a = waiting(&dirs[0]).await;
        let b = node(&dirs[1], "b").follow(url(&a)).start().await.unwrap();
        a.put("t", b"before", b"v").await.unwrap();
        b.stop().await.unwrap();
        let commits = leave_waiting(&a).await;
        a.stop().await.unwrap();
        assert_unknown(commits, lsn(&a.status().lsn.flushed)).await;
        // It starts again, although what waits is more than its memory.
        let a = waiting(&dirs[0]).await;
        let refused = a.put("t", b"m", b"v").await.unwrap_err();
        assert!(matches!(refused, Error::Refused(_)), "{refused:?}");
        assert_says(&refused.to_string(), &["standbys", "as soon as"]);
        assert_eq!(a.get("t", b"k").unwrap(), None);
        assert!(a.get("t", b"before").unwrap().is_some());
        let end = lsn(&a.status().lsn.appended);
        let never = a.wait_for(end, Duration::from_millis(20)).await;
        assert!(matches!(never, Err(Error::TimedOut { .. })), "{never:?}");
        // It also stops and starts again like this.
        a.stop().await.unwrap();
        let a = waiting(&dirs[0]).await;
        let b = node(&dirs[1], "b").follow(url(&a)).start().await.unwrap();
        until("writes are accepted", || a.begin().is_ok()).await;
        let receipt = a.put("t", b"m", b"v").await.unwrap();
        reach(&b, receipt.lsn).await;
        // All had their place in the log, so this is what became of them.
        let keys = everything(&a)["t"].keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys, [&b"before"[..], b"k", b"l", b"m"]);
        assert_eq!(everything(&a), everything(&b));
        b.stop().await.unwrap();
        a.stop().await.unwrap();
    });
}

#[test]
fn a_database_opens_what_a_node_left_waiting() {
    on_one_worker(async || {
        let dir = TempDir::new().unwrap();
        let a = waiting(&dir).await;
        let commits = leave_waiting(&a).await;
        a.stop().await.unwrap();
        assert_unknown(commits, lsn(&a.status().lsn.flushed)).await;
        let options = WalOptions::new(|| 0);
        let db = Database::open_with(dir.path(), &options, small()).unwrap();
        assert_eq!(db.get("t", b"k").unwrap().as_deref(), Some(&b"v"[..]));
        assert_eq!(
            db.get("t", b"l").unwrap().as_deref(),
            Some(&[7; 100 << 10][..])
        );
        db.close().unwrap();
    });
}
