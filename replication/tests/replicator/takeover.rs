//! A primary that is overtaken, or restarts: what it goes on promising, and by whose leave.

use std::sync::atomic::Ordering;

use bytes::BytesMut;
use mainstay_replication::protocol::level::Level;
use mainstay_replication::wire::{BackendDecoder, BackendMessage, FrontendMessage};
use mainstay_replication::wire::{ReplicationMode, StartupMessage};
use mainstay_replication::{
    Error, PromoteOptions, Role, WalReplicator, WalStreamingConfig, bootstrap,
};
use mainstay_storage::{BrokenMark, Lsn, WaitError, WalEntry, WalEntryType};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_stream::StreamExt;
use uuid::Uuid;

use super::stores::Journal;
use crate::support::{assert_same_log, config, flushed, primary, put, standby, until, within};

/// Asks `node` for a promise of timeline `number`, for a candidate that never opens it.
async fn promise_to_nobody(node: &WalReplicator, number: u32) {
    let mut out = BytesMut::new();
    StartupMessage::new("mainstay", ReplicationMode::Physical)
        .with_database("replication")
        .with_native()
        .encode(&mut out);
    let id = Uuid::new_v4();
    let text = format!("PROMISE_TIMELINE {number} '{id}' 'nobody' '127.0.0.1:1'");
    FrontendMessage::Query(text).encode(&mut out);
    let mut stream = TcpStream::connect(node.listen_addr().unwrap())
        .await
        .unwrap();
    stream.write_all(&out).await.unwrap();
    let (decoder, mut input) = (BackendDecoder::new(), BytesMut::new());
    loop {
        while let Some(frame) = decoder.next(&mut input).unwrap() {
            if let BackendMessage::DataRow(row) = BackendMessage::decode(frame).unwrap() {
                assert_eq!(row.text(0), Some("t"), "it refused");
                return;
            }
        }
        assert!(stream.read_buf(&mut input).await.unwrap() > 0, "no answer");
    }
}

/// A primary on a port that it keeps over restarts.
fn lasting(dir: &TempDir, listen: &str) -> WalReplicator {
    let config = WalStreamingConfig {
        listen: Some(listen.to_owned()),
        sync: Some("ANY 1 (*)".parse().unwrap()),
        ..config(dir.path(), "a")
    };
    WalReplicator::new(config, vec![])
}

/// Starts a node again whose directory and port may still be held by its former self.
async fn again(dir: &TempDir, listen: &str) -> WalReplicator {
    let node = lasting(dir, listen);
    let starting = async {
        while let Err(error) = node.start().await {
            assert!(error.to_string().contains("in use"), "{error}");
            tokio::task::yield_now().await;
        }
    };
    within(starting).await;
    node
}

/// A primary and its only standby, which counts and has everything.
async fn pair(da: &TempDir, db: &TempDir) -> (WalReplicator, String, WalReplicator) {
    let a = lasting(da, "127.0.0.1:0");
    a.start().await.unwrap();
    let b = standby(db.path(), "b", &a).await;
    let lsn = a.append(put("kept")).await.unwrap();
    within(a.wait_for(lsn, Level::RemoteFlush)).await.unwrap();
    let listen = address(&a);
    (a, listen, b)
}

async fn confirms(a: &WalReplicator, text: &str) -> Lsn {
    let lsn = a.append(put(text)).await.unwrap();
    within(a.wait_for(lsn, Level::RemoteFlush)).await.unwrap();
    lsn
}

