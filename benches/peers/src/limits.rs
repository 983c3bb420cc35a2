//! What the machine allows: the same bytes on the same disk and socket without a store, a
//! protocol or a client, by threads that do nothing else.
//!
//! `commit` is the ideal synchronous commit of one client: send, write and sync here while the
//! other end writes and syncs, wait for its answer. `group` is the ideal group commit of many.
//! `pipe` is the ideal stream into recycled files, synced on both ends. `copy` is files copied and
//! synced.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::measure::{Figures, Latencies};

/// A record of 100 bytes behind a header of 16.
const RECORD: usize = 116;

/// Room of a log file, which is written again from its beginning.
const LOG_BYTES: u64 = 64 << 20;

const CHUNK: usize = 256 << 10;

/// Log between two syncs of a stream.
const SYNC_BYTES: u64 = 16 << 20;

fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let client = TcpStream::connect(listener.local_addr().expect("it listens"));
    let (client, server) = (
        client.expect("it listens"),
        listener.accept().expect("it came").0,
    );
    for end in [&client, &server] {
        end.set_nodelay(true).expect("a socket");
    }
    (client, server)
}

/// A file that was written before, as a recycled segment is.
fn recycled(path: &Path, bytes: u64) -> File {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path);
    let mut file = file.expect("there is room");
    let zeros = vec![0; 1 << 20];
    for _ in 0..bytes >> 20 {
        file.write_all(&zeros).expect("there is room");
    }
    file.sync_all().expect("the disk works");
    file
}

/// The median latency of a synchronous commit, in microseconds.
pub(crate) fn commit(dir: &Path, seconds: f64) -> Figures {
    let (own, other) = (
        recycled(&dir.join("own"), LOG_BYTES),
        recycled(&dir.join("other"), LOG_BYTES),
    );
    let (mut client, mut server) = connection();
    let standby = thread::spawn(move || {
        let (mut record, mut at) = ([0; RECORD], 0);
        while server.read_exact(&mut record).is_ok() {
            std::hint::black_box(crc32fast::hash(&record));
            write_and_sync(&other, &record, &mut at);
            server.write_all(&record[..8]).expect("the client waits");
        }
    });
    let (mut record, mut answer, mut at) = ([5; RECORD], [0; 8], 0);
    let (begun, mut all) = (Instant::now(), Latencies::default());
    while begun.elapsed().as_secs_f64() < seconds {
        let one = Instant::now();
        let sum = crc32fast::hash(&record[4..]);
        record[..4].copy_from_slice(&sum.to_le_bytes());
        client.write_all(&record).expect("it listens");
        write_and_sync(&own, &record, &mut at);
        client.read_exact(&mut answer).expect("it answers");
        all.record(one.elapsed());
    }
    drop(client);
    standby.join().expect("it ends");
    let percentiles = all.percentiles();
    Figures::of(percentiles[0].1).with("p99", percentiles[2].1)
}

fn write_and_sync(file: &File, bytes: &[u8], at: &mut u64) {
    if *at + bytes.len() as u64 > LOG_BYTES {
        *at = 0;
    }
    file.write_all_at(bytes, *at).expect("the disk works");
    *at += bytes.len() as u64;
    file.sync_data().expect("the disk works");
}

/// What the threads of a group commit share.
#[derive(Default)]
struct Group {
    waiting: Mutex<(Vec<u8>, u64)>,
    came: Condvar,
    /// Up to where the own and the other disk have it.
    durable: Mutex<(u64, u64)>,
    moved: Condvar,
    stop: AtomicBool,
}

