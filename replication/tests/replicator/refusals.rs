//! What a node is told that asks somebody who is no peer, or does not let it in.

use std::time::Duration;

use mainstay_replication::protocol::slot::SlotError;
use mainstay_replication::{Error, WalReplicator, WalStreamingConfig, bootstrap};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::support::{config, primary, standby, until, within};

/// Says `words` to whoever comes, and then nothing for as long as the task lives.
async fn stranger(words: &'static [u8]) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut lines = Vec::new();
        while let Ok((mut line, _)) = listener.accept().await {
            line.write_all(words).await.unwrap();
            lines.push(line);
        }
    });
    (address, task)
}

fn following(dir: &TempDir, address: &str) -> WalStreamingConfig {
    WalStreamingConfig {
        follow: vec![address.to_owned()],
        ..config(dir.path(), "b")
    }
}

#[tokio::test]
async fn a_server_of_another_protocol_is_told_apart_from_a_broken_line() {
    let dir = TempDir::new().unwrap();
    let (address, _stranger) = stranger(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let error = within(bootstrap(&following(&dir, &address)))
        .await
        .unwrap_err();
    let wire = matches!(&error, Error::Wire { peer, .. } if *peer == address);
    assert!(wire, "{error:?}");
}

/// Time passes only while everybody waits.
#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_not_waited_for_for_ever() {
    let dir = TempDir::new().unwrap();
    let (address, _stranger) = stranger(b"").await;
    let config = following(&dir, &address);
    let asked = bootstrap(&config);
    let answered = tokio::time::timeout(Duration::from_secs(600), asked).await;
    let error = answered.expect("it waits for ever").unwrap_err();
    let silent = matches!(&error, Error::Silent { peer, seconds: 1.. } if *peer == address);
    assert!(silent, "{error:?}");
}

#[tokio::test]
async fn a_slot_that_is_not_there_cannot_be_dropped() {
    let dir = TempDir::new().unwrap();
    let a = primary(dir.path(), None).await;
    let missing = a.drop_slot("nobody");
    let Err(Error::Slot(SlotError::Missing(name))) = missing else {
        panic!("{missing:?}");
    };
    assert_eq!(name, "nobody");
    a.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_whose_primary_lives_is_not_promoted_and_hears_what_that_would_cost() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let a = primary(da.path(), None).await;
    let b = standby(db.path(), "b", &a).await;
    until("b hears of a", || b.is_connected()).await;
    let refused = within(b.promote(false)).await.unwrap_err();
    let Error::NotPromoted { why, loss } = &refused else {
        panic!("{refused:?}");
    };
    assert!(why.contains("primary") && !loss.ruled_out, "{refused}");
    b.stop().await.unwrap();
    a.stop().await.unwrap();
}

#[tokio::test]
async fn a_standby_that_listens_nowhere_follows_nobody() {
    let dir = TempDir::new().unwrap();
    let config = WalStreamingConfig {
        listen: None,
        ..config(dir.path(), "b")
    };
    let primary = WalReplicator::new(config.clone(), vec![]);
    primary.start().await.unwrap();
    primary.stop().await.unwrap();
    let follow = vec!["127.0.0.1:1".to_owned()];
    let standby = WalReplicator::new(WalStreamingConfig { follow, ..config }, vec![]);
    let refused = standby.start().await.unwrap_err().to_string();
    assert!(refused.contains("must be reachable"), "{refused}");
}
