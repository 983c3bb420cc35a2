//! Tests of conflicts: what commits could have run alone, and only real overlaps conflict.

use super::*;
use crate::store::RowKey;

fn row(table: TableId, key: &'static str) -> Result<RowKey> {
    Ok((table, Bytes::from(key)))
}

fn writes(dir: &Path, keys: &[&str]) -> WriteSet {
    let mut set = write_set(dir, 1 << 20);
    for key in keys {
        set.put(1, key.as_bytes(), "v").unwrap();
    }
    set
}

fn conflicts(window: &ConflictWindow, reads: &[&str], writes: &WriteSet, at: u64) -> bool {
    let mut set = ReadSet::default();
    reads.iter().for_each(|key| set.add_key(1, key.as_bytes()));
    match window.validate(&set, writes, Lsn::new(at)) {
        Ok(()) => false,
        Err(Error::Conflict { with }) => {
            assert!(with > Lsn::new(at), "conflicts with what it saw");
            true
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn only_what_committed_after_the_snapshot_conflicts() {
    let dir = tempfile::tempdir().unwrap();
    let mut window = ConflictWindow::new(Lsn::new(10));
    window.open(Lsn::new(10));
    window.record([row(1, "a"), row(1, "b")], Lsn::new(20));
    window.record([row(1, "b")], Lsn::new(30));
    let (a, b, c) = (
        writes(dir.path(), &["a", "x"]),
        writes(dir.path(), &["b", "x"]),
        "c",
    );
    let x = writes(dir.path(), &["x", "y"]);
    assert!(conflicts(&window, &[], &a, 10) && !conflicts(&window, &[], &a, 20));
    assert!(conflicts(&window, &[], &b, 20) && !conflicts(&window, &[], &b, 30));
    assert!(conflicts(&window, &["b"], &x, 20) && !conflicts(&window, &["a", c], &x, 20));
    assert!(conflicts(&window, &["a"], &x, 10));
    assert!(!conflicts(&window, &[], &x, 10));
}

#[test]
fn readers_and_blind_single_writes_never_conflict() {
    let dir = tempfile::tempdir().unwrap();
    let mut window = ConflictWindow::new(Lsn::new(10)).with_keys_max(1);
    window.record([row(1, "a")], Lsn::new(20));
    let (nothing, single) = (writes(dir.path(), &[]), writes(dir.path(), &["a"]));
    for _ in 0..2 {
        assert!(!conflicts(&window, &["a"], &nothing, 10));
        assert!(!conflicts(&window, &[], &single, 10));
        assert!(
            conflicts(&window, &["a"], &single, 10),
            "it read before it wrote"
        );
        // The second time, the commit is below the floor.
        window.record([row(1, "b")], Lsn::new(window.floor().get() + 30));
    }
}

#[test]
fn a_range_conflicts_with_a_key_that_appeared_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut window = ConflictWindow::new(Lsn::new(10));
    window.record([row(1, "m"), row(2, "a")], Lsn::new(20));
    let x = writes(dir.path(), &["x"]);
    for (from, to, wanted) in [("a", "n", true), ("a", "m", false), ("n", "z", false)] {
        let mut reads = ReadSet::default();
        let bounds = (
            Bound::Included(from.as_bytes()),
            Bound::Excluded(to.as_bytes()),
        );
        reads.add_range(1, bounds.0, bounds.1).unwrap();
        let validated = window.validate(&reads, &x, Lsn::new(10));
        assert_eq!(validated.is_err(), wanted, "{from}..{to}");
    }
}

#[test]
fn commits_are_remembered_while_somebody_may_be_checked_against_them() {
    let mut window = ConflictWindow::new(Lsn::new(10));
    window.open(Lsn::new(20));
    window.open(Lsn::new(20));
    for end in (20..=60).step_by(10) {
        window.record([row(1, "a")], Lsn::new(end));
    }
    assert_eq!((window.keys(), window.floor()), (5, Lsn::new(10)));
    window.advance(Lsn::new(50));
    assert_eq!((window.keys(), window.floor()), (4, Lsn::new(20)));
    window.close(Lsn::new(20));
    assert_eq!(window.keys(), 4, "it was open twice");
    window.close(Lsn::new(20));
    assert_eq!((window.keys(), window.floor()), (1, Lsn::new(50)));
    window.close(Lsn::new(20)); // once too often changes nothing
    window.advance(Lsn::new(40)); // nor does going back
    assert_eq!(window.keys(), 1);
}

#[test]
fn a_commit_that_everybody_sees_is_not_remembered() {
    let mut window = ConflictWindow::new(Lsn::new(10));
    let unread = || -> Vec<Result<RowKey>> { panic!("nobody needs its keys") };
    window.open(Lsn::new(10));
    window.advance(Lsn::new(20));
    window.record_own(
        Lsn::new(10),
        std::iter::once_with(unread).flatten(),
        Lsn::new(20),
    );
    assert_eq!((window.keys(), window.floor()), (0, Lsn::new(20)));
    // Its own transaction may be open still, one that sees it may have begun.
    window.open(Lsn::new(20));
    window.advance(Lsn::new(30));
    window.record_own(Lsn::new(10), [row(1, "a")], Lsn::new(30));
    assert_eq!((window.keys(), window.floor()), (1, Lsn::new(20)));
    window.close(Lsn::new(20));
    window.close(Lsn::new(10));
    assert_eq!((window.keys(), window.floor()), (0, Lsn::new(30)));
    // Two read where this one did; and what is not applied may be missed by whoever begins next.
    for (readable, open) in [(40, 2), (30, 1)] {
        let mut window = ConflictWindow::new(Lsn::new(30));
        (0..open).for_each(|_| window.open(Lsn::new(30)));
        window.advance(Lsn::new(readable));
        window.record_own(Lsn::new(30), [row(1, "a")], Lsn::new(40));
        assert_eq!(window.keys(), 1, "{readable} {open}");
    }
}

#[test]
fn beyond_its_bound_the_floor_rises_and_older_snapshots_conflict() {
    let dir = tempfile::tempdir().unwrap();
    let x = writes(dir.path(), &["x", "y"]);
    let mut window = ConflictWindow::new(Lsn::new(10)).with_keys_max(3);
    window.open(Lsn::new(10));
    for end in (20..=60).step_by(10) {
        window.record([row(1, "a")], Lsn::new(end));
        assert!(window.keys() <= 3);
    }
    assert_eq!(window.floor(), Lsn::new(30));
    assert!(conflicts(&window, &[], &x, 20) && !conflicts(&window, &[], &x, 30));
    let huge = (0..4).map(|n| Ok((1, Bytes::from(vec![n]))));
    window.record(huge, Lsn::new(70));
    assert_eq!((window.keys(), window.floor()), (0, Lsn::new(70)));
    assert!(conflicts(&window, &[], &x, 60) && !conflicts(&window, &[], &x, 70));
    window.record([row(1, "a"), Err(Error::Closed)], Lsn::new(80));
    assert_eq!(
        window.floor(),
        Lsn::new(80),
        "an unreadable key counts as every key"
    );
}

#[test]
fn a_key_that_committed_again_outlives_its_older_commit() {
    let dir = tempfile::tempdir().unwrap();
    let mut window = ConflictWindow::new(Lsn::new(10)).with_keys_max(4);
    window.open(Lsn::new(10));
    window.record([row(1, "a")], Lsn::new(20));
    window.record(["a", "b", "c", "d"].map(|key| row(1, key)), Lsn::new(30));
    assert_eq!((window.keys(), window.floor()), (4, Lsn::new(20)));
    assert!(conflicts(&window, &["a"], &writes(dir.path(), &["x"]), 20));
    assert!(conflicts(
        &window,
        &[],
        &writes(dir.path(), &["a", "x"]),
        20
    ));
}

#[test]
fn a_conflict_behind_many_older_keys_of_a_range_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut window = ConflictWindow::new(Lsn::new(10));
    window.record(
        (0..50u8).map(|n| Ok((1, Bytes::from(vec![n])))),
        Lsn::new(20),
    );
    window.record([row(1, "y"), row(1, "z")], Lsn::new(30));
    let mut reads = ReadSet::default();
    reads
        .add_range(1, Bound::Unbounded, Bound::Unbounded)
        .unwrap();
    let x = writes(dir.path(), &["x"]);
    assert!(window.validate(&reads, &x, Lsn::new(20)).is_err());
    assert!(window.validate(&reads, &x, Lsn::new(30)).is_ok());
}

#[derive(Debug, Clone)]
enum Op {
    Begin,
    Get(usize, Vec<u8>),
    /// A scan that is given up after so many rows.
    Scan(usize, Bound<Vec<u8>>, Bound<Vec<u8>>, usize),
    Write(usize, Vec<u8>, Option<u8>),
    Commit(usize),
    RollBack(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let key = || prop::collection::vec(0u8..3, 1..3);
    prop_oneof![
        3 => Just(Op::Begin),
        4 => (any::<usize>(), key()).prop_map(|(n, key)| Op::Get(n, key)),
        2 => (any::<usize>(), bound(), bound(), 0..6usize)
            .prop_map(|(n, from, to, rows)| Op::Scan(n, from, to, rows)),
        5 => (any::<usize>(), key(), any::<Option<u8>>())
            .prop_map(|(n, key, value)| Op::Write(n, key, value)),
        3 => any::<usize>().prop_map(Op::Commit),
        1 => any::<usize>().prop_map(Op::RollBack),
    ]
}

type Row = (Vec<u8>, Vec<u8>);

/// A read, and what it saw.
#[derive(Debug)]
enum Saw {
    Value(Vec<u8>, Option<Vec<u8>>),
    Rows(Bound<Vec<u8>>, Bound<Vec<u8>>, usize, Vec<Row>),
    Wrote(Vec<u8>, Option<Vec<u8>>),
}

struct World {
    dir: tempfile::TempDir,
    store: MemoryStore,
    window: ConflictWindow,
    open: Vec<(Draft<MemoryReader>, Vec<Saw>)>,
    committed: BTreeMap<Vec<u8>, Vec<u8>>,
    end: u64,
    coarse: bool,
}

impl World {
    fn new(keys_max: usize, reads_max: Option<usize>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = MemoryStore::new(Arc::new(OsDisk));
        let window = ConflictWindow::new(Lsn::ZERO).with_keys_max(keys_max);
        let coarse = reads_max.is_some();
        Self {
            dir,
            store,
            window,
            open: Vec::new(),
            committed: BTreeMap::new(),
            end: 0,
            coarse,
        }
    }

    fn begin(&mut self) {
        let at = Lsn::new(self.end);
        self.window.open(at);
        let writes = write_set(
            self.dir.path(),
            if self.end.is_multiple_of(3) { 0 } else { 999 },
        );
        let draft = Draft::new(self.store.reader(), at, writes).unwrap();
        if self.coarse {
            *draft.reads.lock() = ReadSet::default().with_max(1);
        }
        self.open.push((draft, Vec::new()));
    }

    fn step(&mut self, op: Op) {
        let count = self.open.len();
        let (Op::Get(n, _) | Op::Scan(n, ..) | Op::Write(n, ..) | Op::Commit(n) | Op::RollBack(n)) =
            &op
        else {
            return self.begin();
        };
        let Some(n) = n.checked_rem(count) else {
            return;
        };
        let (draft, saw) = &mut self.open[n];
        match op {
            Op::Begin => {}
            Op::Get(_, key) => {
                let value = draft.get(1, &key).unwrap().map(|value| value.to_vec());
                saw.push(Saw::Value(key, value));
            }
            Op::Scan(_, from, to, rows) => {
                let scan = draft.scan(1, slice(&from), slice(&to)).unwrap().take(rows);
                let seen = scan.map(|row| row.map(|(k, v)| (k.to_vec(), v.to_vec())).unwrap());
                let seen = seen.collect();
                saw.push(Saw::Rows(from, to, rows, seen));
            }
            Op::Write(_, key, value) => {
                let value = value.map(|byte| vec![byte]);
                match value.clone() {
                    Some(value) => draft.put(1, &key, value).unwrap(),
                    None => draft.delete(1, &key).unwrap(),
                }
                saw.push(Saw::Wrote(key, value));
            }
            Op::Commit(_) => self.commit(n),
            Op::RollBack(_) => {
                let (draft, _) = self.open.swap_remove(n);
                self.window.close(draft.snapshot());
            }
        }
    }

    fn commit(&mut self, n: usize) {
        let (draft, saw) = self.open.swap_remove(n);
        let validated = draft.validate(&self.window);
        if validated.is_ok() && !draft.writes().is_empty() {
            // The meaning of serializable: run alone, now, it sees the same.
            let mut alone = self.committed.clone();
            saw.into_iter().for_each(|saw| check_alone(&mut alone, saw));
            self.committed = alone;
            self.end += 8;
            let end = Lsn::new(self.end);
            apply(&mut self.store, draft.writes(), self.end);
            self.window.advance(end);
            let keys = draft.writes().keys();
            self.window.record_own(draft.snapshot(), keys, end);
        }
        self.window.close(draft.snapshot());
    }
}

fn check_alone(alone: &mut BTreeMap<Vec<u8>, Vec<u8>>, saw: Saw) {
    match saw {
        Saw::Value(key, value) => assert_eq!(alone.get(&key), value.as_ref(), "get {key:?}"),
        Saw::Rows(from, to, count, rows) => {
            let bounds = (slice(&from), slice(&to));
            let inside = |key: &[u8]| RangeBounds::<[u8]>::contains(&bounds, key);
            let now = alone.iter().filter(|(key, _)| inside(key)).take(count);
            let now = now.map(|(key, value)| (key.clone(), value.clone()));
            assert_eq!(now.collect::<Vec<_>>(), rows, "scan {from:?}..{to:?}");
        }
        Saw::Wrote(key, value) => {
            match value {
                Some(value) => alone.insert(key, value),
                None => alone.remove(&key),
            };
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_commits_could_have_run_alone(
        ops in prop::collection::vec(op(), 0..120),
        keys_max in prop::sample::select(vec![2, 10, 1_000]),
        reads_max in prop::sample::select(vec![None, Some(1)]),
    ) {
        let mut world = World::new(keys_max, reads_max);
        ops.into_iter().for_each(|op| world.step(op));
        world.open.clear();
        let (reader, at) = (world.store.reader(), Lsn::new(world.end));
        let rows = reader.scan(1, Bound::Unbounded, Bound::Unbounded, at).unwrap();
        let rows = rows.map(|row| row.map(|(k, v)| (k.to_vec(), v.to_vec())).unwrap());
        prop_assert_eq!(rows.collect::<BTreeMap<_, _>>(), world.committed);
    }

    #[test]
    fn a_transaction_conflicts_exactly_when_something_it_touched_was_committed(
        commits in prop::collection::vec(prop::collection::vec(key(), 0..5), 0..12),
        reads in prop::collection::vec(key(), 0..12),
        range in prop::option::of((bound(), bound())),
        own in prop::collection::btree_set(key(), 2..12),
        seen in 0..12usize,
        spilled: bool,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut window = ConflictWindow::new(Lsn::new(8));
        let end = |n: usize| Lsn::new(8 * (n as u64 + 2));
        for (n, keys) in commits.iter().enumerate() {
            window.record(keys.iter().map(|key| Ok((1, Bytes::from(key.clone())))), end(n));
        }
        let mut set = write_set(dir.path(), if spilled { 0 } else { 1 << 20 });
        own.iter().for_each(|key| set.put(1, key, "v").unwrap());
        let mut read = ReadSet::default();
        reads.iter().for_each(|key| read.add_key(1, key));
        if let Some((from, to)) = &range {
            read.add_range(1, slice(from), slice(to)).unwrap();
        }
        let in_range = |key: &Vec<u8>| range.as_ref().is_some_and(|(from, to)| {
            RangeBounds::<[u8]>::contains(&(slice(from), slice(to)), key.as_slice())
        });
        let touched = |key: &Vec<u8>| own.contains(key) || reads.contains(key) || in_range(key);
        let wanted = commits.iter().skip(seen).flatten().any(touched);
        let snapshot = if seen == 0 { Lsn::new(8) } else { end(seen - 1) };
        let validated = window.validate(&read, &set, snapshot);
        prop_assert_eq!(validated.is_err(), wanted);
    }
}
