//! The dynamic table (RFC 7541, 2.3.2 and 4).

use std::collections::VecDeque;

use super::Error;

/// What an entry counts beside its name's and value's bytes (RFC 7541, 4.1).
const OVERHEAD: usize = 32;
/// The size of a table before anything is said about it (RFC 9113, 6.5.2: SETTINGS_HEADER_TABLE_SIZE).
const DEFAULT: usize = 4096;
/// No limit is above this, so that any place in the table fits in 32 bits.
const LARGEST: usize = 1 << 30;

/// Fields that the peer's encoder may name by index, newest first. Its text is one buffer, written at its end and freed
/// at its front, so an insertion allocates only while the buffer grows. It does so up to one and a half times the size
/// that the table may have.
#[derive(Debug)]
pub(super) struct Table {
    text: Vec<u8>,
    /// Bytes at the front of `text` whose entries are evicted.
    gone: usize,
    /// Newest last, as in `text`.
    entries: VecDeque<Entry>,
    /// The entries' size by RFC 7541, 4.1.
    size: usize,
    /// Bound of `size`, as the peer's encoder chose it.
    max: usize,
    /// Bound of `max`, as this side's SETTINGS have it.
    limit: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Where its name starts in `text`. The value follows it.
    at: u32,
    name: u32,
    value: u32,
}

impl Table {
    /// An empty table that holds no memory. Its size starts at the default even if `limit` is higher: the peer's
    /// encoder says when it makes use of that (RFC 7541, 4.2).
    pub(super) fn new(limit: usize) -> Self {
        let limit = limit.min(LARGEST);
        let max = limit.min(DEFAULT);
        Self { text: Vec::new(), gone: 0, entries: VecDeque::new(), size: 0, max, limit }
    }

    /// Name and value of the entry that is `age` entries older than the newest.
    pub(super) fn get(&self, age: usize) -> Option<(&[u8], &[u8])> {
        let entry = self.entries.get(self.entries.len().checked_sub(1)?.checked_sub(age)?)?;
        let text = self.text.get(entry.at as usize..)?.get(..entry.name as usize + entry.value as usize)?;
        text.split_at_checked(entry.name as usize)
    }

    /// RFC 7541, 6.3: the peer's encoder chose the table's size.
    ///
    /// # Errors
    /// `TableSize` if it is above the limit.
    pub(super) fn resize(&mut self, max: usize) -> Result<(), Error> {
        if max > self.limit {
            return Err(Error::TableSize);
        }
        self.max = max;
        self.evict(max);
        if max == 0 {
            self.text = Vec::new();
            self.entries = VecDeque::new();
        }
        Ok(())
    }

    /// RFC 7541, 4.4: adds an entry after evicting the oldest ones until it fits. One that never fits leaves the table
    /// empty, which is no error.
    pub(super) fn insert(&mut self, name: &[u8], value: &[u8]) {
        let length = name.len() + value.len();
        let Some(room) = self.max.checked_sub(length + OVERHEAD) else {
            self.evict(0);
            return;
        };
        self.evict(room);
        self.make_room(length);
        // All three are below twice `LARGEST`.
        let entry = Entry { at: self.text.len() as u32, name: name.len() as u32, value: value.len() as u32 };
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(value);
        self.entries.push_back(entry);
        self.size += length + OVERHEAD;
    }

    /// RFC 7541, 4.3: drops the oldest entries until the size is at most `size`.
    fn evict(&mut self, size: usize) {
        while self.size > size {
            let Some(oldest) = self.entries.pop_front() else { break };
            let length = oldest.name as usize + oldest.value as usize;
            self.gone += length;
            self.size = self.size.saturating_sub(length + OVERHEAD);
        }
        if self.entries.is_empty() {
            self.text.clear();
            self.gone = 0;
        }
    }

    /// Makes `text` take `length` more bytes, at most `max` with those of the entries.
    fn make_room(&mut self, length: usize) {
        if self.text.len() + length <= self.text.capacity() {
            return;
        }
        // Only when at least half as many bytes are gone as stay, so what is moved is at most twice what was written.
        if self.gone >= (self.text.len() - self.gone).div_ceil(2) {
            self.text.drain(..self.gone);
            for entry in &mut self.entries {
                entry.at -= self.gone as u32;
            }
            self.gone = 0;
        }
        let need = self.text.len() + length;
        if need > self.text.capacity() {
            // Not above the bound, as `Vec` would by doubling. What is needed is within: less than half of the
            // entries' bytes are gone.
            let capacity = (2 * self.text.capacity()).min(self.max + self.max / 2).max(need);
            self.text.reserve_exact(capacity - self.text.len());
        }
    }

    /// The entries' size, their number, and the bytes allocated for their text.
    #[cfg(test)]
    pub(super) fn measure(&self) -> (usize, usize, usize) {
        (self.size, self.entries.len(), self.text.capacity())
    }
}