/// Commits a second of `clients` threads, with a standby's disk or without.
pub(crate) fn group(dir: &Path, clients: usize, remote: bool, seconds: f64) -> Figures {
    let group = Arc::new(Group::default());
    let (client, server) = connection();
    let other = recycled(&dir.join("other"), LOG_BYTES);
    let own = recycled(&dir.join("own"), LOG_BYTES);
    let standby = thread::spawn(move || follow(server, &other));
    let answers = {
        let (group, client) = (group.clone(), client.try_clone().expect("a socket"));
        thread::spawn(move || hear(&group, client))
    };
    let flusher = {
        let (group, client) = (group.clone(), client.try_clone().expect("a socket"));
        thread::spawn(move || flush(&group, client, &own, remote))
    };
    let begun = Instant::now();
    let clients = (0..clients).map(|_| {
        let group = group.clone();
        thread::spawn(move || commit_in(&group))
    });
    let clients = clients.collect::<Vec<JoinHandle<Latencies>>>();
    thread::sleep(Duration::from_secs_f64(seconds));
    group.stop.store(true, Ordering::Relaxed);
    let mut all = Latencies::default();
    for client in clients {
        all.extend(client.join().expect("it ends"));
    }
    let rate = all.len() as f64 / begun.elapsed().as_secs_f64();
    group.came.notify_all();
    flusher.join().expect("it ends");
    client
        .shutdown(std::net::Shutdown::Both)
        .expect("it is open");
    standby.join().expect("it ends");
    answers.join().expect("it ends");
    Figures::of(rate).with("p50", all.percentiles()[0].1)
}

fn commit_in(group: &Group) -> Latencies {
    let (mut all, mut record) = (Latencies::default(), [3; RECORD]);
    while !group.stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let sum = crc32fast::hash(&record[4..]);
        record[..4].copy_from_slice(&sum.to_le_bytes());
        let mut waiting = group.waiting.lock().expect("no panic");
        waiting.0.extend_from_slice(&record);
        waiting.1 += 1;
        let (mine, first) = (waiting.1, waiting.0.len() == RECORD);
        drop(waiting);
        if first {
            group.came.notify_one();
        }
        let mut durable = group.durable.lock().expect("no panic");
        while durable.0 < mine || durable.1 < mine {
            durable = group.moved.wait(durable).expect("no panic");
        }
        drop(durable);
        all.record(begun.elapsed());
    }
    all
}

fn flush(group: &Group, mut client: TcpStream, file: &File, remote: bool) {
    let (mut batch, mut at) = (Vec::new(), 0);
    loop {
        let mut waiting = group.waiting.lock().expect("no panic");
        while waiting.0.is_empty() {
            if group.stop.load(Ordering::Relaxed) {
                return;
            }
            let tick = Duration::from_millis(20);
            waiting = group.came.wait_timeout(waiting, tick).expect("no panic").0;
        }
        batch.clear();
        std::mem::swap(&mut batch, &mut waiting.0);
        let number = waiting.1;
        drop(waiting);
        if remote {
            let mut message = Vec::with_capacity(batch.len() + 16);
            message.extend_from_slice(&(batch.len() as u64).to_le_bytes());
            message.extend_from_slice(&number.to_le_bytes());
            message.extend_from_slice(&batch);
            client.write_all(&message).expect("it listens");
        }
        write_and_sync(file, &batch, &mut at);
        let mut durable = group.durable.lock().expect("no panic");
        durable.0 = number;
        if !remote {
            durable.1 = number;
        }
        drop(durable);
        group.moved.notify_all();
    }
}

fn follow(mut server: TcpStream, file: &File) {
    let (mut head, mut batch, mut at) = ([0; 16], Vec::new(), 0);
    while server.read_exact(&mut head).is_ok() {
        let length = u64::from_le_bytes(head[..8].try_into().expect("eight bytes"));
        batch.resize(usize::try_from(length).expect("it is small"), 0);
        server.read_exact(&mut batch).expect("it comes whole");
        std::hint::black_box(crc32fast::hash(&batch));
        write_and_sync(file, &batch, &mut at);
        server.write_all(&head[8..]).expect("somebody waits");
    }
}

fn hear(group: &Group, mut client: TcpStream) {
    let mut answer = [0; 8];
    while client.read_exact(&mut answer).is_ok() {
        group.durable.lock().expect("no panic").1 = u64::from_le_bytes(answer);
        group.moved.notify_all();
    }
}

