//! The buffer of a thread for one read and what follows from it at once; connections and tunnels own none while they rest.

use std::cell::Cell;

/// Its size, in bytes.
const SIZE: usize = 256 << 10;

thread_local! {
    static SPARE: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// Takes it, or a new one where it is in use. All bytes are initialised.
pub(crate) fn take() -> Box<[u8]> {
    SPARE.take().unwrap_or_else(|| vec![0; SIZE].into_boxed_slice())
}

/// Gives it back.
pub(crate) fn give_back(buffer: Box<[u8]>) {
    SPARE.set(Some(buffer));
}
