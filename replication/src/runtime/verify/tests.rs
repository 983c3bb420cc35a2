//! Cutting, shipping and merging between models of stores.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use mainstay_storage::{Error, Lsn, MendedRow, Result, Rows};
use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::sync::mpsc;

use super::mend::{Merge, Open, Shipped};
use super::serve::{page, ranges};
use super::sides::{Piece, part, piece};
use super::{ANSWER_BYTES_MAX, Contents, PAGE_BYTES, cut};
use crate::protocol::verify::{Digest, Grain, PARTS_MAX, Part, Span};
use crate::runtime::clock::Clock;
use crate::wire::result::ANSWER_ROWS_MAX;
use crate::wire::strict::any_answer;

type Model = BTreeMap<Bytes, Bytes>;

const AT: Lsn = Lsn::new(64);

/// A store in memory; what it is mended with is set at once.
struct Table(Arc<Mutex<Model>>);

impl Table {
    fn new(rows: Model) -> Self {
        Self(Arc::new(Mutex::new(rows)))
    }

    fn rows(&self) -> Model {
        self.0.lock().clone()
    }
}

impl Contents for Table {
    fn hold_newest(&self) -> Result<Lsn> {
        Ok(AT)
    }

    fn hold(&self, _: Lsn) -> Result<()> {
        Ok(())
    }

    fn release(&self, _: Lsn) {}

    fn rows(&self, after: Option<&[u8]>, upto: Option<&[u8]>, _: Lsn) -> Result<Rows> {
        let after = after.map_or(Bound::Unbounded, |key| {
            Bound::Excluded(Bytes::copy_from_slice(key))
        });
        let within = |key: &Bytes| upto.is_none_or(|upto| key[..] <= *upto);
        let all = self.rows();
        let rows = all.range((after, Bound::Unbounded));
        let rows = rows.take_while(|(key, _)| within(key));
        let rows = rows.map(|(key, value)| Ok((key.clone(), value.clone())));
        Ok(Box::new(rows.collect::<Vec<_>>().into_iter()))
    }

    fn place(&self) -> std::result::Result<Lsn, String> {
        Ok(AT)
    }

    fn mend(&self, _: Lsn, rows: &mut dyn Iterator<Item = Result<MendedRow>>) -> Result<()> {
        let rows = rows.collect::<Result<Vec<_>>>()?;
        assert!(rows.is_sorted_by_key(|(key, _)| key.clone()));
        let mut model = self.0.lock();
        for (key, value) in rows {
            match value {
                Some(value) => drop(model.insert(key, value)),
                None => drop(model.remove(&key).expect("only what is there is removed")),
            }
        }
        Ok(())
    }

    fn describe(&self, _: &[u8], _: Lsn) -> String {
        String::new()
    }
}

fn model(count: u32, size: usize) -> Model {
    let row = |n: u32| {
        (
            Bytes::from(n.to_be_bytes().to_vec()),
            vec![b'v'; size].into(),
        )
    };
    (0..count).map(row).collect()
}

fn parts(table: &Table, span: &Span, grain: Grain) -> Vec<crate::protocol::verify::Part> {
    cut::parts(table, Clock::new(), AT, span, grain).unwrap()
}

#[test]
fn ranges_end_by_rows_by_bytes_and_with_the_span() {
    let small = Table::new(model(600, 10));
    let cut = parts(&small, &Span::default(), Grain::Fine);
    let rows = cut.iter().map(|part| part.digest.rows);
    assert_eq!(rows.collect::<Vec<_>>(), [256, 256, 88]);
    assert_eq!(cut[2].upto, None);
    let within = Span {
        after: cut[0].upto.clone(),
        upto: cut[1].upto.clone(),
    };
    assert_eq!(parts(&small, &within, Grain::Fine), cut[1..2]);
    let large = Table::new(model(6, 200 << 10));
    let cut = parts(&large, &Span::default(), Grain::Fine);
    assert_eq!(cut.len(), 4, "two rows are enough for a range");
    assert_eq!(cut[3].digest.rows, 0);
    let nothing = parts(&Table::new(Model::new()), &Span::default(), Grain::Coarse);
    assert_eq!((nothing.len(), nothing[0].digest.rows), (1, 0));
}

