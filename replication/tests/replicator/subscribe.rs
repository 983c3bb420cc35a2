//! Subscribing: from any retained position, files to live, and never a silent loss.

use std::time::Duration;

use mainstay_replication::{Error, Subscription, WalReplicator, WalStreamingConfig};
use mainstay_storage::{Lsn, WalEntry, WalEntryType};
use tempfile::TempDir;
use tokio_stream::StreamExt;

use crate::support::{config, primary, put, standby, until, within};

/// Size of an entry of which a few hundred exceed what the log keeps in memory.
const LARGE: usize = 200_000;

fn large(n: usize) -> WalEntry {
    let mut data = format!("{n:08}").into_bytes();
    data.resize(LARGE, b'.');
    WalEntry::new(WalEntryType::Insert, None, data)
}

async fn next(entries: &mut Subscription) -> WalEntry {
    within(entries.next())
        .await
        .expect("the stream goes on")
        .unwrap()
}

fn number(entry: &WalEntry) -> usize {
    std::str::from_utf8(&entry.data[..8])
        .unwrap()
        .parse()
        .unwrap()
}

/// A primary that keeps no log in reserve.
async fn thrifty(dir: &TempDir) -> WalReplicator {
    let config = WalStreamingConfig {
        wal_keep_size: 0,
        ..config(dir.path(), "a")
    };
    let node = WalReplicator::new(config, vec![]);
    node.start().await.unwrap();
    node
}

