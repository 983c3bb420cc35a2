//! What readers and writers see of commits that wait for a standby that is down.

use mainstay::{Error, Level, ReadLevel};
use tempfile::TempDir;

use super::{everything, node, on_one_worker, reach, until, url};

#[test]
fn a_local_commit_and_a_read_modify_write_while_the_standby_is_down_lose_no_update() {
    on_one_worker(async || {
        let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let policy = "ANY 1 (*)".parse().unwrap();
        let a = node(&dirs[0], "a").sync(policy).start().await.unwrap();
        let b = node(&dirs[1], "b").follow(url(&a)).start().await.unwrap();
        a.put("t", b"counter", &[1]).await.unwrap();
        b.stop().await.unwrap();
        let count = |level| {
            a.snapshot_at(level)
                .unwrap()
                .get("t", b"counter")
                .unwrap()
                .unwrap()[0]
        };
        let mut tx = a.begin().unwrap();
        tx.put("t", b"counter", &[2]).unwrap();
        let receipt = tx.commit_at(Level::Local).await.unwrap();
        assert_eq!(receipt.level, Level::Local);
        // Readers see what is committed, writers what is decided.
        assert_eq!(
            (count(ReadLevel::Committed), count(ReadLevel::Flushed)),
            (1, 2)
        );
        let [mut one, mut other] = [(); 2].map(|()| a.begin().unwrap());
        for tx in [&mut one, &mut other] {
            let seen = tx.get("t", b"counter").unwrap().unwrap()[0];
            assert_eq!(seen, 2);
            tx.put("t", b"counter", &[seen + 1]).unwrap();
        }
        one.commit_at(Level::Local).await.unwrap();
        let late = other.commit_at(Level::Local).await.unwrap_err();
        assert!(late.is_conflict(), "{late:?}");
        let mut waiting = a.begin().unwrap();
        let seen = waiting.get("t", b"counter").unwrap().unwrap()[0];
        waiting.put("t", b"counter", &[seen + 1]).unwrap();
        let waiting = tokio::spawn(waiting.commit());
        until("it is decided", || {
            let tx = a.begin().unwrap();
            tx.get("t", b"counter").unwrap().unwrap()[0] == 4
        })
        .await;
        assert_eq!(count(ReadLevel::Committed), 1);
        let b = node(&dirs[1], "b").follow(url(&a)).start().await.unwrap();
        let receipt = waiting.await.unwrap().unwrap();
        assert_eq!(receipt.level, Level::RemoteFlush);
        assert_eq!(
            (count(ReadLevel::Committed), count(ReadLevel::Flushed)),
            (4, 4)
        );
        reach(&b, receipt.lsn).await;
        assert_eq!(everything(&a), everything(&b));
        b.stop().await.unwrap();
        a.stop().await.unwrap();
    });
}

#[test]
fn a_read_level_is_named_and_anything_else_refused() {
    for level in [ReadLevel::Committed, ReadLevel::Flushed] {
        assert_eq!(level.to_string().parse::<ReadLevel>().unwrap(), level);
    }
    let refused = "all".parse::<ReadLevel>().unwrap_err();
    assert!(matches!(refused, Error::Usage(_)), "{refused}");
}