#[test]
fn an_answer_ends_early_and_goes_on_where_it_ended() {
    let rows = Table::new(model(200, 10));
    let cut = parts(&rows, &Span::default(), Grain::Row);
    assert_eq!(cut.len(), PARTS_MAX);
    let rest = Span {
        after: cut[PARTS_MAX - 1].upto.clone(),
        upto: None,
    };
    assert_eq!(parts(&rows, &rest, Grain::Row)[0].digest.rows, 1);
    let size = 1 << 20;
    let large = Table::new(model(24, size));
    let cut = parts(&large, &Span::default(), Grain::Coarse);
    let bytes = cut.iter().map(|part| part.digest.bytes).sum::<u64>();
    assert!((ANSWER_BYTES_MAX..ANSWER_BYTES_MAX + (8 << 20)).contains(&bytes));
    assert!(cut.last().unwrap().upto.is_some());
}

#[test]
fn own_rows_are_cut_at_the_others_ends() {
    let theirs = Table::new(model(600, 10));
    let cut = parts(&theirs, &Span::default(), Grain::Fine);
    let ends = cut.iter().map(|part| part.upto.clone()).collect::<Vec<_>>();
    let own = cut::own(&theirs, AT, None, &ends).unwrap();
    let same = own
        .iter()
        .zip(&cut)
        .all(|(own, cut)| own.digest == cut.digest);
    assert!(same && own[1].first.as_deref() == Some(&256u32.to_be_bytes()[..]));
    let none = cut::own(&Table::new(Model::new()), AT, None, &ends).unwrap();
    assert!(
        none.iter()
            .all(|own| own.first.is_none() && own.digest.rows == 0)
    );
    let last = cut::own(&theirs, AT, ends[1].as_ref(), &ends[2..]).unwrap();
    assert_eq!(last, own[2..]);
}

/// All rows of a span as they come over the wire, page by page.
fn shipped(table: &Table, span: &Span) -> Model {
    let (mut rest, mut open) = (span.clone(), None::<Open>);
    let mut all = Model::new();
    loop {
        let offset = open.as_ref().map_or(0, |open| open.value.len() as u64);
        let set = page(table, Clock::new(), AT, &rest, offset).unwrap();
        let bytes = set
            .rows
            .iter()
            .flat_map(|row| &row.0)
            .flatten()
            .map(Bytes::len);
        assert!(bytes.sum::<usize>() < 2 * PAGE_BYTES);
        assert!(set.rows.len() <= ANSWER_ROWS_MAX);
        for row in &set.rows {
            if row.0[0].is_none() {
                assert!(open.is_none());
                return all;
            }
            let row = Open::with(open.take(), piece(row).unwrap(), &rest).unwrap();
            if row.value.len() < row.size {
                open = Some(row);
                continue;
            }
            rest.after = Some(row.key.clone());
            all.insert(row.key, row.value.freeze());
        }
    }
}

#[test]
fn rows_of_any_size_arrive_whole() {
    for size in [0, 1, (512 << 10) - 1, 512 << 10, (1 << 20) + 7, 3 << 20] {
        let rows = model(5, size);
        assert!(
            shipped(&Table::new(rows.clone()), &Span::default()) == rows,
            "{size}"
        );
    }
    let small = model(2 * 65_536, 0);
    assert!(shipped(&Table::new(small.clone()), &Span::default()) == small);
    let many = model(20_000, 100);
    let span = Span {
        after: many.keys().nth(10).cloned(),
        upto: many.keys().nth(19_000).cloned(),
    };
    assert_eq!(shipped(&Table::new(many), &span).len(), 18_990);
}

#[test]
fn a_row_that_is_not_what_was_asked_for_is_refused() {
    let piece = |key: &'static str, size, bytes: &'static str| Piece {
        key: key.into(),
        size,
        bytes: bytes.into(),
    };
    let within = Span {
        after: Some("b".into()),
        upto: Some("d".into()),
    };
    let whole = |piece| Open::with(None, piece, &within).is_ok();
    assert!(whole(piece("c", 2, "vv")) && whole(piece("d", 0, "")));
    assert!(!whole(piece("b", 2, "vv")) && !whole(piece("e", 2, "vv")));
    assert!(!whole(piece("c", 1, "vv")) && !whole(piece("c", 1, "")));
    assert!(!whole(piece("c", usize::MAX, "v")));
    let half = || Open::with(None, piece("c", 4, "vv"), &within).ok();
    assert!(Open::with(half(), piece("c", 4, "vv"), &within).is_ok());
    assert!(Open::with(half(), piece("d", 4, "vv"), &within).is_err());
    assert!(Open::with(half(), piece("c", 5, "vv"), &within).is_err());
}