#[tokio::test]
async fn a_subscription_begins_at_any_entry_before_or_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let node = primary(dir.path(), None).await;
    let mut lsns = Vec::new();
    for n in 0..100 {
        lsns.push(node.append(put(&format!("{n}"))).await.unwrap());
    }
    for round in 0..2 {
        for (n, &lsn) in lsns.iter().enumerate().step_by(9) {
            let mut entries = node.subscribe(lsn).unwrap();
            for (n, &lsn) in lsns.iter().enumerate().skip(n).take(5) {
                let entry = next(&mut entries).await;
                let found = (entry.lsn, &entry.data[..]);
                assert_eq!(found, (lsn, n.to_string().as_bytes()), "round {round}");
            }
        }
        node.stop().await.unwrap();
        node.start().await.unwrap();
    }
    let oldest = node.wal().unwrap().oldest();
    let mut all = node.subscribe(oldest).unwrap();
    assert_eq!(
        next(&mut all).await.lsn,
        lsns[0],
        "the log's own are left out"
    );
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_pass_from_files_to_live_without_gap_or_duplicate() {
    let dir = TempDir::new().unwrap();
    let node = primary(dir.path(), None).await;
    let from = node.current_lsn().unwrap();
    for n in 0..500 {
        node.append(put(&format!("{n:08}"))).await.unwrap();
    }
    node.stop().await.unwrap();
    node.start().await.unwrap();
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let mut entries = node.subscribe(from).unwrap();
        readers.spawn(async move {
            for n in 0..3000 {
                assert_eq!(number(&next(&mut entries).await), n);
            }
        });
    }
    for n in 500..3000 {
        node.append(put(&format!("{n:08}"))).await.unwrap();
    }
    within(readers.join_all()).await;
    until("their tasks end with them", || {
        node.subscription_count() == 0
    })
    .await;
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_subscriber_is_served_from_disk_and_loses_nothing() {
    let dir = TempDir::new().unwrap();
    let node = primary(dir.path(), None).await;
    let mut slow = node.subscribe(node.current_lsn().unwrap()).unwrap();
    node.append(large(0)).await.unwrap();
    assert_eq!(number(&next(&mut slow).await), 0);
    for n in 1..300 {
        node.append(large(n)).await.unwrap();
    }
    for n in 1..300 {
        assert_eq!(number(&next(&mut slow).await), n);
    }
    let live = node.append(large(300)).await.unwrap();
    assert_eq!(next(&mut slow).await.lsn, live);
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_whose_log_is_gone_says_so_with_a_gap() {
    let dir = TempDir::new().unwrap();
    let node = thrifty(&dir).await;
    let from = node.current_lsn().unwrap();
    for n in 0..30 {
        node.append(large(n)).await.unwrap();
    }
    let mut slow = node.subscribe(from).unwrap();
    assert_eq!(number(&next(&mut slow).await), 0);
    for n in 30..400 {
        node.append(large(n)).await.unwrap();
    }
    let end = node.current_lsn().unwrap();
    until("it is committed", || {
        node.wal().unwrap().commit().get() == end
    })
    .await;
    let oldest = node.checkpoint(end).await.unwrap();
    assert!(oldest > from && oldest < end);

    let refused = node.subscribe(from);
    let Err(Error::Storage(mainstay_storage::Error::Gap { wanted, oldest: at })) = refused else {
        panic!("a subscription from {from} was served");
    };
    assert_eq!((wanted, at), (from, oldest));

    let mut expected = 1;
    let gap = loop {
        match within(slow.next()).await.expect("it ends with an error") {
            Ok(entry) => assert_eq!(number(&entry), expected, "nothing is skipped"),
            Err(error) => break error,
        }
        expected += 1;
    };
    assert!(
        matches!(gap, Error::Storage(mainstay_storage::Error::Gap { .. })),
        "{gap}"
    );
    assert!(expected < 400 && within(slow.next()).await.is_none());
    let mut rest = node.subscribe(oldest).unwrap();
    let first = number(&next(&mut rest).await);
    for n in first + 1..400 {
        assert_eq!(number(&next(&mut rest).await), n);
    }
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_failed_waits_for_nobody_to_read_why() {
    let dir = TempDir::new().unwrap();
    let node = thrifty(&dir).await;
    let from = node.current_lsn().unwrap();
    for n in 0..400 {
        node.append(large(n)).await.unwrap();
    }
    let end = node.current_lsn().unwrap();
    until("it is committed", || {
        node.wal().unwrap().commit().get() == end
    })
    .await;
    let mut slow = node.subscribe(from).unwrap();
    assert_eq!(number(&next(&mut slow).await), 0);
    node.checkpoint(end).await.unwrap();
    let mut expected = 1;
    let failed = loop {
        // Into the second batch: a third may wait behind it, and then comes the gap.
        if expected == 8 {
            until("its task has ended", || node.subscription_count() == 0).await;
        }
        match within(slow.next()).await.expect("it ends with an error") {
            Ok(entry) => assert_eq!(number(&entry), expected),
            Err(error) => break error,
        }
        expected += 1;
    };
    let gap = matches!(failed, Error::Storage(mainstay_storage::Error::Gap { .. }));
    assert!(gap, "{failed}");
    assert!(within(slow.next()).await.is_none());
    node.stop().await.unwrap();
}

#[tokio::test]
async fn a_position_in_the_future_or_inside_an_entry_is_refused() {
    let dir = TempDir::new().unwrap();
    let node = primary(dir.path(), None).await;
    let lsn = node
        .append(put("a long entry, of several words"))
        .await
        .unwrap();
    let end = node.current_lsn().unwrap();
    let ahead = node.subscribe(end + 8);
    assert!(matches!(
        ahead,
        Err(Error::Storage(mainstay_storage::Error::Ahead { .. }))
    ));
    let mut inside = node.subscribe(lsn + 8).unwrap();
    let ended = within(inside.next()).await.unwrap();
    assert!(matches!(
        ended,
        Err(Error::Storage(mainstay_storage::Error::Invalid(_)))
    ));
    assert!(within(inside.next()).await.is_none());
    node.stop().await.unwrap();
}

#[tokio::test]
async fn a_subscription_may_be_made_from_a_thread_without_a_runtime() {
    let dir = TempDir::new().unwrap();
    let node = primary(dir.path(), None).await;
    let lsn = node.append(put("from afar")).await.unwrap();
    let other = node.clone();
    let made = std::thread::spawn(move || other.subscribe(lsn).unwrap());
    let mut entries = made.join().unwrap();
    assert_eq!(next(&mut entries).await.lsn, lsn);
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_a_policy_a_subscriber_sees_nothing_before_it_is_committed() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let a = primary(da.path(), Some("ANY 1 (*)")).await;
    let lsn = a.append(put("waits")).await.unwrap();
    let mut entries = a.subscribe(lsn).unwrap();
    within(a.wait_for(lsn, mainstay_replication::protocol::level::Level::Local))
        .await
        .unwrap();
    let early = tokio::time::timeout(Duration::from_millis(50), entries.next()).await;
    assert!(early.is_err(), "no standby has it yet");
    let b = standby(db.path(), "b", &a).await;
    assert_eq!(next(&mut entries).await.lsn, lsn);
    b.stop().await.unwrap();
    a.stop().await.unwrap();
}

#[tokio::test]
async fn a_checkpoint_is_for_what_is_committed_and_keeps_the_reserve() {
    let dir = TempDir::new().unwrap();
    let node = primary(dir.path(), None).await;
    let from = node.wal().unwrap().oldest();
    for n in 0..30 {
        node.append(large(n)).await.unwrap();
    }
    let end = node.current_lsn().unwrap();
    let ahead = node.checkpoint(end + 8).await;
    assert!(matches!(
        ahead,
        Err(Error::Storage(mainstay_storage::Error::Ahead { .. }))
    ));
    until("it is committed", || {
        node.wal().unwrap().commit().get() == end
    })
    .await;
    let kept = node.checkpoint(end).await.unwrap();
    assert_eq!(kept, from, "a GiB is kept for standbys without a slot");
    assert!(Lsn::ZERO < kept);
    node.stop().await.unwrap();
}
