//! The checker checked: by histories whose verdict is known, and against trying every order.

use std::collections::BTreeMap;

use crate::sim::random::Random;

use super::{History, Op, OpId, Outcome, Value, Verdict};

/// Steps that are more than enough for what is checked here.
const BOUND: u64 = 1_000_000;

/// An operation as a test writes it: client, call, and return with its outcome.
type Line = (usize, Op, u64, Option<(u64, Outcome)>);

/// A history of the key `k`; without a return, the outcome is unknown.
fn history(lines: &[Line]) -> History {
    let mut moments = Vec::new();
    for (at, (_, _, called, end)) in lines.iter().enumerate() {
        moments.push((*called, false, at));
        moments.extend(end.as_ref().map(|(returned, _)| (*returned, true, at)));
    }
    moments.sort_unstable();
    let (mut history, mut ids) = (History::new(), BTreeMap::new());
    for (time, returns, at) in moments {
        let (client, op, _, end) = &lines[at];
        if returns {
            let (_, outcome) = end.as_ref().expect("it returns");
            history.returned(ids[&at], outcome.clone(), time);
        } else {
            ids.insert(at, history.invoke(*client, "k", op.clone(), time));
        }
    }
    for (at, (_, _, _, end)) in lines.iter().enumerate() {
        if end.is_none() {
            history.unknown(ids[&at]);
        }
    }
    history
}

fn put(value: Value, called: u64, returned: u64) -> Line {
    (1, Op::Put(value), called, Some((returned, Outcome::Done)))
}

fn get(value: impl Into<Option<Value>>, called: u64, returned: u64) -> Line {
    let outcome = Outcome::Value(value.into());
    (2, Op::Get, called, Some((returned, outcome)))
}

fn set(old: impl Into<Option<Value>>, new: Value, is: bool, called: u64, returned: u64) -> Line {
    let old = old.into();
    let outcome = Outcome::Swapped(is);
    let op = Op::CompareAndSet { old, new };
    (3, op, called, Some((returned, outcome)))
}

fn append(value: Value, before: &[Value], called: u64, returned: u64) -> Line {
    let outcome = Outcome::List(before.to_vec());
    (4, Op::Append(value), called, Some((returned, outcome)))
}

fn lost(op: Op, called: u64) -> Line {
    (5, op, called, None)
}

#[track_caller]
fn legal(lines: &[Line]) {
    assert_eq!(history(lines).check(BOUND), Verdict::Linearizable);
}