/// Mends `ours` with what `send` ships.
fn mended(ours: &Table, send: Vec<Shipped>) -> (Result<()>, super::Mended) {
    let (to, from) = mpsc::channel(send.len().max(1));
    for shipped in send {
        to.try_send(shipped)
            .unwrap_or_else(|_| panic!("there is room"));
    }
    drop(to);
    let mut merge = Merge::new(ours, AT, from);
    let done = ours.mend(AT, &mut merge);
    (done, merge.counted)
}

#[test]
fn what_was_not_shipped_to_its_end_changes_nothing() {
    let (theirs, ours) = (model(9, 3), Table::new(model(20, 4)));
    let rows = theirs
        .into_iter()
        .map(|(key, value)| Shipped::Row(key, value));
    let sent = [Shipped::Span(Span::default())].into_iter().chain(rows);
    let (done, _) = mended(&ours, sent.collect());
    assert!(matches!(done, Err(Error::Closed)), "{done:?}");
    assert_eq!(ours.rows(), model(20, 4));
}

proptest! {
    #[test]
    fn the_ranges_that_are_shipped_become_alike_and_no_other_row_changes(
        theirs in prop::collection::btree_map(0u8..60, 0u8..3, 0..40),
        ours in prop::collection::btree_map(0u8..60, 0u8..3, 0..40),
        ends in prop::collection::btree_set(0u8..60, 0..8),
    ) {
        let rows = |rows: BTreeMap<u8, u8>| -> Model {
            let row = |(key, value)| (Bytes::from(vec![key]), Bytes::from(vec![value]));
            rows.into_iter().map(row).collect()
        };
        let (theirs, before) = (Table::new(rows(theirs)), rows(ours));
        let ours = Table::new(before.clone());
        // Every other run between two ends is bad.
        let ends = ends.into_iter().map(|end| Bytes::from(vec![end])).collect::<Vec<_>>();
        let bad = ends.chunks(2).map(|pair| Span {
            after: Some(pair[0].clone()),
            upto: pair.get(1).cloned(),
        });
        let bad = bad.collect::<Vec<_>>();
        let mut sent = Vec::new();
        for span in &bad {
            sent.push(Shipped::Span(span.clone()));
            let rows = shipped(&theirs, span);
            sent.extend(rows.into_iter().map(|(key, value)| Shipped::Row(key, value)));
        }
        sent.push(Shipped::End);
        let (done, counted) = mended(&ours, sent);
        done.unwrap();
        let within = |key: &Bytes| bad.iter().any(|span| {
            span.after.as_ref().is_none_or(|after| key > after)
                && span.upto.as_ref().is_none_or(|upto| key <= upto)
        });
        let mut wanted = before.clone();
        wanted.retain(|key, _| !within(key));
        wanted.extend(theirs.rows().into_iter().filter(|(key, _)| within(key)));
        prop_assert_eq!(ours.rows(), wanted.clone());
        let set = wanted.iter().filter(|(key, value)| before.get(*key) != Some(value)).count();
        let removed = before.keys().filter(|key| !wanted.contains_key(*key)).count();
        prop_assert_eq!(counted.mended_rows, (set + removed) as u64);
    }

    #[test]
    fn ranges_are_read_as_they_were_answered(
        parts in prop::collection::vec(
            (prop::option::of(prop::collection::vec(any::<u8>(), 0..9)), any::<(u64, u64, [u8; 32])>()),
            0..5,
        ),
        gone in 1..4usize,
    ) {
        let parts = parts.into_iter().map(|(upto, (rows, bytes, hash))| Part {
            upto: upto.map(Bytes::from),
            digest: Digest { rows, bytes, hash },
        });
        let parts = parts.collect::<Vec<_>>();
        let mut set = ranges(parts.clone());
        let read = set.rows.iter().map(part).collect::<Option<Vec<_>>>();
        prop_assert_eq!(read, Some(parts));
        for row in &mut set.rows {
            // The last range has no end; everything else is known.
            row.0[gone] = None;
            prop_assert!(part(row).is_none());
            row.0.truncate(gone);
            prop_assert!(part(row).is_none());
        }
    }

    #[test]
    fn any_answer_is_read_or_refused_but_never_panics(set in any_answer()) {
        for row in &set.rows {
            let _ = (part(row), piece(row));
        }
    }
}
