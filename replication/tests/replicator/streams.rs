//! Streams between a primary and its standbys: who gets in, and what happens when they break.

use std::time::Duration;

use mainstay_replication::protocol::level::Level;
use mainstay_replication::wire::scram::Verifier;
use mainstay_replication::wire::{Authentication, BackendMessage, TransactionStatus};
use mainstay_replication::{Error, Password, WalReplicator, WalStreamingConfig, bootstrap};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::proxy::Proxy;
use crate::support::{assert_same_log, config, flushed, primary, put, standby, until, within};

fn address(node: &WalReplicator) -> String {
    node.listen_addr().unwrap().to_string()
}

fn with_password(dir: &TempDir, to: &WalReplicator, password: Option<&str>) -> WalStreamingConfig {
    WalStreamingConfig {
        follow: vec![address(to)],
        follow_user: "replica".to_owned(),
        follow_password: password.map(Password::new),
        ..config(dir.path(), "b")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_must_prove_its_password() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let verifier = Verifier::from_password("open sesame", b"0123456789abcdef", 4096);
    let guarded = WalStreamingConfig {
        users: vec![("replica".to_owned(), verifier)],
        ..config(da.path(), "a")
    };
    let a = WalReplicator::new(guarded, vec![]);
    a.start().await.unwrap();
    let stranger = WalStreamingConfig {
        follow_user: "somebody".to_owned(),
        ..with_password(&db, &a, Some("open sesame"))
    };
    let wrong = with_password(&db, &a, Some("open says me"));
    let none = with_password(&db, &a, None);
    let turned_away = within(bootstrap(&wrong)).await.unwrap_err();
    let answered = matches!(&turned_away, Error::Answer { sqlstate, .. } if sqlstate == "28P01");
    assert!(answered, "{turned_away:?}");
    for refused in [stranger, wrong, none] {
        let error = within(bootstrap(&refused)).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("password"), "{text}");
        assert!(
            !text.contains("open s"),
            "a password is never shown: {text}"
        );
        assert!(!format!("{refused:?}").contains("open s"));
    }
    let right = with_password(&db, &a, Some("open sesame"));
    within(bootstrap(&right)).await.unwrap();
    let late = with_password(&db, &a, Some("changed meanwhile"));
    let b = WalReplicator::new(late, vec![]);
    b.start().await.unwrap();
    let lsn = a.append(put("secret")).await.unwrap();
    within(a.wait_for(lsn, Level::Local)).await.unwrap();
    assert!(!b.is_connected() && a.standby_states().is_empty());
    assert!(flushed(&b) <= lsn);
    b.stop().await.unwrap();
    let b = WalReplicator::new(right, vec![]);
    b.start().await.unwrap();
    until("it has the log", || flushed(&b) > lsn).await;
    b.stop().await.unwrap();
    a.stop().await.unwrap();
}

