//! Cutting a store's rows into ranges, and digesting them: as the primary does, and at its cuts.

use bytes::Bytes;
use mainstay_storage::{Lsn, Result};

use super::{ANSWER_BYTES_MAX, ANSWER_KEYS_MAX, ANSWER_TIME_MAX, Contents};
use crate::protocol::verify::{Cutter, Grain, Own, PARTS_MAX, Part, Span};
use crate::runtime::clock::Clock;

/// The ranges of a span, from its begin on: to its end, or as many as one answer takes.
///
/// # Errors
/// The store's.
pub(super) fn parts(
    contents: &dyn Contents,
    clock: Clock,
    at: Lsn,
    span: &Span,
    grain: Grain,
) -> Result<Vec<Part>> {
    let begun = clock.now();
    let (mut parts, mut cutter) = (Vec::new(), Cutter::new());
    let (mut keys, mut bytes) = (0, 0);
    for row in contents.rows(span.after.as_deref(), span.upto.as_deref(), at)? {
        let (key, value) = row?;
        cutter.push(&key, &value);
        if !cutter.is_full(grain) {
            continue;
        }
        let digest = cutter.cut();
        (keys, bytes) = (keys + key.len(), bytes + digest.bytes);
        parts.push(Part {
            upto: Some(key),
            digest,
        });
        let late = clock.now() - begun >= ANSWER_TIME_MAX;
        let full = keys >= ANSWER_KEYS_MAX || bytes >= ANSWER_BYTES_MAX;
        if parts.len() == PARTS_MAX || full || late {
            return Ok(parts);
        }
    }
    let last = parts.last().and_then(|part| part.upto.as_ref());
    let ended = span.upto.is_some() && last == span.upto.as_ref();
    if !ended {
        parts.push(Part {
            upto: span.upto.clone(),
            digest: cutter.cut(),
        });
    }
    Ok(parts)
}

/// Own rows from behind `after`, up to each of `ends` in turn.
///
/// # Errors
/// The store's.
pub(super) fn own(
    contents: &dyn Contents,
    at: Lsn,
    after: Option<&Bytes>,
    ends: &[Option<Bytes>],
) -> Result<Vec<Own>> {
    let upto = ends.last().cloned().flatten();
    let mut rows = contents.rows(after.map(|key| &key[..]), upto.as_deref(), at)?;
    let mut next = rows.next().transpose()?;
    let mut all = Vec::with_capacity(ends.len());
    for end in ends {
        let (mut cutter, mut first) = (Cutter::new(), None);
        let within = |key: &Bytes| end.as_ref().is_none_or(|end| key <= end);
        while let Some((key, value)) = next.take_if(|(key, _)| within(key)) {
            cutter.push(&key, &value);
            first.get_or_insert(key);
            next = rows.next().transpose()?;
        }
        let digest = cutter.cut();
        all.push(Own { digest, first });
    }
    Ok(all)
}
