//! Whatever a peer sends inside of TLS, to both ends of a tunnel.

/// How many of the first bytes say into which pieces the others are cut.
const CUTS: usize = 3;

/// The first byte says which end reads it: an odd one is the client. Then cuts, then frames.
pub(super) fn run(bytes: &[u8]) {
    let Some((role, rest)) = bytes.split_first() else { return };
    let Some((cuts, frames)) = rest.split_at_checked(CUTS) else { return };
    aquifer_hbone::fuzzing::frames(role % 2 == 1, cuts, frames);
}