/// Whoever answers at the address of the primary could otherwise feed a standby any log, without
/// knowing the password.
#[tokio::test]
async fn a_server_that_does_not_ask_for_the_password_is_asked_for_nothing() {
    let native =
        "1;node=n;name=a;timeline=1;id=00000000-0000-0000-0000-000000000001;begin=0/100000";
    let (name, value) = ("mainstay.repl".to_owned(), native.to_owned());
    let described = BackendMessage::ParameterStatus { name, value };
    let ready = BackendMessage::ReadyForQuery(TransactionStatus::Idle);
    let accepted = BackendMessage::Authentication(Authentication::Ok);
    for said in [
        vec![&described, &ready],
        vec![&accepted, &described, &ready],
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dir = TempDir::new().unwrap();
        let config = WalStreamingConfig {
            follow: vec![listener.local_addr().unwrap().to_string()],
            follow_password: Some(Password::new("open sesame")),
            ..config(dir.path(), "b")
        };
        let mut bytes = bytes::BytesMut::new();
        said.iter().for_each(|message| message.encode(&mut bytes));
        let impostor = tokio::spawn(async move {
            let (mut line, _) = listener.accept().await.unwrap();
            let startup = line.read_u32().await.unwrap();
            let mut rest = vec![0; startup as usize - 4];
            line.read_exact(&mut rest).await.unwrap();
            line.write_all(&bytes).await.unwrap();
            let mut asked = Vec::new();
            line.read_to_end(&mut asked).await.unwrap();
            asked
        });
        let error = within(bootstrap(&config)).await.unwrap_err();
        assert!(error.to_string().contains("password"), "{error}");
        assert_eq!(within(impostor).await.unwrap(), b"");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_comes_back_by_itself_when_its_primary_does() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let first = primary(da.path(), None).await;
    let listen = address(&first);
    let b = standby(db.path(), "b", &first).await;
    let lsn = first.append(put("before")).await.unwrap();
    until("it has the log", || flushed(&b) > lsn).await;
    first.stop().await.unwrap();
    let again = WalStreamingConfig {
        listen: Some(listen),
        ..config(da.path(), "a")
    };
    for round in 0..3 {
        let a = WalReplicator::new(again.clone(), vec![]);
        a.start().await.unwrap();
        let lsn = a.append(put(&format!("round {round}"))).await.unwrap();
        until("it has the new log", || flushed(&b) > lsn).await;
        assert_same_log(&a.wal().unwrap(), &b.wal().unwrap());
        until("it is shown once", || {
            let states = a.standby_states();
            states.len() == 1 && states[0].connected
        })
        .await;
        a.stop().await.unwrap();
    }
    b.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_goes_on_where_it_was_after_a_stop_under_load() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let a = primary(da.path(), None).await;
    let b = standby(db.path(), "b", &a).await;
    let writer = a.clone();
    let writing = tokio::spawn(async move {
        for n in 0..4000 {
            let text = format!("{n} {}", "y".repeat(n % 700));
            writer.append(put(&text)).await.unwrap();
            if n % 100 == 0 {
                tokio::task::yield_now().await;
            }
        }
    });
    for _ in 0..4 {
        b.stop().await.unwrap();
        b.start().await.unwrap();
        until("it moves", || b.is_connected()).await;
    }
    within(writing).await.unwrap();
    let end = a.current_lsn().unwrap();
    until("it has everything", || flushed(&b) == end).await;
    assert_same_log(&a.wal().unwrap(), &b.wal().unwrap());
    b.stop().await.unwrap();
    a.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_of_another_cluster_gets_nothing() {
    let (da, db, dc) = (
        TempDir::new().unwrap(),
        TempDir::new().unwrap(),
        TempDir::new().unwrap(),
    );
    let a = primary(da.path(), None).await;
    let other = primary(dc.path(), None).await;
    let b = standby(db.path(), "b", &a).await;
    let end = flushed(&b);
    b.follow(vec![address(&other)]).await.unwrap();
    let lsn = other.append(put("foreign")).await.unwrap();
    within(other.wait_for(lsn, Level::Local)).await.unwrap();
    until("it left", || !b.is_connected()).await;
    assert!(flushed(&b) >= end);
    assert!(
        other
            .standby_states()
            .iter()
            .all(|state| state.flush_lsn.is_zero()),
        "nothing was streamed"
    );
    b.stop().await.unwrap();
    other.stop().await.unwrap();
    a.stop().await.unwrap();
}

#[tokio::test]
async fn an_empty_directory_is_not_opened_as_a_standby() {
    let dir = TempDir::new().unwrap();
    let lost = WalStreamingConfig {
        follow: vec!["127.0.0.1:1".to_owned()],
        heartbeat_timeout: Duration::from_millis(200),
        ..config(dir.path(), "b")
    };
    let refused = WalReplicator::new(lost.clone(), vec![]).start().await;
    let Err(Error::Invalid(text)) = refused else {
        panic!("{refused:?}");
    };
    assert!(text.contains("base backup"), "{text}");
    let failed = within(bootstrap(&lost)).await;
    assert!(matches!(
        failed,
        Err(Error::Connection { op: "connect", .. })
    ));
}

#[tokio::test]
async fn a_standbys_directory_is_not_opened_as_a_primary() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let a = primary(da.path(), None).await;
    let b = standby(db.path(), "b", &a).await;
    b.stop().await.unwrap();
    let alone = WalReplicator::new(config(db.path(), "b"), vec![]);
    let refused = alone.start().await;
    let Err(Error::Refused(text)) = refused else {
        panic!("{refused:?}");
    };
    assert!(text.contains("promote"), "{text}");
    b.start().await.unwrap();
    b.stop().await.unwrap();
    a.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_breaks_within_a_record_costs_nothing_but_the_bytes_of_that_record() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let small = WalStreamingConfig {
        batch_size: 4 << 10,
        ..config(da.path(), "a")
    };
    let a = WalReplicator::new(small, vec![]);
    a.start().await.unwrap();
    let line = Proxy::to(a.listen_addr().unwrap().to_string()).await;
    let follow = WalStreamingConfig {
        follow: vec![line.address.clone()],
        ..config(db.path(), "b")
    };
    within(bootstrap(&follow)).await.unwrap();
    let b = WalReplicator::new(follow, vec![]);
    b.start().await.unwrap();
    until("it follows", || flushed(&b) == flushed(&a)).await;
    for bytes in [5_000, 50_000, 123_456] {
        line.cut_after(bytes);
        a.append(put(&"x".repeat(200_000))).await.unwrap();
        until("it has the record", || {
            flushed(&b) == a.wal().unwrap().appended()
        })
        .await;
    }
    assert_same_log(&a.wal().unwrap(), &b.wal().unwrap());
    b.stop().await.unwrap();
    a.stop().await.unwrap();
}
