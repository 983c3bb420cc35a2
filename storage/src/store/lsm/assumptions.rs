//! What this room takes for granted about `lsm-tree` 3.1.10, one test each.
//!
//! Much of it is not promised by the crate. When the pin moves, these tests say what has changed;
//! the comments say which rule of the store leans on it. Tests named after something bad show why
//! a rule is needed: if one of them fails, the rule may be dropped.

mod edges;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lsm_tree::compaction::filter::{CompactionFilter, Context, Factory, ItemAccessor, Verdict};
use lsm_tree::{
    AbstractTree, AnyTree, Config, Guard, InternalValue, Memtable, SeqNo, SequenceNumberCounter,
    Tree, ValueType,
};
use tempfile::TempDir;

use super::fixture::{copy_dir, names};

/// A tree without any of the store's rules, unless a test follows them.
struct Bare {
    tree: Tree,
    counter: SequenceNumberCounter,
    dir: PathBuf,
    flushed_max: SeqNo,
}

fn open(dir: &Path) -> Bare {
    try_open(dir).unwrap()
}

fn try_open(dir: &Path) -> lsm_tree::Result<Bare> {
    let counter = SequenceNumberCounter::default();
    let config = Config::new(dir, counter.clone(), SequenceNumberCounter::default());
    let AnyTree::Standard(tree) = config.open()? else {
        unreachable!("no key-value separation was asked for")
    };
    let flushed_max = tree.get_highest_persisted_seqno().unwrap_or(0);
    Ok(Bare {
        tree,
        counter,
        dir: dir.to_owned(),
        flushed_max,
    })
}

impl Bare {
    fn put(&self, key: &str, value: &str, version: SeqNo) {
        self.tree.insert(key, value, version);
    }

    fn get(&self, key: &str, at: SeqNo) -> Option<String> {
        let value = self.tree.get(key, at).unwrap()?;
        Some(String::from_utf8(value.to_vec()).unwrap())
    }

    fn scan(&self, at: SeqNo) -> Vec<(String, String)> {
        let text = |bytes: lsm_tree::Slice| String::from_utf8(bytes.to_vec()).unwrap();
        self.tree
            .iter(at, None)
            .map(|row| row.into_inner().unwrap())
            .map(|(key, value)| (text(key), text(value)))
            .collect()
    }

    /// The counter rule: just above what is in tables, before every edit.
    fn before_edit(&mut self, memtable: Option<&Memtable>) {
        let highest = memtable.and_then(Memtable::get_highest_seqno).unwrap_or(0);
        self.flushed_max = self.flushed_max.max(highest);
        self.counter.set(self.flushed_max + 1);
    }

    fn write_table(&self, memtable: &Memtable) -> Vec<lsm_tree::Table> {
        let rows = memtable.iter().map(Ok);
        self.tree.flush_to_tables(rows).unwrap().unwrap().0
    }

    fn flush_one(&mut self, memtable: &Memtable, watermark: SeqNo) {
        let tables = self.write_table(memtable);
        self.before_edit(Some(memtable));
        self.tree
            .register_tables(&tables, None, None, &[memtable.id()], watermark)
            .unwrap();
    }

    fn rotate_and_flush(&mut self, watermark: SeqNo) {
        let memtable = self.tree.rotate_memtable().unwrap();
        self.flush_one(&memtable, watermark);
    }

    fn compact(&mut self, watermark: SeqNo) {
        self.before_edit(None);
        self.tree.major_compact(u64::MAX, watermark).unwrap();
    }
}

fn temp() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_read_sees_versions_strictly_below_its_position() {
    let dir = temp();
    let bare = open(dir.path());
    bare.put("k", "nine", 9);
    assert_eq!(bare.get("k", 0), None);
    assert_eq!(bare.get("k", 9), None);
    assert_eq!(bare.get("k", 10).as_deref(), Some("nine"));
    assert!(bare.scan(9).is_empty());
    assert_eq!(bare.scan(10).len(), 1);
}

