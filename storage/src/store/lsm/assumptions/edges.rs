//! What the library does at its limits, and with things that were exchanged behind its back.

use super::*;

#[test]
fn the_highest_persisted_version_goes_back() {
    let dir = temp();
    let mut bare = open(dir.path());
    bare.put("k", "v", 9);
    bare.rotate_and_flush(0);
    bare.tree.remove("k", 31);
    bare.rotate_and_flush(0);
    assert_eq!(bare.tree.get_highest_persisted_seqno(), Some(31));
    bare.compact(40);
    assert_eq!(bare.tree.get_highest_persisted_seqno(), None);
}

/// Where a store stands is read from its newest version, or from a row when that removes only.
#[test]
fn the_newest_row_that_is_set_outlives_every_merge() {
    let dir = temp();
    let mut bare = open(dir.path());
    for version in [9, 19, 29] {
        bare.put("k", "v", version);
        bare.tree.remove("gone", version - 1);
        bare.rotate_and_flush(version + 1);
        bare.compact(version + 1);
        assert_eq!(bare.tree.get_highest_persisted_seqno(), Some(version));
    }
    drop(bare);
    let bare = open(dir.path());
    assert_eq!(bare.tree.get_highest_persisted_seqno(), Some(29));
}

#[test]
fn keys_outside_the_limits_panic() {
    let dir = temp();
    let mut bare = open(dir.path());
    let longest = "k".repeat(65_535);
    let longer = "k".repeat(65_536);
    bare.put(&longest, "v", 9);
    bare.rotate_and_flush(9);
    assert_eq!(bare.get(&longest, 10).as_deref(), Some("v"));
    let panics = |call: &dyn Fn()| catch_unwind(AssertUnwindSafe(call)).is_err();
    assert!(panics(&|| bare.put(&longer, "v", 10)));
    assert!(panics(&|| bare.put("", "v", 10)));
    assert!(panics(&|| drop(bare.get(&longer, 10))));
    assert!(panics(&|| {
        let range = bare.tree.range(longer.as_str().., 10, None);
        assert_eq!(range.count(), 0);
    }));
}

#[test]
fn inverted_and_empty_ranges_do_not_panic() {
    let dir = temp();
    let mut bare = open(dir.path());
    bare.put("m", "v", 9);
    bare.rotate_and_flush(9);
    bare.put("n", "v", 19);
    assert_eq!(bare.tree.range("z".."a", 20, None).count(), 0);
    assert_eq!(bare.tree.range("m".."m", 20, None).count(), 0);
}

#[test]
fn one_key_and_version_in_two_memtables_scans_either_value() {
    let dir = temp();
    let bare = open(dir.path());
    let key = |n: u32| format!("k{n:03}");
    (0..400).for_each(|n| bare.put(&key(n), "first", 9));
    bare.tree.rotate_memtable().unwrap();
    (0..400).for_each(|n| bare.put(&key(n), "second", 9));
    assert!((0..400).all(|n| bare.get(&key(n), 10).as_deref() == Some("second")));
    let wrong = bare.scan(10).iter().filter(|row| row.1 == "first").count();
    assert!(
        wrong > 0,
        "so a key comes once per transaction, or always with the same value"
    );
}

#[test]
fn one_key_and_version_twice_in_one_memtable_keeps_the_last() {
    let dir = temp();
    let bare = open(dir.path());
    bare.put("k", "first", 9);
    bare.put("k", "second", 9);
    bare.put("d", "first", 9);
    bare.tree.remove("d", 9);
    assert_eq!(bare.get("k", 10).as_deref(), Some("second"));
    assert_eq!(bare.get("d", 10), None);
    assert_eq!(bare.scan(10).len(), 1);
}

