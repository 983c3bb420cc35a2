//! TALLY: how many transactions ended in the sender's log up to a place.

use bytes::{BufMut, BytesMut};
use mainstay_storage::TallyMark;

use crate::wire::Result;
use crate::wire::cursor::{Cursor, put_lsn, put_message};

/// Type of the payload.
pub(super) const TALLY: u8 = 0xD5;

pub(super) fn encode(mark: TallyMark, out: &mut BytesMut) {
    put_message(out, b'd', |out| {
        out.put_u8(TALLY);
        put_lsn(out, mark.at);
        out.put_u64(mark.transactions);
    });
}

pub(super) fn decode(cursor: &mut Cursor) -> Result<TallyMark> {
    Ok(TallyMark {
        at: cursor.lsn()?,
        transactions: cursor.u64()?,
    })
}

#[cfg(test)]
mod tests {
    use bytes::Buf as _;
    use mainstay_storage::Lsn;

    use super::*;
    use crate::wire::replication::SenderMessage;

    #[test]
    fn a_tally_is_17_bytes_that_native_peers_alone_may_say() {
        let mark = TallyMark {
            at: Lsn::new(0x0102_0304_0506_0708),
            transactions: 9,
        };
        let mut out = BytesMut::new();
        SenderMessage::Tally(mark).encode(&mut out);
        out.advance(5);
        let payload = out.freeze();
        assert_eq!(
            &payload[..],
            [0xD5, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 9]
        );
        let read = SenderMessage::decode(payload.clone(), true);
        assert_eq!(read, Ok(SenderMessage::Tally(mark)));
        assert!(SenderMessage::decode(payload.clone(), false).is_err());
        assert!(SenderMessage::decode(payload.slice(..16), true).is_err());
    }
}