fn number(node: &WalReplicator) -> u32 {
    node.wal().unwrap().timeline().number
}

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
    let own = a.append(put("everybody has this")).await.unwrap();
    // Nothing is there yet, so nobody can confirm it.
    let lsn = a.current_lsn().unwrap();
    let remote = [Level::RemoteWrite, Level::RemoteFlush, Level::RemoteApply];
    let waiting = remote.map(|level| {
        let a = a.clone();
        tokio::spawn(async move { a.wait_for(lsn, level).await })
    });
    within(b.promote(true)).await.unwrap();
    until("the old primary hears of it", || a.role() == Role::Fenced).await;
    for waiter in waiting {
        let ended = within(waiter).await.unwrap();
        assert!(
            matches!(ended, Err(Error::Unknown(at)) if at == lsn),
            "{ended:?}"
        );
    }
    let late = within(a.wait_for(lsn, Level::RemoteFlush)).await;
    assert!(matches!(late, Err(Error::Unknown(_))), "{late:?}");
    within(a.wait_for(own, Level::Local)).await.unwrap();
    for node in [a, b, c] {
        node.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_meets_a_promise_asks_for_a_higher_number_and_goes_on() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (a, _, b) = pair(&da, &db).await;
    promise_to_nobody(&b, 7).await;
    confirms(&a, "after the promise").await;
    assert_eq!((number(&a), a.role()), (8, Role::Primary));
    assert_same_log(&a.wal().unwrap(), &b.wal().unwrap());
    assert_eq!(number(&b), 8);
    promise_to_nobody(&b, 20).await;
    confirms(&a, "and again").await;
    assert_eq!(number(&a), 21);
    b.stop().await.unwrap();
    a.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_without_a_policy_goes_on_by_its_own_leave_and_ends_open_transactions() {
    use WalEntryType::{Insert, TxBegin, TxCommit};
    let in_tx = |id, entry_type| WalEntry::new(entry_type, Some(id), "");
    let dir = TempDir::new().unwrap();
    let a = primary(dir.path(), None).await;
    a.append(in_tx(1, TxBegin)).await.unwrap();
    a.append(in_tx(1, Insert)).await.unwrap();
    promise_to_nobody(&a, 7).await;
    until("it goes on", || number(&a) == 8).await;
    confirms(&a, "after the promise").await;
    for entry_type in [Insert, TxCommit] {
        let refused = a.append(in_tx(1, entry_type)).await;
        let Err(Error::Refused(text)) = refused else {
            panic!("{refused:?}");
        };
        assert!(text.contains("rolled back"), "{text}");
    }
    let whole = [TxBegin, Insert, TxCommit].map(|entry_type| in_tx(1, entry_type));
    a.append_all(whole.into()).await.unwrap();
    a.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_whose_store_takes_no_more_still_goes_on() {
    let dir = TempDir::new().unwrap();
    let journal = Journal::open(&dir.path().join("store"));
    let fails = journal.fails.clone();
    fails.store(true, Ordering::Release);
    let a = WalReplicator::with_store(config(dir.path(), "a"), vec![], Box::new(journal));
    a.start().await.unwrap();
    a.append(put("one")).await.unwrap();
    let applied = a.applied().unwrap();
    let ended = within(applied.wait(Lsn::MAX)).await;
    assert_eq!(ended, Err(WaitError::Closed));
    promise_to_nobody(&a, 7).await;
    until("it goes on", || number(&a) == 8).await;
    confirms(&a, "after the promise").await;
    a.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_crashed_writes_and_streams_nothing_before_a_member_lets_it_go_on() {
    let (da, db, dc) = (
        TempDir::new().unwrap(),
        TempDir::new().unwrap(),
        TempDir::new().unwrap(),
    );
    let (a, listen, b) = pair(&da, &db).await;
    b.stop().await.unwrap();
    drop(a);
    let a = again(&da, &listen).await;
    assert_behind(&a).await;
    let follow = WalStreamingConfig {
        follow: vec![listen.clone()],
        ..config(dc.path(), "c")
    };
    let refused = within(bootstrap(&follow)).await.unwrap_err();
    assert!(
        refused.to_string().contains("asks the members"),
        "{refused}"
    );
    assert_eq!((number(&a), a.role()), (1, Role::Primary));
    // Stopping properly makes nothing undone.
    a.stop().await.unwrap();
    a.start().await.unwrap();
    assert_behind(&a).await;
    b.start().await.unwrap();
    until("it opened a timeline", || number(&a) > 1).await;
    confirms(&a, "together").await;
    assert_same_log(&a.wal().unwrap(), &b.wal().unwrap());
    within(bootstrap(&follow)).await.unwrap();
    b.stop().await.unwrap();
    a.stop().await.unwrap();
}

/// Appending is refused, since others may hold log that `a` lost.
async fn assert_behind(a: &WalReplicator) {
    let refused = a.append(put("on its own")).await;
    let Err(Error::Storage(mainstay_storage::Error::Behind { .. })) = refused else {
        panic!("{refused:?}");
    };
    let problem = a.problem().unwrap();
    assert!(problem.contains("nothing can be written"), "{problem}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_who_gives_up_the_standbys_lets_a_primary_that_crashed_go_on_alone() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (a, listen, b) = pair(&da, &db).await;
    b.stop().await.unwrap();
    drop(a);
    let a = again(&da, &listen).await;
    let off = || "off".parse().unwrap();
    assert!(a.set_policy(off(), false).await.is_err());
    assert_behind(&a).await;
    let change = within(a.set_policy(off(), true)).await.unwrap();
    assert!(change.in_force);
    assert_eq!(number(&a), 2);
    confirms(&a, "alone").await;
    assert_eq!(a.problem(), None);
    // Whoever comes back cuts what nobody confirmed.
    b.start().await.unwrap();
    until("it follows", || flushed(&b) == flushed(&a)).await;
    assert_same_log(&a.wal().unwrap(), &b.wal().unwrap());
    a.stop().await.unwrap();
    b.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_was_stopped_properly_goes_on_at_once() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (a, _, b) = pair(&da, &db).await;
    a.stop().await.unwrap();
    a.start().await.unwrap();
    assert_eq!(number(&a), 1);
    a.stop().await.unwrap();
    b.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_crashed_goes_on_past_a_promise_that_nobody_used() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (a, listen, b) = pair(&da, &db).await;
    drop(a);
    promise_to_nobody(&b, 7).await;
    let a = again(&da, &listen).await;
    confirms(&a, "after the crash").await;
    assert!(number(&a) > 7);
    assert_same_log(&a.wal().unwrap(), &b.wal().unwrap());
    a.stop().await.unwrap();
    b.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_crashed_and_was_replaced_fences_itself() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (a, listen, b) = pair(&da, &db).await;
    drop(a);
    within(b.promote(true)).await.unwrap();
    let a = again(&da, &listen).await;
    until("it is fenced", || a.role() == Role::Fenced).await;
    assert!(matches!(
        a.append(put("late")).await,
        Err(Error::NotPrimary)
    ));
    assert_eq!((number(&b), b.role()), (2, Role::Primary));
    a.stop().await.unwrap();
    b.stop().await.unwrap();
}

/// Stopping properly does not make it a primary again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_was_replaced_still_knows_it_when_it_starts_again() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (a, _, b) = pair(&da, &db).await;
    within(b.promote(true)).await.unwrap();
    until("it is fenced", || a.role() == Role::Fenced).await;
    a.stop().await.unwrap();
    b.stop().await.unwrap();
    // Nobody is there to tell it.
    a.start().await.unwrap();
    let problem = a.problem().unwrap();
    for words in ["another node was promised", "no commit is confirmed"] {
        assert!(problem.contains(words), "{problem}");
    }
    assert_eq!(number(&a), 1);
    a.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_policy_a_primary_that_was_replaced_does_not_start_as_one() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let a = primary(da.path(), None).await;
    let b = standby(db.path(), "b", &a).await;
    until("everybody knows of everybody", || {
        flushed(&b) == flushed(&a)
    })
    .await;
    within(b.promote(true)).await.unwrap();
    until("it is fenced", || a.role() == Role::Fenced).await;
    a.stop().await.unwrap();
    let refused = a.start().await.unwrap_err().to_string();
    for words in ["timeline 2 was opened elsewhere", "--follow"] {
        assert!(refused.contains(words), "{refused}");
    }
    let follow = vec![address(&b)];
    let config = WalStreamingConfig {
        follow,
        ..config(da.path(), "a")
    };
    let again = WalReplicator::new(config, vec![]);
    again.start().await.unwrap();
    assert_eq!(again.role(), Role::Standby);
    again.stop().await.unwrap();
    b.stop().await.unwrap();
}

/// What replaced it may be gone for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_whose_successor_is_gone_is_promoted_from_a_standby() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let a = primary(da.path(), None).await;
    let b = standby(db.path(), "b", &a).await;
    until("everybody knows of everybody", || {
        flushed(&b) == flushed(&a)
    })
    .await;
    within(b.promote(true)).await.unwrap();
    until("it is fenced", || a.role() == Role::Fenced).await;
    let gone = address(&b);
    a.stop().await.unwrap();
    b.stop().await.unwrap();
    let config = WalStreamingConfig {
        follow: vec![gone],
        ..config(da.path(), "a")
    };
    let again = WalReplicator::new(config, vec![]);
    again.start().await.unwrap();
    within(again.promote(true)).await.unwrap();
    assert!(number(&again) > 2, "{}", number(&again));
    again.append(put("on its own")).await.unwrap();
    again.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_for_the_end_of_a_promotion_shows_every_acknowledged_entry() {
    let dirs = [0; 3].map(|_| TempDir::new().unwrap());
    let a = lasting(&dirs[0], "127.0.0.1:0");
    a.start().await.unwrap();
    let b = standby(dirs[1].path(), "b", &a).await;
    let c = standby(dirs[2].path(), "c", &a).await;
    until("everybody knows of everybody", || {
        let counted = a.standby_states().into_iter();
        let counted = counted.filter(|state| state.sync_state == "quorum").count();
        counted == 2 && [&b, &c].iter().all(|node| flushed(node) == flushed(&a))
    })
    .await;
    let from = a.current_lsn().unwrap();
    for n in 0..50 {
        confirms(&a, &format!("{n}")).await;
    }
    a.stop().await.unwrap();
    let promotion = within(b.promote(true)).await.unwrap();
    let committed = || b.wal().unwrap().commit().get();
    assert!(committed() <= promotion.end);
    let opened = Lsn::new(promotion.end.get() - 1);
    within(b.wait_for(opened, Level::RemoteFlush))
        .await
        .unwrap();
    assert!(committed() >= promotion.end);
    let mut entries = b.subscribe(from).unwrap();
    for n in 0..50 {
        let entry = within(entries.next()).await.unwrap().unwrap();
        assert_eq!(&entry.data[..], n.to_string().as_bytes());
    }
    for node in [b, c] {
        node.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_node_whose_rows_are_marked_is_not_chosen_and_only_promoted_by_force() {
    let (da, db) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (a, _, b) = pair(&da, &db).await;
    let mark = BrokenMark {
        at: Lsn::ZERO,
        why: "its data differ".to_owned(),
    };
    b.wal().unwrap().mark_broken(&mark).unwrap();
    b.stop().await.unwrap();
    b.start().await.unwrap();
    a.stop().await.unwrap();
    let forced = PromoteOptions {
        force: true,
        ..PromoteOptions::default()
    };
    let refused = b.promote(false).await.unwrap_err().to_string();
    assert!(
        refused.contains("marked as wrong: its data differ"),
        "{refused}"
    );
    let nobody = b.successor(None, &forced).await.unwrap_err().to_string();
    assert!(nobody.contains("its data differ"), "{nobody}");
    let named = b.successor(Some("b"), &forced).await.unwrap_err();
    assert!(named.to_string().contains("its data differ"), "{named}");
    let promoted = within(b.promote_with(&forced)).await.unwrap();
    let notices = promoted.notices.join("; ");
    assert!(notices.contains("marked as wrong"), "{notices}");
    let loss = promoted.possible_loss;
    assert_eq!((loss.bytes, loss.transactions), (Some(0), Some(0)));
    b.stop().await.unwrap();
}
