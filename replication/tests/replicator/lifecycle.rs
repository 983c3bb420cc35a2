//! Starting, stopping, starting again; and who a node is.

use std::time::{Duration, Instant};

use mainstay_replication::{Error, Role, WalReplicator, WalStreamingConfig};
use mainstay_storage::Lsn;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_stream::StreamExt;
use uuid::Uuid;

use super::proxy::Proxy;
use crate::support::{DEADLINE, config, flushed, primary, put, standby, until, within};

#[tokio::test]
async fn a_second_start_is_an_error_and_disturbs_nothing() {
    let dir = TempDir::new().unwrap();
    let node = primary(dir.path(), None).await;
    assert!(matches!(node.start().await, Err(Error::AlreadyRunning)));
    assert!(node.is_running());
    node.append(put("still here")).await.unwrap();
    node.stop().await.unwrap();
    assert!(!node.is_running());
}

#[tokio::test]
async fn before_start_and_after_stop_everything_says_that_it_is_not_running() {
    let dir = TempDir::new().unwrap();
    let node = WalReplicator::new(config(dir.path(), "a"), vec![]);
    for round in 0..2 {
        assert!(!node.is_running(), "round {round}");
        assert!(matches!(
            node.append(put("x")).await,
            Err(Error::NotRunning)
        ));
        assert!(matches!(node.subscribe(Lsn::ZERO), Err(Error::NotRunning)));
        assert!(matches!(node.current_lsn(), Err(Error::NotRunning)));
        let acknowledged = node.acknowledge(Uuid::from_u128(1), Lsn::ZERO);
        assert!(matches!(acknowledged, Err(Error::NotRunning)));
        assert!(!node.is_connected());
        if round == 0 {
            node.start().await.unwrap();
            node.stop().await.unwrap();
        }
    }
}

