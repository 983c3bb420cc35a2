//! One simulated file: what is durable, what readers see, and the changes in between.
//!
//! The three differ on purpose: a write shows at once and becomes durable with a sync; after a
//! failed sync, or a write that the device lost, readers go on seeing what is not on the disk,
//! until a crash drops the cache. Names and directories are no business of this room.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::content::{Content, FILE_BYTES_MAX};
use super::random::Random;

/// Unit in which a device writes, loses and damages, in bytes.
pub(super) const SECTOR_BYTES: u64 = 512;

/// A change that a crash may keep, lose or tear.
#[derive(Debug, Clone)]
pub(super) enum Change {
    /// Bytes for the device. `grows_to` is the file size that goes with them, in the inode.
    Write {
        offset: u64,
        bytes: Arc<[u8]>,
        grows_to: Option<u64>,
    },
    SetLen(u64),
}

impl Change {
    pub(super) fn apply(&self, content: &mut Content) {
        match self {
            Self::Write {
                offset,
                bytes,
                grows_to,
            } => {
                content.grow(grows_to.unwrap_or(0));
                content.patch(bytes, *offset);
            }
            Self::SetLen(len) => content.set_len(*len),
        }
    }
}

/// What becomes of one write on its way to the device.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(super) enum Mishap {
    Lost,
    /// Its bytes go to this offset.
    Misdirected(u64),
    /// Its sectors go to others of the same file, chosen by this seed.
    Astray(u64),
}

#[derive(Debug, Clone, Default)]
pub(super) struct File {
    durable: Content,
    current: Content,
    pending: Vec<Change>,
    /// The size once everything pending is durable.
    pending_len: u64,
    /// Readers see something that is neither durable nor pending.
    deceived: bool,
    /// Offsets of sectors that cannot be read.
    unreadable: BTreeSet<u64>,
}

impl File {
    /// A file whose contents are durable.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let content = Content::of(bytes);
        Self {
            durable: content.clone(),
            pending_len: content.len(),
            current: content,
            ..Self::default()
        }
    }

    pub(super) fn current(&self) -> &Content {
        &self.current
    }

    pub(super) fn durable(&self) -> &Content {
        &self.durable
    }

    pub(super) fn pending(&self) -> &[Change] {
        &self.pending
    }

    /// Whether a crash may change what readers see.
    pub(super) fn is_volatile(&self) -> bool {
        self.deceived || !self.pending.is_empty()
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: u64, mishap: Option<Mishap>) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len() as u64;
        self.current.grow(end);
        self.current.patch(bytes, offset);
        let grows_to = (end > self.pending_len).then_some(end);
        self.pending_len = self.pending_len.max(end);
        self.deceived |= mishap.is_some();
        // Writing a whole sector anew makes the device remap it.
        let rewritten = offset.next_multiple_of(SECTOR_BYTES)..;
        self.unreadable
            .retain(|sector| !rewritten.contains(sector) || sector + SECTOR_BYTES > end);
        // The size is the file system's and arrives even where the device mislays the bytes.
        let (offset, bytes) = match mishap {
            None => (offset, bytes.into()),
            Some(Mishap::Lost) => (offset, Arc::default()),
            Some(Mishap::Misdirected(to)) => (to.min(FILE_BYTES_MAX), bytes.into()),
            Some(Mishap::Astray(seed)) => self.astray(offset..end, &mut Random::new(seed)),
        };
        self.pending.push(Change::Write {
            offset,
            bytes,
            grows_to,
        });
    }

    /// The sectors of a write as they should be, and the place of other ones that they replace.
    fn astray(&self, written: Range<u64>, random: &mut Random) -> (u64, Arc<[u8]>) {
        let begin = written.start - written.start % SECTOR_BYTES;
        let end = written
            .end
            .next_multiple_of(SECTOR_BYTES)
            .min(self.current.len());
        let mut sectors = vec![0; usize::try_from(end - begin).expect("a write is in memory")];
        self.current.read(&mut sectors, begin);
        let places = (0..).step_by(SECTOR_BYTES as usize);
        let places = places.take_while(|at| at + (end - begin) <= self.current.len());
        let places = places.filter(|&at| at != begin).collect::<Vec<_>>();
        if places.is_empty() {
            return (begin, Arc::default());
        }
        (places[random.index(places.len())], sectors.into())
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len != self.current.len() || len != self.pending_len {
            self.current.set_len(len);
            self.pending_len = len;
            self.pending.push(Change::SetLen(len));
        }
    }

    pub(super) fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    /// A failed sync: nothing pending will ever be written, and readers do not notice.
    pub(super) fn forget(&mut self) {
        self.deceived |= !self.pending.is_empty();
        self.pending.clear();
        self.pending_len = self.durable.len();
    }

    /// The image after everything pending has been written.
    pub(super) fn synced_image(&self) -> Content {
        let mut image = self.durable.clone();
        for change in &self.pending {
            change.apply(&mut image);
        }
        image
    }

    /// A crash has left `image` on the device.
    pub(super) fn restart(&mut self, image: Content) {
        self.current = image.clone();
        self.pending_len = image.len();
        self.durable = image;
        self.pending.clear();
        self.deceived = false;
    }

    /// Overwrites durable bytes behind the file system's back.
    pub(super) fn damage(&mut self, mut change: impl FnMut(&mut Content)) {
        change(&mut self.durable);
        change(&mut self.current);
    }

    pub(super) fn make_unreadable(&mut self, offset: u64) {
        self.unreadable.insert(offset - offset % SECTOR_BYTES);
    }

    /// Whether a read of `len` bytes at `offset` meets an unreadable sector.
    pub(super) fn is_unreadable(&self, offset: u64, len: u64) -> bool {
        let first = offset - offset % SECTOR_BYTES;
        len > 0 && self.unreadable.range(first..offset + len).next().is_some()
    }

    /// Offsets of the sectors that pending writes touch, ascending, as far as the file will reach.
    pub(super) fn pending_sectors(&self) -> Vec<u64> {
        let mut sectors = BTreeSet::new();
        for change in &self.pending {
            if let Change::Write { offset, bytes, .. } = change {
                sectors.extend(pieces(*offset, bytes).map(|(at, _)| at - at % SECTOR_BYTES));
            }
        }
        sectors.range(..self.pending_len).copied().collect()
    }
}