#[test]
fn a_held_position_reads_the_same_across_flush_and_compaction() {
    let dir = temp();
    let mut bare = open(dir.path());
    bare.put("k", "old", 9);
    bare.put("gone", "x", 9);
    for edit in 0..4 {
        bare.put("k", &format!("new {edit}"), 15 + edit * 8);
        bare.tree.remove("gone", 15 + edit * 8);
        bare.rotate_and_flush(10);
        bare.compact(10);
        assert_eq!(bare.get("k", 10).as_deref(), Some("old"));
        assert_eq!(bare.scan(10).len(), 2);
        let newest = 16 + edit * 8;
        assert_eq!(bare.get("k", newest), Some(format!("new {edit}")));
        assert_eq!(bare.scan(newest).len(), 1);
    }
    assert!(bare.tree.version_free_list_len() > 0);
}

#[test]
fn a_counter_that_is_never_raised_loses_rows_of_held_positions() {
    let dir = temp();
    let bare = open(dir.path());
    bare.put("k", "old", 9);
    bare.put("k", "new", 15);
    let memtable = bare.tree.rotate_memtable().unwrap();
    let tables = bare.write_table(&memtable);
    bare.tree
        .register_tables(&tables, None, None, &[memtable.id()], 10)
        .unwrap();
    bare.tree.major_compact(u64::MAX, 10).unwrap();
    assert_eq!(
        bare.get("k", 10),
        None,
        "the merge drops k@9 because of k@15"
    );
}

#[test]
fn below_the_watermark_a_read_panics_in_process() {
    let dir = temp();
    let mut bare = open(dir.path());
    for version in [9, 19, 29] {
        bare.put("k", "v", version);
        bare.rotate_and_flush(version + 1);
    }
    let read = catch_unwind(AssertUnwindSafe(|| bare.get("k", 5)));
    assert!(
        read.is_err(),
        "the store must refuse such a position itself"
    );
    assert_eq!(
        bare.get("k", 30).as_deref(),
        Some("v"),
        "no lock is poisoned"
    );
}

#[test]
fn below_the_watermark_a_reopened_tree_lies() {
    let dir = temp();
    let mut bare = open(dir.path());
    bare.put("k", "old", 9);
    bare.put("k", "new", 15);
    bare.rotate_and_flush(16);
    bare.compact(16);
    drop(bare);
    assert_eq!(open(dir.path()).get("k", 10), None);
}

#[test]
fn sealed_memtables_reach_disk_one_by_one() {
    let dir = temp();
    let mut bare = open(dir.path());
    let mut sealed = Vec::new();
    for version in [9, 19, 29] {
        bare.put("k", &version.to_string(), version);
        sealed.push(bare.tree.rotate_memtable().unwrap());
    }
    for (flushed, memtable) in sealed.iter().enumerate() {
        bare.flush_one(memtable, 9);
        assert_eq!(bare.tree.sealed_memtable_count(), 2 - flushed);
        assert_eq!(bare.get("k", 30).as_deref(), Some("29"));
        let copy = temp();
        copy_dir(&bare.dir, copy.path());
        let expected = memtable.get_highest_seqno().unwrap().to_string();
        assert_eq!(open(copy.path()).get("k", SeqNo::MAX), Some(expected));
    }
}

#[test]
fn flushed_in_the_wrong_order_a_get_returns_the_older_value() {
    let dir = temp();
    let mut bare = open(dir.path());
    bare.put("k", "old", 9);
    let old = bare.tree.rotate_memtable().unwrap();
    bare.put("k", "new", 19);
    let new = bare.tree.rotate_memtable().unwrap();
    bare.flush_one(&new, 9);
    bare.flush_one(&old, 9);
    drop(bare);
    assert_eq!(open(dir.path()).get("k", 30).as_deref(), Some("old"));
}

#[test]
fn a_counter_raised_at_insert_is_overtaken_by_idle_edits() {
    let dir = temp();
    let bare = open(dir.path());
    bare.put("seed", "v", 9);
    bare.counter.fetch_max(10);
    bare.tree.flush_active_memtable(0).unwrap();
    for _ in 0..100 {
        bare.tree.major_compact(u64::MAX, 0).unwrap();
    }
    bare.put("before", "v", 41);
    bare.counter.fetch_max(42);
    bare.tree.rotate_memtable();
    bare.put("k", "v", 73);
    bare.counter.fetch_max(74);
    assert_eq!(bare.get("k", 74), None, "committed, and invisible");
}

