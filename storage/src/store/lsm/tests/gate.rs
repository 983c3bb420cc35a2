//! What may reach disk, and who waits when it may not.

use std::sync::mpsc;
use std::thread;

use super::*;

/// Fills several memtables: transaction `n` ends at `64 * n` and has about 1 KiB.
fn fill(store: &LsmStore, numbers: std::ops::Range<u64>) {
    for n in numbers {
        let change = put(1, &format!("k{n:04}"), vec![b'v'; 1 << 10]);
        store.insert(Lsn::new(64 * n), &[change]).unwrap();
    }
}

#[test]
fn nothing_above_the_gate_is_durable() {
    let bed = Bed::new();
    let store = bed.open();
    fill(&store, 1..13);
    assert!(store.status().sealed_memtables > 1);
    assert_eq!(store.checkpoint(store.applied()).unwrap(), Lsn::ZERO);
    bed.commit.raise(Lsn::new(64 * 7));
    assert_eq!(store.checkpoint(store.applied()).unwrap(), Lsn::ZERO);
    bed.flushed.raise(Lsn::new(64 * 9));
    let durable = store.checkpoint(store.applied()).unwrap();
    assert!(durable > Lsn::ZERO && durable <= Lsn::new(64 * 7));
    assert!(bed.bound.load(Ordering::SeqCst) <= 64 * 7);
    store.close();
    let store = bed.open();
    assert_eq!((store.applied(), store.durable()), (durable, durable));
    let rows = scan(&store, 1, durable).len() as u64;
    assert_eq!(rows, durable.get() / 64);
}

#[test]
fn the_bound_is_recorded_before_a_flush_begins() {
    let bed = Bed::new();
    let dir = bed.dir();
    let (told, asked) = mpsc::channel();
    let gate = FlushGate {
        raise_bound: Box::new(move |to| {
            let tables = super::super::fixture::names(&dir.join("tables")).len();
            told.send((to, tables)).unwrap();
            Ok(())
        }),
        ..bed.gate()
    };
    let store = LsmStore::open(&bed.dir(), false, gate, small()).unwrap();
    store.insert(Lsn::new(64), &[put(1, "k", "v")]).unwrap();
    bed.raise(Lsn::new(64));
    assert_eq!(store.checkpoint(Lsn::new(64)).unwrap(), Lsn::new(64));
    assert_eq!(asked.try_recv().unwrap(), (Lsn::new(64), 0));
}

#[test]
fn a_bound_that_cannot_be_recorded_stops_the_store() {
    let bed = Bed::new();
    let gate = FlushGate {
        raise_bound: Box::new(|_| Err(Error::Invalid("no control file".to_owned()))),
        ..open_gate()
    };
    let store = LsmStore::open(&bed.dir(), false, gate, small()).unwrap();
    store.insert(Lsn::new(64), &[put(1, "k", "v")]).unwrap();
    let error = store.checkpoint(Lsn::new(64)).unwrap_err().to_string();
    assert!(error.contains("no control file"), "{error}");
    let reader = store.reader();
    assert!(store.insert(Lsn::new(128), &[put(1, "k", "v")]).is_err());
    assert!(reader.get(1, b"k", Lsn::new(64)).is_err());
    assert!(reader.open_snapshot(Lsn::new(64)).is_err());
    assert!(store.snapshot(bed.temp.path()).is_err());
    store.close();
    assert_eq!(bed.open().applied(), Lsn::ZERO);
}

#[test]
fn inserts_wait_when_memory_is_full_of_what_may_not_reach_disk() {
    let bed = Bed::new();
    let options = LsmOptions {
        sealed_max: 2,
        ..small()
    };
    let store = bed.open_with(options);
    let (told, done) = mpsc::channel();
    let inserter = thread::spawn({
        let store = store.clone();
        move || {
            fill(&store, 1..40);
            told.send(()).unwrap();
        }
    });
    let applied = store.applied_signal().clone();
    applied.wait_blocking(Lsn::new(64 * 12), None).unwrap();
    // Two memtables wait and a third is full: nothing moves before the gate does.
    while store.status().stalls == 0 {
        thread::yield_now();
    }
    assert!(done.try_recv().is_err());
    let stuck = store.applied();
    assert!(stuck < Lsn::new(64 * 39));
    assert_eq!(store.status().sealed_memtables, 2);
    // Neither readers nor checkpoints wait with it.
    assert!(get(&store, "k0001", 64).is_some());
    assert_eq!(store.checkpoint(stuck).unwrap(), Lsn::ZERO);
    bed.raise(Lsn::MAX);
    done.recv().unwrap();
    inserter.join().unwrap();
    assert_eq!(store.applied(), Lsn::new(64 * 39));
}

