//! The suite's random part: any order of operations, compared with the model.
//!
//! One seed decides everything; it is printed, and the same seed gives the same run.

use std::ops::{Bound, RangeBounds};

use bytes::Bytes;

use super::{Case, Specimen, check_contents, scanned};
use crate::lsn::Lsn;
use crate::store::{Change, ReadAt, Store};

/// Steps of one store's life.
pub(super) fn run<S: Specimen>(specimen: &mut S, seed: u64, steps: usize) {
    eprintln!("conformance: random steps with seed {seed}");
    let mut random = Random(seed);
    let mut case = Case::new(specimen);
    // Positions that are registered, and must stay readable until a crash.
    let mut open: Vec<Lsn> = Vec::new();
    for _ in 0..steps {
        match random.below(100) {
            0..=44 => {
                let changes = changes(&mut random);
                case.apply(&changes);
            }
            45..=59 => {
                let upto = committed(&case, &mut random);
                case.raise(upto);
            }
            60..=69 => {
                let upto = committed(&case, &mut random).min(case.committed);
                case.checkpoint(upto);
            }
            70..=74 => {
                case.crash();
                open.clear();
                if random.below(2) == 0 {
                    case.cut();
                }
                case.replay();
            }
            75..=82 => {
                let at = case.reader().applied();
                case.reader().open_snapshot(at).unwrap();
                open.push(at);
            }
            83..=86 if !open.is_empty() => {
                let at = open.swap_remove(random.index(open.len()));
                case.reader().close_snapshot(at);
            }
            87..=88 => copy(&mut case),
            89..=94 => some_scan(&case, &mut random),
            _ => {
                let at = open.get(random.index(open.len().max(1)));
                case.check_at(at.copied().unwrap_or_else(|| case.reader().applied()));
            }
        }
    }
    open.iter().for_each(|at| case.check_at(*at));
    case.check();
    case.crash();
    case.replay();
    case.check();
}

fn changes(random: &mut Random) -> Vec<Change> {
    let count = random.below(12);
    let one = |_| {
        let table = [1, 2, u32::MAX][random.index(3)];
        let len = 1 + random.index(3);
        let key = (0..len).map(|_| [0, 1, 0x61, 0xFF][random.index(4)]);
        let key = key.collect::<Bytes>();
        if random.below(3) == 0 {
            return Change::delete(table, key);
        }
        let len = [0, 1, 20, 3_000][random.index(4)];
        let value = (0..len).map(|_| random.next().to_le_bytes()[0]);
        Change::put(table, key, value.collect::<Bytes>())
    };
    (0..count).map(one).collect()
}

/// A position between the committed one and the end of the log, often of a transaction.
fn committed<S: Specimen>(case: &Case<'_, S>, random: &mut Random) -> Lsn {
    if case.log.is_empty() {
        return case.committed;
    }
    let end = case.log[random.index(case.log.len())].end;
    Lsn::new(end.get() - random.below(2))
}

fn copy<S: Specimen>(case: &mut Case<'_, S>) {
    let dir = case.specimen.directory();
    let position = case.store().snapshot(&dir).unwrap();
    let (mut copy, reader) = case.specimen.open_copy(&dir);
    assert_eq!(copy.applied(), position);
    let keys = case.keys();
    check_contents(&reader, position, &case.model_at(position), &keys).unwrap();
    drop(reader);
    copy.close().unwrap();
}

fn some_scan<S: Specimen>(case: &Case<'_, S>, random: &mut Random) {
    let keys: [&[u8]; 4] = [b"\x00", b"\x01\xFF", b"a", b"\xFF"];
    let mut bound = || {
        let key = keys[random.index(4)];
        [Bound::Unbounded, Bound::Included(key), Bound::Excluded(key)][random.index(3)]
    };
    let (from, to) = (bound(), bound());
    let at = case.reader().applied();
    let rows = scanned(case.reader(), 1, from, to, at).unwrap();
    let inside = |key: &[u8]| RangeBounds::<[u8]>::contains(&(from, to), key);
    let model = case.model_at(at);
    let wanted = model
        .into_iter()
        .filter(|((table, key), _)| *table == 1 && inside(key))
        .map(|((_, key), value)| (key, value));
    assert_eq!(
        rows,
        wanted.collect::<Vec<_>>(),
        "scan of {from:?}..{to:?} at {at}"
    );
}

/// SplitMix64: small, seeded, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn index(&mut self, len: usize) -> usize {
        let index = self.below(len as u64);
        usize::try_from(index).expect("below a usize")
    }
}
