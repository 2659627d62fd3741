//! The static table (RFC 7541, Appendix A), read both ways.

/// Name and value by index, which starts at 1. A name's entries are neighbours.
static TABLE: [(&[u8], &[u8]); 61] = [
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
];

/// Index of the first entry that is not in the static table (RFC 7541, 2.3.3).
pub(super) const END: usize = TABLE.len() + 1;

/// The longest name has 27 bytes, and at most seven names have the same length.
const LENGTHS: usize = 28;
const SAME_LENGTH: usize = 7;
/// By a name's length: the index of the first entry of each name so long, then zeros. So a lookup compares few names.
static BY_LENGTH: [[u8; SAME_LENGTH]; LENGTHS] = by_length();

/// Fails to compile if one of the bounds above is wrong.
const fn by_length() -> [[u8; SAME_LENGTH]; LENGTHS] {
    let mut lists = [[0; SAME_LENGTH]; LENGTHS];
    let mut counts = [0; LENGTHS];
    let mut at = 0;
    while at < TABLE.len() {
        let name = TABLE[at].0;
        if at == 0 || !same(name, TABLE[at - 1].0) {
            lists[name.len()][counts[name.len()]] = at as u8 + 1;
            counts[name.len()] += 1;
        }
        at += 1;
    }
    lists
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    let mut at = 0;
    while at < a.len() && at < b.len() && a[at] == b[at] {
        at += 1;
    }
    at == a.len() && at == b.len()
}

/// Name and value of an entry. `None` if the index is 0, or is the dynamic table's.
pub(super) fn get(index: usize) -> Option<(&'static [u8], &'static [u8])> {
    TABLE.get(index.checked_sub(1)?).copied()
}

/// Where a field is in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The index of an entry with this name and this value.
    Field(u8),
    /// The index of the first entry with this name.
    Name(u8),
    /// No entry has this name.
    Nothing,
}

/// Finds the best entry for a field. An empty value counts as a value.
pub(super) fn find(name: &[u8], value: &[u8]) -> Found {
    let Some(list) = BY_LENGTH.get(name.len()) else { return Found::Nothing };
    for &first in list.iter().take_while(|&&first| first > 0) {
        if get(first.into()).is_none_or(|entry| entry.0 != name) {
            continue;
        }
        for index in first.. {
            match get(index.into()) {
                Some(entry) if entry.0 != name => break,
                Some(entry) if entry.1 == value => return Found::Field(index),
                Some(_) => {}
                None => break,
            }
        }
        return Found::Name(first);
    }
    Found::Nothing
}
