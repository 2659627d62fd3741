//! TLS records: of nobody, and of a peer that fills them as it likes.

/// The first byte says how much of the rest is a record's inside; what follows comes as it is.
pub(super) fn run(bytes: &[u8]) {
    let Some((inner, rest)) = bytes.split_first() else { return };
    let (inner, records) = rest.split_at((usize::from(*inner) * 64).min(rest.len()));
    aquifer_hbone::fuzzing::records(records, inner);
}