/// Bytes a second into two files, one behind a socket, until both are durable; in MB/s.
pub(crate) fn pipe(dir: &Path, bytes: u64) -> Figures {
    let files = ["own", "other"].map(|name| Arc::new(recycled(&dir.join(name), bytes)));
    let written = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
    let stop = Arc::new(AtomicBool::new(false));
    let (mut client, mut server) = connection();
    let begun = Instant::now();
    let syncers = [0, 1].map(|end| {
        let (file, written, stop) = (files[end].clone(), written[end].clone(), stop.clone());
        thread::spawn(move || sync_behind(&file, &written, &stop))
    });
    let (file, count) = (files[1].clone(), written[1].clone());
    let standby = thread::spawn(move || {
        let (mut chunk, mut at) = (vec![0; CHUNK], 0);
        while server.read_exact(&mut chunk).is_ok() {
            std::hint::black_box(crc32fast::hash(&chunk));
            file.write_all_at(&chunk, at).expect("the disk works");
            at += CHUNK as u64;
            count.store(at, Ordering::Release);
        }
    });
    let (mut chunk, mut at) = (vec![9; CHUNK], 0);
    while at < bytes {
        let sum = crc32fast::hash(&chunk[8..]);
        chunk[..4].copy_from_slice(&sum.to_le_bytes());
        files[0].write_all_at(&chunk, at).expect("the disk works");
        client.write_all(&chunk).expect("it listens");
        at += CHUNK as u64;
        written[0].store(at, Ordering::Release);
    }
    drop(client);
    standby.join().expect("it ends");
    stop.store(true, Ordering::Release);
    for syncer in syncers {
        syncer.join().expect("it ends");
    }
    Figures::of(bytes as f64 / begun.elapsed().as_secs_f64() / 1e6)
}

fn sync_behind(file: &File, written: &AtomicU64, stop: &AtomicBool) {
    let mut synced = 0;
    loop {
        let ends = stop.load(Ordering::Acquire);
        let at = written.load(Ordering::Acquire);
        if at - synced >= SYNC_BYTES || (ends && at > synced) {
            file.sync_data().expect("the disk works");
            synced = at;
        } else if ends {
            return;
        } else {
            thread::sleep(Duration::from_micros(100));
        }
    }
}

/// Takes as much memory as a copy of `bytes` will, and gives it back. A virtual machine returns
/// what is free for two seconds to its host, and getting it again takes longer than copying:
/// whoever is measured after a pause would pay for it.
pub(crate) fn warm_memory(bytes: u64) {
    const PAGE: usize = 4096;
    let bytes = usize::try_from(bytes + bytes / 4).expect("it fits into memory");
    let mut memory: Vec<u8> = Vec::with_capacity(bytes);
    for page in memory.spare_capacity_mut().chunks_mut(PAGE) {
        page[0].write(1);
    }
    std::hint::black_box(&memory);
}

/// Copies all files below `from` and syncs them; MB/s.
pub(crate) fn copy(from: &Path, to: &Path) -> Figures {
    let begun = Instant::now();
    let bytes = copy_all(from, to);
    Figures::of(bytes as f64 / begun.elapsed().as_secs_f64() / 1e6)
}

fn copy_all(from: &Path, to: &Path) -> u64 {
    std::fs::create_dir_all(to).expect("there is room");
    let mut bytes = 0;
    for entry in std::fs::read_dir(from).expect("it is there") {
        let entry = entry.expect("it is there");
        let (kind, target) = (
            entry.file_type().expect("a kind"),
            to.join(entry.file_name()),
        );
        if kind.is_dir() {
            bytes += copy_all(&entry.path(), &target);
        } else if kind.is_file() {
            bytes += std::fs::copy(entry.path(), &target).expect("there is room");
            let copied = File::open(&target).expect("it is there");
            copied.sync_all().expect("the disk works");
        }
    }
    bytes
}
