//! The standbys as their primary sees them: ids, acknowledgements, lag, silence.

use std::time::{Duration, Instant};

use mainstay_replication::protocol::level::Level;
use mainstay_replication::protocol::liveness::Health;
use mainstay_replication::{
    Error, ReplicationLag, Role, StandbyConfig, StreamState, SyncMode, WalReplicator,
    WalStreamingConfig, bootstrap,
};
use mainstay_storage::Lsn;
use tempfile::TempDir;
use uuid::Uuid;

use super::proxy::Proxy;
use crate::support::{DEADLINE, config, flushed, primary, put, standby, until, within};

const B: Uuid = Uuid::from_u128(0xB);
const C: Uuid = Uuid::from_u128(0xC);

fn listed(node_id: Uuid, sync_mode: SyncMode) -> StandbyConfig {
    StandbyConfig {
        node_id,
        host: "127.0.0.1".to_owned(),
        port: 5433,
        sync_mode,
        priority: 10,
    }
}

fn following(dir: &TempDir, name: &str, node_id: Uuid, address: &str) -> WalStreamingConfig {
    WalStreamingConfig {
        node_id: Some(node_id),
        follow: vec![address.to_owned()],
        ..config(dir.path(), name)
    }
}

fn address(node: &WalReplicator) -> String {
    node.listen_addr().unwrap().to_string()
}

