//! What an observer is told of, on either side of a stream.

use std::sync::Arc;
use std::time::Duration;

use mainstay_replication::protocol::liveness::Health;
use mainstay_replication::{
    BackupRequest, Peer, ReplicationEvent, StreamState, WalReplicator, WalStreamingConfig,
    bootstrap, take_backup,
};
use parking_lot::Mutex;
use tempfile::TempDir;

use super::proxy::Proxy;
use crate::support::{config, put, until};

/// What was told so far.
type Told = Arc<Mutex<Vec<ReplicationEvent>>>;

fn observed(config: WalStreamingConfig) -> (WalReplicator, Told) {
    let node = WalReplicator::new(config, vec![]);
    let told = Told::default();
    let tell = told.clone();
    node.on_event(move |event| tell.lock().push(event));
    (node, told)
}

fn policy_aside(told: &Told) -> Vec<ReplicationEvent> {
    let mut events = told.lock().clone();
    events.retain(|event| {
        !matches!(
            event,
            ReplicationEvent::PolicyMet | ReplicationEvent::PolicyUnmet { .. }
        )
    });
    events
}

fn is_established(event: &ReplicationEvent, peer: &Peer) -> bool {
    matches!(event, ReplicationEvent::SyncEstablished { peer: who, .. } if who == peer)
}

