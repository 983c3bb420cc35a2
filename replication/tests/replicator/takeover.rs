//! A primary that is overtaken: what it goes on promising, and to whom.

use mainstay_replication::protocol::level::Level;
use mainstay_replication::{Error, Role, WalReplicator};
use tempfile::TempDir;

use crate::support::{flushed, primary, put, standby, until, within};

fn address(node: &WalReplicator) -> String {
    node.listen_addr().unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_standbys_of_a_fenced_primary_learns_that_the_outcome_is_unknown() {
    let dirs = [0; 3].map(|_| TempDir::new().unwrap());
    let a = primary(dirs[0].path(), Some("ANY 1 (*)")).await;
    let b = standby(dirs[1].path(), "b", &a).await;
    let c = standby(dirs[2].path(), "c", &a).await;
    until("both are counted", || {
        let counted = a.standby_states().into_iter();
        counted.filter(|state| state.sync_state == "quorum").count() == 2
    })
    .await;
    until("everybody knows of everybody", || {
        [&b, &c].iter().all(|node| flushed(node) == flushed(&a))
    })
    .await;
    let promotion = within(b.promote(true)).await.unwrap();
    until("the other follows it", || {
        c.wal().unwrap().timeline() == promotion.timeline && flushed(&c) >= promotion.end
    })
    .await;
    // The old primary has not heard of it.
    let lsn = a.append(put("nobody confirms this")).await.unwrap();
    let remote = [Level::RemoteWrite, Level::RemoteFlush, Level::RemoteApply];
    let waiting = remote.map(|level| {
        let a = a.clone();
        tokio::spawn(async move { a.wait_for(lsn, level).await })
    });
    c.follow(vec![address(&a)]).await.unwrap();
    until("it is fenced", || a.role() == Role::Fenced).await;
    for waiter in waiting {
        let ended = within(waiter).await.unwrap();
        assert!(
            matches!(ended, Err(Error::Unknown(at)) if at == lsn),
            "{ended:?}"
        );
    }
    let late = within(a.wait_for(lsn, Level::RemoteFlush)).await;
    assert!(matches!(late, Err(Error::Unknown(_))), "{late:?}");
    within(a.wait_for(lsn, Level::Local)).await.unwrap();
    for node in [a, b, c] {
        node.stop().await.unwrap();
    }
}
