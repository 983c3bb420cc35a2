//! Appending: it needs nobody, and checks what it is given.

use std::task::{Context, Waker};

use bytes::Bytes;
use mainstay_replication::protocol::level::Level;
use mainstay_replication::{Error, WalReplicator};
use mainstay_storage::{Lsn, WalEntry, WalEntryType, WalSegment, checksum};
use tempfile::TempDir;
use tokio_stream::StreamExt;

use crate::support::{config, primary, put, standby, until, within};

#[tokio::test]
async fn append_needs_neither_subscriber_nor_standby_nor_a_port() {
    let dir = TempDir::new().unwrap();
    let mut config = config(dir.path(), "a");
    config.listen = None;
    let node = WalReplicator::new(config, vec![]);
    node.start().await.unwrap();
    let mut end = node.current_lsn().unwrap();
    for n in 0..100 {
        let lsn = node.append(put(&format!("entry {n}"))).await.unwrap();
        assert!(lsn >= end, "{lsn} after {end}");
        end = node.current_lsn().unwrap();
        assert!(end > lsn);
    }
    within(node.wait_for(end + 0, Level::Async)).await.unwrap();
    let last = node.append(put("last")).await.unwrap();
    for level in [Level::Local, Level::RemoteFlush] {
        within(node.wait_for(last, level)).await.unwrap();
    }
    node.stop().await.unwrap();
}

#[tokio::test]
async fn an_lsn_of_zero_is_assigned_and_any_other_must_be_the_next() {
    let dir = TempDir::new().unwrap();
    let node = primary(dir.path(), None).await;
    node.append(put("first")).await.unwrap();
    let next = node.current_lsn().unwrap();
    for wrong in [next + 8, Lsn::new(next.get() - 8), Lsn::new(8)] {
        let entry = WalEntry {
            lsn: wrong,
            ..put("elsewhere")
        };
        let refused = node.append(entry).await;
        let Err(Error::Storage(mainstay_storage::Error::NotContiguous { expected, got })) = refused
        else {
            panic!("{refused:?} for {wrong}");
        };
        assert_eq!((expected, got), (next, wrong));
    }
    assert_eq!(
        node.current_lsn().unwrap(),
        next,
        "a refusal appends nothing"
    );
    let entry = WalEntry {
        lsn: next,
        ..put("here")
    };
    assert_eq!(node.append(entry).await.unwrap(), next);
    node.stop().await.unwrap();
}

#[tokio::test]
async fn positions_climb_whoever_appends() {
    let dir = TempDir::new().unwrap();
    let node = primary(dir.path(), None).await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let node = node.clone();
        writers.spawn(async move {
            let mut mine = Vec::new();
            for n in 0..50 {
                mine.push(node.append(put(&format!("{writer} {n}"))).await.unwrap());
            }
            assert!(mine.is_sorted());
            mine
        });
    }
    let mut all = writers.join_all().await.concat();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 400, "no position is given twice");
    node.stop().await.unwrap();
}

#[tokio::test]
async fn a_checksum_of_zero_is_computed_and_any_other_is_verified() {
    let dir = TempDir::new().unwrap();
    let node = primary(dir.path(), None).await;
    let from = node.current_lsn().unwrap();
    let right = checksum(b"checked");
    let with = |checksum| WalEntry {
        checksum,
        ..put("checked")
    };
    let refused = node.append(with(right ^ 1)).await;
    assert!(
        matches!(
            refused,
            Err(Error::Storage(mainstay_storage::Error::Refused { .. }))
        ),
        "{refused:?}"
    );
    assert_eq!(
        node.current_lsn().unwrap(),
        from,
        "a refusal appends nothing"
    );
    node.append(with(right)).await.unwrap();
    node.append(with(0)).await.unwrap();
    let mut entries = node.subscribe(from).unwrap();
    for _ in 0..2 {
        let entry = within(entries.next()).await.unwrap().unwrap();
        assert_eq!((entry.checksum, &entry.data[..]), (right, &b"checked"[..]));
    }
    node.stop().await.unwrap();
}

#[tokio::test]
async fn an_entry_that_only_the_log_writes_or_that_is_too_large_is_refused() {
    let dir = TempDir::new().unwrap();
    let node = primary(dir.path(), None).await;
    let internal = WalEntry::new(WalEntryType::NewTimeline, None, Bytes::new());
    let large = WalEntry::new(WalEntryType::Insert, None, vec![0; 1 << 20]);
    let end = node.current_lsn().unwrap();
    assert!(matches!(
        node.append(internal).await,
        Err(Error::Storage(mainstay_storage::Error::Invalid(_)))
    ));
    assert!(matches!(
        node.append(large).await,
        Err(Error::Storage(mainstay_storage::Error::TooLarge { .. }))
    ));
    assert_eq!(node.current_lsn().unwrap(), end);
    node.stop().await.unwrap();
}

