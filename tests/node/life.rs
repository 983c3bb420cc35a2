//! Starting and stopping: what survives, what is released, and what a stopped node says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mainstay::{Database, Error, Lsn, Node};
use tempfile::TempDir;
use tokio::net::TcpSocket;
use tokio::sync::Barrier;

use super::{everything, node, on_one_worker, reach, small, url};
use crate::support::in_time;

/// Checks that every call says that the node was stopped.
async fn assert_stopped(node: &Node, reached: Lsn) {
    let stopped = |what: &str, error: Option<Error>| {
        let name = node.status().name;
        assert!(
            matches!(error, Some(Error::Stopped)),
            "{what} on {name}: {error:?}"
        );
    };
    stopped("put", node.put("t", b"k", b"v").await.err());
    stopped("delete", node.delete("t", b"k").await.err());
    stopped("begin", node.begin().err());
    stopped("get", node.get("t", b"k").err());
    stopped("snapshot", node.snapshot().err());
    let soon = Duration::from_secs(5);
    stopped("wait_for", node.wait_for(reached, soon).await.err());
    stopped("wait_for", node.wait_for(reached + 8, soon).await.err());
    stopped("promote", node.promote(true).await.err());
    let follow = node.follow("postgres://127.0.0.1:1").await;
    stopped("follow", follow.err());
}

#[test]
fn a_stopped_node_says_so_and_can_be_stopped_again() {
    on_one_worker(async || {
        let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let a = node(&dirs[0], "a").start().await.unwrap();
        let b = node(&dirs[1], "b").follow(url(&a)).start().await.unwrap();
        let receipt = a.put("t", b"k", b"v").await.unwrap();
        reach(&b, receipt.lsn).await;
        for node in [&b, &a] {
            let open = node.snapshot().unwrap();
            let tx = node.begin().ok();
            let waiting = node.clone();
            let never = receipt.lsn + (1 << 30);
            let waiting = tokio::spawn(async move { waiting.wait_for(never, Duration::MAX).await });
            // Twice at once, and once more.
            let (one, other) = tokio::join!(node.stop(), node.stop());
            one.unwrap();
            other.unwrap();
            node.stop().await.unwrap();
            assert_stopped(node, receipt.lsn).await;
            assert!(matches!(open.get("t", b"k"), Err(Error::Stopped)));
            if let Some(mut tx) = tx {
                assert!(matches!(tx.put("t", b"k", b"w"), Err(Error::Stopped)));
                assert!(matches!(tx.commit().await, Err(Error::Stopped)));
            }
            let waited = waiting.await.unwrap();
            assert!(matches!(waited, Err(Error::Stopped)), "{waited:?}");
        }
        assert!(a.status().role == "primary" || a.status().role == "standby");
    });
}

#[test]
fn both_nodes_restart_with_everything_intact() {
    on_one_worker(async || {
        let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let mut expected = std::collections::BTreeMap::new();
        for life in 0..4_u32 {
            let a = node(&dirs[0], "a").store(small()).start().await.unwrap();
            assert_eq!(everything(&a), expected, "in life {life}");
            let b = node(&dirs[1], "b").store(small()).follow(url(&a));
            let b = b.start().await.unwrap();
            for row in 0..30_u32 {
                let key = (life * 20 + row).to_be_bytes();
                a.put("t", &key, &[life as u8; 4 << 10]).await.unwrap();
            }
            let receipt = a.delete("t", &(life * 20).to_be_bytes()).await.unwrap();
            reach(&b, receipt.lsn).await;
            assert_eq!(everything(&b), everything(&a));
            expected = everything(&a);
            assert_eq!(
                expected["t"].len(),
                20 * (life as usize + 1) + 9 - life as usize
            );
            // Either first: the other one is there to see it or not.
            match life % 2 {
                0 => (b.stop().await.unwrap(), a.stop().await.unwrap()),
                _ => (a.stop().await.unwrap(), b.stop().await.unwrap()),
            };
        }
        // The standby alone still has it all.
        let b = node(&dirs[1], "b").follow("postgres://127.0.0.1:1");
        let b = b.start().await.unwrap();
        assert_eq!(everything(&b), expected);
        assert_eq!(b.status().status, "broken");
        b.stop().await.unwrap();
    });
}

