//! The bytes of one file as shared pages, so that a copy of a disk costs pointers, not bytes.
//!
//! Pages are copied when written while shared. A page never written is a hole and takes no space;
//! a page written with zeros takes space on the simulated disk but none in memory. Bytes beyond
//! the length are always zero, so growing a file needs no write. This room knows one image only:
//! what is durable and what is pending is its user's business.

use std::ops::Range;
use std::sync::{Arc, LazyLock};

/// Unit of allocation in bytes.
pub(super) const PAGE_BYTES: usize = 4096;
/// Largest file in bytes: two of the largest log segments. Beyond it calls fail with `EFBIG`.
pub(super) const FILE_BYTES_MAX: u64 = 1 << 31;

type Page = [u8; PAGE_BYTES];

static ZERO_PAGE: LazyLock<Arc<Page>> = LazyLock::new(|| Arc::new([0; PAGE_BYTES]));

/// An image of a file. No offset or length given to it may exceed [`FILE_BYTES_MAX`].
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    len: u64,
    /// Never longer than the last page written; `None` is a hole.
    pages: Vec<Option<Arc<Page>>>,
}

impl Content {
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut content = Self::default();
        content.grow(bytes.len() as u64);
        content.patch(bytes, 0);
        content
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; index(self.len)];
        self.read(&mut bytes, 0);
        bytes
    }

    /// Fills `buffer` from `offset` up to the end of the file; returns how much that was.
    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> usize {
        let left = self.len.saturating_sub(offset);
        let take = buffer.len().min(index(left));
        let mut done = 0;
        while done < take {
            let (page, start) = place(offset + done as u64);
            let piece = (PAGE_BYTES - start).min(take - done);
            let target = &mut buffer[done..done + piece];
            match self.pages.get(page) {
                Some(Some(bytes)) => target.copy_from_slice(&bytes[start..start + piece]),
                _ => target.fill(0),
            }
            done += piece;
        }
        take
    }

    /// Overwrites what lies within the file; the rest of `bytes` hits nothing.
    pub(super) fn patch(&mut self, bytes: &[u8], offset: u64) {
        let left = self.len.saturating_sub(offset);
        let take = bytes.len().min(index(left));
        let mut done = 0;
        while done < take {
            let (page, start) = place(offset + done as u64);
            let piece = (PAGE_BYTES - start).min(take - done);
            let source = &bytes[done..done + piece];
            if page >= self.pages.len() {
                self.pages.resize(page + 1, None);
            }
            let slot = &mut self.pages[page];
            if piece == PAGE_BYTES && source == &ZERO_PAGE[..] {
                *slot = Some(Arc::clone(&ZERO_PAGE));
            } else {
                let shared = slot.get_or_insert_with(|| Arc::clone(&ZERO_PAGE));
                Arc::make_mut(shared)[start..start + piece].copy_from_slice(source);
            }
            done += piece;
        }
    }

    /// Makes the file at least `len` bytes long.
    pub(super) fn grow(&mut self, len: u64) {
        self.len = self.len.max(len);
    }

    /// Cuts or extends the file.
    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            let (page, start) = place(len);
            self.pages
                .truncate(if start == 0 { page } else { page + 1 });
            if start > 0
                && let Some(Some(shared)) = self.pages.get_mut(page)
            {
                Arc::make_mut(shared)[start..].fill(0);
            }
        }
        self.len = len;
    }

    /// Inverts one bit, counted from the file's first byte, least significant bit first.
    pub(super) fn flip(&mut self, bit: u64) {
        let mut byte = [0];
        if self.read(&mut byte, bit / 8) == 1 {
            self.patch(&[byte[0] ^ (1 << (bit % 8))], bit / 8);
        }
    }

    /// Where the pages lie that hold something else than zeros, as far as they are within the file.
    pub(super) fn pages(&self) -> impl Iterator<Item = Range<u64>> {
        let held = self.pages.iter().enumerate().filter(|(_, page)| {
            let zero = |page: &Arc<Page>| Arc::ptr_eq(page, &ZERO_PAGE) || *page == *ZERO_PAGE;
            page.as_ref().is_some_and(|page| !zero(page))
        });
        held.map(|(n, _)| {
            let begin = (n * PAGE_BYTES) as u64;
            begin..(begin + PAGE_BYTES as u64).min(self.len)
        })
    }

    /// Bytes of disk space taken.
    pub(super) fn allocated(&self) -> u64 {
        let pages = self.pages.iter().flatten().count();
        (pages * PAGE_BYTES) as u64
    }

    /// How many of `len` bytes at `offset` can be written with `free` bytes of space left.
    pub(super) fn fitting(&self, offset: u64, len: usize, free: u64) -> usize {
        let mut free_pages = free / PAGE_BYTES as u64;
        let mut fits = 0;
        while fits < len {
            let (page, start) = place(offset + fits as u64);
            if !matches!(self.pages.get(page), Some(Some(_))) {
                match free_pages.checked_sub(1) {
                    Some(left) => free_pages = left,
                    None => break,
                }
            }
            fits += (PAGE_BYTES - start).min(len - fits);
        }
        fits
    }
}

/// Page number and offset within it.
fn place(offset: u64) -> (usize, usize) {
    let offset = index(offset);
    (offset / PAGE_BYTES, offset % PAGE_BYTES)
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("file sizes are bounded by FILE_BYTES_MAX")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_file_reads_zeros_when_it_grows_again() {
        let mut content = Content::of(&[7; 10_000]);
        content.set_len(5000);
        content.set_len(10_000);
        let bytes = content.to_vec();
        assert!(bytes[..5000].iter().all(|b| *b == 7));
        assert!(bytes[5000..].iter().all(|b| *b == 0));
    }

    #[test]
    fn a_copy_shares_pages_and_does_not_see_later_writes() {
        let mut content = Content::of(&[1; 9000]);
        let copy = content.clone();
        content.patch(&[2; 100], 4090);
        assert!(copy.to_vec().iter().all(|b| *b == 1));
        assert_eq!(content.to_vec()[4089..4191], {
            let mut expected = [2; 102];
            expected[0] = 1;
            expected[101] = 1;
            expected
        });
        let shared = Arc::as_ptr(copy.pages[2].as_ref().unwrap());
        assert_eq!(shared, Arc::as_ptr(content.pages[2].as_ref().unwrap()));
    }

    #[test]
    fn written_zeros_take_space_and_holes_do_not() {
        let mut content = Content::default();
        content.set_len(64 * 4096);
        assert_eq!(content.allocated(), 0);
        assert_eq!(content.fitting(0, 3 * 4096, 2 * 4096 + 1), 2 * 4096);
        content.patch(&[0; 2 * 4096], 0);
        assert_eq!(content.allocated(), 2 * 4096);
        assert_eq!(content.fitting(100, 2 * 4096 - 100, 0), 2 * 4096 - 100);
        assert_eq!(content.fitting(100, 2 * 4096, 0), 2 * 4096 - 100);
    }

    #[test]
    fn a_patch_beyond_the_end_hits_nothing() {
        let mut content = Content::of(b"abc");
        content.patch(b"XYZ", 2);
        content.patch(b"XYZ", 50);
        assert_eq!(content.to_vec(), b"abX");
        content.flip(0);
        content.flip(24);
        assert_eq!(content.to_vec(), b"`bX");
    }
}
