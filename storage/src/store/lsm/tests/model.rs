//! The store against a map of all versions, with its own threads running beside.

use super::super::fixture::Numbers;
use super::*;

const KEYS: u64 = 60;

struct Run {
    seed: u64,
    numbers: Numbers,
    bed: Bed,
    store: LsmStore,
    model: Model,
    log: Vec<(Lsn, Vec<Change>)>,
    snapshots: Vec<Lsn>,
    checks: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let bed = Bed::new();
        Self {
            seed,
            numbers: Numbers::new(seed),
            store: bed.open(),
            bed,
            model: Model::default(),
            log: Vec::new(),
            snapshots: Vec::new(),
            checks: 0,
        }
    }

    fn key(&mut self) -> String {
        format!("key {:03}", self.numbers.below(KEYS))
    }

    fn step(&mut self) {
        match self.numbers.below(100) {
            0..60 => self.transact(),
            60..75 => self.raise_gate(),
            75..80 => self.open_snapshot(),
            80..83 => self.close_snapshot(),
            83..97 => self.check(),
            97 => self.checkpoint(),
            98 => self.large_transaction(),
            _ => self.reopen(),
        }
    }

    fn end(&mut self) -> Lsn {
        let last = self.log.last().map_or(Lsn::new(1 << 20), |(end, _)| *end);
        last + 32 + 8 * self.numbers.below(20)
    }

    fn transact(&mut self) {
        let changes = (0..1 + self.numbers.below(20))
            .map(|_| {
                let (table, key) = (1 + self.numbers.below(2) as u32, self.key());
                match self.numbers.below(4) {
                    0 => delete(table, &key),
                    _ => put(table, &key, vec![b'v'; self.numbers.below(90) as usize]),
                }
            })
            .collect::<Vec<_>>();
        let end = self.end();
        self.make_room();
        match self.numbers.below(2) {
            0 => self.store.insert(end, &changes).unwrap(),
            _ => self.store.apply(&transaction(end.get(), &changes)).unwrap(),
        }
        self.record(end, changes);
    }

    fn large_transaction(&mut self) {
        let value = vec![b'L'; 300];
        let changes = (0..KEYS)
            .map(|key| put(1, &format!("key {key:03}"), value.clone()))
            .collect::<Vec<_>>();
        let end = self.end();
        self.bed.raise(end);
        self.store.apply(&transaction(end.get(), &changes)).unwrap();
        self.record(end, changes);
    }

    /// This thread raises the gate too, so it must not wait for it.
    fn make_room(&mut self) {
        if self.store.status().sealed_memtables >= 3 {
            self.bed.raise(self.store.applied());
        }
    }

    fn record(&mut self, end: Lsn, changes: Vec<Change>) {
        self.model.apply(end, &changes);
        self.log.push((end, changes));
        assert_eq!(self.store.applied(), end);
    }

    fn raise_gate(&mut self) {
        if let Some((end, _)) = self.log.get(self.log.len().saturating_sub(3)) {
            self.bed.flushed.raise(*end);
        }
        if let Some((end, _)) = self.log.get(self.log.len().saturating_sub(6)) {
            self.bed.commit.raise(*end);
        }
    }

    fn open_snapshot(&mut self) {
        if self.snapshots.len() < 5 {
            match self.store.reader().open_committed() {
                Ok(at) => self.snapshots.push(at),
                Err(error) => panic!("seed {}: {error}", self.seed),
            }
        }
    }

    fn close_snapshot(&mut self) {
        if !self.snapshots.is_empty() {
            let chosen = self.numbers.below(self.snapshots.len() as u64) as usize;
            let at = self.snapshots.swap_remove(chosen);
            self.store.reader().close_snapshot(at);
        }
    }

    fn check(&mut self) {
        let mut positions = self.snapshots.clone();
        positions.push(self.store.applied());
        for at in positions {
            let seed = self.seed;
            for table in [1, 2] {
                let (got, want) = (scan(&self.store, table, at), self.model.scan(table, at));
                assert_eq!(got, want, "seed {seed}, table {table} at {at}");
                let key = Bytes::from(self.key());
                let got = self.store.reader().get(table, &key, at).unwrap();
                let want = self.model.get(table, &key, at);
                assert_eq!(got, want, "seed {seed}, {key:?} of {table} at {at}");
                self.checks += 1;
            }
        }
    }

    fn checkpoint(&mut self) {
        let upto = self.store.applied();
        let durable = self.store.checkpoint(upto).unwrap();
        assert!(durable <= upto);
    }

    /// Memory is gone; the log is replayed.
    fn reopen(&mut self) {
        self.store.close();
        self.snapshots.clear();
        self.store = self.bed.open();
        let durable = self.store.durable();
        let gate = self.bed.flushed.get().min(self.bed.commit.get());
        assert!(durable <= gate, "seed {}", self.seed);
        assert!(durable.get() <= self.bed.bound.load(Ordering::SeqCst));
        let replay = self.log.iter().filter(|(end, _)| *end > durable);
        for (end, changes) in replay {
            // What was in memory when the gate was lower may be more than it holds now.
            self.bed.raise(*end);
            self.store.apply(&transaction(end.get(), changes)).unwrap();
        }
    }
}

#[test]
fn the_store_answers_like_a_map_of_all_versions() {
    for seed in 0..4 {
        println!("seed {seed}");
        let mut run = Run::new(seed);
        for _ in 0..1_500 {
            run.step();
        }
        run.check();
        assert!(run.checks > 100);
        assert!(run.store.durable() > Lsn::ZERO);
    }
}
