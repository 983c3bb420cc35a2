//! The machine between two models of stores.

use std::collections::BTreeMap;
use std::ops::Bound;

use proptest::prelude::*;

use super::*;

type Rows = BTreeMap<Bytes, Bytes>;

/// Limits of an answer, smaller than in earnest so that there are many.
const ANSWER_PARTS: usize = 3;

/// The rows of a model in a span.
fn rows<'a>(all: &'a Rows, span: &Span) -> impl Iterator<Item = (&'a Bytes, &'a Bytes)> {
    let from = match &span.after {
        Some(after) => Bound::Excluded(after.clone()),
        None => Bound::Unbounded,
    };
    let upto = span.upto.clone();
    let all = all.range((from, Bound::Unbounded));
    all.take_while(move |(key, _)| upto.as_ref().is_none_or(|upto| *key <= upto))
}

/// What the other side answers. `scale` makes its parts smaller, by rows.
fn answer(theirs: &Rows, span: &Span, grain: Grain, scale: u64) -> Vec<Part> {
    let most = (grain.rows() / scale).max(1);
    let mut parts = Vec::new();
    let mut cutter = Cutter::new();
    let mut count = 0;
    for (key, value) in rows(theirs, span) {
        cutter.push(key, value);
        count += 1;
        if count == most || cutter.is_full(grain) {
            let (upto, digest) = (Some(key.clone()), cutter.cut());
            parts.push(Part { upto, digest });
            count = 0;
            if parts.len() == ANSWER_PARTS {
                return parts;
            }
        }
    }
    let ended = parts.last().map(|part| &part.upto) == Some(&span.upto) && span.upto.is_some();
    if !ended {
        let (upto, digest) = (span.upto.clone(), cutter.cut());
        parts.push(Part { upto, digest });
    }
    parts
}

fn own(ours: &Rows, after: &Option<Bytes>, ends: &[Option<Bytes>]) -> Vec<Own> {
    let mut after = after.clone();
    let one = |end: &Option<Bytes>| {
        let span = Span {
            after: after.clone(),
            upto: end.clone(),
        };
        after = end.clone();
        let mut cutter = Cutter::new();
        rows(ours, &span).for_each(|(key, value)| cutter.push(key, value));
        let first = rows(ours, &span).next().map(|(key, _)| key.clone());
        let digest = cutter.cut();
        Own { digest, first }
    };
    ends.iter().map(one).collect()
}

/// Runs a machine to its end. `too_old` says of each look whether the position is lost by then.
fn drive(
    mut machine: Verify,
    (theirs, ours): (&Rows, &Rows),
    scale: u64,
    mut too_old: impl FnMut() -> bool,
) -> Result<Findings, Refusal> {
    let mut actions = Vec::new();
    machine.on(Event::Held, Moment::ZERO, &mut actions);
    for _ in 0..100_000 {
        assert_eq!(actions.len(), 1, "{actions:?}");
        let event = match actions.pop().unwrap() {
            Action::Done(findings) => return Ok(findings),
            Action::Refuse(refusal) => return Err(refusal),
            Action::Move => Event::Held,
            Action::Look { .. } if too_old() => Event::TooOld,
            Action::Look { ask, digest } => Event::Seen {
                theirs: ask.map_or(Vec::new(), |(span, grain)| {
                    answer(theirs, &span, grain, scale)
                }),
                ours: digest.map_or(Vec::new(), |(after, ends)| own(ours, &after, &ends)),
            },
        };
        machine.on(event, Moment::ZERO, &mut actions);
    }
    panic!("it does not end");
}

fn compare(theirs: &Rows, ours: &Rows) -> Findings {
    drive(Verify::whole(Moment::ZERO), (theirs, ours), 64, || false).unwrap()
}

fn key(n: u32) -> Bytes {
    n.to_be_bytes().to_vec().into()
}

fn model(keys: impl IntoIterator<Item = u32>) -> Rows {
    let row = |n: u32| (key(n), Bytes::from(format!("value {n}")));
    keys.into_iter().map(row).collect()
}

/// Every key that differs.
fn differences(theirs: &Rows, ours: &Rows) -> BTreeMap<Bytes, Kind> {
    let mut all = BTreeMap::new();
    for (key, value) in theirs {
        match ours.get(key) {
            None => drop(all.insert(key.clone(), Kind::Missing)),
            Some(own) if own != value => drop(all.insert(key.clone(), Kind::Changed)),
            Some(_) => {}
        }
    }
    let extra = ours.keys().filter(|key| !theirs.contains_key(*key));
    all.extend(extra.map(|key| (key.clone(), Kind::Extra)));
    all
}