fn segment(bytes: &[u8]) -> WalSegment {
    let size = bytes.len() as u64;
    WalSegment {
        segment_id: 7,
        start_lsn: Lsn::new(7 << 20),
        end_lsn: Lsn::new((7 << 20) + size),
        size,
        checksum: checksum(bytes),
        created_at: 1_700_000_000_000_000,
    }
}

#[tokio::test]
async fn a_segment_whose_size_or_checksum_is_not_as_stated_is_refused() {
    let dir = TempDir::new().unwrap();
    let node = primary(dir.path(), None).await;
    let bytes = Bytes::from(vec![3; 10_000]);
    let good = segment(&bytes);
    let end = node.current_lsn().unwrap();
    let flipped = WalSegment {
        checksum: good.checksum ^ 0x8000,
        ..good.clone()
    };
    let short = WalSegment {
        size: good.size - 1,
        ..good.clone()
    };
    let wide = WalSegment {
        end_lsn: good.end_lsn + 1,
        ..good.clone()
    };
    for bad in [flipped, short, wide] {
        let refused = node.append_segment(&bad, bytes.clone()).await;
        assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    }
    assert_eq!(
        node.current_lsn().unwrap(),
        end,
        "a refusal appends nothing"
    );
    let at = node.append_segment(&good, bytes).await.unwrap();
    assert!(at >= end && node.current_lsn().unwrap() > at + 10_000);
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_arrives_whole_in_order_and_as_one_transaction() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let a = primary(da.path(), None).await;
    let b = standby(db.path(), "b", &a).await;
    let from = a.current_lsn().unwrap();
    let bytes = (0..3_000_000u32)
        .map(|n| (n % 251) as u8)
        .collect::<Vec<_>>();
    let described = segment(&bytes);
    a.append_segment(&described, bytes.clone().into())
        .await
        .unwrap();
    a.append(put("after")).await.unwrap();
    until("the standby knows the commit position", || {
        b.wal().unwrap().commit().get() == a.current_lsn().unwrap()
    })
    .await;
    let mut entries = b.subscribe(from).unwrap();
    let mut next = async || within(entries.next()).await.unwrap().unwrap();
    let begin = next().await;
    assert_eq!(begin.entry_type, WalEntryType::TxBegin);
    let head = next().await;
    assert_eq!(WalSegment::decode(&head.data).unwrap(), described);
    let mut received = Vec::new();
    loop {
        let entry = next().await;
        assert_eq!(entry.tx_id, begin.tx_id, "one transaction, nothing between");
        if entry.entry_type == WalEntryType::TxCommit {
            break;
        }
        assert!(entry.data.len() <= 1 << 20);
        received.extend_from_slice(&entry.data);
    }
    assert!(received == bytes, "the bytes are those of the segment");
    assert_eq!(&next().await.data[..], b"after");
    b.stop().await.unwrap();
    a.stop().await.unwrap();
}

#[test]
fn a_large_segment_is_checked_on_a_thread_that_may_block() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    runtime.block_on(async {
        let dir = TempDir::new().unwrap();
        let node = primary(dir.path(), None).await;
        // The only thread that may block is busy, so that nothing is done there yet.
        let (free, busy) = std::sync::mpsc::channel::<()>();
        let waiting = tokio::task::spawn_blocking(move || busy.recv());
        let bytes = |size| Bytes::from(vec![7; size]);
        let (small, large) = (segment(&bytes(1000)), segment(&bytes(3 << 20)));
        let damaged = WalSegment {
            checksum: !large.checksum,
            ..large.clone()
        };
        let mut context = Context::from_waker(Waker::noop());
        let mut quick = Box::pin(node.append_segment(&small, bytes(1000)));
        assert!(quick.as_mut().poll(&mut context).is_ready());
        let mut slow = [&large, &damaged].map(|segment| {
            let appending = node.append_segment(segment, bytes(3 << 20));
            Box::pin(appending)
        });
        for appending in &mut slow {
            assert!(appending.as_mut().poll(&mut context).is_pending());
        }
        free.send(()).unwrap();
        waiting.await.unwrap().unwrap();
        let [good, bad] = slow;
        within(good).await.unwrap();
        assert!(matches!(within(bad).await, Err(Error::Invalid(_))));
        node.stop().await.unwrap();
    });
}
