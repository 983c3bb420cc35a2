//! Tests of redo: hand-written sequences, and any schedule against a model.

use std::collections::BTreeMap;

use bytes::Bytes;
use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;
use WalEntryType::{
    BranchOp, Checkpoint, Config, Filler, Insert, NewTimeline, SchemaChange, SegmentHeader,
    TxBegin, TxCommit, TxRollback, Update,
};

/// A log in memory.
#[derive(Default)]
struct Log(Mutex<Vec<(WalEntry, Lsn)>>);

impl LogSource for Log {
    fn entries(&self, from: Lsn, to: Lsn) -> LogEntries {
        let log = self.0.lock();
        let inside = log
            .iter()
            .filter(|(entry, _)| from <= entry.lsn && entry.lsn < to);
        let inside = inside.cloned().map(Ok).collect::<Vec<_>>();
        Box::new(inside.into_iter())
    }
}

impl Log {
    fn append(&self, entry_type: WalEntryType, tx_id: Option<u64>, data: &[u8]) -> (WalEntry, Lsn) {
        let mut log = self.0.lock();
        let mut entry = WalEntry::new(entry_type, tx_id, Bytes::copy_from_slice(data));
        entry.lsn = log.last().map_or(Lsn::new(1_000), |(_, end)| *end);
        let end = entry.lsn + 32 + data.len() as u64;
        log.push((entry.clone(), end));
        (entry, end)
    }
}

fn assembler(applied: Lsn, log: &Arc<Log>, bytes_max: usize) -> TransactionAssembler {
    let options = RedoOptions {
        bytes_max,
        open_max: 8,
    };
    TransactionAssembler::new(applied, log.clone(), options)
}

/// A transaction as its parts: id, begin, end and the entries' data.
type Parts = (u64, Lsn, Lsn, Vec<Bytes>);

fn parts(transaction: &Transaction) -> Parts {
    let entries = transaction.entries().map(|entry| entry.unwrap().data);
    let entries = entries.collect::<Vec<_>>();
    let bytes = entries.iter().map(|data| data.len() as u64).sum::<u64>();
    assert_eq!(transaction.bytes, bytes);
    (
        transaction.tx_id,
        transaction.begin,
        transaction.end,
        entries,
    )
}

