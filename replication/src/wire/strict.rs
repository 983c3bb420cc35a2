//! For tests: a message is the whole of its bytes.

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::wire::result::{ResultSet, RowSet};

/// Cuts `bytes` everywhere, and puts `more` behind them. What `read_and_write` makes of each is
/// nothing, or those very bytes: none is passed over, and none is made up.
pub(crate) fn every_byte_counts(
    bytes: &[u8],
    more: u8,
    read_and_write: impl Fn(Bytes) -> Option<Bytes>,
) -> Result<(), TestCaseError> {
    let longer = [bytes, &[more]].concat();
    for len in (0..bytes.len()).chain([longer.len()]) {
        let given = Bytes::copy_from_slice(&longer[..len]);
        if let Some(written) = read_and_write(given.clone()) {
            prop_assert_eq!(written, given, "{} of {} bytes", len, bytes.len());
        }
    }
    Ok(())
}

/// An answer as a client has it.
pub(crate) fn received(answer: ResultSet) -> RowSet {
    RowSet {
        columns: answer.columns,
        rows: answer.rows,
        tag: Some(answer.tag.into_owned()),
    }
}

/// Answers of any number of rows, of any width, with anything in them; mostly one row of words
/// that some column may have.
pub(crate) fn any_answer() -> impl Strategy<Value = RowSet> {
    let word = prop_oneof![
        Just(Bytes::from_static(b"t")),
        Just(Bytes::from_static(b"primary")),
        Just(Bytes::from_static(b"1/8")),
        Just(Bytes::from_static(b"00000000-0000-0000-0000-000000000007")),
        any::<u64>().prop_map(|number| Bytes::from(number.to_string())),
        prop::collection::vec(any::<u8>(), 0..33).prop_map(Bytes::from),
    ];
    let row = prop::collection::vec(prop::option::weighted(0.9, word), 0..10);
    let rows = row.prop_map(crate::wire::Row);
    prop::collection::vec(rows, 0..3).prop_map(|rows| RowSet {
        rows,
        ..RowSet::default()
    })
}
