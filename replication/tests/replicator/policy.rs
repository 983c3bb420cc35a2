//! Changing the policy of a replicator that runs, and one that fails.

use std::time::Duration;

use mainstay_replication::protocol::level::{Level, OnMiss};
use mainstay_replication::protocol::policy::SyncPolicy;
use mainstay_replication::{Error, WalReplicator, WalStreamingConfig};
use tempfile::TempDir;

use crate::support::{config, primary, put, standby, until, within};

fn policy(text: &str) -> SyncPolicy {
    text.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_confirmed_by_the_old_policy_alone_once_a_new_one_is_in_the_log() {
    let dir = TempDir::new().unwrap();
    let a = primary(dir.path(), None).await;
    within(a.wait_for(a.append(put("free")).await.unwrap(), Level::RemoteFlush))
        .await
        .unwrap();
    let change = within(a.set_policy(policy("ANY 1 (*)"), false))
        .await
        .unwrap();
    assert!(!change.in_force, "nobody can confirm it");
    let bound = a.append(put("bound")).await.unwrap();
    within(a.wait_for(bound, Level::Local)).await.unwrap();
    assert!(a.wal().unwrap().commit().get() < change.lsn);
    // What is not confirmed cannot be taken back without confirmation either, which never comes.
    let back = within(a.set_policy(SyncPolicy::Off, false)).await;
    let refused = back.unwrap_err().to_string();
    assert!(refused.contains("counts 0 standbys"), "{refused}");
    assert!(refused.contains("or use force"), "{refused}");
    assert!(a.wal().unwrap().commit().get() < change.lsn);
    let forced = within(a.set_policy(SyncPolicy::Off, true)).await.unwrap();
    assert!(
        forced.in_force && forced.may_promote.is_empty(),
        "{forced:?}"
    );
    within(a.wait_for(bound, Level::RemoteFlush)).await.unwrap();
    let free = a.append(put("free again")).await.unwrap();
    within(a.wait_for(free, Level::RemoteFlush)).await.unwrap();
    a.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_policy_ends_waits_and_refuses_appends_until_all_is_confirmed() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let after = Duration::from_millis(200);
    let config = WalStreamingConfig {
        sync: Some(policy("ANY 1 (*)")),
        on_miss: OnMiss::Fail { after },
        ..config(da.path(), "a")
    };
    let a = WalReplicator::new(config, vec![]);
    a.start().await.unwrap();
    let waits = a.append(put("waits")).await.unwrap();
    let ended = within(a.wait_for(waits, Level::RemoteFlush)).await;
    assert!(
        matches!(ended, Err(Error::Unknown(at)) if at == waits),
        "{ended:?}"
    );
    within(a.wait_for(waits, Level::Local)).await.unwrap();
    let end = a.current_lsn().unwrap();
    let refused = a.append(put("refused")).await.unwrap_err().to_string();
    assert!(refused.contains("nothing was appended"), "{refused}");
    assert_eq!(a.current_lsn().unwrap(), end);
    let b = standby(db.path(), "b", &a).await;
    until("everything is confirmed", || {
        a.sync_standing().unwrap().borrow().refusal().is_none()
    })
    .await;
    within(a.wait_for(waits, Level::RemoteFlush)).await.unwrap();
    let taken = a.append(put("taken")).await.unwrap();
    within(a.wait_for(taken, Level::RemoteFlush)).await.unwrap();
    b.stop().await.unwrap();
    a.stop().await.unwrap();
}