/// What putting rows right leans on: a table of its own, with versions between those before and
/// those after, is neither overruled nor does it overrule.
#[test]
fn a_table_added_between_two_versions_hides_the_older_and_not_the_newer() {
    let dir = temp();
    let mut bare = open(dir.path());
    for key in ["changed", "extra", "later"] {
        bare.put(key, "wrong", 9);
    }
    bare.rotate_and_flush(0);
    let row = |key: &str, value: Option<&str>| match value {
        Some(value) => InternalValue::from_components(key, value, 49, ValueType::Value),
        None => InternalValue::new_tombstone(key, 49),
    };
    let rows = [
        row("changed", Some("right")),
        row("extra", None),
        row("later", Some("right")),
        row("missing", Some("right")),
    ];
    let written = bare.tree.flush_to_tables(rows.into_iter().map(Ok));
    let (tables, _) = written.unwrap().unwrap();
    bare.before_edit(None);
    bare.tree
        .register_tables(&tables, None, None, &[], 0)
        .unwrap();
    bare.flushed_max = 49;
    bare.put("later", "newer", 80);
    let right = |bare: &Bare| {
        let get = |key: &str| bare.get(key, 50);
        assert_eq!(get("changed").as_deref(), Some("right"));
        assert_eq!(get("missing").as_deref(), Some("right"));
        assert_eq!(get("later").as_deref(), Some("right"));
        assert_eq!(get("extra"), None);
        assert_eq!(bare.scan(50).len(), 3);
        assert_eq!(bare.get("later", 81).as_deref(), Some("newer"));
    };
    right(&bare);
    assert_eq!(bare.get("extra", 49).as_deref(), Some("wrong"));
    assert_eq!(bare.get("missing", 49), None);
    bare.rotate_and_flush(0);
    right(&bare);
    bare.compact(50);
    right(&bare);
    drop(bare);
    // A read below what is on disk is refused by the store then.
    let bare = open(dir.path());
    assert_eq!(bare.get("changed", 81).as_deref(), Some("right"));
    assert_eq!(bare.get("later", 81).as_deref(), Some("newer"));
    assert_eq!(bare.get("extra", 81), None);
}

#[test]
fn registering_for_a_memtable_that_is_gone_does_nothing_and_says_ok() {
    let dir = temp();
    let mut bare = open(dir.path());
    bare.put("k", "v", 9);
    let memtable = bare.tree.rotate_memtable().unwrap();
    bare.flush_one(&memtable, 9);
    let before = bare.tree.current_version().id();
    bare.flush_one(&memtable, 9);
    assert_eq!(bare.tree.current_version().id(), before);
}

#[test]
fn more_than_255_runs_in_level_0_cannot_be_opened_again() {
    let dir = temp();
    let mut bare = open(dir.path());
    for version in 0..257 {
        bare.put("k", "v", 9 + version);
        bare.rotate_and_flush(0);
    }
    drop(bare);
    assert!(try_open(dir.path()).is_err());
}

#[test]
fn nothing_locks_the_directory_and_foreign_v_files_are_deleted() {
    let dir = temp();
    let _first = open(dir.path());
    fs::write(dir.path().join("vault"), "").unwrap();
    fs::write(dir.path().join("lock"), "").unwrap();
    let _second = open(dir.path());
    assert!(!dir.path().join("vault").exists());
    assert!(dir.path().join("lock").exists());
}

#[derive(Default)]
struct Stop(AtomicBool);

struct Stopper(Arc<Stop>);

struct StopFactory(Arc<Stop>);

impl CompactionFilter for Stopper {
    fn filter_item(&mut self, _: ItemAccessor<'_>, _: &Context) -> lsm_tree::Result<Verdict> {
        match self.0.0.load(Ordering::Relaxed) {
            true => Err(lsm_tree::Error::Io(std::io::ErrorKind::Interrupted.into())),
            false => Ok(Verdict::Keep),
        }
    }
}

impl Factory for StopFactory {
    fn name(&self) -> &str {
        "stop"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        Box::new(Stopper(self.0.clone()))
    }
}

#[test]
fn a_filter_that_fails_stops_a_compaction_and_harms_nothing() {
    let dir = temp();
    let stop = Arc::new(Stop::default());
    let counter = SequenceNumberCounter::default();
    let tree = Config::new(
        dir.path(),
        counter.clone(),
        SequenceNumberCounter::default(),
    )
    .with_compaction_filter_factory(Some(Arc::new(StopFactory(stop.clone()))))
    .open()
    .unwrap();
    for version in [9u64, 19] {
        tree.insert("k", version.to_string(), version);
        counter.set(version + 1);
        tree.flush_active_memtable(0).unwrap();
    }
    stop.0.store(true, Ordering::Relaxed);
    assert!(tree.major_compact(u64::MAX, 20).is_err());
    assert_eq!(tree.table_count(), 2);
    assert_eq!(&*tree.get("k", 20).unwrap().unwrap(), b"19");
    stop.0.store(false, Ordering::Relaxed);
    tree.major_compact(u64::MAX, 20).unwrap();
    assert_eq!(tree.table_count(), 1);
}
