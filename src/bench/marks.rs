//! Which rows were written: a bit for each, so that what is removed is what was written.

use std::sync::atomic::{AtomicU64, Ordering};

/// A set of rows that many threads add to.
#[derive(Debug)]
pub(crate) struct Marks {
    words: Box<[AtomicU64]>,
}

impl Marks {
    /// The empty set of rows below `rows`.
    pub(crate) fn new(rows: u64) -> Self {
        let words = (0..rows.div_ceil(64)).map(|_| AtomicU64::new(0));
        Self {
            words: words.collect(),
        }
    }

    /// Adds `row`.
    ///
    /// # Panics
    /// When the set was made for fewer rows.
    pub(crate) fn set(&self, row: u64) {
        let (word, bit) = self.place(row);
        word.fetch_or(bit, Ordering::Relaxed);
    }

    /// Takes `row` out.
    pub(crate) fn clear(&self, row: u64) {
        let (word, bit) = self.place(row);
        word.fetch_and(!bit, Ordering::Relaxed);
    }

    pub(crate) fn count(&self) -> u64 {
        let words = self.words.iter();
        words
            .map(|word| u64::from(word.load(Ordering::Relaxed).count_ones()))
            .sum()
    }

    /// The rows in it, in their order.
    pub(crate) fn rows(&self) -> impl Iterator<Item = u64> {
        let words = (0..).zip(&self.words);
        words.flat_map(|(at, word)| {
            let word = word.load(Ordering::Relaxed);
            let bits = (0..64).filter(move |bit| word >> bit & 1 == 1);
            bits.map(move |bit| at * 64 + bit)
        })
    }

    fn place(&self, row: u64) -> (&AtomicU64, u64) {
        let word = usize::try_from(row / 64).expect("as many words were allocated");
        (&self.words[word], 1 << (row % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_added_and_not_taken_out() {
        let marks = Marks::new(130);
        for row in [129, 0, 64, 63, 0] {
            marks.set(row);
        }
        assert_eq!(marks.rows().collect::<Vec<_>>(), [0, 63, 64, 129]);
        marks.clear(64);
        marks.clear(1);
        assert_eq!(marks.rows().collect::<Vec<_>>(), [0, 63, 129]);
        assert_eq!(marks.count(), 3);
        assert_eq!(Marks::new(0).count(), 0);
    }
}
