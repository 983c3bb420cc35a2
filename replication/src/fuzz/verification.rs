//! A comparison of two stores, of which the other one answers anything.

use bytes::Bytes;

use super::Input;
use crate::protocol::verify::{Action, Digest, Event, Own, Part, Span, Verify};
use crate::time::Moment;

/// Most answers of one input; a comparison asks again for what differs.
const ANSWERS_MAX: usize = 64;

/// What this side finds when the other one answers anything.
pub(super) fn comparison(data: &[u8]) {
    let mut input = Input::new(data);
    let mut machine = match input.flag() {
        true => Verify::whole(Moment::ZERO),
        false => Verify::again(vec![Span::default()], Moment::ZERO),
    };
    let mut actions = Vec::new();
    machine.on(Event::Held, Moment::ZERO, &mut actions);
    for _ in 0..ANSWERS_MAX {
        assert!(actions.len() <= 1, "{actions:?}");
        let event = match actions.pop() {
            None | Some(Action::Refuse(_)) => return,
            Some(Action::Done(findings)) => {
                assert!(findings.bad.len() as u64 <= findings.bad_ranges);
                assert!(findings.first.is_none() || findings.bad_ranges > 0);
                return;
            }
            Some(Action::Move) => Event::Held,
            Some(Action::Look { ask, digest }) => {
                let theirs = ask.map_or(Vec::new(), |_| parts(&mut input));
                let ends = digest.map_or(0, |(_, ends)| ends.len());
                let ours = (0..ends).map(|_| own(&mut input)).collect();
                match input.byte() % 16 {
                    1 => Event::TooOld,
                    _ => Event::Seen { theirs, ours },
                }
            }
        };
        machine.on(event, Moment::ZERO, &mut actions);
    }
}

fn parts(input: &mut Input<'_>) -> Vec<Part> {
    let count = input.byte() % 8;
    let part = |_| Part {
        upto: key(input),
        digest: digest(input),
    };
    (0..count).map(part).collect()
}

fn own(input: &mut Input<'_>) -> Own {
    Own {
        digest: digest(input),
        first: key(input),
    }
}

fn key(input: &mut Input<'_>) -> Option<Bytes> {
    let key = Bytes::copy_from_slice(input.sized());
    (!key.is_empty()).then_some(key)
}

fn digest(input: &mut Input<'_>) -> Digest {
    let kind = input.byte();
    Digest {
        rows: match kind & 1 {
            0 => u64::from(input.byte()),
            _ => input.u64(),
        },
        bytes: match kind & 2 {
            0 => u64::from(input.byte()),
            _ => input.u64(),
        },
        hash: [kind >> 2; 32],
    }
}
