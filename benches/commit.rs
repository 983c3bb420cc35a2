//! One client's commit of one row of 100 bytes: what synchronous replication adds.
//!
//! `database` is the embedded store by itself. `local` is a primary with a standby attached and
//! waits for its own disk; `remote_flush` is the same node under `ANY 1 (*)` and waits for the
//! standby's disk too, here the same one. Percentiles are printed after each.

mod support;

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use mainstay::{Database, Level, Node};
use tokio::runtime::Runtime;

const VALUE_BYTES: usize = 100;

/// How long the standby may take to count.
const JOIN_MAX: Duration = Duration::from_secs(20);

fn database(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("there is room");
    let database = Database::open(dir.path()).expect("an empty directory");
    let value = support::value(VALUE_BYTES);
    let mut number = 0_u64;
    measure(criterion, "database", || {
        number += 1;
        let receipt = database.put("rows", &number.to_be_bytes(), &value);
        receipt.expect("the disk works");
    });
    database.close().expect("the disk works");
}

fn node(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("there is room"));
    let [primary, standby] = runtime.block_on(async {
        let policy = || "ANY 1 (*)".parse().expect("a policy");
        let primary = Node::builder(dirs[0].path()).name("a").sync(policy());
        let primary = primary.listen("127.0.0.1:0").start().await;
        let primary = primary.expect("a free port");
        let listens = primary.listen_addr().expect("it listens");
        let standby = Node::builder(dirs[1].path()).name("b").sync(policy());
        let standby = standby.listen("127.0.0.1:0");
        let standby = standby.follow(format!("postgres://mainstay@{listens}"));
        let standby = standby.start().await.expect("a base backup");
        // Acknowledged only once the standby counts.
        let first = tokio::time::timeout(JOIN_MAX, primary.put("rows", b"first", b"")).await;
        first.expect("it joins").expect("it is acknowledged");
        [primary, standby]
    });
    let value = support::value(VALUE_BYTES);
    let mut number = 0_u64;
    for level in [Level::Local, Level::RemoteFlush] {
        measure(criterion, level.as_str(), || {
            number += 1;
            runtime.block_on(async {
                let mut transaction = primary.begin().expect("it is the primary");
                let put = transaction.put("rows", &number.to_be_bytes(), &value);
                put.expect("within the limits");
                let committed = transaction.commit_at(level).await;
                committed.expect("the disks work");
            });
        });
    }
    runtime.block_on(async {
        standby.stop().await.expect("the disk works");
        primary.stop().await.expect("the disk works");
    });
}

fn measure(criterion: &mut Criterion, name: &str, mut commit: impl FnMut()) {
    let mut samples = Vec::new();
    let mut group = criterion.benchmark_group("commit");
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|count| {
            let before = samples.len();
            for _ in 0..count {
                let began = Instant::now();
                commit();
                samples.push(began.elapsed());
            }
            samples[before..].iter().sum()
        });
    });
    group.finish();
    support::print_percentiles(&format!("commit/{name}"), &mut samples);
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = database, node
}
criterion_main!(benches);
