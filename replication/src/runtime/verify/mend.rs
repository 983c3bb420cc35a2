//! Mending ranges: the primary's rows come in, and what differs from them here is set at once.
//!
//! A task asks for the rows and hands them on through a short queue; a thread goes through them and
//! its own rows side by side and writes those that differ straight to the store. What was not ended
//! by [`Shipped::End`] is given up as a whole, so a connection that breaks leaves nothing behind.

use std::iter::Peekable;

use bytes::{Bytes, BytesMut};
use mainstay_storage::VALUE_MAX;
use mainstay_storage::{Error as StorageError, Lsn, MendedRow, Result as StorageResult, Rows};
use tokio::sync::mpsc;

use super::Contents;
use super::drive::Mended;
use super::sides::{self, Piece, Sides, blocking};
use crate::error::{Error, Result};
use crate::protocol::verify::Span;
use crate::runtime::client::Client;

/// Rows that may wait to be written.
const QUEUE_MAX: usize = 64;

/// What is shipped.
#[derive(Debug)]
pub(super) enum Shipped {
    /// A range begins, and its rows follow.
    Span(Span),
    Row(Bytes, Bytes),
    /// That was all.
    End,
}

/// Ships and sets what differs in `bad` ranges, which are in order.
///
/// # Errors
/// Connection errors, the store's; nothing was set then.
pub(super) async fn run(sides: Sides, bad: &[Span]) -> Result<Mended> {
    let Sides {
        mut client,
        pin,
        held,
    } = sides;
    let (to, from) = mpsc::channel(QUEUE_MAX);
    let (contents, at) = (pin.contents.clone(), pin.at);
    let writing = blocking(move || {
        let mut merge = Merge::new(&*contents, at, from);
        let mended = contents.mend(at, &mut merge);
        // Whoever asked for what was never shipped knows better why.
        mended.map(|()| merge.counted)
    });
    let shipping = ship(&mut client, bad, to);
    let (written, shipped) = tokio::join!(writing, shipping);
    let (counted, ()) = match (written, shipped) {
        // The thread went away, so its error is the cause.
        (Err(error), Err(Error::NotRunning)) => return Err(error),
        (written, shipped) => {
            shipped?;
            (written?, ())
        }
    };
    drop((pin, held));
    Ok(Mended {
        at,
        ranges: bad.len() as u64,
        ..counted
    })
}

async fn ship(client: &mut Client, bad: &[Span], to: mpsc::Sender<Shipped>) -> Result<()> {
    let gone = |_| Error::NotRunning;
    for span in bad {
        to.send(Shipped::Span(span.clone())).await.map_err(gone)?;
        let mut rest = span.clone();
        let mut open: Option<Open> = None;
        loop {
            let offset = open.as_ref().map_or(0, |open| open.value.len());
            let (pieces, all) = sides::rows(client, &rest, offset).await?;
            for piece in pieces {
                let row = Open::with(open.take(), piece, &rest);
                let row = row.map_err(|why| client.broken(why))?;
                if row.value.len() < row.size {
                    open = Some(row);
                    continue;
                }
                rest.after = Some(row.key.clone());
                let shipped = Shipped::Row(row.key, row.value.freeze());
                to.send(shipped).await.map_err(gone)?;
            }
            if all {
                break;
            }
        }
        if open.is_some() {
            return Err(client.broken("it shipped half a row"));
        }
    }
    to.send(Shipped::End).await.map_err(gone)
}

/// A row that is being put together.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) key: Bytes,
    pub(super) size: usize,
    pub(super) value: BytesMut,
}

impl Open {
    /// Takes a piece of a row of `rest`.
    ///
    /// # Errors
    /// Why it cannot be one.
    pub(super) fn with(
        open: Option<Self>,
        piece: Piece,
        rest: &Span,
    ) -> std::result::Result<Self, &'static str> {
        let mut open = match open {
            Some(open) if open.key == piece.key && open.size == piece.size => open,
            Some(_) => return Err("it shipped half a row"),
            None => Self {
                key: piece.key,
                size: piece.size,
                value: BytesMut::new(),
            },
        };
        let climbs = rest.after.as_ref().is_none_or(|after| open.key > *after);
        let within = rest.upto.as_ref().is_none_or(|upto| open.key <= *upto);
        if !climbs || !within || open.size > VALUE_MAX {
            return Err("it shipped a row that was not asked for");
        }
        open.value.extend_from_slice(&piece.bytes);
        let stuck = piece.bytes.is_empty() && open.size > 0;
        match open.value.len() > open.size || stuck {
            true => Err("it shipped a row of another size than it says"),
            false => Ok(open),
        }
    }
}

/// The rows to be set: what is shipped and differs here, and what is here and was not shipped.
pub(super) struct Merge<'a> {
    contents: &'a dyn Contents,
    at: Lsn,
    from: mpsc::Receiver<Shipped>,
    /// Own rows of the range at hand.
    own: Option<Peekable<Rows>>,
    /// What came and waits for smaller own rows.
    next: Option<Shipped>,
    over: bool,
    pub(super) counted: Mended,
}

impl<'a> Merge<'a> {
    pub(super) fn new(contents: &'a dyn Contents, at: Lsn, from: mpsc::Receiver<Shipped>) -> Self {
        Self {
            contents,
            at,
            from,
            own: None,
            next: None,
            over: false,
            counted: Mended {
                at,
                ranges: 0,
                shipped_rows: 0,
                shipped_bytes: 0,
                mended_rows: 0,
            },
        }
    }

    fn step(&mut self) -> StorageResult<Option<MendedRow>> {
        while !self.over {
            let next = match self.next.take() {
                Some(next) => next,
                None => self.from.blocking_recv().ok_or(StorageError::Closed)?,
            };
            let shipped = match &next {
                Shipped::Row(key, _) => Some(key),
                Shipped::Span(_) | Shipped::End => None,
            };
            // Own rows below what came are not there.
            if let Some((key, _)) = self.own_if(|own| shipped.is_none_or(|key| own < key))? {
                self.next = Some(next);
                return Ok(Some((key, None)));
            }
            match next {
                Shipped::End => self.over = true,
                Shipped::Span(span) => {
                    let (after, upto) = (span.after.as_deref(), span.upto.as_deref());
                    self.own = Some(self.contents.rows(after, upto, self.at)?.peekable());
                }
                Shipped::Row(key, value) => {
                    self.counted.shipped_rows += 1;
                    self.counted.shipped_bytes += (key.len() + value.len()) as u64;
                    let same = self.own_if(|own| own == &key)?;
                    if same.is_none_or(|(_, own)| own != value) {
                        return Ok(Some((key, Some(value))));
                    }
                }
            }
        }
        Ok(None)
    }

    /// The next own row of the range, if `wanted` says so of its key.
    fn own_if(&mut self, wanted: impl Fn(&Bytes) -> bool) -> StorageResult<Option<(Bytes, Bytes)>> {
        let Some(own) = &mut self.own else {
            return Ok(None);
        };
        let is_wanted =
            |row: &StorageResult<(Bytes, Bytes)>| row.as_ref().map_or(true, |(key, _)| wanted(key));
        own.next_if(is_wanted).transpose()
    }
}

impl Iterator for Merge<'_> {
    type Item = StorageResult<MendedRow>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.step().transpose();
        self.counted.mended_rows += u64::from(matches!(row, Some(Ok(_))));
        row
    }
}