#[test]
fn whoever_gives_up_waiting_for_a_stop_leaves_nothing_half_done() {
    on_one_worker(async || {
        let dir = TempDir::new().unwrap();
        let a = node(&dir, "a").start().await.unwrap();
        let receipt = a.put("t", b"k", b"v").await.unwrap();
        let given_up = tokio::time::timeout(Duration::ZERO, a.stop()).await;
        assert!(given_up.is_err(), "it stopped before it could be given up");
        a.stop().await.unwrap();
        assert_stopped(&a, receipt.lsn).await;
        let a = node(&dir, "a").start().await.unwrap();
        assert_eq!(a.get("t", b"k").unwrap().as_deref(), Some(&b"v"[..]));
        a.stop().await.unwrap();
    });
}

fn is_locked(error: &Error) -> bool {
    matches!(
        error,
        Error::Storage(mainstay_storage::Error::Locked { .. })
    )
}

#[test]
fn a_directory_has_one_node_at_a_time() {
    on_one_worker(async || {
        let dir = TempDir::new().unwrap();
        let a = node(&dir, "a").start().await.unwrap();
        a.put("t", b"k", b"v").await.unwrap();
        let refused = node(&dir, "a").start().await.unwrap_err();
        assert!(is_locked(&refused), "{refused:?}");
        a.put("t", b"l", b"v").await.unwrap();
        a.stop().await.unwrap();
        let a = node(&dir, "a").start().await.unwrap();
        assert_eq!(everything(&a)["t"].len(), 2);
        a.stop().await.unwrap();
    });
}

async fn start_when_free(dir: &TempDir) -> Node {
    let mut started = None;
    let begun = std::time::Instant::now();
    while started.is_none() {
        assert!(begun.elapsed() < crate::support::DEADLINE, "never released");
        match node(dir, "a").start().await {
            Ok(node) => started = Some(node),
            Err(error) => assert!(is_locked(&error), "{error:?}"),
        }
        tokio::task::yield_now().await;
    }
    started.unwrap()
}

#[test]
fn a_node_that_is_dropped_lets_go_of_its_directory_and_keeps_what_it_acknowledged() {
    on_one_worker(async || {
        let dir = TempDir::new().unwrap();
        for life in 0..3_u8 {
            let a = start_when_free(&dir).await;
            assert_eq!(
                a.snapshot().unwrap().scan("t", ..).unwrap().count(),
                usize::from(life)
            );
            a.put("t", &[life], b"v").await.unwrap();
        }
    });
}

#[test]
fn first_writes_to_a_table_at_the_same_time_all_succeed() {
    const TABLES: u32 = 40;
    const WRITERS: u8 = 4;
    in_time(|| {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(4).enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = TempDir::new().unwrap();
            let a = node(&dir, "a").start().await.unwrap();
            let together = Arc::new(Barrier::new(WRITERS.into()));
            let writers = (0..WRITERS).map(|row| {
                let (a, together) = (a.clone(), together.clone());
                tokio::spawn(async move {
                    for table in 0..TABLES {
                        together.wait().await;
                        let written = a.put(&table.to_string(), &[row], b"v").await;
                        written.unwrap();
                    }
                })
            });
            for writer in writers.collect::<Vec<_>>() {
                writer.await.unwrap();
            }
            let all = everything(&a);
            assert_eq!(all.len(), TABLES as usize);
            assert!(all.values().all(|rows| rows.len() == usize::from(WRITERS)));
            a.stop().await.unwrap();
        });
    });
}

#[test]
fn a_node_opens_what_a_database_wrote() {
    on_one_worker(async || {
        let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let db = Database::open(dirs[0].path()).unwrap();
        db.put("t", b"k", b"v").unwrap();
        let receipt = db.put("u", b"k", b"w").unwrap();
        drop(db);
        let a = node(&dirs[0], "a").start().await.unwrap();
        assert_eq!(everything(&a).len(), 2);
        let b = node(&dirs[1], "b").follow(url(&a)).start().await.unwrap();
        reach(&b, receipt.lsn).await;
        assert_eq!(everything(&b), everything(&a));
        b.stop().await.unwrap();
        a.stop().await.unwrap();
        let db = Database::open(dirs[0].path()).unwrap();
        assert_eq!(db.get("u", b"k").unwrap().as_deref(), Some(&b"w"[..]));
    });
}

