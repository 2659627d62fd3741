//! Fields to header blocks (RFC 7541, 6), without state: a block names only entries of the static table, and means the
//! same to every decoder at every time. So a tunnel keeps nothing for it, and neither does its peer. Strings are
//! written plainly, without the Huffman code: a block is a small part of what a stream carries, and the bytes that the
//! code saves would cost both sides time.

use super::static_table::{self, Found};

/// Appends a field in the shortest of the forms that are used: an index for one that the static table has (6.1), or a
/// literal without indexing (6.2.2), with its name by index if the table has that.
///
/// The name must be in lower case (RFC 9113, 8.2.1), and pseudo-header fields come first: neither is checked here.
pub(crate) fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    match static_table::find(name, value) {
        Found::Field(index) => integer(out, 0x80, 7, index.into()),
        Found::Name(index) => {
            integer(out, 0, 4, index.into());
            text(out, value);
        }
        Found::Nothing => {
            out.push(0);
            text(out, name);
            text(out, value);
        }
    }
}

/// Appends a dynamic table size update to 0 (6.3), which belongs before the first field of a connection's first block.
/// With that no SETTINGS_HEADER_TABLE_SIZE of the peer, however low, asks for an update later (RFC 9113, 4.3.1): none
/// is below the table's size. Without it a peer that announces less than 4096 may refuse a block that has no update.
pub(crate) fn no_table(out: &mut Vec<u8>) {
    integer(out, 0x20, 5, 0);
}

/// RFC 7541, 5.1: an integer of which `prefix` bits (1 to 8) are in the first byte, below the bits of `form`.
pub(super) fn integer(out: &mut Vec<u8>, form: u8, prefix: u32, value: usize) {
    let mask = u8::MAX >> (8 - prefix);
    if let Ok(value) = u8::try_from(value)
        && value < mask
    {
        out.push(form | value);
        return;
    }
    out.push(form | mask);
    let mut rest = value.saturating_sub(mask.into());
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// RFC 7541, 5.2: a string, plainly.
fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    integer(out, 0, 7, bytes.len());
    out.extend_from_slice(bytes);
}
