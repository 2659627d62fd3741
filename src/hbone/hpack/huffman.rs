//! The Huffman code of HPACK (RFC 7541, 5.2 and Appendix B), decoding only.
//!
//! The code is canonical: within a length, codes are consecutive and follow the order of their symbols, and they go on
//! from one length to the next. So the lengths are the whole table, and all else here is computed from them while the
//! crate is compiled. Codes of up to eight bits, which are those of nearly all of a header's text, are found with one
//! look into 512 bytes; longer ones by a walk over the lengths. Both tables stay in the first-level cache, which the
//! usual state machine over half-bytes (some 16 KiB) would not.

use super::Error;

/// Bits of the code of each octet: Appendix B's last column. That of the end of string follows below.
#[rustfmt::skip]
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
     6, 10, 10, 12, 13,  6,  8, 11, 10, 10,  8, 11,  8,  6,  6,  6,
     5,  5,  5,  6,  6,  6,  6,  6,  6,  6,  7,  8, 15,  6, 12, 10,
    13,  6,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,
     7,  7,  7,  7,  7,  7,  7,  7,  8,  7,  8, 13, 19, 13, 14,  6,
    15,  5,  6,  5,  6,  5,  6,  6,  6,  5,  7,  7,  6,  6,  6,  5,
     6,  7,  6,  5,  5,  6,  7,  7,  7,  7,  7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];
/// Bits of the code of the end of string, which are all ones.
const EOS_BITS: u32 = 30;
/// Codes of at most these bits are in `SHORT`.
const SHORT_BITS: u32 = 8;
const LONG_ROWS: usize = (EOS_BITS - SHORT_BITS) as usize;

/// By the next eight bits: the octet, and above it its code's length; 0 where the code is longer than that.
static SHORT: [u16; 256] = short();
/// By length, from `SHORT_BITS + 1` up: its codes' place.
static LONG: [Row; LONG_ROWS] = long();
/// Octets in their codes' order: by length, then by value. The end of string would be the next after them.
static ORDER: [u8; 256] = order();

/// The codes of one length. Those are compared as the leading bits of 32.
#[derive(Clone, Copy)]
struct Row {
    bits: u32,
    /// The first code, followed by zeros.
    first: u32,
    /// The last code, followed by ones: what is above has a longer code. A length without codes repeats the one before.
    last: u32,
    /// Where the first code's octet is in `ORDER`.
    at: usize,
}

const fn order() -> [u8; 256] {
    let mut order = [0; 256];
    let mut at = 0;
    let mut bits = 1;
    while bits <= EOS_BITS {
        let mut octet = 0;
        while octet < LENGTHS.len() {
            if LENGTHS[octet] as u32 == bits {
                order[at] = octet as u8;
                at += 1;
            }
            octet += 1;
        }
        bits += 1;
    }
    order
}

/// The row of each length, 0 to 30.
const fn rows() -> [Row; EOS_BITS as usize + 1] {
    let mut rows = [Row { bits: 0, first: 0, last: 0, at: 0 }; EOS_BITS as usize + 1];
    let mut at = 0;
    // Where the codes of the next length start. After the last one this is 2^32.
    let mut next: u64 = 0;
    let mut bits = 1;
    while bits <= EOS_BITS {
        let mut count = (bits == EOS_BITS) as usize;
        let mut octet = 0;
        while octet < LENGTHS.len() {
            count += (LENGTHS[octet] as u32 == bits) as usize;
            octet += 1;
        }
        let first = next;
        next += (count as u64) << (32 - bits);
        rows[bits as usize] = Row { bits, first: first as u32, last: next.saturating_sub(1) as u32, at };
        at += count;
        bits += 1;
    }
    rows
}

const fn short() -> [u16; 256] {
    let rows = rows();
    let order = order();
    let mut short = [0; 256];
    let mut index = 0;
    while index < short.len() {
        let window = (index as u32) << (32 - SHORT_BITS);
        let mut bits = 1;
        while bits <= SHORT_BITS {
            let row = rows[bits as usize];
            if rows[bits as usize - 1].last < row.last && window <= row.last {
                let octet = order[row.at + ((window - row.first) >> (32 - bits)) as usize];
                short[index] = (bits as u16) << 8 | octet as u16;
                break;
            }
            bits += 1;
        }
        index += 1;
    }
    short
}

const fn long() -> [Row; LONG_ROWS] {
    let rows = rows();
    let mut long = [rows[0]; LONG_ROWS];
    let mut index = 0;
    while index < long.len() {
        long[index] = rows[index + SHORT_BITS as usize + 1];
        index += 1;
    }
    long
}

/// The code that `window` starts with: its octet, or `None` for the end of string, and its length in bits.
fn first_code(window: u32) -> (Option<u8>, u32) {
    let [index, ..] = window.to_be_bytes();
    let [bits, octet] = SHORT[usize::from(index)].to_be_bytes();
    if bits > 0 {
        return (Some(octet), u32::from(bits));
    }
    for row in &LONG {
        if window <= row.last {
            let at = row.at + (window.saturating_sub(row.first) >> (32 - row.bits)) as usize;
            return (ORDER.get(at).copied(), row.bits);
        }
    }
    // The last row's end is the largest window.
    (None, EOS_BITS)
}

/// Appends the octets of `coded` to `out`: at most 8/5 of its length, as no code is shorter than five bits.
///
/// # Errors
/// RFC 7541, 5.2: `EndOfString` if it is in there; `Padding` if what follows the last whole code is longer than seven
/// bits or has a zero. `out` then holds what came before.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    out.reserve(coded.len() * 8 / 5);
    let mut rest = coded;
    // The lowest `have` bits of `bits` are not decoded yet.
    let mut bits: u64 = 0;
    let mut have: u32 = 0;
    loop {
        while have < 32 {
            if let Some((&four, after)) = rest.split_first_chunk::<4>() {
                bits = bits << 32 | u64::from(u32::from_be_bytes(four));
                have += 32;
                rest = after;
            } else if let Some((&one, after)) = rest.split_first() {
                bits = bits << 8 | u64::from(one);
                have += 8;
                rest = after;
            } else if have == 0 {
                return Ok(());
            } else {
                break;
            }
        }
        // Ones after the string's end, so that padding, and nothing but padding, is the start of the end of string.
        let window = ((bits << (64 - have) | u64::MAX >> have) >> 32) as u32;
        let (octet, length) = first_code(window);
        if length > have {
            return if have < 8 && window == u32::MAX { Ok(()) } else { Err(Error::Padding) };
        }
        out.push(octet.ok_or(Error::EndOfString)?);
        have -= length;
    }
}

/// The code of a symbol, of which 256 is the end of string, and its length in bits. Counted one by one, unlike the
/// tables above.
#[cfg(test)]
pub(super) fn code(symbol: usize) -> (u32, u32) {
    let length = |symbol: usize| LENGTHS.get(symbol).map_or(EOS_BITS, |&bits| u32::from(bits));
    let mut symbols: Vec<usize> = (0..=256).collect();
    symbols.sort_by_key(|&symbol| (length(symbol), symbol));
    let mut code = 0u32;
    let mut before = length(symbols[0]);
    for at in symbols {
        code <<= length(at) - before;
        if at == symbol {
            return (code, length(at));
        }
        before = length(at);
        code += 1;
    }
    unreachable!("there are 257 symbols")
}
