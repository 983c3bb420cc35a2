//! A standby takes over: what changes, what stays, and when it is refused.

use std::time::Duration;

use mainstay::{Error, Node, Role};
use tempfile::TempDir;

use super::{
    address, assert_not_primary, everything, lsn, node, on_one_worker, reach, small, until, url,
};
use crate::support::assert_says;

#[test]
fn a_promoted_standby_takes_writes_and_says_that_it_is_the_primary() {
    on_one_worker(async || {
        let dirs = [
            TempDir::new().unwrap(),
            TempDir::new().unwrap(),
            TempDir::new().unwrap(),
        ];
        let policy = "ANY 1 (*)".parse().unwrap();
        let a = node(&dirs[0], "a").sync(policy).start().await.unwrap();
        let b = node(&dirs[1], "b").follow(url(&a)).start().await.unwrap();
        let c = node(&dirs[2], "c").follow(url(&a)).start().await.unwrap();
        let counted = |node: &Node| {
            let seen = node.status().standbys;
            seen.iter().filter(|it| it.sync_state == "quorum").count()
        };
        let mut round = 0_u32;
        while round < 20 || counted(&a) < 2 {
            a.put("t", &round.to_be_bytes(), b"v").await.unwrap();
            round += 1;
        }
        let before = everything(&a);
        let first = b.status();
        // Not beside a living primary; nothing has changed then.
        let refused = b.promote(false).await.unwrap_err();
        assert!(matches!(refused, Error::Refused(_)), "{refused:?}");
        assert_says(&refused.to_string(), &["refused", "primary", "a"]);
        assert_eq!((b.role(), b.status().timeline), (Role::Standby, 1));
        assert_not_primary(b.begin(), "a", &address(&a));
        a.stop().await.unwrap();
        let promoted = b.promote(false).await.unwrap();
        assert!(promoted.promoted);
        assert_eq!(
            (&promoted.new_primary_name[..], promoted.timeline),
            ("b", 2)
        );
        let status = b.status();
        assert_eq!((&status.role[..], status.timeline), ("primary", 2));
        assert_eq!(
            (&status.name, &status.node_id),
            (&first.name, &first.node_id)
        );
        assert_eq!(status.system_id, first.system_id);
        assert_ne!(status.promotion_id, first.promotion_id);
        assert!(lsn(&promoted.lsn) <= lsn(&status.lsn.flushed));
        assert!(lsn(&promoted.lsn) > lsn(&first.lsn.commit));
        // Everything acknowledged is there, and it goes on.
        let receipt = b.put("t", b"next", b"w").await.unwrap();
        assert_eq!(receipt.timeline.number, 2);
        assert!(receipt.is_durable_elsewhere());
        let mut expected = before;
        let table = expected.get_mut("t").unwrap();
        table.insert(b"next".to_vec(), b"w".to_vec());
        assert_eq!(everything(&b), expected);
        // The other standby follows, and names the new primary.
        reach(&c, receipt.lsn).await;
        assert_eq!(everything(&c), expected);
        assert_eq!(c.status().timeline, 2);
        assert_not_primary(c.begin(), "b", &address(&b));
        c.stop().await.unwrap();
        b.stop().await.unwrap();
    });
}

#[test]
fn a_standby_is_promoted_although_what_nobody_confirmed_is_more_than_its_memory() {
    on_one_worker(async || {
        let dirs = [
            TempDir::new().unwrap(),
            TempDir::new().unwrap(),
            TempDir::new().unwrap(),
        ];
        let policy = "ANY 2 (a, b, c)".parse().unwrap();
        let a = node(&dirs[0], "a").sync(policy).start().await.unwrap();
        let b = node(&dirs[1], "b").follow(url(&a)).store(small());
        let b = b.start().await.unwrap();
        // Only b is there, so nothing of this is committed.
        let writing = a.clone();
        let commit = tokio::spawn(async move { writing.put("t", b"k", &[7; 100 << 10]).await });
        until("b has it", || {
            let (a, b) = (a.status().lsn, b.status().lsn);
            lsn(&a.appended) > lsn(&a.commit) + (100 << 10) && a.appended == b.flushed
        })
        .await;
        a.stop().await.unwrap();
        assert!(matches!(commit.await.unwrap(), Err(Error::Unknown { .. })));
        let promoted = tokio::time::timeout(Duration::from_secs(20), b.promote(true)).await;
        let promoted = promoted.expect("it answers").unwrap();
        let refused = b.begin().unwrap_err();
        assert!(matches!(refused, Error::Refused(_)), "{refused:?}");
        assert_says(&refused.to_string(), &["standbys", "as soon as"]);
        assert_eq!(b.get("t", b"k").unwrap(), None);
        let end = lsn(&promoted.lsn);
        let never = b.wait_for(end, Duration::from_millis(20)).await;
        assert!(matches!(never, Err(Error::TimedOut { .. })), "{never:?}");
        let a = node(&dirs[0], "a").follow(url(&b)).start().await.unwrap();
        let c = node(&dirs[2], "c").follow(url(&b)).start().await.unwrap();
        until("writes are accepted", || b.begin().is_ok()).await;
        assert!(b.get("t", b"k").unwrap().is_some());
        let receipt = b.put("t", b"l", b"v").await.unwrap();
        reach(&c, receipt.lsn).await;
        reach(&a, receipt.lsn).await;
        for standby in [&a, &c] {
            assert_eq!(everything(&b), everything(standby));
        }
        for node in [a, c, b] {
            node.stop().await.unwrap();
        }
    });
}

