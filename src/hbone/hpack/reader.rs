//! The primitive types of a block: integers (RFC 7541, 5.1) and strings before their decoding (5.2).

use super::Error;

/// Largest shift of a byte of a continued integer: five bytes hold any value of 32 bits. RFC 7541, 5.1 asks for a
/// bound, as without one a value of zero could be arbitrarily long.
const MAX_SHIFT: u32 = 28;

/// What is left of a block.
pub(super) struct Reader<'b> {
    rest: &'b [u8],
}

/// A string as it stands in the block.
pub(super) enum Text<'b> {
    /// The octets themselves.
    Plain(&'b [u8]),
    /// Huffman-coded.
    Coded(&'b [u8]),
}

impl<'b> Reader<'b> {
    pub(super) fn new(block: &'b [u8]) -> Self {
        Self { rest: block }
    }

    /// The next byte, or `None` at the block's end.
    pub(super) fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(byte)
    }

    /// RFC 7541, 5.1: the integer whose first byte is `first`, with `prefix` bits of it (1 to 8) its own.
    ///
    /// # Errors
    /// `Truncated`; `Integer` if the value is above `u32::MAX` or has more than five bytes after the first.
    pub(super) fn integer(&mut self, first: u8, prefix: u32) -> Result<usize, Error> {
        let mask = u8::MAX >> (8 - prefix);
        let start = first & mask;
        if start < mask {
            return Ok(usize::from(start));
        }
        let mut value = u64::from(start);
        for shift in (0..=MAX_SHIFT).step_by(7) {
            let byte = self.byte().ok_or(Error::Truncated)?;
            value += u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let value = u32::try_from(value).map_err(|_| Error::Integer)?;
                return usize::try_from(value).map_err(|_| Error::Integer);
            }
        }
        Err(Error::Integer)
    }

    /// RFC 7541, 5.2: a string, borrowed from the block.
    ///
    /// # Errors
    /// `Truncated` if it is longer than the rest of the block; those of its length's integer.
    pub(super) fn text(&mut self) -> Result<Text<'b>, Error> {
        let first = self.byte().ok_or(Error::Truncated)?;
        let length = self.integer(first, 7)?;
        let (text, rest) = self.rest.split_at_checked(length).ok_or(Error::Truncated)?;
        self.rest = rest;
        Ok(if first & 0x80 == 0 { Text::Plain(text) } else { Text::Coded(text) })
    }
}
