//! Copies of the durable state, and damage in a directory.

use std::fs;

use super::super::fixture::names;
use super::*;

fn filled(bed: &Bed) -> LsmStore {
    bed.raise(Lsn::MAX);
    let store = bed.open();
    for n in 1..200u64 {
        let change = put(
            1,
            &format!("k{:02}", n % 30),
            vec![b'0' + (n % 10) as u8; 300],
        );
        store.insert(Lsn::new(64 * n), &[change]).unwrap();
    }
    store
}

#[test]
fn a_copy_opens_at_its_position_while_the_store_goes_on() {
    let bed = Bed::new();
    let store = filled(&bed);
    let mut end = store.applied();
    for round in 0..20 {
        let copy = bed.temp.path().join(format!("copy {round}"));
        fs::create_dir(&copy).unwrap();
        let position = store.snapshot(&copy).unwrap();
        let snapshot_of_then = bed.temp.path().join(format!("installed {round}"));
        fs::rename(&copy, &snapshot_of_then).unwrap();
        assert_eq!(verify_lsm_copy(&snapshot_of_then).unwrap(), position);
        for _ in 0..30 {
            end = end + 64;
            let change = put(1, &format!("k{:02}", end.get() % 30), vec![b'x'; 300]);
            store.insert(end, &[change]).unwrap();
        }
        let installed = LsmStore::open(&snapshot_of_then, true, open_gate(), small()).unwrap();
        assert_eq!(installed.applied(), position);
        if store.reader().open_snapshot(position).is_ok() {
            assert_eq!(scan(&installed, 1, position), scan(&store, 1, position));
            store.reader().close_snapshot(position);
        }
    }
}

#[test]
fn a_copy_equals_a_replay_up_to_its_position() {
    let bed = Bed::new();
    let store = filled(&bed);
    let copy = bed.temp.path().join("copy");
    fs::create_dir(&copy).unwrap();
    let position = store.snapshot(&copy).unwrap();
    let replayed = Bed::new();
    let again = filled_upto(&replayed, position);
    let installed = LsmStore::open(&copy, true, open_gate(), small()).unwrap();
    assert_eq!(scan(&installed, 1, position), scan(&again, 1, position));
}

fn filled_upto(bed: &Bed, position: Lsn) -> LsmStore {
    bed.raise(Lsn::MAX);
    let store = bed.open();
    for n in 1..=position.get() / 64 {
        let change = put(
            1,
            &format!("k{:02}", n % 30),
            vec![b'0' + (n % 10) as u8; 300],
        );
        store.insert(Lsn::new(64 * n), &[change]).unwrap();
    }
    store
}

#[test]
fn a_copy_needs_an_empty_directory() {
    let bed = Bed::new();
    let store = filled(&bed);
    let copy = bed.temp.path().join("copy");
    fs::create_dir(&copy).unwrap();
    store.snapshot(&copy).unwrap();
    assert!(matches!(store.snapshot(&copy), Err(Error::Invalid(_))));
}

#[test]
fn every_damaged_byte_of_a_copy_is_found() {
    let bed = Bed::new();
    let store = filled(&bed);
    store.checkpoint(store.applied()).unwrap();
    let copy = bed.temp.path().join("copy");
    fs::create_dir(&copy).unwrap();
    store.snapshot(&copy).unwrap();
    store.close();
    let table = copy.join("tables").join(&names(&copy.join("tables"))[0]);
    // A link shares its bytes with the original: damage a file of its own.
    let good = fs::read(&table).unwrap();
    fs::remove_file(&table).unwrap();
    for at in (0..good.len()).step_by(good.len() / 40) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(&table, bad).unwrap();
        let verified = verify_lsm_copy(&copy);
        assert!(
            matches!(verified, Err(Error::Corrupt { .. })),
            "byte {at}: {verified:?}"
        );
    }
    fs::write(&table, good).unwrap();
    verify_lsm_copy(&copy).unwrap();
}

