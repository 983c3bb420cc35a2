//! A standby shows what its primary committed, once and whole, however often it restarts.

use std::time::Duration;

use mainstay::{Error, Lsn, Node, Role};
use tempfile::TempDir;

use super::{
    address, assert_not_primary, everything, lsn, node, on_one_worker, reach, rows, small, until,
    url,
};

#[test]
fn a_write_is_read_on_the_standby_that_waited_for_it() {
    on_one_worker(async || {
        let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let a = node(&dirs[0], "a").start().await.unwrap();
        a.put("t", b"gone", b"v").await.unwrap();
        let b = node(&dirs[1], "b").follow(url(&a)).start().await.unwrap();
        for round in 0..50_u32 {
            let value = round.to_be_bytes();
            let receipt = a.put("t", b"k", &value).await.unwrap();
            reach(&b, receipt.lsn).await;
            assert_eq!(b.get("t", b"k").unwrap().as_deref(), Some(&value[..]));
            assert!(b.snapshot().unwrap().lsn() >= receipt.lsn);
        }
        let mut tx = a.begin().unwrap();
        tx.put("t", b"l", b"w").unwrap();
        tx.put("u", b"k", b"w").unwrap();
        tx.delete("t", b"gone").unwrap();
        let receipt = tx.commit().await.unwrap();
        // Reached is reached, without a moment to wait.
        a.wait_for(receipt.lsn, Duration::ZERO).await.unwrap();
        reach(&b, receipt.lsn).await;
        b.wait_for(receipt.lsn, Duration::ZERO).await.unwrap();
        assert_eq!(b.get("t", b"gone").unwrap(), None);
        assert_eq!(everything(&b), everything(&a));
        b.stop().await.unwrap();
        a.stop().await.unwrap();
    });
}

#[test]
fn waiting_for_a_position_that_is_never_reached_times_out() {
    on_one_worker(async || {
        let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let a = node(&dirs[0], "a").start().await.unwrap();
        let b = node(&dirs[1], "b").follow(url(&a)).start().await.unwrap();
        let receipt = a.put("t", b"k", b"v").await.unwrap();
        reach(&b, receipt.lsn).await;
        let never = receipt.lsn + (1 << 30);
        for node in [&a, &b] {
            let error = node.wait_for(never, Duration::from_millis(20)).await;
            match error {
                Err(Error::TimedOut { lsn, at }) => {
                    assert_eq!(lsn, never);
                    assert!(at >= receipt.lsn && at < never, "{at}");
                }
                other => panic!("{other:?}"),
            }
        }
        b.stop().await.unwrap();
        a.stop().await.unwrap();
    });
}

#[test]
fn a_standby_takes_no_writes_and_names_the_primary() {
    on_one_worker(async || {
        let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let a = node(&dirs[0], "a").start().await.unwrap();
        let b = node(&dirs[1], "b").follow(url(&a)).start().await.unwrap();
        let at = address(&a);
        until("b is connected", || b.status().status == "synchronized").await;
        assert_not_primary(b.put("t", b"k", b"v").await, "a", &at);
        assert_not_primary(b.delete("t", b"k").await, "a", &at);
        assert_not_primary(b.begin(), "a", &at);
        // It also knows while the primary is away, from the log.
        a.stop().await.unwrap();
        until("b notices", || b.status().status == "broken").await;
        assert_not_primary(b.put("t", b"k", b"v").await, "a", &at);
        assert!(b.snapshot().unwrap().tables().unwrap().is_empty());
        b.stop().await.unwrap();
    });
}

fn ladder(node: &Node) -> [Lsn; 4] {
    let at = node.status().lsn;
    [&at.commit, &at.flushed, &at.written, &at.appended].map(|text| lsn(text))
}

#[test]
fn the_status_of_both_says_what_they_are_and_how_far() {
    on_one_worker(async || {
        let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let policy = "ANY 1 (*)".parse().unwrap();
        let a = node(&dirs[0], "a").sync(policy).start().await.unwrap();
        let b = node(&dirs[1], "b").follow(url(&a)).start().await.unwrap();
        let receipt = a.put("t", b"k", &[7; 5000]).await.unwrap();
        reach(&b, receipt.lsn).await;
        until("b has everything and is counted", || {
            let seen = a.status();
            let all = seen.standbys[0].replay_lsn == seen.lsn.appended;
            seen.standbys[0].sync_state == "quorum" && all
        })
        .await;
        let (sa, sb) = (a.status(), b.status());
        assert_eq!((a.role(), b.role()), (Role::Primary, Role::Standby));
        assert_eq!((&sa.name[..], &sb.name[..]), ("a", "b"));
        assert_eq!((&sa.role[..], &sb.role[..]), ("primary", "standby"));
        assert_eq!((sa.timeline, sb.timeline), (1, 1));
        assert_eq!(sa.promotion_id, sb.promotion_id);
        assert_eq!(sa.system_id, sb.system_id);
        assert_ne!(sa.node_id, sb.node_id);
        assert_eq!((&sa.problem, &sb.problem), (&None, &None));
        assert_eq!(sb.status, "synchronized");
        assert!(sb.standbys.is_empty());
        for node in [&a, &b] {
            assert!(ladder(node).is_sorted(), "{:?}", node.status().lsn);
            assert!(lsn(&node.status().lsn.applied) >= receipt.lsn);
            assert!(ladder(node)[0] >= receipt.lsn);
        }
        let [seen] = &sa.standbys[..] else {
            panic!("{:?}", sa.standbys);
        };
        assert_eq!((&seen.name, &seen.node_id), (&sb.name, &sb.node_id));
        assert_eq!((&seen.state[..], seen.lag_bytes), ("streaming", 0));
        let positions = [&seen.replay_lsn, &seen.flush_lsn, &seen.write_lsn];
        for position in positions {
            assert!(lsn(position) >= receipt.lsn, "{seen:?}");
            assert!(lsn(position) <= ladder(&a)[1], "{seen:?}");
        }
        assert!(seen.last_contact_ms.is_some());
        assert_eq!(sa.status, "synchronized");
        b.stop().await.unwrap();
        until("a sees it go", || a.status().status == "broken").await;
        let seen = &a.status().standbys[0];
        assert_eq!((&seen.name[..], &seen.state[..]), ("b", "disconnected"));
        a.stop().await.unwrap();
    });
}