#[test]
fn a_counter_set_above_the_tables_before_each_edit_is_not_overtaken() {
    let dir = temp();
    let mut bare = open(dir.path());
    bare.put("seed", "v", 9);
    bare.rotate_and_flush(0);
    for _ in 0..100 {
        bare.compact(0);
    }
    bare.put("before", "v", 41);
    bare.tree.rotate_memtable();
    bare.put("k", "v", 73);
    assert_eq!(bare.get("k", 74).as_deref(), Some("v"));
    assert_eq!(bare.get("seed", 10).as_deref(), Some("v"));
}

#[test]
fn rows_inserted_at_a_version_that_an_edit_has_passed_are_invisible_at_its_end() {
    let dir = temp();
    let mut bare = open(dir.path());
    bare.put("first part", "v", 99);
    let first = bare.tree.rotate_memtable().unwrap();
    bare.put("second part", "v", 99);
    bare.flush_one(&first, 0); // sets the counter to 100
    bare.tree.rotate_memtable().unwrap();
    bare.put("third part", "v", 99);
    assert_eq!(bare.get("second part", 100).as_deref(), Some("v"));
    assert_eq!(bare.get("third part", 100), None);
}

#[test]
fn tables_that_no_memtable_shows_are_seen_at_their_end_if_their_edit_is_numbered_below() {
    let dir = temp();
    let mut bare = open(dir.path());
    bare.put("k", "old", 9);
    bare.rotate_and_flush(10);
    let table = |bare: &Bare, value: &str, version| {
        let row = InternalValue::from_components("k", value, version, ValueType::Value);
        let rows = [Ok(row)].into_iter();
        bare.tree.flush_to_tables(rows).unwrap().unwrap().0
    };
    let tables = table(&bare, "new", 99);
    bare.counter.set(10);
    bare.tree
        .register_tables(&tables, None, None, &[], 10)
        .unwrap();
    assert_eq!(bare.get("k", 100).as_deref(), Some("new"));
    assert_eq!(bare.get("k", 99).as_deref(), Some("old"));
    // The merge drops the old row, so positions that need it must not see the merge.
    bare.flushed_max = 99;
    bare.compact(10);
    assert_eq!(bare.get("k", 99).as_deref(), Some("old"));
    assert_eq!(bare.get("k", 100).as_deref(), Some("new"));
    let tables = table(&bare, "newest", 199);
    bare.counter.set(200);
    bare.tree
        .register_tables(&tables, None, None, &[], 10)
        .unwrap();
    assert_eq!(
        bare.get("k", 200).as_deref(),
        Some("new"),
        "numbered above, it comes too late"
    );
}

#[test]
fn reopening_drops_every_memtable_and_nothing_else() {
    let dir = temp();
    let mut bare = open(dir.path());
    bare.put("flushed", "v", 9);
    bare.rotate_and_flush(9);
    bare.put("sealed", "v", 19);
    bare.tree.rotate_memtable().unwrap();
    bare.put("active", "v", 29);
    drop(bare);
    let bare = open(dir.path());
    assert_eq!(bare.scan(SeqNo::MAX).len(), 1);
    assert_eq!(bare.get("flushed", SeqNo::MAX).as_deref(), Some("v"));
}

#[test]
fn clearing_the_active_memtable_is_no_rewind() {
    let dir = temp();
    let bare = open(dir.path());
    bare.put("sealed", "v", 9);
    bare.tree.rotate_memtable().unwrap();
    bare.tree.clear_active_memtable();
    assert_eq!(bare.get("sealed", 10).as_deref(), Some("v"));
}

#[test]
fn a_kill_between_any_two_steps_leaves_the_last_registered_state() {
    let dir = temp();
    let mut bare = open(dir.path());
    let state = |bare: &Bare, expected: usize, step: &str| {
        let copy = temp();
        copy_dir(&bare.dir, copy.path());
        let reopened = open(copy.path());
        assert_eq!(reopened.scan(SeqNo::MAX).len(), expected, "{step}");
        assert_eq!(
            names(&copy.path().join("tables")).len(),
            reopened.tree.table_count()
        );
    };
    for round in 0..5usize {
        let version = 9 + round as SeqNo * 10;
        bare.put(&format!("k{round}"), "v", version);
        let memtable = bare.tree.rotate_memtable().unwrap();
        state(&bare, round, "before the table is written");
        let tables = bare.write_table(&memtable);
        state(&bare, round, "table written");
        bare.before_edit(Some(&memtable));
        bare.tree
            .register_tables(&tables, None, None, &[memtable.id()], version)
            .unwrap();
        state(&bare, round + 1, "table registered");
        bare.compact(version);
        state(&bare, round + 1, "compacted");
    }
}