fn open_again(bed: &Bed, must_exist: bool) -> Result<LsmStore> {
    LsmStore::open(&bed.dir(), must_exist, open_gate(), small())
}

#[test]
fn a_missing_current_file_is_corruption_and_nothing_is_deleted() {
    let bed = Bed::new();
    let store = filled(&bed);
    store.checkpoint(store.applied()).unwrap();
    store.close();
    let tables = names(&bed.dir().join("tables"));
    fs::rename(bed.dir().join("current"), bed.dir().join("away")).unwrap();
    for must_exist in [true, false, true] {
        let opened = open_again(&bed, must_exist);
        assert!(matches!(opened, Err(Error::Corrupt { .. })), "{opened:?}");
    }
    assert_eq!(names(&bed.dir().join("tables")), tables);
    fs::rename(bed.dir().join("away"), bed.dir().join("current")).unwrap();
    assert_eq!(open_again(&bed, true).unwrap().applied(), store.applied());
}

#[test]
fn a_missing_directory_is_corruption_unless_the_store_is_new() {
    let bed = Bed::new();
    let opened = open_again(&bed, true);
    assert!(matches!(opened, Err(Error::Corrupt { .. })));
    assert!(!bed.dir().exists(), "nothing is created in its place");
    let store = open_again(&bed, false).unwrap();
    assert_eq!((store.applied(), store.oldest()), (Lsn::ZERO, Lsn::ZERO));
    drop(store);
    // The kill came before the control file knew of it.
    open_again(&bed, false).unwrap();
}

#[test]
fn every_damaged_byte_of_the_manifest_is_corruption() {
    let bed = Bed::new();
    let store = filled(&bed);
    store.checkpoint(store.applied()).unwrap();
    store.close();
    let dir = bed.dir();
    let (id, _) = manifest::current(&dir).unwrap();
    for path in [manifest::manifest(&dir, id), dir.join("current")] {
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(&path, bad).unwrap();
            let opened = open_again(&bed, true);
            assert!(
                matches!(opened, Err(Error::Corrupt { .. })),
                "{path:?} byte {at}"
            );
        }
        fs::write(&path, &good[..good.len() / 2]).unwrap();
        assert!(matches!(open_again(&bed, true), Err(Error::Corrupt { .. })));
        fs::write(&path, good).unwrap();
    }
    assert_eq!(open_again(&bed, true).unwrap().applied(), store.applied());
}

#[test]
fn a_missing_or_foreign_table_is_corruption() {
    let bed = Bed::new();
    let store = filled(&bed);
    store.checkpoint(store.applied()).unwrap();
    store.close();
    let tables = bed.dir().join("tables");
    fs::write(tables.join("notes.txt"), "").unwrap();
    assert!(matches!(open_again(&bed, true), Err(Error::Corrupt { .. })));
    fs::remove_file(tables.join("notes.txt")).unwrap();
    fs::create_dir(tables.join("7777")).unwrap();
    assert!(matches!(open_again(&bed, true), Err(Error::Corrupt { .. })));
    fs::remove_dir(tables.join("7777")).unwrap();
    let table = tables.join(&names(&tables)[0]);
    fs::rename(&table, bed.temp.path().join("away")).unwrap();
    assert!(matches!(open_again(&bed, true), Err(Error::Corrupt { .. })));
    fs::rename(bed.temp.path().join("away"), &table).unwrap();
    open_again(&bed, true).unwrap();
}

#[test]
fn leftovers_of_a_kill_are_removed_and_an_open_store_is_locked() {
    let bed = Bed::new();
    let store = filled(&bed);
    assert!(matches!(open_again(&bed, true), Err(Error::Locked { .. })));
    store.close();
    fs::write(bed.dir().join(".tmpAbCdEf"), "half").unwrap();
    fs::write(bed.dir().join("tables").join("99999"), "half").unwrap();
    open_again(&bed, true).unwrap();
    assert!(!bed.dir().join(".tmpAbCdEf").exists());
    assert!(!bed.dir().join("tables").join("99999").exists());
}
