//! Streaming: bytes a second from a primary to a standby, until they survive a power cut there.
//!
//! Both nodes live in this process, talk over loopback and write to the same real disk.
//! `live` appends while the standby streams, `catch_up` appends while it is away; most of that
//! is then read from the primary's files. After that the lag at a moderate load is printed.

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use mainstay_replication::{WalReplicator, WalStreamingConfig, bootstrap};
use mainstay_storage::{Lsn, Wal, WalEntry};
use tokio::runtime::Runtime;

/// Log in one round.
const ROUND_BYTES: u64 = 128 << 20;

const VALUE_BYTES: usize = 1024;

/// Rows appended at once.
const BATCH: u64 = 256;

/// The moderate load: this many rows of [`VALUE_BYTES`] each this often, 2 MB/s.
const LOAD_ROWS: u64 = 10;
const LOAD_EVERY: Duration = Duration::from_millis(5);
const LOAD_FOR: Duration = Duration::from_secs(10);

/// A primary and its standby.
struct Pair {
    runtime: Runtime,
    primary: WalReplicator,
    standby: WalReplicator,
    _dirs: [tempfile::TempDir; 2],
}

impl Pair {
    fn start() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let dirs = [(); 2].map(|()| tempfile::tempdir().expect("there is room"));
        let (primary, standby) = runtime.block_on(async {
            let primary = WalReplicator::new(config(dirs[0].path(), "a"), vec![]);
            primary.start().await.expect("a free port");
            let listens = primary.listen_addr().expect("it listens");
            let config = WalStreamingConfig {
                follow: vec![listens.to_string()],
                ..config(dirs[1].path(), "b")
            };
            bootstrap(&config).await.expect("a base backup");
            let standby = WalReplicator::new(config, vec![]);
            standby.start().await.expect("a free port");
            (primary, standby)
        });
        Self {
            runtime,
            primary,
            standby,
            _dirs: dirs,
        }
    }

    fn log(node: &WalReplicator) -> Wal {
        node.wal().expect("it runs")
    }

    /// Appends log of one round and returns its end.
    fn append_round(&self) -> Lsn {
        let value = support::value(VALUE_BYTES);
        let batch = (0..BATCH).map(|number| support::row(number, &value, None));
        let batch = batch.collect::<Vec<WalEntry>>();
        let wal = Self::log(&self.primary);
        let from = wal.appended();
        loop {
            let end = wal.append(&batch).expect("the disk works").end;
            if end.bytes_since(from) >= ROUND_BYTES {
                return end;
            }
        }
    }

    fn wait_for_standby(&self, end: Lsn) {
        let flushed = Self::log(&self.standby).flushed().clone();
        flushed.wait_blocking(end, None).expect("it runs");
    }

    fn trim(&self) {
        support::trim(&Self::log(&self.primary));
        support::trim(&Self::log(&self.standby));
    }

    fn live(&self) -> Duration {
        let began = Instant::now();
        let end = self.append_round();
        self.wait_for_standby(end);
        let took = began.elapsed();
        self.trim();
        took
    }

    fn catch_up(&self) -> Duration {
        self.runtime
            .block_on(self.standby.stop())
            .expect("the disk works");
        let end = self.append_round();
        let flushed = Self::log(&self.primary).flushed().clone();
        flushed.wait_blocking(end, None).expect("it runs");
        let began = Instant::now();
        self.runtime
            .block_on(self.standby.start())
            .expect("a sound log");
        self.wait_for_standby(end);
        let took = began.elapsed();
        self.trim();
        took
    }

    /// The time from an append to its flush on the standby, at a moderate load.
    fn lag(&self) {
        let value = support::value(VALUE_BYTES);
        let batch = (0..LOAD_ROWS).map(|number| support::row(number, &value, None));
        let batch = batch.collect::<Vec<WalEntry>>();
        let (primary, standby) = (Self::log(&self.primary), Self::log(&self.standby));
        let until = Instant::now() + LOAD_FOR;
        let (mut times, mut bytes) = (Vec::new(), 0);
        while Instant::now() < until {
            bytes = bytes.max(primary.appended().bytes_since(standby.flushed().get()));
            let began = Instant::now();
            let end = primary.append(&batch).expect("the disk works").end;
            self.wait_for_standby(end);
            times.push(began.elapsed());
            std::thread::sleep(LOAD_EVERY.saturating_sub(began.elapsed()));
        }
        support::print_percentiles("stream/lag from append to flushed there", &mut times);
        eprintln!("stream/lag at most {bytes} bytes before an append");
    }
}

fn config(dir: &Path, name: &str) -> WalStreamingConfig {
    WalStreamingConfig {
        data_dir: dir.to_owned(),
        name: name.to_owned(),
        listen: Some("127.0.0.1:0".to_owned()),
        ..WalStreamingConfig::default()
    }
}

fn stream(criterion: &mut Criterion) {
    let pair = Pair::start();
    let mut group = criterion.benchmark_group("stream");
    group.sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Bytes(ROUND_BYTES));
    group.bench_function("live", |bencher| {
        bencher.iter_custom(|count| (0..count).map(|_| pair.live()).sum());
    });
    group.bench_function("catch_up", |bencher| {
        bencher.iter_custom(|count| (0..count).map(|_| pair.catch_up()).sum());
    });
    group.finish();
    pair.lag();
    pair.runtime.block_on(async {
        pair.standby.stop().await.expect("the disk works");
        pair.primary.stop().await.expect("the disk works");
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(5));
    targets = stream
}
criterion_main!(benches);
