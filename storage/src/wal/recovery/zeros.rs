//! Zeros at either end of a segment's bytes. What they mean is for others to say.

const ZEROS: [u8; 4096] = [0; 4096];

/// How many zero bytes `bytes` begin with, compared by the page because most of a log is zero.
pub(super) fn leading_zeros(bytes: &[u8]) -> usize {
    let pages = bytes
        .chunks_exact(ZEROS.len())
        .take_while(|page| *page == ZEROS)
        .count();
    let whole = pages * ZEROS.len();
    let rest = &bytes[whole..];
    whole
        + rest
            .iter()
            .take(ZEROS.len())
            .take_while(|&&byte| byte == 0)
            .count()
}

/// Length of `bytes` up to the last one that is not zero.
pub(super) fn len_without_trailing_zeros(bytes: &[u8]) -> usize {
    let pages = bytes
        .rchunks_exact(ZEROS.len())
        .take_while(|page| *page == ZEROS)
        .count();
    let rest = &bytes[..bytes.len() - pages * ZEROS.len()];
    rest.iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |last| last + 1)
}
