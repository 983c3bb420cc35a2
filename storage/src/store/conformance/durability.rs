//! The suite's written cases of what survives: checkpoints, crashes, replay and copies.
//!
//! They are told apart from the [cases](super::cases) of contents only by length.

use super::{Case, FIRST, Specimen, check_contents};
use crate::lsn::Lsn;
use crate::store::{Change, Store};

/// Runs every case.
pub(super) fn run<S: Specimen>(specimen: &mut S) {
    checkpoint_keeps_below_its_argument(&mut Case::new(specimen));
    replay_is_exactly_once(&mut Case::new(specimen));
    replaced_log_leaves_nothing(&mut Case::new(specimen));
    closed_is_not_flushed(&mut Case::new(specimen));
    copy_is_the_durable_state(&mut Case::new(specimen));
}

fn checkpoint_keeps_below_its_argument<S: Specimen>(case: &mut Case<'_, S>) {
    let mut ends = Vec::new();
    for n in 0..12u8 {
        ends.push(case.apply(&[Change::put(1, vec![n % 5, 1], vec![n; 100])]));
    }
    for (n, end) in ends.iter().enumerate() {
        // Just short of an end, the transaction is not covered yet.
        let upto = if n % 3 == 0 {
            *end
        } else {
            Lsn::new(end.get() - 1)
        };
        case.raise(upto);
        let durable = case.checkpoint(upto);
        assert!(durable <= upto, "checkpoint({upto}) made {durable} durable");
        assert!(
            durable < FIRST || ends.contains(&durable),
            "durable at {durable}, inside one"
        );
        if n % 4 == 1 {
            case.crash();
            case.replay();
            case.check();
        }
    }
}

fn replay_is_exactly_once<S: Specimen>(case: &mut Case<'_, S>) {
    for n in 0..20u8 {
        let end = case.commit(&[
            Change::put(1, vec![1, n % 7], vec![n; 50]),
            Change::delete(1, vec![1, (n + 3) % 7]),
        ]);
        if n % 6 == 5 {
            case.checkpoint(end);
        }
    }
    let durable = case.crash();
    case.replay();
    case.check();
    // A second crash, and a replay that begins too early, as one after a lost checkpoint does.
    assert!(case.crash() >= durable);
    case.replay_from(0);
    case.check();
}

fn replaced_log_leaves_nothing<S: Specimen>(case: &mut Case<'_, S>) {
    let kept = case.commit(&[Change::put(1, "a", "kept"), Change::put(1, "b", "kept")]);
    case.checkpoint(kept);
    case.apply(&[Change::put(1, "a", "lost"), Change::put(1, "lost", "lost")]);
    case.apply(&[Change::delete(1, "b")]);
    // The positions of the lost transactions are used again, by others.
    case.crash();
    case.cut();
    case.apply(&[Change::put(1, "a", "new")]);
    let end = case.commit(&[Change::put(1, "c", "new")]);
    case.check();
    case.checkpoint(end);
    case.crash();
    case.replay();
    case.check();
}

fn closed_is_not_flushed<S: Specimen>(case: &mut Case<'_, S>) {
    let end = case.commit(&[Change::put(1, "a", "1")]);
    case.checkpoint(end);
    case.apply(&[Change::put(1, "a", "never committed")]);
    case.store().close().unwrap();
    // `crash` checks that nothing above the committed position survived.
    case.crash();
    case.replay();
    case.check();
}

fn copy_is_the_durable_state<S: Specimen>(case: &mut Case<'_, S>) {
    for n in 0..30u8 {
        let end = case.commit(&[
            Change::put(1, vec![n], vec![n; 200]),
            Change::put(2, "last", vec![n]),
            Change::delete(1, vec![n / 2]),
        ]);
        if n == 20 {
            case.checkpoint(end);
        }
    }
    case.apply(&[Change::put(1, "late", "not committed")]);
    let dir = case.specimen.directory();
    let before = case.store().durable();
    let position = case.store().snapshot(&dir).unwrap();
    assert!(before <= position && position <= case.committed);
    let (mut copy, reader) = case.specimen.open_copy(&dir);
    assert_eq!((copy.durable(), copy.applied()), (position, position));
    let keys = case.keys();
    check_contents(&reader, position, &case.model_at(position), &keys).unwrap();
    for logged in &case.log {
        copy.apply(&logged.transaction()).unwrap();
    }
    check_contents(&reader, case.end(), &case.model_at(case.end()), &keys).unwrap();
    drop(reader);
    copy.close().unwrap();
    case.check();
}
