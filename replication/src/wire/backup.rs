//! CopyData payloads of a base backup, in the framing of PostgreSQL 15.
//!
//! The server names an archive, sends its bytes, now and then says how far it is, and sends the
//! manifest last. Tar and manifest are for others to make and to read.

use bytes::{BufMut, Bytes, BytesMut};

use crate::wire::Result;
use crate::wire::cursor::{Cursor, length, put_cstr, put_message};

/// A CopyData payload sent while a base backup is copied out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupMessage {
    /// `n`: a new archive begins.
    Archive {
        /// File name, as `base.tar`.
        name: String,
        /// Directory of the tablespace; empty for the main archive.
        location: String,
    },
    /// `m`: the manifest begins.
    Manifest,
    /// `d`: bytes of the archive or manifest that began last.
    Content(Bytes),
    /// `p`: bytes done so far, over all archives.
    Progress(u64),
}

impl BackupMessage {
    /// Appends a whole CopyData message.
    pub fn encode(&self, out: &mut BytesMut) {
        put_message(out, b'd', |out| match self {
            Self::Archive { name, location } => {
                out.put_u8(b'n');
                put_cstr(out, name);
                put_cstr(out, location);
            }
            Self::Manifest => out.put_u8(b'm'),
            Self::Content(bytes) => {
                out.put_u8(b'd');
                out.put_slice(bytes);
            }
            Self::Progress(bytes) => {
                out.put_u8(b'p');
                out.put_u64(*bytes);
            }
        });
    }

    /// What goes before `len` bytes of [`Content`](Self::Content), for whoever sends them without
    /// copying them into a message.
    pub fn content_head(len: usize) -> Bytes {
        let mut head = BytesMut::with_capacity(6);
        head.put_u8(b'd');
        head.put_u32(length(size_of::<u32>() + 1 + len));
        head.put_u8(b'd');
        head.freeze()
    }

    /// Reads a CopyData payload.
    ///
    /// # Errors
    /// On an unknown type, a wrong layout, or an archive name that could leave its directory.
    pub fn decode(payload: Bytes) -> Result<Self> {
        let mut cursor = Cursor::new("base backup message", payload);
        let message = match cursor.u8()? {
            b'n' => {
                let (name, location) = (cursor.cstr()?, cursor.cstr()?);
                if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\']) {
                    return Err(cursor.bad("an archive has an unsafe name"));
                }
                Self::Archive { name, location }
            }
            b'm' => Self::Manifest,
            b'd' => Self::Content(cursor.rest()),
            b'p' => Self::Progress(cursor.u64()?),
            _ => return Err(cursor.bad("its type is unknown")),
        };
        cursor.finish()?;
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::strict::every_byte_counts;

    fn any_message() -> impl Strategy<Value = BackupMessage> {
        prop_oneof![
            ("[a-z0-9]{1,9}\\.tar", "[^\0]{0,20}")
                .prop_map(|(name, location)| BackupMessage::Archive { name, location }),
            Just(BackupMessage::Manifest),
            prop::collection::vec(any::<u8>(), 0..40)
                .prop_map(|bytes| BackupMessage::Content(Bytes::from(bytes))),
            any::<u64>().prop_map(BackupMessage::Progress),
        ]
    }

    proptest! {
        #[test]
        fn every_message_round_trips(message in any_message()) {
            let mut buf = BytesMut::new();
            message.encode(&mut buf);
            let sent = buf.freeze();
            if let BackupMessage::Content(bytes) = &message {
                let parts = [BackupMessage::content_head(bytes.len()), bytes.clone()];
                prop_assert_eq!(&parts.concat(), &sent);
            }
            prop_assert_eq!(BackupMessage::decode(sent.slice(5..)), Ok(message));
        }

        #[test]
        fn no_byte_of_a_message_is_passed_over(message in any_message(), more: u8) {
            let payload = |message: &BackupMessage| {
                let mut out = BytesMut::new();
                message.encode(&mut out);
                out.freeze().slice(5..)
            };
            every_byte_counts(&payload(&message), more, |bytes| {
                Some(payload(&BackupMessage::decode(bytes).ok()?))
            })?;
        }

        #[test]
        fn any_payload_is_taken_or_refused_but_never_panics(
            payload in prop::collection::vec(prop_oneof![Just(0), Just(b'n'), any::<u8>()], 0..20),
        ) {
            let _ = BackupMessage::decode(Bytes::from(payload));
        }
    }

    #[test]
    fn an_archive_cannot_leave_its_directory() {
        for name in ["", ".", "../x", "a/b", "a\\b", ".hidden"] {
            let mut buf = BytesMut::new();
            let location = String::new();
            let name = name.to_owned();
            BackupMessage::Archive { name, location }.encode(&mut buf);
            assert!(BackupMessage::decode(buf.freeze().slice(5..)).is_err());
        }
    }
}
