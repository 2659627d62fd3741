//! The little of HTTP/1.1 that the applications speak: heads, and bodies of a stated length.

use std::{fmt::Write as _, io};

/// Longest head that is read. The applications send none longer.
const HEAD_LIMIT: usize = 64 * 1024;

/// First line and header fields of a request or response.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    pub(crate) first: String,
    pub(crate) fields: Vec<(String, String)>,
}

impl Head {
    /// Value of a field; names compare without case.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Length of the body, 0 where none is stated.
    pub(crate) fn content_length(&self) -> usize {
        self.field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0)
    }

    /// Whether the connection ends after this message.
    pub(crate) fn closes(&self) -> bool {
        self.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// Status code of a response.
    pub(crate) fn status(&self) -> Option<u16> {
        self.first.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()
    }

    /// Method and path of a request.
    pub(crate) fn request(&self) -> Option<(&str, &str)> {
        let mut words = self.first.split(' ');
        Some((words.next()?, words.next()?))
    }
}

/// Takes a head off the front of `buffer` once it is complete.
pub(crate) fn take_head(buffer: &mut Vec<u8>) -> io::Result<Option<Head>> {
    let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else {
        if buffer.len() > HEAD_LIMIT {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a head of more than 64 KiB"));
        }
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end + 4);
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default().to_owned();
    let fields = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .collect();
    Ok(Some(Head { first, fields }))
}

/// A request without a body that keeps the connection open.
pub(crate) fn request(method: &str, host: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\n\r\n")
}

/// The head of a response.
pub(crate) fn response(status: u16, fields: &[(&str, &str)], length: usize) -> String {
    let mut head = format!("HTTP/1.1 {status} Status\r\ncontent-length: {length}\r\n");
    for (name, value) in fields {
        // Writing to a String cannot fail.
        let _ = write!(head, "{name}: {value}\r\n");
    }
    head.push_str("\r\n");
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_taken_when_it_is_whole() {
        let mut buffer = b"GET /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r".to_vec();
        assert!(take_head(&mut buffer).unwrap().is_none());
        buffer.extend(b"\nabcGET");
        let head = take_head(&mut buffer).unwrap().unwrap();
        assert_eq!(head.request(), Some(("GET", "/a")));
        assert_eq!((head.field("host"), head.content_length(), head.closes()), (Some("x"), 3, false));
        assert_eq!(buffer, b"abcGET");
    }
}
