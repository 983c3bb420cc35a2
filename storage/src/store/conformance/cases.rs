//! The suite's written cases: one promise each, on a store of its own.
//!
//! Each case says in its name what must hold. Rows are few and chosen; what nobody thought of is
//! the random part's business.

use std::ops::Bound::{self, Excluded, Included, Unbounded};
use std::ops::RangeBounds;

use bytes::Bytes;

use super::{Case, FIRST, Failing, Specimen, check_contents, scanned};
use crate::entry::{WalEntry, WalEntryType};
use crate::error::Error;
use crate::store::{CATALOG, Change, KEY_MAX, ReadAt, Store, TableId, Transaction};

/// Runs every case.
pub(super) fn run<S: Specimen>(specimen: &mut S) {
    fresh_is_empty(&mut Case::new(specimen));
    later_writes_win(&mut Case::new(specimen));
    applied_is_skipped(&mut Case::new(specimen));
    bad_transaction_changes_nothing(&mut Case::new(specimen));
    reads_show_their_position(&mut Case::new(specimen));
    scans_keep_their_bounds(&mut Case::new(specimen));
    long_scans_are_whole(&mut Case::new(specimen));
    tables_do_not_mix(&mut Case::new(specimen));
    catalog_names_tables(&mut Case::new(specimen));
    keys_have_limits(&mut Case::new(specimen));
    large_values_come_back(&mut Case::new(specimen));
    old_positions_are_right_or_refused(&mut Case::new(specimen));
}

fn fresh_is_empty<S: Specimen>(case: &mut Case<'_, S>) {
    let applied = case.store().applied();
    assert!(applied < FIRST, "a new store applied up to {applied}");
    assert!(case.store().durable() <= applied);
    case.check_at(FIRST);
    assert_eq!(case.reader().get(1, b"k", FIRST).unwrap(), None);
}

fn later_writes_win<S: Specimen>(case: &mut Case<'_, S>) {
    case.commit(&[Change::put(1, "a", "1"), Change::put(1, "b", "")]);
    case.commit(&[Change::delete(1, "a"), Change::delete(1, "never there")]);
    case.commit(&[]);
    let twice = [
        Change::put(1, "b", "2"),
        Change::put(1, "c", "3"),
        Change::delete(1, "c"),
        Change::delete(1, "a"),
        Change::put(1, "a", "4"),
        Change::put(1, "b", "5"),
    ];
    case.commit(&twice);
    case.check();
    let at = case.end();
    assert_eq!(case.reader().get(1, b"a", at).unwrap().unwrap(), "4");
    assert_eq!(case.reader().get(1, b"b", at).unwrap().unwrap(), "5");
    assert_eq!(case.reader().get(1, b"c", at).unwrap(), None);
}

fn applied_is_skipped<S: Specimen>(case: &mut Case<'_, S>) {
    let first = case.commit(&[Change::put(1, "a", "1")]);
    case.commit(&[Change::put(1, "a", "2"), Change::put(1, "b", "2")]);
    case.replay_from(0);
    case.check();
    let entry = WalEntry::new(
        WalEntryType::Insert,
        None,
        Change::put(1, "a", "x").encode(),
    );
    let other = Transaction::new(0, FIRST, first, 1, Box::new(vec![entry]));
    case.store().apply(&other).unwrap();
    assert_eq!(case.store().applied(), case.end());
    case.check();
}

fn bad_transaction_changes_nothing<S: Specimen>(case: &mut Case<'_, S>) {
    case.commit(&[Change::put(1, "a", "1"), Change::put(1, "b", "1")]);
    let good = || {
        let data = Change::put(1, "a", "half").encode();
        WalEntry::new(WalEntryType::Insert, Some(1), data)
    };
    let entry = |data: &'static [u8]| WalEntry::new(WalEntryType::Insert, Some(1), data);
    let (begin, end) = (case.end(), case.end() + 160);
    let long = Change::put(1, vec![1; KEY_MAX + 1], "long key").encode();
    let bad = [
        vec![good(), entry(b"garbage")],
        vec![good(), entry(b"")],
        vec![good(), entry(b"\x00\x01\x00\x01v")], // an empty key
        vec![good(), WalEntry::new(WalEntryType::Insert, Some(1), long)],
    ];
    for entries in bad {
        let transaction = Transaction::new(1, begin, end, 100, Box::new(entries));
        refused(case, &transaction);
    }
    let failing = Transaction::new(1, begin, end, 100, Box::new(Failing(vec![good()])));
    refused(case, &failing);
    case.commit(&[Change::put(1, "a", "whole")]);
    case.check();
}