fn is_unhealthy(event: &ReplicationEvent, peer: &Peer) -> bool {
    matches!(event, ReplicationEvent::Unhealthy { peer: who, .. } if who == peer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_comes_goes_and_comes_back_is_told_of_in_that_order() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (a, told) = observed(WalStreamingConfig {
        sync: Some("ANY 1 (*)".parse().unwrap()),
        ..config(da.path(), "a")
    });
    a.start().await.unwrap();
    let following = WalStreamingConfig {
        follow: vec![a.listen_addr().unwrap().to_string()],
        ..config(db.path(), "b")
    };
    bootstrap(&following).await.unwrap();
    let (b, told_b) = observed(following.clone());
    b.start().await.unwrap();
    let (standby, upstream) = (
        Peer::Standby("b".to_owned()),
        Peer::Upstream("a".to_owned()),
    );
    until("both say that it has caught up", || {
        let established = |told: &Told, peer| {
            let told = told.lock();
            told.iter().any(|event| is_established(event, peer))
        };
        established(&told, &standby) && established(&told_b, &upstream)
    })
    .await;
    b.stop().await.unwrap();
    until("it is told of as gone", || {
        told.lock()
            .iter()
            .any(|event| is_unhealthy(event, &standby))
    })
    .await;
    let b = WalReplicator::new(following, vec![]);
    b.start().await.unwrap();
    until("it is back", || {
        let told = policy_aside(&told);
        told.last()
            .is_some_and(|event| is_established(event, &standby))
    })
    .await;
    let events = policy_aside(&told);
    let created = matches!(
        &events[0],
        ReplicationEvent::StandbyCreated { standby, address } if standby == "b" && !address.is_empty()
    );
    assert!(created, "{events:?}");
    assert!(is_established(&events[1], &standby), "{events:?}");
    let silence = match &events[2] {
        ReplicationEvent::Unhealthy { silence, .. } => *silence,
        other => panic!("{other:?}"),
    };
    assert!(silence >= Duration::from_secs(2), "{silence:?}");
    assert_eq!(events.len(), 4, "{events:?}");
    until("the policy is met", || {
        told.lock().contains(&ReplicationEvent::PolicyMet)
    })
    .await;
    b.stop().await.unwrap();
    a.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_knows_by_itself_that_its_upstream_is_silent() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (a, _) = observed(config(da.path(), "a"));
    a.start().await.unwrap();
    assert_eq!(a.upstream_state(), None);
    let line = Proxy::to(a.listen_addr().unwrap().to_string()).await;
    let following = WalStreamingConfig {
        follow: vec![line.address.clone()],
        ..config(db.path(), "b")
    };
    bootstrap(&following).await.unwrap();
    let (b, told) = observed(following);
    b.start().await.unwrap();
    until("it has everything", || {
        let state = b.upstream_state().unwrap();
        let all = state.lag_bytes == 0 && state.replay_lag.is_zero();
        state.state == StreamState::Streaming && all
    })
    .await;
    assert_eq!(b.health(), Health::Synchronized);
    let state = b.upstream_state().unwrap();
    assert_eq!(
        (state.name.as_str(), state.replay_lag),
        ("a", Duration::ZERO)
    );
    assert_eq!(state.address, Some(line.address.clone()));
    line.hold(true);
    a.append(put("that b does not get")).await.unwrap();
    let upstream = Peer::Upstream("a".to_owned());
    until("its upstream is told of as silent", || {
        told.lock()
            .iter()
            .any(|event| is_unhealthy(event, &upstream))
    })
    .await;
    assert_eq!(b.health(), Health::Broken);
    line.hold(false);
    until("it has everything again", || {
        b.health() == Health::Synchronized && b.current_lsn().unwrap() == a.current_lsn().unwrap()
    })
    .await;
    b.stop().await.unwrap();
    a.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lag_over_the_warning_is_told_of_once_and_its_end_too() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    // Silence is not what this is about.
    let patient = |config| WalStreamingConfig {
        heartbeat_timeout: Duration::from_secs(60),
        ..config
    };
    let (a, told) = observed(patient(config(da.path(), "a")));
    a.start().await.unwrap();
    let line = Proxy::to(a.listen_addr().unwrap().to_string()).await;
    let following = WalStreamingConfig {
        follow: vec![line.address.clone()],
        ..patient(config(db.path(), "b"))
    };
    bootstrap(&following).await.unwrap();
    let b = WalReplicator::new(following, vec![]);
    b.start().await.unwrap();
    let standby = Peer::Standby("b".to_owned());
    let count = |test: &dyn Fn(&ReplicationEvent) -> bool| {
        told.lock().iter().filter(|event| test(event)).count()
    };
    let established = |event: &ReplicationEvent| is_established(event, &standby);
    let lag = |event: &ReplicationEvent| {
        matches!(
            event,
            ReplicationEvent::LagDetected { peer, lag_bytes, critical: false, .. }
                if *peer == standby && *lag_bytes >= 10_000_000
        )
    };
    until("it has caught up", || count(&established) == 1).await;
    line.hold(true);
    let text = "x".repeat(200 << 10);
    for _ in 0..60 {
        a.append(put(&text)).await.unwrap();
    }
    until("its lag is told of", || count(&lag) == 1).await;
    assert_eq!(a.health(), Health::Lagging);
    line.hold(false);
    until("the end of it is told of", || count(&established) == 2).await;
    assert_eq!(count(&lag), 1);
    assert_eq!(a.health(), Health::Synchronized);
    b.stop().await.unwrap();
    a.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_takes_a_base_backup_is_seen_doing_so() {
    let (da, db, dc) = (
        TempDir::new().unwrap(),
        TempDir::new().unwrap(),
        TempDir::new().unwrap(),
    );
    let (a, _) = observed(config(da.path(), "a"));
    a.start().await.unwrap();
    let following = WalStreamingConfig {
        follow: vec![a.listen_addr().unwrap().to_string()],
        ..config(db.path(), "b")
    };
    bootstrap(&following).await.unwrap();
    let b = WalReplicator::new(following.clone(), vec![]);
    b.start().await.unwrap();
    let state = || a.standby_states().first().map(|standby| standby.state);
    until("it streams", || state() == Some(StreamState::Streaming)).await;
    b.stop().await.unwrap();
    until("it is gone", || state() == Some(StreamState::Disconnected)).await;
    let into = dc.path().join("copy");
    let copying = tokio::spawn(async move {
        // As slow as can be: a segment then takes half a minute.
        let slow = BackupRequest {
            max_rate_kb: Some(32),
            ..BackupRequest::default()
        };
        take_backup(&following, &into, &slow, &mut |_, _| {}).await
    });
    until("it copies", || state() == Some(StreamState::Backup)).await;
    assert_eq!(a.health(), Health::Syncing);
    copying.abort();
    until("it has left", || state() == Some(StreamState::Disconnected)).await;
    a.stop().await.unwrap();
}
