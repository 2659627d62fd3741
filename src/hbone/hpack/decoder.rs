//! Header blocks to fields (RFC 7541, 3 and 6).

use std::ops::Range;

use super::reader::{Reader, Text};
use super::table::Table;
use super::{Error, huffman, static_table};

/// What the scratch buffer may keep between blocks, in bytes: thousands of tunnels wait with theirs.
const KEEP: usize = 512;

/// The decoder of one direction of a connection: blocks have to pass through it in the order in which they came, and
/// all of them, also those whose fields nobody wants.
#[derive(Debug)]
pub(crate) struct Decoder {
    table: Table,
    /// Strings of the field at hand that were Huffman-coded, or are names out of the dynamic table.
    scratch: Vec<u8>,
}

/// Where a string of the field at hand is.
enum Place<'b> {
    /// In the block or the static table.
    Outside(&'b [u8]),
    Scratch(Range<usize>),
}

impl Decoder {
    /// A decoder with an empty dynamic table, which allocates nothing before a block needs it.
    ///
    /// `max_table` is the SETTINGS_HEADER_TABLE_SIZE that this side announced, or its default of 4096. If it is lower
    /// than that, a peer that has not read the SETTINGS yet may still use the default and fail; a higher one is used
    /// once the peer says so (RFC 7541, 4.2). Values above 1 GiB count as that.
    pub(crate) fn new(max_table: usize) -> Self {
        Self { table: Table::new(max_table), scratch: Vec::new() }
    }

    /// Decodes one whole block, and calls `each` with name and value of its fields in their order. They are what the
    /// block says: that a name is a legal one, and how large the list may be, is for the caller to check.
    ///
    /// Beside the tables this needs memory for one field: at most 8/5 of the block, and a name out of the dynamic
    /// table. But an indexed field of one byte can stand for an entry as large as that table, so the list may be much
    /// larger than the block.
    ///
    /// # Errors
    /// See [`Error`]. Fields before the fault have been given to `each`. The decoder is then of no more use, but may be
    /// called without harm.
    pub(crate) fn decode(&mut self, block: &[u8], mut each: impl FnMut(&[u8], &[u8])) -> Result<(), Error> {
        let result = self.fields(block, &mut each);
        if self.scratch.capacity() > KEEP {
            self.scratch = Vec::new();
        }
        result
    }

    fn fields(&mut self, block: &[u8], each: &mut impl FnMut(&[u8], &[u8])) -> Result<(), Error> {
        let mut reader = Reader::new(block);
        let mut started = false;
        while let Some(first) = reader.byte() {
            // RFC 7541, 6: the leading bits tell the form.
            match first.leading_zeros() {
                0 => {
                    let index = reader.integer(first, 7)?;
                    let (name, value) = entry(&self.table, index)?;
                    each(name, value);
                }
                1 => self.literal(&mut reader, first, 6, true, each)?,
                2 if started => return Err(Error::LateTableSize),
                2 => {
                    let size = reader.integer(first, 5)?;
                    self.table.resize(size)?;
                    continue;
                }
                // Without indexing, or never indexed: the difference is for those who encode the field again.
                _ => self.literal(&mut reader, first, 4, false, each)?,
            }
            started = true;
        }
        Ok(())
    }

    /// RFC 7541, 6.2: a field whose value, and maybe name, is written out. The index of its name is in the last
    /// `prefix` bits of `first`, and `keep` says whether it becomes an entry of the table.
    fn literal(
        &mut self,
        reader: &mut Reader<'_>,
        first: u8,
        prefix: u32,
        keep: bool,
        each: &mut impl FnMut(&[u8], &[u8]),
    ) -> Result<(), Error> {
        self.scratch.clear();
        let index = reader.integer(first, prefix)?;
        let name = match (index, static_table::get(index)) {
            (0, _) => place(reader.text()?, &mut self.scratch)?,
            (_, Some((name, _))) => Place::Outside(name),
            (_, None) => {
                // The entry may be evicted to make room for this one, which still has its name (RFC 7541, 4.4).
                let (name, _) = entry(&self.table, index)?;
                self.scratch.extend_from_slice(name);
                Place::Scratch(0..name.len())
            }
        };
        let value = place(reader.text()?, &mut self.scratch)?;
        let (name, value) = (name.bytes(&self.scratch), value.bytes(&self.scratch));
        each(name, value);
        if keep {
            self.table.insert(name, value);
        }
        Ok(())
    }
}

impl Place<'_> {
    /// The string, with the scratch buffer it may be in.
    fn bytes<'a>(&'a self, scratch: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Outside(bytes) => bytes,
            // Always within: it was taken from there.
            Self::Scratch(range) => scratch.get(range.clone()).unwrap_or_default(),
        }
    }
}

/// Where a string's octets are once it is decoded: a Huffman-coded one goes to the end of `scratch`.
fn place<'b>(text: Text<'b>, scratch: &mut Vec<u8>) -> Result<Place<'b>, Error> {
    match text {
        Text::Plain(bytes) => Ok(Place::Outside(bytes)),
        Text::Coded(coded) => {
            let start = scratch.len();
            huffman::decode(coded, scratch)?;
            Ok(Place::Scratch(start..scratch.len()))
        }
    }
}

/// RFC 7541, 2.3.3: the entry of an index, which counts through the static table and then the dynamic one.
fn entry(table: &Table, index: usize) -> Result<(&[u8], &[u8]), Error> {
    let found = match index.checked_sub(static_table::END) {
        None => static_table::get(index),
        Some(age) => table.get(age),
    };
    found.ok_or(Error::Index)
}

#[cfg(test)]
impl Decoder {
    /// What the dynamic table measures, and the bytes that the scratch buffer holds.
    pub(super) fn measure(&self) -> ((usize, usize, usize), usize) {
        (self.table.measure(), self.scratch.capacity())
    }
}
