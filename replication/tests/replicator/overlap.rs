//! A primary whose disk is slow, or loses its power, while its standby has the log already.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mainstay_replication::protocol::level::Level;
use mainstay_replication::{ReplicationEvent, WalReplicator, WalStreamingConfig};
use mainstay_storage::{CrashMode, Error, Lsn, NewLog, SegmentSize, SimDisk, Wal, WalOptions};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::stores::{Journal, Lines, texts};
use crate::support::{assert_same_log, config, flushed, put, until, within};

const DIR: &str = "/node";

fn options() -> WalOptions {
    WalOptions {
        segment_size: SegmentSize::MIN,
        ..WalOptions::new(|| 7)
    }
}

/// A node whose log lies on a simulated disk and whose journal lies in `dir`.
fn node(wal: &Wal, dir: &TempDir, config: WalStreamingConfig) -> (WalReplicator, Lines) {
    let journal = Journal::open(dir.path());
    let lines = journal.lines.clone();
    let copy = |_: &Path| Err(Error::Closed);
    let node = WalReplicator::with_engine(config, wal.clone(), Box::new(journal), copy);
    (node, lines)
}

struct Pair {
    disk: SimDisk,
    standbys_disk: SimDisk,
    dirs: [TempDir; 2],
    a: WalReplicator,
    listen: String,
    b: WalReplicator,
    lines: Lines,
    /// Why the standby follows no more.
    ended: mpsc::UnboundedReceiver<String>,
}

impl Pair {
    /// A primary and a standby that counts, each on a disk of its own.
    async fn start() -> Self {
        let dirs = [0; 2].map(|_| TempDir::new().unwrap());
        let disks = [1, 2].map(SimDisk::new);
        let new = NewLog::new_cluster(SegmentSize::MIN);
        let theirs = NewLog {
            node_id: NewLog::new_cluster(SegmentSize::MIN).node_id,
            own: false,
            ..new.clone()
        };
        let create = |disk: &SimDisk, new| {
            let disk = Arc::new(disk.until_crash());
            Wal::create(disk, Path::new(DIR), new, &options()).unwrap()
        };
        let (a, b) = (create(&disks[0], new), create(&disks[1], theirs));
        let (a, _) = node(&a, &dirs[0], primary(&dirs[0], "127.0.0.1:0"));
        a.start().await.unwrap();
        let listen = a.listen_addr().unwrap().to_string();
        let follow = vec![listen.clone()];
        let follows = WalStreamingConfig {
            follow,
            ..config(dirs[1].path(), "b")
        };
        let (b, lines) = node(&b, &dirs[1], follows);
        let (tell, ended) = mpsc::unbounded_channel();
        b.on_event(move |event| {
            if let ReplicationEvent::CannotFollow { why } = event {
                let _ = tell.send(why);
            }
        });
        b.start().await.unwrap();
        let [disk, standbys_disk] = disks;
        let pair = Self {
            disk,
            standbys_disk,
            dirs,
            a,
            listen,
            b,
            lines,
            ended,
        };
        pair.committed("kept").await;
        pair
    }

    async fn committed(&self, text: &str) -> Lsn {
        let lsn = self.a.append(put(text)).await.unwrap();
        within(self.a.wait_for(lsn, Level::RemoteFlush))
            .await
            .unwrap();
        lsn
    }

    /// Appends while nothing gets durable on the primary, and waits until the standby has it so.
    async fn ahead(&self, text: &str) -> Lsn {
        self.disk.hold_syncs(Path::new(DIR).join("wal"));
        let lsn = self.a.append(put(text)).await.unwrap();
        until("the standby is ahead", || flushed(&self.b) > lsn).await;
        assert!(flushed(&self.a) <= lsn, "the sync was not held");
        lsn
    }

