//! Another encoder, for the tests: it uses every form of RFC 7541, and keeps its dynamic table as a plain list.

use super::encoder::integer;
use super::{huffman, static_table};

pub(super) type Field = (Vec<u8>, Vec<u8>);

/// How a field should be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    /// By index alone, if a table has the field.
    pub(super) index: bool,
    /// The name by index, if a table has it.
    pub(super) name: bool,
    /// The oldest entry that fits instead of the newest one.
    pub(super) oldest: bool,
    /// The literal: 0 becomes an entry, 1 does not, 2 never does.
    pub(super) literal: u8,
    /// The name, and the value, with the Huffman code.
    pub(super) coded: [bool; 2],
}

pub(super) struct Peer {
    /// Newest first.
    table: Vec<Field>,
    max: usize,
}

impl Peer {
    pub(super) fn new(max: usize) -> Self {
        Self { table: Vec::new(), max }
    }

    pub(super) fn resize(&mut self, out: &mut Vec<u8>, max: usize) {
        integer(out, 0x20, 5, max);
        self.max = max;
        self.evict();
    }

    pub(super) fn size(&self) -> usize {
        self.table.iter().map(|(name, value)| name.len() + value.len() + 32).sum()
    }

    pub(super) fn count(&self) -> usize {
        self.table.len()
    }

    fn evict(&mut self) {
        while self.size() > self.max {
            self.table.pop();
        }
    }

    /// The index of an entry of either table.
    fn find(&self, oldest: bool, wanted: impl Fn(&[u8], &[u8]) -> bool) -> Option<usize> {
        let fixed = (1..static_table::END).map(|index| (index, static_table::get(index).unwrap()));
        let dynamic = self.table.iter().enumerate();
        let dynamic = dynamic.map(|(age, (name, value))| (age + static_table::END, (&name[..], &value[..])));
        let mut hits = fixed.chain(dynamic).filter(|(_, (name, value))| wanted(name, value));
        let hit = if oldest { hits.last() } else { hits.next() };
        hit.map(|(index, _)| index)
    }

    pub(super) fn field(&mut self, out: &mut Vec<u8>, (name, value): &Field, form: Form) {
        let whole = self.find(form.oldest, |n, v| n == name && v == value);
        if let (true, Some(index)) = (form.index, whole) {
            return integer(out, 0x80, 7, index);
        }
        let (bits, prefix) = [(0x40, 6), (0, 4), (0x10, 4)][usize::from(form.literal)];
        match self.find(form.oldest, |n, _| n == name) {
            Some(index) if form.name => integer(out, bits, prefix, index),
            _ => {
                integer(out, bits, prefix, 0);
                text(out, name, form.coded[0]);
            }
        }
        text(out, value, form.coded[1]);
        if form.literal == 0 {
            self.table.insert(0, (name.clone(), value.clone()));
            self.evict();
        }
    }
}

fn text(out: &mut Vec<u8>, bytes: &[u8], coded: bool) {
    let (form, bytes) = if coded { (0x80, encode(bytes)) } else { (0, bytes.to_vec()) };
    integer(out, form, 7, bytes.len());
    out.extend(bytes);
}

/// Bits of `symbols`, then ones up to a whole byte.
pub(super) fn pack(symbols: impl IntoIterator<Item = usize>) -> Vec<u8> {
    let mut bits: Vec<bool> = Vec::new();
    for symbol in symbols {
        let (code, length) = huffman::code(symbol);
        bits.extend((0..length).rev().map(|bit| code >> bit & 1 == 1));
    }
    bits.resize(bits.len().next_multiple_of(8), true);
    bits.chunks(8).map(|byte| byte.iter().fold(0, |byte, &bit| byte << 1 | u8::from(bit))).collect()
}

pub(super) fn encode(bytes: &[u8]) -> Vec<u8> {
    pack(bytes.iter().map(|&byte| byte.into()))
}