type Step = (WalEntryType, Option<u64>, &'static str);

/// Writes steps to a log and pushes them; what came out, by id and data.
fn run(bytes_max: usize, steps: &[Step]) -> (TransactionAssembler, Vec<(u64, Vec<Bytes>)>) {
    let log = Arc::new(Log::default());
    let mut redo = assembler(Lsn::ZERO, &log, bytes_max);
    let mut out = Vec::new();
    for (entry_type, id, data) in steps {
        let (entry, end) = log.append(*entry_type, *id, data.as_bytes());
        if let Some(transaction) = redo.push(entry, end).unwrap() {
            assert_eq!(transaction.end, end);
            let (id, _, _, entries) = parts(&transaction);
            out.push((id, entries));
        }
    }
    (redo, out)
}

#[test]
fn interleaved_transactions_come_out_whole_in_commit_order() {
    let steps = [
        (SegmentHeader, None, "head"),
        (TxBegin, Some(1), ""),
        (Insert, Some(1), "a"),
        (TxBegin, Some(2), ""),
        (Update, Some(2), "b"),
        (Insert, None, "alone"),
        (Config, None, "config"),
        (SchemaChange, Some(1), "c"),
        (TxCommit, Some(2), ""),
        (Checkpoint, None, "check"),
        (BranchOp, Some(1), "branch"),
        (Filler, None, "00"),
        (TxCommit, Some(1), ""),
        (BranchOp, None, "branch"),
        (TxBegin, Some(2), ""),
        (TxCommit, Some(2), ""),
    ];
    for bytes_max in [0, 100, 1 << 20] {
        let (redo, out) = run(bytes_max, &steps);
        let wanted: [(u64, &[&str]); 5] = [
            (0, &["alone"]),
            (2, &["b"]),
            (1, &["a", "c", "branch"]),
            (0, &["branch"]),
            (2, &[]),
        ];
        let wanted = wanted.map(|(id, data)| {
            (
                id,
                data.iter()
                    .map(|data| Bytes::from(*data))
                    .collect::<Vec<_>>(),
            )
        });
        assert_eq!(out, wanted);
        assert_eq!((redo.open(), redo.held(), redo.oldest_open()), (0, 0, None));
    }
}

#[test]
fn what_was_rolled_back_never_comes_out() {
    let (redo, out) = run(
        1 << 20,
        &[
            (TxBegin, Some(1), ""),
            (Insert, Some(1), "a"),
            (TxBegin, Some(2), ""),
            (TxBegin, Some(3), ""),
            (TxRollback, Some(1), ""),
            (Insert, Some(2), "b"),
            (NewTimeline, None, ""),
            (TxBegin, Some(2), ""),
            (Insert, Some(2), "c"),
            (TxCommit, Some(2), ""),
        ],
    );
    assert_eq!(out, [(2, vec![Bytes::from("c")])]);
    assert_eq!((redo.open(), redo.held()), (0, 0));
}

#[test]
fn a_sequence_that_no_writer_produces_is_refused_and_changes_nothing() {
    let log = Arc::new(Log::default());
    let mut redo = assembler(Lsn::ZERO, &log, 1_000);
    let (entry, end) = log.append(TxBegin, Some(1), b"");
    redo.push(entry.clone(), end).unwrap();
    let bad = |redo: &mut TransactionAssembler, entry_type, id| {
        let mut entry = WalEntry::new(entry_type, id, "");
        entry.lsn = end;
        let pushed = redo.push(entry, end + 32);
        assert!(
            matches!(pushed, Err(Error::Refused { at, .. }) if at == end),
            "{pushed:?}"
        );
        assert_eq!((redo.open(), redo.position()), (1, end));
    };
    for (entry_type, id) in [
        (TxBegin, Some(1)),
        (TxBegin, None),
        (TxBegin, Some(0)),
        (TxCommit, Some(2)),
        (TxCommit, None),
        (TxRollback, Some(2)),
        (TxRollback, None),
        (Insert, Some(2)),
    ] {
        bad(&mut redo, entry_type, id);
    }
    assert!(redo.push(entry, end).is_err(), "an entry came twice");
    let mut backwards = WalEntry::new(Insert, None, "");
    backwards.lsn = end + 8;
    assert!(
        redo.push(backwards, end + 8).is_err(),
        "a record without length"
    );
}

#[test]
fn only_so_many_transactions_are_open_at_a_time() {
    let log = Arc::new(Log::default());
    let mut redo = assembler(Lsn::ZERO, &log, 1_000);
    for id in 1..=8 {
        let (entry, end) = log.append(TxBegin, Some(id), b"");
        redo.push(entry, end).unwrap();
    }
    let (entry, end) = log.append(TxBegin, Some(9), b"");
    assert!(matches!(
        redo.push(entry.clone(), end),
        Err(Error::Refused { .. })
    ));
    let (mut commit, end) = log.append(TxCommit, Some(3), b"");
    commit.lsn = entry.lsn;
    redo.push(commit, end).unwrap();
}

#[test]
fn a_transaction_that_cannot_be_read_again_is_an_error_not_half_a_transaction() {
    let log = Arc::new(Log::default());
    let mut redo = assembler(Lsn::ZERO, &log, 0);
    let mut last = None;
    for (entry_type, data) in [(TxBegin, ""), (Insert, "a"), (Insert, "b"), (TxCommit, "")] {
        let (entry, end) = log.append(entry_type, Some(1), data.as_bytes());
        last = redo.push(entry, end).unwrap();
    }
    let transaction = last.unwrap();
    assert_eq!(transaction.entries().count(), 2);
    assert_eq!(
        transaction.entries().count(),
        2,
        "it reads as often as one likes"
    );
    log.0.lock().pop();
    let entries = transaction.entries().collect::<Vec<_>>();
    assert!(matches!(entries.last(), Some(Err(Error::Ahead { .. }))));
}

#[derive(Debug, Clone)]
enum Op {
    Begin(u64),
    Change(u64, u8),
    Commit(u64),
    RollBack(u64),
    Alone(u8),
    Other,
    Timeline,
}

fn op() -> impl Strategy<Value = Op> {
    let id = 1..6u64;
    prop_oneof![
        4 => id.clone().prop_map(Op::Begin),
        8 => (id.clone(), any::<u8>()).prop_map(|(id, len)| Op::Change(id, len)),
        4 => id.clone().prop_map(Op::Commit),
        1 => id.prop_map(Op::RollBack),
        1 => any::<u8>().prop_map(Op::Alone),
        1 => Just(Op::Other),
        1 => Just(Op::Timeline),
    ]
}

/// Writes the log of a well-formed schedule: operations that make no sense are left out. Returns
/// the transactions that it commits.
fn write(log: &Log, ops: &[Op]) -> Vec<Parts> {
    let mut open: BTreeMap<u64, (Lsn, Vec<Bytes>)> = BTreeMap::new();
    let mut out = Vec::new();
    for (n, op) in ops.iter().enumerate() {
        let data = |len: u8| vec![n.to_le_bytes()[0]; usize::from(len)];
        match op {
            Op::Begin(id) if !open.contains_key(id) => {
                let (entry, _) = log.append(TxBegin, Some(*id), b"");
                open.insert(*id, (entry.lsn, Vec::new()));
            }
            Op::Change(id, len) => {
                if let Some((_, entries)) = open.get_mut(id) {
                    entries.push(log.append(Insert, Some(*id), &data(*len)).0.data);
                }
            }
            Op::Commit(id) => {
                if let Some((begin, entries)) = open.remove(id) {
                    let (_, end) = log.append(TxCommit, Some(*id), b"");
                    out.push((*id, begin, end, entries));
                }
            }
            Op::RollBack(id) if open.remove(id).is_some() => {
                log.append(TxRollback, Some(*id), b"");
            }
            Op::Alone(len) => {
                let (entry, end) = log.append(Insert, None, &data(*len));
                out.push((0, entry.lsn, end, vec![entry.data]));
            }
            Op::Other => {
                log.append(Checkpoint, None, b"");
            }
            Op::Timeline => {
                log.append(NewTimeline, None, b"");
                open.clear();
            }
            Op::Begin(_) | Op::RollBack(_) => {}
        }
    }
    out
}

proptest! {
    #[test]
    fn any_schedule_gives_just_its_committed_transactions(
        ops in prop::collection::vec(op(), 0..120),
        bytes_max in prop::sample::select(vec![0, 300, 1_000, 1 << 20]),
    ) {
        let log = Arc::new(Log::default());
        let wanted = write(&log, &ops);
        let mut redo = assembler(Lsn::ZERO, &log, bytes_max);
        let mut out = Vec::new();
        for (entry, end) in log.0.lock().clone() {
            out.extend(redo.push(entry, end).unwrap());
            prop_assert!(redo.held() <= bytes_max);
        }
        prop_assert_eq!(out.iter().map(parts).collect::<Vec<_>>(), wanted);
    }

    /// The promise of `safe_restart`: wherever the log was when it was asked and whatever was
    /// durable then, replay from its answer gives all that is missing.
    #[test]
    fn replay_from_a_safe_restart_misses_nothing(
        ops in prop::collection::vec(op(), 0..120),
        asked: prop::sample::Index,
        behind in 0..4usize,
    ) {
        let log = Arc::new(Log::default());
        let wanted = write(&log, &ops);
        let entries = log.0.lock().clone();
        let mut redo = assembler(Lsn::ZERO, &log, 1 << 20);
        let mut ends = vec![Lsn::ZERO];
        let mut restart = None;
        let asked = asked.index(entries.len() + 1);
        for (n, (entry, end)) in entries.iter().enumerate() {
            if let Some(transaction) = redo.push(entry.clone(), *end).unwrap() {
                ends.push(transaction.end);
            }
            let durable = ends[ends.len().saturating_sub(1 + behind)];
            let from = redo.safe_restart(durable);
            prop_assert!(from <= durable);
            if n == asked {
                restart = Some((durable, from));
            }
        }
        let (durable, from) = restart.unwrap_or_default();
        let mut redo = assembler(durable, &log, 1 << 20);
        let mut out = Vec::new();
        for (entry, end) in entries {
            if entry.lsn >= from {
                out.extend(redo.push(entry, end).unwrap());
            }
        }
        let missing = wanted.into_iter().filter(|(_, _, end, _)| *end > durable);
        prop_assert_eq!(out.iter().map(parts).collect::<Vec<_>>(), missing.collect::<Vec<_>>());
    }
}