#[test]
fn without_a_policy_a_standby_is_asynchronous() {
    on_one_worker(async || {
        let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let a = node(&dirs[0], "a").start().await.unwrap();
        assert!(a.status().standbys.is_empty());
        let b = node(&dirs[1], "b").follow(url(&a)).start().await.unwrap();
        until("b streams", || {
            let seen = a.status().standbys;
            seen.len() == 1 && seen[0].state == "streaming"
        })
        .await;
        assert_eq!(a.status().standbys[0].sync_state, "async");
        let receipt = a.put("t", b"k", b"v").await.unwrap();
        assert!(!receipt.is_durable_elsewhere());
        b.stop().await.unwrap();
        a.stop().await.unwrap();
    });
}

const COUNTERS: u32 = 16;

/// Adds one to three of the counters, and returns where that ends.
async fn count(a: &Node, round: u32) -> Lsn {
    let mut tx = a.begin().unwrap();
    for step in [1, 5, 7] {
        let key = (round * step % COUNTERS).to_be_bytes();
        let old = tx.get("counters", &key).unwrap();
        let old = old.map_or(0, |old| {
            u32::from_be_bytes(old.as_ref().try_into().unwrap())
        });
        tx.put("counters", &key, &(old + 1).to_be_bytes()).unwrap();
    }
    tx.put("log", &round.to_be_bytes(), &[7; 2000]).unwrap();
    tx.commit().await.unwrap().lsn
}

#[test]
fn a_standby_that_restarts_again_and_again_applies_everything_exactly_once() {
    on_one_worker(async || {
        let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let a = node(&dirs[0], "a").store(small()).start().await.unwrap();
        // What the counters were at each position at which they changed.
        let mut past = vec![(
            a.snapshot().unwrap().lsn(),
            rows(&a.snapshot().unwrap(), "counters"),
        )];
        let mut round = 0;
        for life in 0..8 {
            let b = node(&dirs[1], "b").store(small()).follow(url(&a));
            let b = b.start().await.unwrap();
            let mut end = Lsn::ZERO;
            for _ in 0..20 {
                end = count(&a, round).await;
                round += 1;
                past.push((end, rows(&a.snapshot().unwrap(), "counters")));
                // Whatever the standby shows, it is what was there at that position.
                let snapshot = b.snapshot().unwrap();
                let then = past.iter().rev().find(|(lsn, _)| *lsn <= snapshot.lsn());
                let shown = rows(&snapshot, "counters");
                let then = then.map(|(_, then)| then.clone()).unwrap_or_default();
                assert_eq!(shown, then, "in life {life} at {}", snapshot.lsn());
            }
            if life % 2 == 0 {
                reach(&b, end).await;
                assert_eq!(everything(&b), everything(&a), "in life {life}");
            }
            b.stop().await.unwrap();
        }
        let b = node(&dirs[1], "b").store(small()).follow(url(&a));
        let b = b.start().await.unwrap();
        reach(&b, past.last().unwrap().0).await;
        let (left, right) = (everything(&a), everything(&b));
        for (key, value) in &left["counters"] {
            assert_eq!(right["counters"].get(key), Some(value), "counter {key:?}");
        }
        assert_eq!(left, right);
        assert_eq!(left["log"].len(), round as usize);
        b.stop().await.unwrap();
        a.stop().await.unwrap();
    });
}

#[test]
fn an_empty_standby_is_filled_by_a_primary_whose_first_log_is_gone() {
    on_one_worker(async || {
        let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let a = node(&dirs[0], "a").store(small()).wal_keep_size(0);
        let a = a.start().await.unwrap();
        a.put("t", b"first", b"v").await.unwrap();
        let wal = dirs[0].path().join("wal");
        let first = wal.join("000000010000000000000001");
        assert!(first.exists());
        let mut written = 0_u32;
        while first.exists() {
            assert!(written < 400, "the log is never removed");
            let value = vec![written as u8; 200 << 10];
            let key = (written % 60).to_be_bytes();
            a.put("t", &key, &value).await.unwrap();
            if written.is_multiple_of(7) {
                a.delete("t", &(written / 2).to_be_bytes()).await.unwrap();
            }
            written += 1;
        }
        let b = node(&dirs[1], "b").store(small()).follow(url(&a));
        let b = b.start().await.unwrap();
        let oldest = std::fs::read_dir(dirs[1].path().join("wal")).unwrap();
        let names = oldest.map(|entry| entry.unwrap().file_name());
        assert!(
            names
                .into_iter()
                .all(|name| name != *"000000010000000000000001")
        );
        let receipt = a.put("t", b"last", b"v").await.unwrap();
        reach(&b, receipt.lsn).await;
        let (left, right) = (everything(&a), everything(&b));
        assert_eq!(
            left["t"].keys().collect::<Vec<_>>(),
            right["t"].keys().collect::<Vec<_>>()
        );
        assert!(left == right, "the values differ");
        b.stop().await.unwrap();
        a.stop().await.unwrap();
    });
}
