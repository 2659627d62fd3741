//! Header blocks of any encoder, one after the other, as the table remembers what came before.

/// The first byte says how large the table may be; each block has its length in two bytes in front.
pub(super) fn run(bytes: &[u8]) {
    let Some((table, mut rest)) = bytes.split_first() else { return };
    let blocks = std::iter::from_fn(|| {
        let (length, after) = rest.split_first_chunk()?;
        let (block, later) = after.split_at(usize::from(u16::from_be_bytes(*length)).min(after.len()));
        rest = later;
        Some(block)
    });
    aquifer_hbone::fuzzing::hpack(usize::from(*table) * 16, blocks);
}