/// A write cut at sector boundaries: each piece with its offset in the file.
pub(super) fn pieces(offset: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let mut at = offset;
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let room = SECTOR_BYTES - at % SECTOR_BYTES;
        let take = usize::try_from(room).map_or(rest.len(), |room| room.min(rest.len()));
        let (piece, tail) = rest.split_at(take);
        let found = (at, piece);
        rest = tail;
        at += take as u64;
        Some(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_cut_where_sectors_end() {
        let bytes = [0; 1200];
        let cut: Vec<_> = pieces(500, &bytes).map(|(at, p)| (at, p.len())).collect();
        assert_eq!(cut, [(500, 12), (512, 512), (1024, 512), (1536, 164)]);
        assert_eq!(pieces(512, &[]).count(), 0);
    }

    #[test]
    fn a_write_after_a_failed_sync_carries_the_size_that_was_forgotten() {
        let mut file = File::default();
        file.write(&[1; 100], 0, None);
        file.forget();
        file.write(&[2; 10], 50, None);
        file.sync();
        assert_eq!(file.current().len(), 100);
        let durable = file.durable().to_vec();
        assert_eq!(durable.len(), 60);
        assert_eq!(durable[..50], [0; 50]);
        assert_eq!(durable[50..], [2; 10]);
    }

    #[test]
    fn only_a_write_of_the_whole_sector_makes_it_readable_again() {
        let mut file = File::of(&[0; 2048]);
        file.make_unreadable(700);
        assert!(file.is_unreadable(1023, 1));
        assert!(!file.is_unreadable(0, 512));
        assert!(!file.is_unreadable(1024, 512));
        file.write(&[1; 511], 512, None);
        file.write(&[1; 511], 513, None);
        assert!(file.is_unreadable(512, 1));
        file.write(&[1; 514], 511, None);
        assert!(!file.is_unreadable(0, 2048));
    }
}