#[test]
fn a_start_that_fails_says_why_and_leaves_the_directory_free() {
    on_one_worker(async || {
        let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let a = node(&dirs[0], "a").start().await.unwrap();
        let taken = a.listen_addr().unwrap().to_string();
        let refused = node(&dirs[1], "b").listen(&taken).start().await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains(&taken), "{refused}");
        let nowhere = node(&dirs[1], "b").follow("http://h").start().await;
        assert!(matches!(nowhere, Err(Error::Usage(_))), "{nowhere:?}");
        let b = node(&dirs[1], "b").start().await.unwrap();
        b.put("t", b"k", b"v").await.unwrap();
        b.stop().await.unwrap();
        a.stop().await.unwrap();
    });
}

#[test]
fn a_node_that_cannot_be_reached_as_it_was_told_does_not_start_and_says_why() {
    on_one_worker(async || {
        let dir = TempDir::new().unwrap();
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let busy = node(&dir, "a").listen(&address).start().await;
        let Err(Error::Replication(error)) = busy else {
            panic!("{busy:?}");
        };
        assert!(error.to_string().contains(&address), "{error}");
        let open = node(&dir, "a").listen("0.0.0.0:0").start().await;
        let Err(Error::Config(why)) = open else {
            panic!("{open:?}");
        };
        assert!(why.contains("credentials"), "{why}");
    });
}

/// Takes the port as soon as nobody has it, as the system does that gives a port to whoever wants
/// any; ends when it has it or is told to.
fn take(port: SocketAddr, stop: &AtomicBool) -> bool {
    while !stop.load(Ordering::Acquire) {
        // Not `TcpListener`, which would share the port with what does not listen.
        if TcpSocket::new_v4().unwrap().bind(port).is_ok() {
            return true;
        }
    }
    false
}

#[test]
fn the_port_of_a_node_that_turns_stays_its_own() {
    on_one_worker(async || {
        let dir = TempDir::new().unwrap();
        let a = node(&dir, "a").start().await.unwrap();
        let port = a.listen_addr().expect("it listens");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let taking = std::thread::spawn(move || take(port, &stopped));
        let turned = a.demote("postgres://127.0.0.1:1").await;
        stop.store(true, Ordering::Release);
        assert!(!taking.join().unwrap(), "somebody else was given {port}");
        turned.unwrap();
        assert_eq!(a.listen_addr(), Some(port));
        a.stop().await.unwrap();
        // Nobody waits for the handles: the port is free once the node has stopped.
        assert!(take(port, &AtomicBool::new(false)));
    });
}

#[test]
fn a_demotion_after_which_nothing_can_be_opened_says_so_to_whoever_looks() {
    on_one_worker(async || {
        let dir = TempDir::new().unwrap();
        let a = node(&dir, "a").start().await.unwrap();
        let control = dir.path().join("control");
        std::fs::rename(&control, control.with_extension("away")).unwrap();
        std::fs::create_dir(&control).unwrap();
        let failed = a.demote("postgres://127.0.0.1:1").await.unwrap_err();
        let problem = a.status().problem.expect("it is stuck");
        assert!(problem.contains(&failed.to_string()), "{problem}");
        assert!(problem.contains("restart this node"), "{problem}");
        a.stop().await.unwrap();
    });
}

#[test]
fn a_standby_that_nobody_can_reach_is_not_started() {
    on_one_worker(async || {
        let [da, db] = [(); 2].map(|()| TempDir::new().unwrap());
        let a = node(&da, "a").start().await.unwrap();
        let b = Node::builder(db.path()).name("b").follow(url(&a));
        let refused = b.start().await.unwrap_err().to_string();
        assert!(refused.contains("listen("), "{refused}");
        let primary = Node::builder(db.path()).name("b").start().await.unwrap();
        let refused = primary.demote(&url(&a)).await.unwrap_err().to_string();
        assert!(refused.contains("listen("), "{refused}");
        primary.put("t", b"k", b"v").await.unwrap();
        primary.stop().await.unwrap();
        a.stop().await.unwrap();
    });
}
