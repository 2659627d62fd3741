//! The `aquifer-reason` header: why a request was refused, as `<code>; <text>`.

use std::fmt;

use http::HeaderValue;

/// Name of the header.
pub const HEADER: &str = "aquifer-reason";

/// Longest code that is read or written, in bytes.
const MAX_CODE: usize = 64;
/// Longest text that is read or written, in bytes: one sentence in a log line.
const MAX_TEXT: usize = 512;

/// A code in kebab case for machines, and one sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    code: Box<str>,
    text: Box<str>,
}

impl Reason {
    /// Whatever cannot stand in a header is replaced by `?`, and what is too long is cut off.
    pub fn new(code: &str, text: &str) -> Self {
        let code = code.chars().map(|c| if is_code(c) { c } else { '?' }).take(MAX_CODE).collect::<String>();
        let text = text.chars().map(|c| if is_text(c) { c } else { '?' }).take(MAX_TEXT).collect::<String>();
        Self { code: code.into(), text: text.trim().into() }
    }

    /// The code, such as `deny-policy`.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The sentence.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Reads a header's value. The peer wrote it: nothing in it is trusted but its shape.
    pub fn parse(value: &HeaderValue) -> Option<Self> {
        let value = value.to_str().ok()?;
        let (code, text) = value.split_once(';').unwrap_or((value, ""));
        let code = code.trim();
        if code.is_empty() || code.len() > MAX_CODE || !code.chars().all(is_code) {
            return None;
        }
        Some(Self::new(code, text.trim()))
    }

    pub(crate) fn to_header(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&format!("{}; {}", self.code, self.text)).ok()
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.text.is_empty() {
            f.write_str(&self.code)
        } else {
            write!(f, "{} ({})", self.text, self.code)
        }
    }
}

fn is_code(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '?'
}

fn is_text(c: char) -> bool {
    c == ' ' || c.is_ascii_graphic()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(code in "[a-z][a-z-]{0,40}", text in "\\PC{0,700}") {
            let reason = Reason::new(&code, &text);
            let header = reason.to_header().expect("any reason fits a header");
            prop_assert_eq!(Reason::parse(&header), Some(reason));
        }

        #[test]
        fn no_header_panics(bytes in proptest::collection::vec(any::<u8>(), 0..900)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes)
                && let Some(reason) = Reason::parse(&value) {
                    prop_assert!(reason.code().len() <= MAX_CODE && reason.text().len() <= MAX_TEXT);
                }
        }
    }
}