#[test]
fn a_primary_is_not_promoted_again() {
    on_one_worker(async || {
        let dir = TempDir::new().unwrap();
        let a = node(&dir, "a").start().await.unwrap();
        let before = a.status();
        for force in [false, true] {
            let refused = a.promote(force).await.unwrap_err();
            let expected = "refused: this node is the primary already";
            assert_eq!(refused.to_string(), expected);
            assert!(matches!(refused, Error::Refused(_)), "{refused:?}");
        }
        assert_eq!(a.status().timeline, before.timeline);
        assert_eq!(a.status().promotion_id, before.promotion_id);
        a.put("t", b"k", b"v").await.unwrap();
        // Nor does it follow anybody.
        let refused = a.follow("postgres://127.0.0.1:1").await.unwrap_err();
        assert_says(&refused.to_string(), &["refused", "primary"]);
        a.stop().await.unwrap();
    });
}

#[test]
fn a_promoted_node_restarts_as_the_primary_and_the_old_one_as_its_standby() {
    on_one_worker(async || {
        let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let a = node(&dirs[0], "a").start().await.unwrap();
        let b = node(&dirs[1], "b").follow(url(&a)).start().await.unwrap();
        let receipt = a.put("t", b"k", b"of a").await.unwrap();
        reach(&b, receipt.lsn).await;
        // What the other one has not got when it takes over, the old primary cannot keep.
        until("b has all of the log", || {
            let (a, b) = (a.status(), b.status());
            a.standbys[0].state == "streaming" && a.lsn.appended == b.lsn.flushed
        })
        .await;
        a.stop().await.unwrap();
        b.promote(false).await.unwrap();
        b.put("t", b"l", b"of b").await.unwrap();
        b.stop().await.unwrap();
        let b = node(&dirs[1], "b").start().await.unwrap();
        assert_eq!((b.role(), b.status().timeline), (Role::Primary, 2));
        let receipt = b.put("t", b"m", b"of b again").await.unwrap();
        let a = node(&dirs[0], "a").follow(url(&b)).start().await.unwrap();
        reach(&a, receipt.lsn).await;
        assert_eq!(everything(&a), everything(&b));
        assert_eq!(everything(&a)["t"].len(), 3);
        assert_eq!((a.role(), a.status().timeline), (Role::Standby, 2));
        assert_not_primary(a.begin(), "b", &address(&b));
        a.stop().await.unwrap();
        b.stop().await.unwrap();
    });
}

#[test]
fn a_standby_that_is_told_to_follow_another_goes_there() {
    on_one_worker(async || {
        let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let a = node(&dirs[0], "a").start().await.unwrap();
        let b = node(&dirs[1], "b").follow(url(&a)).start().await.unwrap();
        let receipt = a.put("t", b"k", b"v").await.unwrap();
        reach(&b, receipt.lsn).await;
        for bad in ["", "127.0.0.1:5433", "postgres://u:secret@h:1"] {
            let refused = b.follow(bad).await.unwrap_err();
            assert!(matches!(refused, Error::Usage(_)), "{refused:?}");
        }
        // The primary comes back somewhere else.
        a.stop().await.unwrap();
        let a = node(&dirs[0], "a").start().await.unwrap();
        b.follow(&url(&a)).await.unwrap();
        let receipt = a.put("t", b"l", b"w").await.unwrap();
        reach(&b, receipt.lsn).await;
        until("b names its new address", || {
            matches!(b.begin(), Err(Error::NotPrimary { primary: Some(at) })
                if at == format!("a ({})", address(&a)))
        })
        .await;
        b.stop().await.unwrap();
        a.stop().await.unwrap();
    });
}