fn refused<S: Specimen>(case: &mut Case<'_, S>, transaction: &Transaction) {
    let before = case.store().applied();
    case.store()
        .apply(transaction)
        .expect_err("a bad transaction was applied");
    // The store may now want to be opened again.
    case.crash();
    case.replay();
    assert_eq!(case.store().applied(), before);
    case.check();
}

fn reads_show_their_position<S: Specimen>(case: &mut Case<'_, S>) {
    let mut ends = vec![case.commit(&[Change::put(1, "a", "0"), Change::put(1, "d", "0")])];
    case.reader().open_snapshot(ends[0]).unwrap();
    for round in 1..6u8 {
        let value = vec![round; 10];
        let end = case.commit(&[
            Change::put(1, "a", value.clone()),
            if round % 2 == 0 {
                Change::put(1, "d", value.clone())
            } else {
                Change::delete(1, "d")
            },
            Change::put(1, vec![b'k', round], value),
        ]);
        ends.push(end);
        case.reader().open_snapshot(end).unwrap();
    }
    case.checkpoint(case.committed);
    for end in &ends {
        case.check_at(*end);
        case.check_at(*end + 7); // between two transactions
    }
    ends.iter()
        .for_each(|end| case.reader().close_snapshot(*end));
    case.check();
}

fn scans_keep_their_bounds<S: Specimen>(case: &mut Case<'_, S>) {
    let keys: [&[u8]; 9] = [
        b"\x00",
        b"\x00\x00",
        b"a",
        b"a\x00",
        b"a\x01",
        b"ab",
        b"b",
        b"\xFF",
        b"\xFF\xFF",
    ];
    let puts = keys.map(|key| Change::put(1, Bytes::from_static(key), "v"));
    case.commit(&puts);
    case.commit(&[Change::delete(1, "ab"), Change::put(2, "a", "other table")]);
    let at = case.end();
    let mut bounds: Vec<Bound<&[u8]>> = vec![Unbounded];
    for key in keys.iter().chain(&[&b"aa"[..], b"c"]) {
        bounds.extend([Included(*key), Excluded(*key)]);
    }
    for from in &bounds {
        for to in &bounds {
            let rows = scanned(case.reader(), 1, *from, *to, at).unwrap();
            let found = rows.iter().map(|(key, _)| key.as_slice());
            let bounds = (*from, *to);
            let inside = |key: &&[u8]| RangeBounds::<[u8]>::contains(&bounds, *key);
            let wanted = keys.into_iter().filter(|key| *key != b"ab").filter(inside);
            assert!(found.eq(wanted), "scan of {from:?}..{to:?} gave {rows:?}");
        }
    }
    let (from, to): (&[u8], &[u8]) = (b"a", b"b"); // a prefix is such a range
    let rows = scanned(case.reader(), 1, Included(from), Excluded(to), at).unwrap();
    assert_eq!(rows.len(), 3);
}

fn long_scans_are_whole<S: Specimen>(case: &mut Case<'_, S>) {
    let key = |n: u32| n.to_be_bytes().to_vec();
    for part in 0..5 {
        let rows = (0..1_000).map(|n| Change::put(1, key(n * 5 + part), vec![7; 20]));
        case.commit(&rows.collect::<Vec<_>>());
        case.checkpoint(case.committed);
    }
    case.reader().open_snapshot(case.end()).unwrap();
    let (before, whole) = (case.end(), 5_000);
    let holes = (0..1_600).map(|n| Change::delete(1, key(n * 3)));
    case.commit(&holes.collect::<Vec<_>>());
    for (at, count) in [(before, whole), (case.end(), whole - 1_600)] {
        let rows = scanned(case.reader(), 1, Unbounded, Unbounded, at).unwrap();
        assert_eq!(rows.len(), count, "rows at {at}");
        assert!(rows.is_sorted(), "a scan out of order");
    }
    case.check();
}