async fn filled(config: WalStreamingConfig) -> WalReplicator {
    within(bootstrap(&config)).await.unwrap();
    let node = WalReplicator::new(config, vec![]);
    node.start().await.unwrap();
    node
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listed_standby_is_known_by_its_configured_id_before_and_after_it_connects() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let standbys = vec![listed(B, SyncMode::Sync)];
    let a = WalReplicator::new(config(da.path(), "a"), standbys);
    let absent = |a: &WalReplicator| {
        let states = a.standby_states();
        assert_eq!(states.len(), 1);
        assert_eq!((states[0].node_id, states[0].connected), (B, false));
        assert_eq!(states[0].state, StreamState::Disconnected);
        assert!(states[0].last_heartbeat.is_none());
    };
    absent(&a);
    a.start().await.unwrap();
    absent(&a);
    let lsn = a.append(put("for b")).await.unwrap();
    within(a.wait_for(lsn, Level::Local)).await.unwrap();
    let early = a.acknowledge(B, lsn);
    assert!(matches!(early, Err(Error::NotConnected(id)) if id == B));
    assert!(a.get_lag(B).unwrap().bytes > 0);
    let b = filled(following(&db, "b", B, &address(&a))).await;
    assert_eq!(b.wal().unwrap().identity().node_id, B);
    until("it is connected", || a.standby_states()[0].connected).await;
    let states = a.standby_states();
    assert_eq!(states.len(), 1, "one standby, one entry: {states:?}");
    assert_eq!((states[0].node_id, states[0].name.as_str()), (B, "b"));
    b.stop().await.unwrap();
    a.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledge_reaches_the_configured_id_and_refuses_any_other() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let rare = |config| WalStreamingConfig {
        heartbeat_interval: Duration::from_secs(60),
        heartbeat_timeout: Duration::from_secs(120),
        sync: Some("ANY 1 (*)".parse().unwrap()),
        ..config
    };
    let a = WalReplicator::new(
        rare(config(da.path(), "a")),
        vec![listed(B, SyncMode::Sync)],
    );
    a.start().await.unwrap();
    let line = Proxy::to(address(&a)).await;
    let b = filled(rare(following(&db, "b", B, &line.address))).await;
    until("it is counted", || {
        a.standby_states()[0].sync_state == "quorum"
    })
    .await;
    let unknown = a.acknowledge(C, Lsn::ZERO);
    assert!(matches!(unknown, Err(Error::UnknownStandby(id)) if id == C));
    assert!(matches!(a.get_lag(C), Err(Error::UnknownStandby(_))));
    // What the standby says itself does not get through, so only ours counts.
    line.hold(true);
    let lsn = a.append(put("acknowledged from outside")).await.unwrap();
    within(a.wait_for(lsn, Level::Local)).await.unwrap();
    let end = a.current_lsn().unwrap();
    assert!(a.wal().unwrap().commit().get() < end);
    let ahead = a.acknowledge(B, end + 8);
    assert!(matches!(
        ahead,
        Err(Error::Storage(mainstay_storage::Error::Ahead { .. }))
    ));
    a.acknowledge(B, end).unwrap();
    within(a.wait_for(lsn, Level::RemoteFlush)).await.unwrap();
    let ack = |a: &WalReplicator| a.standby_states()[0].ack_lsn;
    assert_eq!(ack(&a), end);
    a.acknowledge(B, lsn).unwrap();
    assert_eq!(ack(&a), end, "an older acknowledgement takes nothing back");
    line.hold(false);
    b.stop().await.unwrap();
    a.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn append_acknowledge_and_looking_never_wait_for_each_other() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let a = primary(da.path(), Some("ANY 1 (*)")).await;
    let b = standby(db.path(), "b", &a).await;
    until("it is connected", || {
        a.standby_states().iter().any(|state| state.connected)
    })
    .await;
    let id = a.standby_states()[0].node_id;
    let end = Instant::now() + Duration::from_millis(500);
    let mut hands = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (writer, runtime) = (a.clone(), tokio::runtime::Handle::current());
        hands.spawn_blocking(move || {
            let mut appended = 0;
            while Instant::now() < end {
                runtime.block_on(writer.append(put("hammered"))).unwrap();
                appended += 1;
            }
            appended
        });
        let a = a.clone();
        hands.spawn_blocking(move || {
            let mut seen = 0;
            while Instant::now() < end {
                a.acknowledge(id, a.wal().unwrap().flushed().get()).unwrap();
                seen += a.standby_states().len() + a.replication_lag().len();
            }
            seen
        });
    }
    let counts = tokio::time::timeout(DEADLINE, hands.join_all()).await;
    assert!(counts.expect("a deadlock").iter().all(|&count| count > 0));
    b.stop().await.unwrap();
    a.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lag_is_in_bytes_of_log_and_zero_when_there_is_none() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let a = primary(da.path(), None).await;
    let b = standby(db.path(), "b", &a).await;
    let none = ReplicationLag {
        bytes: 0,
        time_ms: 0,
    };
    a.append(put("something")).await.unwrap();
    until("it has everything", || a.replication_lag() == [none]).await;
    b.stop().await.unwrap();
    until("it is gone", || !a.standby_states()[0].connected).await;
    let before = flushed(&a);
    let ack = a.standby_states()[0].ack_lsn;
    let mut last = Lsn::ZERO;
    for _ in 0..10 {
        last = a.append(put(&"x".repeat(1000))).await.unwrap();
    }
    within(a.wait_for(last, Level::Local)).await.unwrap();
    let id = a.standby_states()[0].node_id;
    let lag = a.get_lag(id).unwrap();
    assert_eq!(lag.bytes, flushed(&a) - ack);
    assert_eq!(
        flushed(&a) - before,
        10 * (1000 + 32),
        "records of 1032 bytes"
    );
    until("time passes", || a.get_lag(id).unwrap().time_ms > 5).await;
    assert_eq!(a.replication_lag().len(), 1);
    b.start().await.unwrap();
    until("it has everything again", || a.replication_lag() == [none]).await;
    b.stop().await.unwrap();
    a.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_falls_silent_counts_as_gone_after_the_heartbeat_timeout() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let short = |config| WalStreamingConfig {
        heartbeat_interval: Duration::from_millis(100),
        heartbeat_timeout: Duration::from_millis(600),
        ..config
    };
    let a = WalReplicator::new(short(config(da.path(), "a")), vec![]);
    a.start().await.unwrap();
    let line = Proxy::to(address(&a)).await;
    let b = filled(short(following(&db, "b", B, &line.address))).await;
    let connected = |a: &WalReplicator| a.standby_states().iter().any(|state| state.connected);
    until("it is connected", || connected(&a) && b.is_connected()).await;
    // Idle for much longer than the timeout: heartbeats keep the connection.
    let idle = Instant::now();
    until("idle time passes", || {
        assert!(connected(&a), "silent after {:?}", idle.elapsed());
        idle.elapsed() > Duration::from_millis(1500)
    })
    .await;
    line.hold(true);
    let held = Instant::now();
    until("the primary takes it for gone", || !connected(&a)).await;
    until("the standby takes the primary for gone", || {
        !b.is_connected()
    })
    .await;
    assert!(held.elapsed() > Duration::from_millis(300));
    let state = &a.standby_states()[0];
    assert_eq!(state.state, StreamState::Disconnected);
    assert!(state.last_heartbeat.unwrap() >= Duration::from_millis(300));
    line.hold(false);
    until("it comes back by itself", || {
        connected(&a) && b.is_connected()
    })
    .await;
    a.stop().await.unwrap();
    assert!(!connected(&a), "nobody is connected to a node that stopped");
    until("the standby sees it stop", || !b.is_connected()).await;
    b.stop().await.unwrap();
    assert!(!b.is_connected());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_listed_standbys_are_admitted_and_count_as_listed() {
    let (da, db, dc) = (
        TempDir::new().unwrap(),
        TempDir::new().unwrap(),
        TempDir::new().unwrap(),
    );
    let open = WalStreamingConfig {
        sync: Some("ANY 1 (*)".parse().unwrap()),
        ..config(da.path(), "a")
    };
    let a = WalReplicator::new(open, vec![listed(B, SyncMode::Sync)]);
    a.start().await.unwrap();
    let b = filled(following(&db, "b", B, &address(&a))).await;
    let c = filled(following(&dc, "c", C, &address(&a))).await;
    until("b is counted", || {
        a.standby_states()[0].sync_state == "quorum"
    })
    .await;
    let lsn = a.append(put("not for c")).await.unwrap();
    within(a.wait_for(lsn, Level::RemoteFlush)).await.unwrap();
    assert!(!c.is_connected());
    assert!(flushed(&c) <= lsn, "a stranger gets no log");
    let names = a.standby_states();
    assert!(names.iter().all(|state| state.node_id == B), "{names:?}");
    for node in [c, b, a] {
        node.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_async_standby_follows_and_is_not_waited_for() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let open = WalStreamingConfig {
        sync: Some("ANY 1 (*)".parse().unwrap()),
        ..config(da.path(), "a")
    };
    let a = WalReplicator::new(open, vec![listed(B, SyncMode::Async)]);
    a.start().await.unwrap();
    let b = filled(following(&db, "b", B, &address(&a))).await;
    let lsn = a.append(put("nobody counts")).await.unwrap();
    until("it has the log", || flushed(&b) > lsn).await;
    until("the primary knows", || a.standby_states()[0].ack_lsn > lsn).await;
    assert_eq!(a.standby_states()[0].sync_state, "async");
    assert!(a.wal().unwrap().commit().get() <= lsn);
    b.stop().await.unwrap();
    a.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_refuses_to_append_and_knows_its_primary() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let a = primary(da.path(), None).await;
    let b = standby(db.path(), "b", &a).await;
    assert_eq!((a.role(), b.role()), (Role::Primary, Role::Standby));
    let end = b.current_lsn().unwrap();
    assert!(matches!(b.append(put("x")).await, Err(Error::NotPrimary)));
    let segment = mainstay_storage::WalSegment {
        segment_id: 1,
        start_lsn: Lsn::ZERO,
        end_lsn: Lsn::ZERO,
        size: 0,
        checksum: mainstay_storage::checksum(b""),
        created_at: 0,
    };
    let refused = b.append_segment(&segment, bytes::Bytes::new()).await;
    assert!(matches!(refused, Err(Error::NotPrimary)));
    assert!(b.current_lsn().unwrap() >= end);
    until("it is connected", || b.is_connected()).await;
    assert_eq!(b.primary(), Some(("a".to_owned(), address(&a))));
    b.stop().await.unwrap();
    a.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_is_not_synchronized_before_its_policy_is_met() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let a = primary(da.path(), Some("ANY 1 (*)")).await;
    assert_eq!(a.health(), Health::Syncing);
    let b = standby(db.path(), "b", &a).await;
    until("its standby has caught up", || {
        a.health() == Health::Synchronized && b.health() == Health::Synchronized
    })
    .await;
    b.stop().await.unwrap();
    until("its standby is gone", || a.health() == Health::Broken).await;
    a.stop().await.unwrap();
}

/// The primary's log tells its slots to all, because any of them may have to keep log for the
/// others one day. For its own slot a standby would keep all that it was sent while it caught up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_keeps_log_for_the_slots_of_others_and_not_for_its_own() {
    let dirs = [(); 3].map(|()| TempDir::new().unwrap());
    let a = primary(dirs[0].path(), None).await;
    let mut standbys = Vec::new();
    for (name, dir) in ["b", "c"].into_iter().zip(&dirs[1..]) {
        let config = WalStreamingConfig {
            follow: vec![a.listen_addr().unwrap().to_string()],
            follow_slot: Some(name.to_owned()),
            ..config(dir.path(), name)
        };
        within(bootstrap(&config)).await.unwrap();
        let standby = WalReplicator::new(config, vec![]);
        standby.start().await.unwrap();
        until("it streams", || standby.is_connected()).await;
        standbys.push(standby);
    }
    let kept = |node: &WalReplicator| {
        node.retain_from();
        let slots = node.slots().unwrap().into_iter();
        slots.map(|slot| slot.name).collect::<Vec<_>>()
    };
    for (standby, others) in standbys.iter().zip(["c", "b"]) {
        until("it is told of the slots", || kept(standby) == [others]).await;
    }
    for node in standbys.iter().chain([&a]) {
        node.stop().await.unwrap();
    }
}