fn holds(span: &Span, key: &Bytes) -> bool {
    span.after.as_ref().is_none_or(|after| key > after)
        && span.upto.as_ref().is_none_or(|upto| key <= upto)
}

/// The findings are exactly what differs.
fn are_right(findings: &Findings, theirs: &Rows, ours: &Rows) -> Result<(), TestCaseError> {
    let wrong = differences(theirs, ours);
    let first = wrong.iter().next();
    let first = first.map(|(key, kind)| (key.clone(), *kind));
    let found = findings.first.clone().map(|first| (first.key, first.kind));
    prop_assert_eq!(found, first);
    prop_assert_eq!(findings.is_clean(), wrong.is_empty());
    prop_assert!(findings.is_complete());
    for span in &findings.bad {
        prop_assert!(wrong.keys().any(|key| holds(span, key)), "{:?}", span);
    }
    for key in wrong.keys() {
        let within = findings.bad.iter().filter(|span| holds(span, key));
        prop_assert_eq!(within.count(), 1, "{:?}", key);
    }
    Ok(())
}

#[test]
fn stores_that_are_alike_are_clean_and_every_row_is_counted_once() {
    for count in [0, 1, 255, 256, 257, 2000] {
        let rows = model(0..count);
        let found = compare(&rows, &rows);
        assert!(found.is_clean() && found.first.is_none(), "{found:?}");
        assert_eq!(found.rows, u64::from(count));
        // Coarse ones of 256 rows here, and one that is open.
        assert_eq!(found.ranges, u64::from(count / 256 + 1));
        let bytes = rows.iter().map(|(key, value)| key.len() + value.len());
        assert_eq!(found.bytes, bytes.sum::<usize>() as u64);
    }
}

#[test]
fn one_row_is_found_wherever_it_is_and_however_it_differs() {
    let theirs = model((0..2000).map(|n| n * 2 + 1));
    for at in [1, 3, 511, 513, 1001, 3997, 3999] {
        let mut missing = theirs.clone();
        missing.remove(&key(at));
        let mut changed = theirs.clone();
        changed.insert(key(at), Bytes::from_static(b"wrong"));
        let mut extra = theirs.clone();
        // Before the first, between two, after the last.
        let beside = if at == 3999 { at + 1 } else { at - 1 };
        extra.insert(key(beside), Bytes::from_static(b"more"));
        for (ours, at, kind) in [
            (missing, at, Kind::Missing),
            (changed, at, Kind::Changed),
            (extra, beside, Kind::Extra),
        ] {
            let found = compare(&theirs, &ours);
            let first = Difference { key: key(at), kind };
            assert_eq!(found.first, Some(first));
            assert_eq!((found.bad_ranges, found.bad.len()), (1, 1));
        }
    }
}

#[test]
fn a_store_that_is_empty_on_one_side_differs_from_its_first_key_on() {
    let (some, none) = (model(7..600), Rows::new());
    let found = compare(&some, &none);
    let first = found.first.unwrap();
    assert_eq!((first.key, first.kind), (key(7), Kind::Missing));
    assert_eq!(found.rows, 593);
    let found = compare(&none, &some);
    let first = found.first.unwrap();
    assert_eq!((first.key, first.kind), (key(7), Kind::Extra));
    assert_eq!(found.bad, [Span::default()]);
}

/// Ranges end where rows of the other side were when it was asked for wider ones.
#[test]
fn a_row_at_the_end_of_a_range_is_extra_once_the_other_side_has_it_no_more() {
    let span = Span {
        after: Some(key(10)),
        upto: Some(key(20)),
    };
    let machine = Verify::again(vec![span], Moment::ZERO);
    let found = drive(machine, (&Rows::new(), &model([20])), 64, || false).unwrap();
    let (key, kind) = (key(20), Kind::Extra);
    assert_eq!(found.first, Some(Difference { key, kind }));
}

#[test]
fn what_differs_and_why_nothing_was_compared_is_said_in_words() {
    let kinds = [Kind::Missing, Kind::Extra, Kind::Changed];
    assert_eq!(kinds.map(Kind::as_str), ["missing", "extra", "changed"]);
    for (refusal, words) in [
        (
            Refusal::Nonsense("it is empty"),
            "makes no sense: it is empty",
        ),
        (Refusal::Moved, "10 times in a row"),
        (Refusal::Stalled, "nothing was compared for"),
    ] {
        assert!(refusal.to_string().contains(words), "{refusal}");
    }
}