/// Checks that there is no order, and returns what is said of it.
#[track_caller]
fn illegal(lines: &[Line]) -> String {
    match history(lines).check(BOUND) {
        Verdict::Violation(text) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn operations_one_after_the_other_answer_what_the_one_before_left() {
    legal(&[]);
    legal(&[get(None, 1, 2), put(1, 3, 4), get(1, 5, 6)]);
    legal(&[put(1, 1, 2), set(1, 2, true, 3, 4), get(2, 5, 6)]);
    legal(&[put(1, 1, 2), set(2, 3, false, 3, 4), get(1, 5, 6)]);
    legal(&[append(1, &[], 1, 2), append(2, &[1], 3, 4)]);
    illegal(&[get(1, 1, 2)]);
    illegal(&[put(1, 1, 2), get(None, 3, 4)]);
    illegal(&[put(1, 1, 2), put(2, 3, 4), get(1, 5, 6)]);
    illegal(&[put(1, 1, 2), set(1, 2, false, 3, 4)]);
    illegal(&[put(1, 1, 2), set(None, 2, true, 3, 4)]);
    illegal(&[append(1, &[], 1, 2), append(2, &[], 3, 4)]);
    illegal(&[
        append(1, &[], 1, 2),
        append(2, &[1], 3, 4),
        append(3, &[2, 1], 5, 6),
    ]);
}

#[test]
fn operations_at_the_same_time_take_effect_in_any_order_and_in_one() {
    legal(&[put(1, 1, 9), get(None, 2, 3), get(1, 4, 5)]);
    illegal(&[put(1, 1, 9), get(1, 2, 3), get(None, 4, 5)]);
    legal(&[put(1, 1, 8), put(2, 2, 9), get(1, 10, 11)]);
    legal(&[put(1, 1, 8), put(2, 2, 9), get(2, 10, 11)]);
    illegal(&[put(1, 1, 8), put(2, 2, 9), get(1, 10, 11), get(2, 12, 13)]);
    // One of two that want the same wins.
    legal(&[set(None, 1, true, 1, 8), set(None, 2, false, 2, 9)]);
    illegal(&[set(None, 1, true, 1, 8), set(None, 2, true, 2, 9)]);
    // Two that read at the same time must not disagree about the order of two writes.
    let writes = [put(1, 1, 100), put(2, 1, 100)];
    let reads = [
        get(1, 10, 20),
        get(2, 30, 40),
        get(2, 11, 21),
        get(1, 31, 41),
    ];
    illegal(&[&writes[..], &reads[..]].concat());
    illegal(&[append(1, &[2], 1, 9), append(2, &[1], 1, 9)]);
}

#[test]
fn equal_times_are_in_the_order_in_which_they_were_told() {
    let mut history = History::new();
    let written = history.invoke(1, "k", Op::Put(1), 5);
    history.returned(written, Outcome::Done, 5);
    let read = history.invoke(1, "k", Op::Get, 5);
    let mut stale = history.clone();
    history.returned(read, Outcome::Value(Some(1)), 5);
    assert_eq!(history.check(BOUND), Verdict::Linearizable);
    stale.returned(read, Outcome::Value(None), 5);
    assert!(matches!(stale.check(BOUND), Verdict::Violation(_)));
}

#[test]
fn an_unknown_outcome_takes_effect_once_at_any_time_after_its_call_or_never() {
    let unknown = || lost(Op::Put(7), 3);
    legal(&[put(1, 1, 2), unknown(), get(1, 10, 11)]);
    legal(&[put(1, 1, 2), unknown(), get(1, 10, 11), get(7, 12, 13)]);
    legal(&[put(1, 1, 2), unknown(), put(2, 4, 5), get(7, 12, 13)]);
    illegal(&[get(7, 1, 2), unknown()]);
    illegal(&[unknown(), get(7, 10, 11), put(1, 12, 13), get(7, 14, 15)]);
    illegal(&[unknown(), get(7, 10, 11), get(None, 12, 13)]);
    // Two of them explain two values, in either order.
    let (one, two) = (lost(Op::Put(1), 1), lost(Op::Put(2), 2));
    legal(&[one.clone(), two.clone(), get(2, 10, 11), get(1, 12, 13)]);
    illegal(&[one, two, get(2, 10, 11), get(1, 12, 13), get(2, 14, 15)]);
    let unknown = || {
        lost(
            Op::CompareAndSet {
                old: Some(1),
                new: 2,
            },
            1,
        )
    };
    legal(&[put(1, 2, 3), unknown(), get(2, 4, 5)]);
    illegal(&[put(3, 2, 3), unknown(), get(2, 4, 5)]);
    legal(&[put(1, 2, 3), lost(Op::Delete, 1), set(1, 2, false, 4, 5)]);
    legal(&[
        lost(Op::Append(1), 1),
        append(2, &[], 2, 3),
        append(3, &[2, 1], 4, 5),
    ]);
    illegal(&[
        lost(Op::Append(1), 1),
        append(2, &[1], 2, 3),
        append(3, &[2], 4, 5),
    ]);
    // Nobody knows what it read, which is no reason against anything.
    legal(&[put(1, 1, 2), lost(Op::Get, 3), get(1, 4, 5)]);
}

#[test]
fn what_was_refused_has_no_effect_and_what_has_no_end_may_have_one() {
    let mut history = History::new();
    let begun = history.invoke(1, "k", Op::Put(1), 1);
    let read = history.invoke(2, "k", Op::Get, 2);
    history.returned(read, Outcome::Value(Some(1)), 3);
    assert_eq!(history.check(BOUND), Verdict::Linearizable);
    history.never(begun);
    assert!(matches!(history.check(BOUND), Verdict::Violation(_)));
}

#[test]
fn a_violation_names_the_key_and_the_shortest_prefix_without_an_order() {
    let mut lines = vec![
        put(1, 1, 2),
        put(2, 3, 4),
        lost(Op::Put(9), 3),
        get(1, 5, 7),
    ];
    let expected = "key \"k\": 4 operations cannot be ordered\n  \
                    client 1 at 1: put 1, at 2: done\n  \
                    client 1 at 3: put 2, at 4: done\n  \
                    client 5 at 3: put 9, unknown\n\
                    * client 2 at 5: get, at 7: 1";
    assert_eq!(illegal(&lines), expected);
    // What comes later changes nothing about it, even if it is wrong as well.
    lines.extend([put(3, 8, 9), get(1, 10, 11)]);
    assert_eq!(illegal(&lines), expected);
    let long = (0..60)
        .map(|at| put(at, 10 * at, 10 * at + 1))
        .collect::<Vec<_>>();
    let told = illegal(&[&long[..], &[get(1, 700, 701)]].concat());
    assert!(told.starts_with("key \"k\": 61 operations cannot be ordered; the last 40"));
    assert_eq!(told.lines().count(), 41, "{told}");
}

#[test]
fn a_key_is_checked_by_itself_and_one_that_is_wrong_is_enough() {
    let mut history = History::new();
    let mut put_and_get = |key: &str, held: Value, time: u64| {
        let id = history.invoke(1, key, Op::Put(time), time);
        history.returned(id, Outcome::Done, time + 1);
        let id = history.invoke(2, key, Op::Get, time + 2);
        history.returned(id, Outcome::Value(Some(held)), time + 3);
        history.check(BOUND)
    };
    assert_eq!(put_and_get("a", 10, 10), Verdict::Linearizable);
    assert_eq!(put_and_get("c", 20, 20), Verdict::Linearizable);
    let Verdict::Violation(told) = put_and_get("b", 20, 30) else {
        panic!("b never held 20");
    };
    assert!(told.starts_with("key \"b\": 2 operations"), "{told}");
}

#[test]
fn a_bound_that_is_too_low_is_said_and_hides_no_other_violation() {
    let reads = |held: Value| [get(held, 100, 101), get(held, 102, 103)];
    let writes = (0..12).map(|value| put(value, 1, 90)).collect::<Vec<_>>();
    let right = history(&[&writes[..], &reads(7)].concat());
    assert_eq!(right.check(BOUND), Verdict::Linearizable);
    assert_eq!(right.check(10), Verdict::Unknown);
    let mut wrong = history(&[&writes[..], &reads(77)].concat());
    assert!(matches!(wrong.check(BOUND), Verdict::Violation(_)));
    assert_eq!(wrong.check(1_000), Verdict::Unknown);
    let id = wrong.invoke(1, "z", Op::Get, 200);
    wrong.returned(id, Outcome::Value(Some(1)), 201);
    let Verdict::Violation(told) = wrong.check(1_000) else {
        panic!("z never held anything");
    };
    assert!(told.starts_with("key \"z\": 1 operations"), "{told}");
}

/// What one key holds, as the generator and the exhaustive check see it.
type Held = BTreeMap<usize, Vec<Value>>;

/// Does `op` to `held`: written apart from the checker's own model.
fn apply(held: &mut Held, key: usize, op: &Op) -> Outcome {
    let list = held.entry(key).or_default();
    match op {
        Op::Put(value) => *list = vec![*value],
        Op::Delete => list.clear(),
        Op::Get => return Outcome::Value(list.first().copied()),
        Op::List => return Outcome::List(list.clone()),
        Op::CompareAndSet { old, new } => {
            let swaps = list.first() == old.as_ref();
            if swaps {
                *list = vec![*new];
            }
            return Outcome::Swapped(swaps);
        }
        Op::Append(value) => {
            let before = list.clone();
            list.push(*value);
            return Outcome::List(before);
        }
    }
    Outcome::Done
}

/// An operation of a generated history.
#[derive(Debug, Clone)]
struct Made {
    client: usize,
    key: usize,
    op: Op,
    called: u64,
    end: Option<(u64, Outcome)>,
}

/// What a generated history is like.
struct Shape {
    clients: usize,
    keys: usize,
    operations: usize,
    /// One in so many outcomes stays unknown.
    unknown: u64,
}

/// An operation of any kind on `key`: the keys of even number are registers, the others lists.
/// Registers hold few different values, so that a wrong one is not always found at once.
fn any_op(random: &mut Random, key: usize, number: u64) -> Op {
    let value = |random: &mut Random| random.below(3);
    if key % 2 == 1 {
        return match random.below(3) {
            0 => Op::List,
            _ => Op::Append(number),
        };
    }
    match random.below(8) {
        0..3 => Op::Get,
        3..5 => Op::Put(value(random)),
        5 => Op::Delete,
        6 => Op::CompareAndSet {
            old: None,
            new: value(random),
        },
        _ => Op::CompareAndSet {
            old: Some(value(random)),
            new: value(random),
        },
    }
}

/// Clients of real registers, each of which does one thing after the other: calls, has its effect,
/// returns. One whose outcome stays unknown goes on, and what it left has its effect much later or
/// not at all.
fn generate(random: &mut Random, shape: &Shape) -> Vec<Made> {
    let mut made = Vec::<Made>::new();
    let mut busy = vec![None::<(usize, Option<Outcome>)>; shape.clients];
    let mut loose = Vec::new();
    let (mut held, mut time) = (Held::new(), 0);
    while made.len() < shape.operations || busy.iter().any(Option::is_some) {
        time += 1;
        if !loose.is_empty() && random.below(8) == 0 {
            let Made { key, op, .. } = &made[loose.swap_remove(random.index(loose.len()))];
            apply(&mut held, *key, op);
        }
        let client = random.index(shape.clients);
        busy[client] = match busy[client].take() {
            None if made.len() < shape.operations => {
                let key = random.index(shape.keys);
                let op = any_op(random, key, time);
                made.push(Made {
                    client,
                    key,
                    op,
                    called: time,
                    end: None,
                });
                Some((made.len() - 1, None))
            }
            None => None,
            Some((at, effect)) if random.below(shape.unknown) == 0 => {
                loose.extend(effect.is_none().then_some(at));
                None
            }
            Some((at, None)) => {
                let effect = apply(&mut held, made[at].key, &made[at].op);
                Some((at, Some(effect)))
            }
            Some((at, Some(outcome))) => {
                made[at].end = Some((time, outcome));
                None
            }
        };
    }
    made
}

fn told(made: &[Made]) -> History {
    let mut history = History::new();
    let ids = made.iter().map(|one| {
        let key = format!("key{:02}", one.key);
        history.invoke(one.client, &key, one.op.clone(), one.called)
    });
    let ids = ids.collect::<Vec<OpId>>();
    for (id, one) in ids.into_iter().zip(made) {
        match &one.end {
            Some((time, outcome)) => history.returned(id, outcome.clone(), *time),
            None => history.unknown(id),
        }
    }
    history
}

/// Whether there is an order, by trying all of them, of all keys at once. What is called when
/// another returns is told before that.
fn has_order(made: &[Made], done: &mut Vec<usize>, held: &Held) -> bool {
    let open = |at: &usize| !done.contains(at);
    let mut left = (0..made.len()).filter(open);
    if left.clone().all(|at| made[at].end.is_none()) {
        return true;
    }
    let first_return = left
        .clone()
        .filter_map(|at| made[at].end.as_ref())
        .map(|(time, _)| *time);
    let first_return = first_return.min().expect("one of them returned");
    let next = left.by_ref().filter(|at| made[*at].called <= first_return);
    for at in next.collect::<Vec<_>>() {
        let mut after = held.clone();
        let outcome = apply(&mut after, made[at].key, &made[at].op);
        if made[at]
            .end
            .as_ref()
            .is_none_or(|(_, told)| *told == outcome)
        {
            done.push(at);
            if has_order(made, done, &after) {
                return true;
            }
            done.pop();
        }
    }
    false
}

/// Makes something of a history another than it was.
fn mutate(random: &mut Random, made: &mut [Made]) {
    let at = random.index(made.len());
    let other = random.index(made.len());
    match random.below(4) {
        0 if made[other].end.is_some() => {
            // As if it had been over sooner.
            let called = made[other].called;
            let (time, _) = made[other].end.as_mut().expect("it ended");
            *time = called + 1;
        }
        1 => made[at].op = any_op(random, made[at].key, 1_000),
        2 => made[at].called = made[at].called.saturating_sub(random.below(9)),
        _ => {}
    }
    let Some((_, outcome)) = &mut made[at].end else {
        return;
    };
    match (&made[at].op, outcome) {
        (Op::Get, outcome) => *outcome = Outcome::Value(Some(random.below(3))),
        (Op::CompareAndSet { .. }, outcome) => *outcome = Outcome::Swapped(random.below(2) == 0),
        (Op::Append(_) | Op::List, Outcome::List(list)) => drop(list.pop()),
        (Op::Append(_) | Op::List, outcome) => *outcome = Outcome::List(Vec::new()),
        (Op::Put(_) | Op::Delete, outcome) => *outcome = Outcome::Done,
    }
}

/// What runs all seeds again, in a failure's text.
const AGAIN: &str = "again: cargo test --test it every_verdict_is_that_of_trying_all_orders";

#[test]
fn every_verdict_is_that_of_trying_all_orders() {
    let (mut right, mut wrong) = (0, 0);
    for seed in 0..4_000 {
        let mut random = Random::new(seed);
        let shape = Shape {
            clients: 2 + random.index(3),
            keys: 1 + random.index(3),
            operations: 3 + random.index(5),
            unknown: 6,
        };
        let mut made = generate(&mut random, &shape);
        assert_eq!(
            told(&made).check(BOUND),
            Verdict::Linearizable,
            "seed {seed}, {AGAIN}: {made:#?}"
        );
        mutate(&mut random, &mut made);
        let expected = has_order(&made, &mut Vec::new(), &Held::new());
        let verdict = told(&made).check(BOUND);
        match &verdict {
            Verdict::Linearizable => right += 1,
            Verdict::Violation(_) => wrong += 1,
            Verdict::Unknown => {}
        }
        let agrees = verdict == Verdict::Linearizable;
        assert!(
            verdict != Verdict::Unknown && agrees == expected,
            "seed {seed}, {AGAIN}: {verdict:?}"
        );
    }
    println!("of 4000 histories changed at one place {wrong} had no order");
    assert!(
        right > 500 && wrong > 500,
        "{right} right and {wrong} wrong test little"
    );
}

#[test]
fn a_long_history_is_decided_in_few_steps_and_one_wrong_answer_in_it_is_found() {
    let mut random = Random::new(1);
    let shape = Shape {
        clients: 8,
        keys: 50,
        operations: 5_000,
        unknown: 200,
    };
    let made = generate(&mut random, &shape);
    let begun = std::time::Instant::now();
    // For each key, of which each has some hundred operations.
    assert_eq!(told(&made).check(5_000), Verdict::Linearizable);
    println!("5000 operations of 50 keys took {:?}", begun.elapsed());
    let mut wrong = 0;
    for at in (0..made.len())
        .rev()
        .filter(|at| made[*at].op == Op::Get)
        .take(20)
    {
        let mut made = made.clone();
        if let Some((_, outcome)) = &mut made[at].end {
            *outcome = Outcome::Value(Some(77));
            let verdict = told(&made).check(200_000);
            assert!(
                matches!(verdict, Verdict::Violation(_)),
                "{at}: {verdict:?}"
            );
            wrong += 1;
        }
    }
    assert!(wrong > 10, "{wrong}");
}