    /// Takes the power from the primary, which loses `lost`, and starts it again on what is left.
    async fn restart_without(&self, lost: Lsn) -> (WalReplicator, Wal) {
        self.disk.crash(CrashMode::LoseUnsynced);
        // What is left of the process can do nothing any more, least of all confirm.
        let confirmed = within(self.a.wait_for(lost, Level::RemoteFlush)).await;
        assert!(confirmed.is_err());
        let _ = within(self.a.stop()).await;
        let disk = Arc::new(self.disk.until_crash());
        let (wal, recovered) = Wal::open(disk, Path::new(DIR), &options()).unwrap();
        assert!(recovered.end <= lost, "nothing was lost");
        let (a, _) = node(&wal, &self.dirs[0], primary(&self.dirs[0], &self.listen));
        within(a.start()).await.unwrap();
        (a, wal)
    }
}

fn primary(dir: &TempDir, listen: &str) -> WalStreamingConfig {
    WalStreamingConfig {
        listen: Some(listen.to_owned()),
        sync: Some("ANY 1 (*)".parse().unwrap()),
        ..config(dir.path(), "a")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_needs_the_primarys_own_flush_although_the_standby_was_faster() {
    let pair = Pair::start().await;
    let lsn = pair.ahead("slow here").await;
    for level in [Level::Local, Level::RemoteWrite, Level::RemoteFlush] {
        let waiting = tokio::time::timeout(Duration::ZERO, pair.a.wait_for(lsn, level));
        assert!(waiting.await.is_err(), "{level:?} was confirmed");
    }
    let known = pair.b.wal().unwrap().commit().get();
    assert!(known <= lsn, "the standby was told that it is committed");
    assert_eq!(texts(&pair.lines), ["kept"]);
    pair.disk.release_syncs();
    within(pair.a.wait_for(lsn, Level::RemoteFlush))
        .await
        .unwrap();
    until("it is applied", || texts(&pair.lines).len() == 2).await;
    pair.b.stop().await.unwrap();
    pair.a.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_lost_what_its_standby_has_goes_on_in_a_new_timeline() {
    let pair = Pair::start().await;
    let lost = pair.ahead("lost").await;
    let (a, wal) = pair.restart_without(lost).await;
    let kept = a.append(put("written instead")).await.unwrap();
    within(a.wait_for(kept, Level::RemoteFlush)).await.unwrap();
    assert_eq!(wal.timeline().number, 2);
    until("it is applied", || texts(&pair.lines).len() == 2).await;
    assert_eq!(texts(&pair.lines), ["kept", "written instead"]);
    assert_same_log(&wal, &pair.b.wal().unwrap());
    pair.b.stop().await.unwrap();
    a.stop().await.unwrap();
}

/// Why the standby follows no more, when it is to cut its log after `harm` came to its disk.
async fn ended_by_a_cut(harm: impl FnOnce(&SimDisk, Lsn)) -> (String, Pair) {
    let mut pair = Pair::start().await;
    let fork = flushed(&pair.a);
    let lost = pair.ahead("lost").await;
    harm(&pair.standbys_disk, fork);
    let (a, _) = pair.restart_without(lost).await;
    let why = within(pair.ended.recv()).await.unwrap();
    within(a.stop()).await.unwrap();
    (why, pair)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_that_cannot_begin_ends_the_receiver_and_not_the_log() {
    let (why, pair) = ended_by_a_cut(|disk, fork| {
        let in_log = |path: &PathBuf| path.parent() == Some(&Path::new(DIR).join("wal"));
        let path = disk.files().into_iter().find(in_log).unwrap();
        let mut bytes = disk.read_file(&path);
        // The last byte of the log that both have: no record ends at the fork any more.
        bytes[usize::try_from(SegmentSize::MIN.offset_of(fork)).unwrap() - 1] ^= 1;
        disk.write_file(&path, &bytes);
    })
    .await;
    assert!(why.contains("no record ends at"), "{why}");
    let poisoned = pair.b.wal().unwrap().poisoned();
    assert!(poisoned.is_none(), "{poisoned:?}");
    within(pair.b.stop()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_that_fails_halfway_ends_the_receiver_with_the_disks_error() {
    let (why, pair) = ended_by_a_cut(|disk, _| disk.set_capacity(0)).await;
    assert!(why.contains("set-aside"), "{why}");
    let poisoned = pair.b.wal().unwrap().poisoned();
    assert!(
        matches!(poisoned, Some(Error::Poisoned { .. })),
        "{poisoned:?}"
    );
    within(pair.b.stop()).await.unwrap();
}