#[test]
fn a_kill_inside_an_edit_leaves_the_state_before_it() {
    let dir = temp();
    let mut bare = open(dir.path());
    bare.put("a", "v", 9);
    bare.rotate_and_flush(9);
    let before = temp();
    copy_dir(&bare.dir, before.path());
    bare.put("b", "v", 19);
    bare.rotate_and_flush(0);
    // Everything of the edit is there but the rename of `current`, and its file half written.
    let middle = temp();
    copy_dir(&bare.dir, middle.path());
    fs::copy(before.path().join("current"), middle.path().join("current")).unwrap();
    fs::copy(before.path().join("v1"), middle.path().join("v1")).unwrap();
    let torn = fs::read(middle.path().join("v2")).unwrap();
    fs::write(middle.path().join("v2"), &torn[..torn.len() / 2]).unwrap();
    fs::write(middle.path().join(".tmpAbCdEf"), &torn[..9]).unwrap();
    let reopened = open(middle.path());
    assert_eq!(reopened.scan(SeqNo::MAX).len(), 1);
    assert_eq!(reopened.tree.table_count(), 1);
    assert!(
        names(middle.path()).contains(&".tmpAbCdEf".to_owned()),
        "the store removes these itself"
    );
}

#[test]
fn a_missing_current_file_makes_an_empty_tree_and_then_deletes_every_table() {
    let dir = temp();
    let mut bare = open(dir.path());
    bare.put("k", "v", 9);
    bare.rotate_and_flush(9);
    drop(bare);
    fs::remove_file(dir.path().join("current")).unwrap();
    assert!(open(dir.path()).scan(SeqNo::MAX).is_empty());
    assert_eq!(names(&dir.path().join("tables")).len(), 1);
    open(dir.path());
    assert!(names(&dir.path().join("tables")).is_empty());
}

#[test]
fn the_current_file_carries_the_hash_of_the_manifest_and_open_ignores_it() {
    let dir = temp();
    let mut bare = open(dir.path());
    bare.put("k", "v", 9);
    bare.rotate_and_flush(9);
    drop(bare);
    let path = dir.path().join("current");
    let mut current = fs::read(&path).unwrap();
    assert_eq!(current.len(), 25);
    assert_eq!(current[24], 0);
    let id = u64::from_le_bytes(current[..8].try_into().unwrap());
    let manifest = fs::read(dir.path().join(format!("v{id}"))).unwrap();
    let hash = xxhash_rust::xxh3::xxh3_128(&manifest);
    assert_eq!(current[8..24], hash.to_le_bytes());
    current[8] ^= 1;
    fs::write(&path, current).unwrap();
    assert_eq!(open(dir.path()).scan(SeqNo::MAX).len(), 1);
}

#[test]
fn the_manifest_carries_the_hash_of_each_table_file() {
    let dir = temp();
    let mut bare = open(dir.path());
    bare.put("k", "v", 9);
    bare.rotate_and_flush(9);
    let version = bare.tree.current_version();
    for table in version.iter_tables() {
        let path = dir.path().join("tables").join(table.id().to_string());
        let hash = xxhash_rust::xxh3::xxh3_128(&fs::read(path).unwrap());
        assert_eq!(table.checksum().into_u128(), hash);
    }
}

#[test]
fn an_iterator_kept_over_a_reopen_deletes_a_live_table() {
    let dir = temp();
    let mut bare = open(dir.path());
    bare.put("k", "v", 9);
    bare.rotate_and_flush(9);
    bare.put("last", "v", 19);
    bare.rotate_and_flush(0);
    let old = bare.tree.iter(30, None);
    bare.tree.drop_range("last"..="last").unwrap();
    drop(bare);
    let mut bare = open(dir.path());
    bare.put("k2", "v", 29);
    bare.rotate_and_flush(0);
    drop(old);
    drop(bare);
    let opened = try_open(dir.path());
    assert!(matches!(opened, Err(lsm_tree::Error::Unrecoverable)));
}