#[test]
fn a_waiting_insert_ends_when_the_store_closes() {
    let bed = Bed::new();
    let options = LsmOptions {
        sealed_max: 1,
        ..small()
    };
    let store = bed.open_with(options);
    let inserter = thread::spawn({
        let store = store.clone();
        move || {
            let value = vec![b'v'; 1 << 10];
            let insert = |n: u64| store.insert(Lsn::new(64 * n), &[put(1, "k", value.clone())]);
            (1..).map(insert).find(Result::is_err).unwrap()
        }
    });
    while store.status().stalls == 0 {
        thread::yield_now();
    }
    store.close();
    assert!(matches!(inserter.join().unwrap(), Err(Error::Closed)));
}

#[test]
fn a_sealed_memtable_follows_the_gate_by_itself() {
    let bed = Bed::new();
    let store = bed.open();
    store.insert(Lsn::new(64), &[put(1, "k", "v")]).unwrap();
    assert_eq!(store.checkpoint(Lsn::new(64)).unwrap(), Lsn::ZERO);
    assert_eq!(store.status().sealed_memtables, 1);
    let durable = store.shared().durable.clone();
    bed.flushed.raise(Lsn::new(64));
    bed.commit.raise(Lsn::new(64));
    durable.wait_blocking(Lsn::new(64), None).unwrap();
}

#[test]
fn checkpoints_do_not_pile_up_memtables_that_may_not_be_flushed() {
    let bed = Bed::new();
    let store = bed.open();
    for n in 1..50 {
        store.insert(Lsn::new(64 * n), &[put(1, "k", "v")]).unwrap();
        store.checkpoint(store.applied()).unwrap();
        assert!(store.status().sealed_memtables <= 1);
    }
}

/// Lets `begin` wait, as `waits` says, for a gate that will not open any more.
fn wait_in_vain(
    begin: impl FnOnce(&LsmStore) + Send + 'static,
    waits: impl Fn() -> bool,
    bed: &Bed,
    store: &LsmStore,
) {
    let waiting = thread::spawn({
        let store = store.clone();
        move || begin(&store)
    });
    while !waits() {
        thread::yield_now();
    }
    bed.flushed.close();
    waiting.join().unwrap();
}

#[test]
fn nobody_waits_for_a_log_that_has_ended() {
    let closed = |inserted| assert!(matches!(inserted, Err(Error::Closed)), "{inserted:?}");
    // For a large transaction.
    let bed = Bed::new();
    let store = bed.open();
    let large = (0..40).map(|n| put(1, &format!("{n:0>200}"), "v"));
    let large = large.collect::<Vec<_>>();
    let insert = move |store: &LsmStore| closed(store.insert(Lsn::new(64), &large));
    wait_in_vain(insert.clone(), || bed.flushed.waiters() > 0, &bed, &store);
    insert(&store);
    assert_eq!(store.applied(), Lsn::ZERO);
    // For memory.
    let bed = Bed::new();
    let store = bed.open();
    let flood = move |store: &LsmStore| {
        let change = [put(1, "k", vec![b'v'; 1 << 10])];
        let inserted = (1..100).map(|n| store.insert(Lsn::new(64 * n), &change));
        let refused = inserted.filter_map(Result::err).next();
        closed(Err(refused.expect("memory is full")));
    };
    wait_in_vain(flood, || store.status().stalls > 0, &bed, &store);
}

#[test]
fn a_transaction_without_rows_moves_the_durable_position() {
    let bed = Bed::new();
    let store = bed.open();
    bed.raise(Lsn::new(128));
    store.apply(&transaction(128, &[])).unwrap();
    assert_eq!(store.checkpoint(Lsn::new(128)).unwrap(), Lsn::new(128));
    store.close();
    assert_eq!(bed.open().applied(), Lsn::new(128));
}

#[test]
fn level_0_stays_short_under_a_flood_of_checkpoints() {
    let bed = Bed::new();
    bed.raise(Lsn::MAX);
    let store = bed.open();
    for n in 1..300 {
        store
            .insert(Lsn::new(64 * n), &[put(1, "k", n.to_string())])
            .unwrap();
        assert_eq!(store.checkpoint(store.applied()).unwrap(), store.applied());
        assert!(store.status().level0_runs <= small().level0_stop);
    }
    assert_eq!(get(&store, "k", 64 * 299).as_deref(), Some("299"));
}
