//! All rows of a store as one run, and rows that are put right in it.

use super::*;
use crate::store::lsm::fixture::copy_dir;
use crate::store::{CATALOG, MEND_ROOM, MendedRow, table_of_whole_key};

const END: u64 = 1 << 16;

/// The key of a row among all rows.
fn key(table: TableId, key: &str) -> Bytes {
    let mut whole = u64::from(table).to_be_bytes().to_vec();
    whole.extend_from_slice(key.as_bytes());
    whole.into()
}

fn all(store: &LsmStore, after: Option<&[u8]>, upto: Option<&[u8]>, at: u64) -> Vec<Bytes> {
    let rows = store.reader().whole(after, upto, Lsn::new(at)).unwrap();
    rows.map(|row| row.unwrap().0).collect()
}

fn filled(store: &LsmStore) {
    let name = "t".to_owned();
    let mut changes = vec![Change::CreateTable { table: 1, name }];
    changes.extend((0..100).map(|n| put(1, &format!("k{n:03}"), vec![b'o'; 100])));
    changes.push(put(TableId::MAX, "last", "v"));
    store.insert(Lsn::new(END), &changes).unwrap();
}

fn mend(store: &LsmStore, at: u64, rows: Vec<MendedRow>) -> Result<()> {
    store.mend(Lsn::new(at), &mut rows.into_iter().map(Ok))
}

fn mended() -> Vec<MendedRow> {
    vec![
        (key(CATALOG, "u"), Some(Bytes::from_static(b"\x02\0\0\0"))),
        (key(1, "k000"), Some("right".into())),
        (key(1, "k001"), None),
        (key(1, "k0015"), Some("right".into())),
    ]
}

#[track_caller]
fn is_right(store: &LsmStore, at: u64) {
    assert_eq!(get(store, "k000", at).as_deref(), Some("right"));
    assert_eq!(get(store, "k001", at), None);
    assert_eq!(get(store, "k0015", at).as_deref(), Some("right"));
    let tables = scan(store, CATALOG, Lsn::new(at));
    assert_eq!(tables.len(), 2);
}

#[test]
fn all_rows_come_in_order_between_any_bounds_and_the_stores_own_does_not() {
    let bed = Bed::new();
    bed.raise(Lsn::MAX);
    let store = bed.open();
    filled(&store);
    store.checkpoint(Lsn::MAX).unwrap();
    let rows = all(&store, None, None, END);
    assert_eq!(rows.len(), 102);
    assert!(rows.is_sorted());
    assert_eq!(rows[0], key(CATALOG, "t"));
    assert_eq!(table_of_whole_key(&rows[1]), Some((1, &b"k000"[..])));
    assert_eq!(rows[101], key(TableId::MAX, "last"));
    let (first, second) = (&rows[0][..], &rows[1][..]);
    assert_eq!(all(&store, Some(first), Some(second), END), rows[1..2]);
    assert!(all(&store, Some(&rows[101]), None, END).is_empty());
    let beyond = [255; 12];
    assert_eq!(all(&store, None, Some(&beyond), END), rows);
    assert!(all(&store, Some(&beyond), None, END).is_empty());
    assert!(all(&store, Some(second), Some(first), END).is_empty());
    assert!(
        store
            .reader()
            .whole(Some(&[]), None, Lsn::new(END))
            .is_err()
    );
}

#[test]
fn rows_that_are_put_right_are_durable_and_hide_what_was_there() {
    let bed = Bed::new();
    bed.raise(Lsn::MAX);
    let store = bed.open();
    filled(&store);
    store.reader().open_snapshot(Lsn::new(END)).unwrap();
    let at = END + MEND_ROOM;
    mend(&store, at, mended()).unwrap();
    assert_eq!((store.applied().get(), store.durable().get()), (at, at));
    is_right(&store, at);
    assert_eq!(get(&store, "k001", END).map(|old| old.len()), Some(100));
    // As a kill leaves it.
    settle(&store);
    let copy = bed.temp.path().join("copy");
    copy_dir(&bed.dir(), &copy);
    let reopened = LsmStore::open(&copy, true, open_gate(), small()).unwrap();
    is_right(&reopened, at);
    assert_eq!(reopened.applied(), Lsn::new(at));
    let later = at + 32;
    let change = put(1, "k001", "later");
    store.insert(Lsn::new(later), &[change]).unwrap();
    assert_eq!(get(&store, "k001", later).as_deref(), Some("later"));
    store.checkpoint(Lsn::new(later)).unwrap();
    settle(&store);
    assert_eq!(get(&store, "k001", later).as_deref(), Some("later"));
    assert_eq!(get(&store, "k000", later).as_deref(), Some("right"));
}

#[test]
fn rows_are_not_put_right_where_that_would_not_hold() {
    let bed = Bed::new();
    bed.raise(Lsn::MAX);
    let store = bed.open();
    filled(&store);
    let refused = mend(&store, END + MEND_ROOM - 1, mended());
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    let at = END + 64;
    let mut twice = mended();
    twice.push((key(1, "k0015"), None));
    assert!(mend(&store, at, twice).is_err());
    assert!(mend(&store, at, vec![(Bytes::from_static(&[255; 9]), None)]).is_err());
    assert!(mend(&store, at, vec![(Bytes::from_static(&[0; 8]), None)]).is_err());
    let ends = [Ok(mended().remove(0)), Err(Error::Closed)];
    let ended = store.mend(Lsn::new(at), &mut ends.into_iter());
    assert!(matches!(ended, Err(Error::Closed)), "{ended:?}");
    assert_eq!(store.applied(), Lsn::new(END));
    assert_eq!(scan(&store, CATALOG, Lsn::new(END)).len(), 1);
    mend(&store, at, mended()).unwrap();
    is_right(&store, at);
}

#[test]
fn nothing_is_put_right_before_it_may_reach_disk() {
    let bed = Bed::new();
    let store = bed.open();
    filled_in_memory(&store);
    let at = END + 64;
    let mending = std::thread::spawn({
        let store = store.clone();
        move || mend(&store, at, mended())
    });
    bed.flushed.raise(Lsn::MAX);
    bed.commit.raise(Lsn::new(END));
    while bed.commit.waiters() == 0 {
        std::thread::yield_now();
    }
    assert!(bed.bound.load(Ordering::SeqCst) <= END);
    bed.commit.raise(Lsn::new(at));
    mending.join().unwrap().unwrap();
    assert_eq!(store.durable(), Lsn::new(at));
}

fn filled_in_memory(store: &LsmStore) {
    let change = put(1, "k000", "wrong");
    store.insert(Lsn::new(END), &[change]).unwrap();
}
