//! Inputs made from others, by a seed: the same number gives the same input.

/// Longest input.
const BYTES_MAX: usize = 1 << 16;

/// Numbers at which code changes its mind.
const EDGES: [u64; 12] = [
    0,
    1,
    7,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF,
    0xFFFF,
    0x7FFF_FFFF,
    0xFFFF_FFFF,
    u64::MAX,
];

/// A source of choices.
#[derive(Debug)]
pub(crate) struct Mutator(u64);

impl Mutator {
    /// That of input `number` of a seed.
    pub(crate) fn new(seed: u64, number: u64) -> Self {
        let mut mutator = Self(seed);
        mutator.0 = mutator.next() ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mutator
    }

    /// An input out of `corpus`, which may be empty.
    pub(crate) fn input(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = match corpus {
            [] => self.noise(64),
            _ if self.below(16) == 0 => self.noise(64),
            _ => corpus[self.below(corpus.len())].clone(),
        };
        for _ in 0..1 + self.below(6) {
            self.change(&mut bytes, corpus);
            bytes.truncate(BYTES_MAX);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let at = self.below(bytes.len() + 1);
        let rest = bytes.len() - at;
        match self.below(11) {
            0 | 1 if rest > 0 => bytes[at] ^= 1 << self.below(8),
            2 if rest > 0 => bytes[at] = self.noise(1).first().copied().unwrap_or(0),
            3 if rest > 0 => bytes[at] = bytes[at].wrapping_add(self.one_of(&[1, 255, 16, 240])),
            4 => {
                let edge = EDGES[self.below(EDGES.len())].wrapping_sub(self.one_of(&[0, 1, 8]));
                let width = self.one_of(&[1, 2, 4, 8]).min(rest);
                let number = match self.below(2) {
                    0 => edge.to_le_bytes(),
                    _ => (edge << (8 * (8 - width.max(1)))).to_be_bytes(),
                };
                bytes[at..at + width].copy_from_slice(&number[..width]);
            }
            5 => drop(bytes.drain(at..at + self.below(rest.min(32) + 1))),
            6 => bytes.truncate(at),
            7 => insert(bytes, at, &self.noise(16)),
            8 => {
                let end = at + self.below(rest.min(256) + 1);
                let copied = bytes[at..end].to_vec();
                let to = self.below(bytes.len() + 1);
                insert(bytes, to, &copied);
            }
            _ => {
                let Some(other) = corpus.get(self.below(corpus.len().max(1))) else {
                    return;
                };
                let from = self.below(other.len() + 1);
                let end = from + self.below((other.len() - from).min(512) + 1);
                let replaced = at + self.below(rest.min(64) + 1);
                bytes.splice(at..replaced, other[from..end].iter().copied());
            }
        }
    }

    fn noise(&mut self, most: usize) -> Vec<u8> {
        let len = 1 + self.below(most);
        (0..len).map(|_| self.next().to_le_bytes()[0]).collect()
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).expect("a length");
        usize::try_from(self.next() % end).expect("below a length")
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, what: &[u8]) {
    bytes.splice(at..at, what.iter().copied());
}