fn tables_do_not_mix<S: Specimen>(case: &mut Case<'_, S>) {
    let tables: [TableId; 7] = [1, 2, 0xFF, 0x100, 0xFFFF, 0x1_0000, TableId::MAX];
    let puts = tables.map(|table| Change::put(table, "\u{0}k", table.to_string()));
    case.commit(&puts);
    let ends = tables.map(|table| Change::put(table, vec![0xFF; 9], "last"));
    case.commit(&ends);
    case.commit(&[Change::delete(0x100, "\u{0}k")]);
    case.check();
}

fn catalog_names_tables<S: Specimen>(case: &mut Case<'_, S>) {
    let create = |table, name: &str| Change::CreateTable {
        table,
        name: name.to_owned(),
    };
    case.commit(&[create(7, "people"), Change::put(7, "ada", "1815")]);
    case.commit(&[create(300, "places"), create(8, "people")]);
    case.checkpoint(case.committed);
    case.crash();
    case.replay();
    let at = case.end();
    let people = case.reader().get(CATALOG, b"people", at).unwrap().unwrap();
    assert_eq!(people, 8u32.to_le_bytes().as_slice());
    let names = scanned(case.reader(), CATALOG, Unbounded, Unbounded, at).unwrap();
    assert_eq!(
        names[1],
        (b"places".to_vec(), 300u32.to_le_bytes().to_vec())
    );
    case.check();
}

fn keys_have_limits<S: Specimen>(case: &mut Case<'_, S>) {
    let longest = vec![0xFF; KEY_MAX];
    let mut almost = longest.clone();
    *almost.last_mut().expect("not empty") = 0;
    case.commit(&[
        Change::put(1, longest.clone(), "longest"),
        Change::put(1, almost.clone(), "almost"),
        Change::put(1, vec![0], "shortest"),
    ]);
    case.checkpoint(case.committed);
    case.check();
    let at = case.end();
    let after = scanned(case.reader(), 1, Excluded(&almost), Included(&longest), at).unwrap();
    assert_eq!(after.len(), 1);
    let rest = scanned(case.reader(), 1, Excluded(&longest), Unbounded, at).unwrap();
    assert!(rest.is_empty());
    let too_long = vec![1; KEY_MAX + 1];
    for bad in [&b""[..], &too_long] {
        let got = case.reader().get(1, bad, at);
        assert!(
            matches!(got, Err(Error::Invalid(_) | Error::TooLarge { .. })),
            "{got:?}"
        );
    }
    for (from, to) in [
        (Included(too_long.as_slice()), Unbounded),
        (Unbounded, Excluded(too_long.as_slice())),
    ] {
        let rows = scanned(case.reader(), 1, from, to, at);
        assert!(rows.is_err(), "a bound that is too long was taken");
    }
}

fn large_values_come_back<S: Specimen>(case: &mut Case<'_, S>) {
    let value = |n: u8| {
        let bytes = (0..3u32 << 20).map(|at| at.wrapping_mul(31).to_le_bytes()[1] ^ n);
        Bytes::from(bytes.collect::<Vec<_>>())
    };
    let changes = (0..4).map(|n| Change::put(1, vec![b'l', n], value(n)));
    let end = case.commit(&changes.collect::<Vec<_>>());
    case.commit(&[Change::put(1, "small", "1")]);
    case.checkpoint(end);
    case.check();
    case.crash();
    case.replay();
    case.check();
}

fn old_positions_are_right_or_refused<S: Specimen>(case: &mut Case<'_, S>) {
    let mut ends = Vec::new();
    for n in 0..10u8 {
        ends.push(case.commit(&[Change::put(1, "a", vec![n]), Change::put(1, vec![n], "")]));
        case.checkpoint(case.committed);
    }
    let kept = ends[9];
    case.reader().open_snapshot(kept).unwrap();
    for crashed in [false, true] {
        if crashed {
            case.crash();
            case.replay();
        }
        for end in &ends {
            let keys = case.keys();
            let checked = check_contents(case.reader(), *end, &case.model_at(*end), &keys);
            match checked {
                Ok(()) => {}
                Err(Error::SnapshotTooOld { at, oldest }) => assert!(at == *end && oldest > at),
                Err(error) => panic!("a read at {end} gave {error}"),
            }
            if matches!(case.reader().open_snapshot(*end), Ok(())) {
                case.check_at(*end);
                case.reader().close_snapshot(*end);
            }
        }
    }
    case.check();
}
