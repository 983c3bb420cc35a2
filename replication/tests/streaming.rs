//! Streaming between native nodes.

use mainstay_replication::protocol::level::Level;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::support::{DEADLINE, assert_same_log, flushed, primary, put, standby, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_receives_the_same_bytes_and_confirms_commits() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let a = primary(da.path(), Some("ANY 1 (*)")).await;
    for n in 0..500 {
        a.append(put(&format!("before {n} {}", "x".repeat(n * 7))))
            .await
            .unwrap();
    }
    let b = standby(db.path(), "b", &a).await;
    let lsn = a.append(put("after")).await.unwrap();
    timeout(DEADLINE, a.wait_for(lsn, Level::RemoteFlush))
        .await
        .unwrap()
        .unwrap();
    assert!(flushed(&b) > lsn);
    assert_same_log(&a.wal().unwrap(), &b.wal().unwrap());
    let state = &a.standby_states()[0];
    assert_eq!((state.name.as_str(), state.connected), ("b", true));
    until("the standby is counted", || {
        a.standby_states()[0].sync_state == "quorum"
    })
    .await;
    until("the standby knows the commit position", || {
        b.wal().unwrap().commit().get() > lsn
    })
    .await;
    b.stop().await.unwrap();
    until("the standby counts as gone", || {
        !a.standby_states()[0].connected
    })
    .await;
    a.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_standby_takes_over_and_the_other_follows_it() {
    let dirs = [
        TempDir::new().unwrap(),
        TempDir::new().unwrap(),
        TempDir::new().unwrap(),
    ];
    let a = primary(dirs[0].path(), Some("ANY 1 (*)")).await;
    let b = standby(dirs[1].path(), "b", &a).await;
    let c = standby(dirs[2].path(), "c", &a).await;
    until("both are counted", || {
        a.standby_states()
            .iter()
            .filter(|state| state.sync_state == "quorum")
            .count()
            == 2
    })
    .await;
    let lsn = a.append(put("kept")).await.unwrap();
    timeout(DEADLINE, a.wait_for(lsn, Level::RemoteFlush))
        .await
        .unwrap()
        .unwrap();
    a.stop().await.unwrap();
    let promotion = timeout(DEADLINE, b.promote(true)).await.unwrap().unwrap();
    assert_eq!(promotion.timeline.number, 2);
    let next = b.append(put("on the new timeline")).await.unwrap();
    timeout(DEADLINE, b.wait_for(next, Level::RemoteFlush))
        .await
        .unwrap()
        .unwrap();
    assert_same_log(&b.wal().unwrap(), &c.wal().unwrap());
    assert_eq!(c.wal().unwrap().timeline(), promotion.timeline);
    c.stop().await.unwrap();
    b.stop().await.unwrap();
}