#[tokio::test]
async fn stop_may_be_called_again_and_before_start() {
    let dir = TempDir::new().unwrap();
    let node = WalReplicator::new(config(dir.path(), "a"), vec![]);
    node.stop().await.unwrap();
    node.start().await.unwrap();
    let (one, two) = within(async { tokio::join!(node.stop(), node.stop()) }).await;
    one.unwrap();
    two.unwrap();
    within(node.stop()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_waits_for_no_heartbeat_however_rare_they_are() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let rare = |config| WalStreamingConfig {
        heartbeat_interval: Duration::from_secs(3600),
        heartbeat_timeout: Duration::from_secs(7200),
        ..config
    };
    let a = WalReplicator::new(rare(config(da.path(), "a")), vec![]);
    a.start().await.unwrap();
    let follow = vec![a.listen_addr().unwrap().to_string()];
    let following = rare(WalStreamingConfig {
        follow,
        ..config(db.path(), "b")
    });
    mainstay_replication::bootstrap(&following).await.unwrap();
    let b = WalReplicator::new(following, vec![]);
    b.start().await.unwrap();
    until("the standby streams", || {
        a.standby_states().iter().any(|state| state.connected)
    })
    .await;
    // A client that connected and says nothing.
    let _silent = TcpStream::connect(a.listen_addr().unwrap()).await.unwrap();
    for node in [a, b] {
        let start = Instant::now();
        node.stop().await.unwrap();
        let took = start.elapsed();
        assert!(took < Duration::from_secs(3), "{node:?} took {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_any_number_of_restarts_each_task_runs_once() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let a = primary(da.path(), None).await;
    let b = standby(db.path(), "b", &a).await;
    for _ in 0..5 {
        b.stop().await.unwrap();
        b.start().await.unwrap();
    }
    let lsn = a.append(put("once")).await.unwrap();
    until("the standby has it", || {
        b.wal().unwrap().commit().get() > lsn
    })
    .await;
    let mut once = b.subscribe(lsn).unwrap();
    let entry = within(once.next()).await.unwrap().unwrap();
    assert_eq!(entry.lsn, lsn);
    b.stop().await.unwrap();
    assert!(within(once.next()).await.is_none());
    for _ in 0..5 {
        a.stop().await.unwrap();
        a.start().await.unwrap();
        a.append(put("more")).await.unwrap();
    }
    let end = a.current_lsn().unwrap();
    let entries = a.subscribe(lsn).unwrap();
    let mut entries = std::pin::pin!(entries.timeout(DEADLINE));
    for text in ["once", "more", "more", "more", "more", "more"] {
        let entry = entries.next().await.unwrap().unwrap().unwrap();
        assert_eq!(&entry.data[..], text.as_bytes());
    }
    assert!(end > lsn);
    a.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_ends_a_subscription_whose_reader_does_not_read() {
    let dir = TempDir::new().unwrap();
    let node = primary(dir.path(), None).await;
    let from = node.current_lsn().unwrap();
    for n in 0..2000 {
        node.append(put(&format!("{n}"))).await.unwrap();
    }
    let idle = node.subscribe(from).unwrap();
    until("it is full", || node.subscription_count() == 1).await;
    within(node.stop()).await.unwrap();
    assert_eq!(node.subscription_count(), 0, "its task has ended");
    let kept = within(idle.collect::<Vec<_>>()).await;
    assert!(kept.len() < 2000 && kept.iter().all(Result::is_ok));
    node.start().await.unwrap();
    node.stop().await.unwrap();
}

#[tokio::test]
async fn dropping_a_running_node_releases_its_directory_and_its_port() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let a = primary(da.path(), None).await;
    let b = standby(db.path(), "b", &a).await;
    until("the standby streams", || b.is_connected()).await;
    drop(b);
    until("the primary sees it go", || {
        !a.standby_states()[0].connected
    })
    .await;
    let address = a.listen_addr().unwrap();
    drop(a);
    for (dir, name) in [(da.path(), "a"), (db.path(), "b")] {
        let mut again = config(dir, name);
        if name == "b" {
            again.follow = vec![address.to_string()];
        }
        let again = WalReplicator::new(again, vec![]);
        let start = Instant::now();
        while let Err(error) = again.start().await {
            assert!(start.elapsed() < DEADLINE, "{error}");
            tokio::task::yield_now().await;
        }
        again.stop().await.unwrap();
    }
}

#[tokio::test]
async fn the_configured_node_id_is_the_one_used_and_another_one_is_refused() {
    let dir = TempDir::new().unwrap();
    let with = |id: u128| {
        let config = WalStreamingConfig {
            node_id: Some(Uuid::from_u128(id)),
            ..config(dir.path(), "a")
        };
        WalReplicator::new(config, vec![])
    };
    for _ in 0..2 {
        let node = with(7);
        node.start().await.unwrap();
        let identity = node.wal().unwrap().identity();
        assert_eq!(identity.node_id, Uuid::from_u128(7));
        node.stop().await.unwrap();
    }
    let other = with(8);
    let refused = other.start().await;
    let text = format!("{:?}", refused.as_ref().err());
    assert!(matches!(refused, Err(Error::Invalid(_))), "{text}");
    assert!(!other.is_running());
    let right = with(7);
    right.start().await.unwrap();
    right.stop().await.unwrap();
}

#[tokio::test]
async fn a_start_that_fails_leaves_nothing_behind() {
    let dir = TempDir::new().unwrap();
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let busy = WalStreamingConfig {
        listen: Some(taken.local_addr().unwrap().to_string()),
        ..config(dir.path(), "a")
    };
    let node = WalReplicator::new(busy, vec![]);
    let failed = node.start().await;
    assert!(matches!(
        failed,
        Err(Error::Connection { op: "listen", .. })
    ));
    drop(taken);
    node.start().await.unwrap();
    let second = WalReplicator::new(config(dir.path(), "a"), vec![]);
    let failed = second.start().await;
    assert!(matches!(
        failed,
        Err(Error::Storage(mainstay_storage::Error::Locked { .. }))
    ));
    node.stop().await.unwrap();
    second.start().await.unwrap();
    second.stop().await.unwrap();
}

#[tokio::test]
async fn without_credentials_only_loopback_is_listened_on() {
    let dir = TempDir::new().unwrap();
    let open = WalStreamingConfig {
        listen: Some("0.0.0.0:0".to_owned()),
        ..config(dir.path(), "a")
    };
    let refused = WalReplicator::new(open, vec![]).start().await;
    let Err(Error::Invalid(text)) = refused else {
        panic!("{refused:?}");
    };
    assert!(text.contains("credentials"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_node_that_is_started_again_is_a_primary() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let a = primary(da.path(), None).await;
    let b = standby(db.path(), "b", &a).await;
    let lsn = a.append(put("kept")).await.unwrap();
    until("the standby has it", || flushed(&b) > lsn).await;
    a.stop().await.unwrap();
    within(b.promote(true)).await.unwrap();
    b.stop().await.unwrap();
    b.start().await.unwrap();
    assert_eq!(b.role(), Role::Primary);
    assert_eq!(b.wal().unwrap().timeline().number, 2);
    b.append(put("and goes on")).await.unwrap();
    b.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_is_started_again_follows_whom_it_was_told_to() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let a = primary(da.path(), None).await;
    let b = standby(db.path(), "b", &a).await;
    let line = Proxy::to(a.listen_addr().unwrap().to_string()).await;
    b.follow(vec![line.address.clone()]).await.unwrap();
    let told = ("a".to_owned(), line.address.clone());
    for _ in 0..2 {
        until("it follows by that address", || {
            b.is_connected() && b.primary() == Some(told.clone())
        })
        .await;
        b.stop().await.unwrap();
        b.start().await.unwrap();
    }
    b.stop().await.unwrap();
    a.stop().await.unwrap();
}
