//! `metadata.uid`, in sixteen bytes where it is a UUID.

use std::cmp::Ordering;
use std::fmt;

use crate::Text;

/// `metadata.uid`: one incarnation of a pod. Pools, enrolments, live connections and certificates in use are
/// keyed by it. Where a source carries none, the translator makes one of name, namespace, addresses and network
/// namespace, so that a change of these is a new incarnation. Ordered as its text is.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PodUid(Form);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Form {
    /// Written as 8-4-4-4-12 digits in lower case, as Kubernetes does. Every such text has this form and no other has it.
    Uuid([u8; 16]),
    Text(Text),
}

/// Where the hyphens of a UUID are.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];
/// Length of a UUID as text.
const LENGTH: usize = 36;

impl PodUid {
    /// Wraps a uid.
    pub fn new(uid: impl AsRef<str>) -> Self {
        let uid = uid.as_ref();
        Self(uuid(uid).map_or_else(|| Form::Text(uid.into()), Form::Uuid))
    }

    /// Gives the uid as text to `look`.
    pub fn with_str<R>(&self, look: impl FnOnce(&str) -> R) -> R {
        match &self.0 {
            Form::Text(text) => look(text),
            Form::Uuid(bytes) => {
                let text = written(bytes);
                look(std::str::from_utf8(&text).unwrap_or_default())
            }
        }
    }
}

fn uuid(text: &str) -> Option<[u8; 16]> {
    let text: &[u8; LENGTH] = text.as_bytes().try_into().ok()?;
    let mut bytes = [0; 16];
    let mut digits = 0;
    for (place, character) in text.iter().enumerate() {
        if HYPHENS.contains(&place) {
            if *character != b'-' {
                return None;
            }
            continue;
        }
        let digit = match character {
            b'0'..=b'9' => character - b'0',
            b'a'..=b'f' => character - b'a' + 10,
            _ => return None,
        };
        bytes[digits / 2] |= digit << (4 * (1 - digits % 2));
        digits += 1;
    }
    Some(bytes)
}

fn written(bytes: &[u8; 16]) -> [u8; LENGTH] {
    let mut text = [b'-'; LENGTH];
    let mut digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    for (place, character) in text.iter_mut().enumerate() {
        if !HYPHENS.contains(&place) {
            *character = b"0123456789abcdef"[usize::from(digits.next().unwrap_or_default())];
        }
    }
    text
}

impl Ord for PodUid {
    fn cmp(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            // Digits stand before letters in both forms, and hyphens at the same places.
            (Form::Uuid(a), Form::Uuid(b)) => a.cmp(b),
            _ => self.with_str(|a| other.with_str(|b| a.cmp(b))),
        }
    }
}

impl PartialOrd for PodUid {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_str(|text| f.pad(text))
    }
}

impl fmt::Debug for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PodUid({self})")
    }
}

impl serde::Serialize for PodUid {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.with_str(|text| serializer.serialize_str(text))
    }
}

impl<'de> serde::Deserialize<'de> for PodUid {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <std::borrow::Cow<'de, str>>::deserialize(deserializer).map(Self::new)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CANONICAL: &str = "9c5f7f0e-6a53-4a4c-9d5a-000000012345";

    #[test]
    fn only_what_is_written_as_kubernetes_does_takes_the_short_form() {
        assert!(matches!(PodUid::new(CANONICAL).0, Form::Uuid(_)));
        let upper = CANONICAL.to_uppercase();
        let long = format!("{CANONICAL}0");
        for other in
            ["", &upper, &long, &CANONICAL.replace('-', ""), &CANONICAL.replace('-', "0"), &CANONICAL[1..]]
        {
            assert!(matches!(PodUid::new(other).0, Form::Text(_)), "{other}");
        }
    }

    proptest! {
        #[test]
        fn it_is_its_text_and_stands_in_its_order(
            a in "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f-]{36}|.{0,40}",
            b in "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f-]{36}|.{0,40}",
        ) {
            let (one, other) = (PodUid::new(&a), PodUid::new(&b));
            prop_assert_eq!(one.to_string(), a.clone());
            prop_assert_eq!(one.cmp(&other), a.cmp(&b));
            prop_assert_eq!(one == other, a == b);
        }
    }
}