#[test]
fn ranges_that_differ_are_counted_beyond_those_that_are_kept() {
    let theirs = model(0..5000);
    let ours = model((0..5000).map(|n| n + 10_000));
    let machine = Verify::whole(Moment::ZERO);
    let found = drive(machine, (&theirs, &ours), 256, || false).unwrap();
    assert_eq!(found.bad.len(), BAD_RANGES_MAX);
    assert!(found.bad_ranges > BAD_RANGES_MAX as u64 && !found.is_complete());
}

#[test]
fn ranges_that_differ_are_kept_as_far_as_their_keys_have_room() {
    let long = |n: u32| Bytes::from([n.to_be_bytes().to_vec(), vec![0; 60_000]].concat());
    let of = |value: &'static [u8]| {
        let row = |n| (long(n), Bytes::from_static(value));
        (0..100).map(row).collect::<Rows>()
    };
    let (theirs, ours) = (of(b"right"), of(b"wrong"));
    let machine = Verify::whole(Moment::ZERO);
    let found = drive(machine, (&theirs, &ours), 4096, || false).unwrap();
    let kept = found.bad.iter().map(Span::size).sum::<usize>();
    let room = 4 << 20;
    assert!(kept <= room && kept + 2 * 60_004 > room, "{kept}");
    assert!(found.bad_ranges == 100 && !found.is_complete());
}

#[test]
#[should_panic = "a position is held while one is looked at"]
fn nobody_holds_another_position_while_one_is_looked_at() {
    let mut machine = Verify::whole(Moment::ZERO);
    machine.on(Event::Held, Moment::ZERO, &mut Vec::new());
    machine.on(Event::Held, Moment::ZERO, &mut Vec::new());
}

#[test]
fn a_position_that_is_lost_again_and_again_ends_it() {
    let rows = model(0..1000);
    let machine = Verify::whole(Moment::ZERO);
    let refused = drive(machine, (&rows, &rows), 64, || true);
    assert_eq!(refused, Err(Refusal::Moved));
    let (mut looks, mut lost) = (0, 0);
    let now_and_then = || {
        looks += 1;
        lost += u64::from(looks % 3 == 0);
        looks % 3 == 0
    };
    let machine = Verify::whole(Moment::ZERO);
    let found = drive(machine, (&rows, &rows), 64, now_and_then).unwrap();
    assert!(found.is_clean());
    assert_eq!((found.rows, found.moves), (1000, lost));
}

#[test]
fn silence_ends_it() {
    let mut machine = Verify::whole(Moment::ZERO);
    let mut actions = Vec::new();
    machine.on(Event::Held, Moment::ZERO, &mut actions);
    let deadline = machine.deadline().unwrap();
    actions.clear();
    machine.on(Event::Tick, Moment::ZERO, &mut actions);
    assert!(actions.is_empty());
    machine.on(Event::Tick, deadline, &mut actions);
    assert_eq!(actions, [Action::Refuse(Refusal::Stalled)]);
    assert_eq!(machine.deadline(), None);
    actions.clear();
    machine.on(Event::Tick, deadline, &mut actions);
    assert!(actions.is_empty());
}

fn part(upto: Option<u32>, rows: u64) -> Part {
    Part {
        upto: upto.map(key),
        digest: Digest {
            rows,
            bytes: 0,
            hash: [0; 32],
        },
    }
}

#[test]
fn an_answer_has_so_many_ranges_at_most_and_ends_with_the_one_that_is_open() {
    let taken = |theirs: Vec<Part>| {
        let mut machine = Verify::whole(Moment::ZERO);
        let mut actions = Vec::new();
        machine.on(Event::Held, Moment::ZERO, &mut actions);
        let ours = Vec::new();
        machine.on(Event::Seen { theirs, ours }, Moment::ZERO, &mut actions);
        !matches!(actions[..], [_, Action::Refuse(Refusal::Nonsense(_))])
    };
    let climbing = |count: usize| (0..count as u32).map(|n| part(Some(n), 1)).collect();
    assert!(taken(climbing(PARTS_MAX)));
    assert!(!taken(climbing(PARTS_MAX + 1)));
    assert!(!taken(climbing(PARTS_MAX + 2)));
    assert!(taken(vec![part(Some(1), 1), part(None, 1)]));
    assert!(!taken(vec![part(None, 1), part(Some(1), 1)]));
}

