//! HPACK (RFC 7541): the header blocks of HTTP/2. A decoder with the dynamic table that peers may use, and an encoder
//! that needs none.
//!
//! Any error means that this side's dynamic table may differ from the peer's from now on, so it ends the connection
//! (RFC 9113, 4.3: COMPRESSION_ERROR).

mod decoder;
mod encoder;
#[cfg(test)]
mod examples;
mod huffman;
#[cfg(test)]
mod peer;
mod reader;
mod static_table;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use decoder::Decoder;
pub(crate) use encoder::{field, no_table};

/// What is wrong with a header block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// RFC 7541, 5: an integer or a string needs more bytes than are left.
    #[error("the header block ends inside a field")]
    Truncated,
    /// RFC 7541, 5.1: an integer past 32 bits, or written with more bytes than those need.
    #[error("an integer in the header block is too large")]
    Integer,
    /// RFC 7541, 2.3.3 and 6.1: index 0, or one past the end of both tables.
    #[error("the header block names an entry that is in no table")]
    Index,
    /// RFC 7541, 6.3: the dynamic table would be larger than this side allows.
    #[error("the header block makes the dynamic table larger than is allowed")]
    TableSize,
    /// RFC 7541, 4.2: a table's size may change only before the first field of a block.
    #[error("the header block changes the table's size after its first field")]
    LateTableSize,
    /// RFC 7541, 5.2: a Huffman-coded string has the end-of-string symbol in it.
    #[error("a Huffman-coded string contains the end-of-string symbol")]
    EndOfString,
    /// RFC 7541, 5.2: what follows the last symbol is longer than 7 bits, or is not all ones.
    #[error("a Huffman-coded string has wrong padding")]
    Padding,
}