#[test]
fn an_answer_that_is_none_is_refused() {
    let within = Span {
        after: Some(key(10)),
        upto: Some(key(20)),
    };
    let bad = [
        vec![],
        vec![part(Some(10), 1)],
        vec![part(Some(15), 1), part(Some(15), 1)],
        vec![part(Some(21), 1)],
        vec![part(None, 1)],
        vec![part(Some(15), 257)],
    ];
    for parts in bad {
        let mut machine = Verify::again(vec![within.clone()], Moment::ZERO);
        let mut actions = Vec::new();
        machine.on(Event::Held, Moment::ZERO, &mut actions);
        actions.clear();
        let (theirs, ours) = (parts.clone(), Vec::new());
        machine.on(Event::Seen { theirs, ours }, Moment::ZERO, &mut actions);
        let refused = matches!(actions[..], [Action::Refuse(Refusal::Nonsense(_))]);
        assert!(refused, "{parts:?}: {actions:?}");
    }
}

#[derive(Debug, Clone)]
enum Damage {
    Remove(usize),
    Change(usize),
    Add(u16),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        any::<usize>().prop_map(Damage::Remove),
        any::<usize>().prop_map(Damage::Change),
        any::<u16>().prop_map(Damage::Add),
    ]
}

fn damaged(theirs: &Rows, damages: &[Damage]) -> Rows {
    let mut ours = theirs.clone();
    for damage in damages {
        let nth = |at: usize| theirs.keys().nth(at % theirs.len().max(1)).cloned();
        match damage {
            Damage::Remove(at) => nth(*at).and_then(|key| ours.remove(&key)).map_or((), drop),
            Damage::Change(at) => {
                if let Some(key) = nth(*at) {
                    ours.insert(key, Bytes::from_static(b"wrong"));
                }
            }
            Damage::Add(at) => {
                ours.insert(key((*at).into()), Bytes::from_static(b"more"));
            }
        }
    }
    ours
}

#[test]
fn sizes_that_cannot_be_are_counted_as_far_as_numbers_go() {
    let mut machine = Verify::whole(Moment::ZERO);
    let mut actions = Vec::new();
    machine.on(Event::Held, Moment::ZERO, &mut actions);
    let part = |upto| Part {
        upto,
        digest: Digest {
            rows: 1,
            bytes: u64::MAX,
            hash: [0; 32],
        },
    };
    let theirs = vec![part(Some(key(1))), part(None)];
    let ours = theirs.iter().map(|part| Own {
        digest: part.digest,
        first: None,
    });
    let ours = ours.collect::<Vec<_>>();
    for (theirs, ours) in [(theirs, vec![]), (vec![], ours)] {
        machine.on(Event::Seen { theirs, ours }, Moment::ZERO, &mut actions);
    }
    let Some(Action::Done(findings)) = actions.pop() else {
        panic!("it is not over");
    };
    assert_eq!((findings.rows, findings.bytes), (2, u64::MAX));
}

proptest! {
    /// A failing case is printed with the seed that brings it back.
    #[test]
    fn exactly_the_ranges_that_differ_are_found_and_the_smallest_key(
        keys in prop::collection::btree_set(any::<u16>(), 0..400),
        damages in prop::collection::vec(damage(), 0..12),
        scale in prop::sample::select(vec![1u64, 16, 64, 256, 4096]),
        lost in prop::collection::vec(any::<bool>(), 0..40),
    ) {
        let theirs = model(keys.into_iter().map(u32::from));
        let ours = damaged(&theirs, &damages);
        let mut lost = lost.into_iter();
        // Not more often than is allowed in a row.
        let mut times = 0;
        let too_old = || {
            let now = times < MOVES_MAX && lost.next().unwrap_or(false);
            times += u32::from(now);
            now
        };
        let machine = Verify::whole(Moment::ZERO);
        let found = drive(machine, (&theirs, &ours), scale, too_old).unwrap();
        are_right(&found, &theirs, &ours)?;
        prop_assert_eq!(found.rows, theirs.len() as u64);
        // Putting those ranges right, and those alone, makes the stores alike.
        let mut mended = ours.clone();
        mended.retain(|key, _| !found.bad.iter().any(|span| holds(span, key)));
        for span in &found.bad {
            mended.extend(rows(&theirs, span).map(|(key, value)| (key.clone(), value.clone())));
        }
        prop_assert_eq!(&mended, &theirs);
        let again = Verify::again(found.bad.clone(), Moment::ZERO);
        let again = drive(again, (&theirs, &mended), scale, || false).unwrap();
        prop_assert!(again.is_clean());
        let still = Verify::again(found.bad.clone(), Moment::ZERO);
        let still = drive(still, (&theirs, &ours), scale, || false).unwrap();
        are_right(&still, &theirs, &ours)?;
    }
}
