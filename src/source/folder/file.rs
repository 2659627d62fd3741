//! One file of the folder: what it holds, and what stays of it where it is broken.

use std::collections::BTreeMap;
use std::time::Instant;

use super::walk::Stamp;
use crate::Severity;
use crate::object::{Key, Object};
use crate::read::{self, Contents, Place, Remark};
use crate::stand_in::closes;

/// A file as it was last read.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct File {
    /// `None`: to be read again in any case.
    pub(crate) stamp: Option<Stamp>,
    pub(crate) entries: BTreeMap<Key, Entry>,
    pub(crate) remarks: Vec<Remark>,
    pub(crate) ignored: BTreeMap<String, (usize, Place)>,
    /// Since when it is empty on disk.
    pub(crate) empty: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) object: Object,
    pub(crate) place: Place,
    /// It was read as written, if not from the file as it is now; otherwise it stands in for what cannot be read.
    pub(crate) good: bool,
}

impl File {
    /// The file after a reading. Of what is broken the last good version stays; where there is none of a policy,
    /// something that closes the door stands in for it.
    pub(crate) fn new(old: Option<&File>, contents: Contents, stamp: Option<Stamp>) -> Self {
        let Contents { objects, broken, mut remarks, ignored, written: _ } = contents;
        let mut entries: BTreeMap<Key, Entry> = BTreeMap::new();
        for (key, object, place) in objects {
            if let Some(first) = entries.get(&key) {
                let line = first.place.line.unwrap_or(0);
                let message =
                    format!("{key} is already at line {line} of this file, which counts; remove one of them");
                remarks.push(Remark { place, field: None, severity: Severity::Error, message });
            } else {
                entries.insert(key, Entry { object, place, good: true });
            }
        }
        let none = BTreeMap::new();
        let before = old.map_or(&none, |old| &old.entries);
        let mut standing: Vec<(Key, Entry)> = Vec::new();
        for read::Broken { key, stand_in, mut remark } in broken {
            let place = remark.place;
            let consequence = match key {
                Some(key) => match (before.get(&key).filter(|entry| entry.good), stand_in) {
                    _ if entries.contains_key(&key) => {
                        "another object of that name in this file is good and counts"
                    }
                    (Some(entry), _) => {
                        standing.push((key, entry.clone()));
                        "its last good version stays in use"
                    }
                    (None, Some((key, object))) => {
                        let consequence = closes(&key);
                        standing.push((key, Entry { object, place, good: false }));
                        consequence
                    }
                    (None, None) => "the object is left out",
                },
                // Which objects of the file it was cannot be told, so all that it had and that are not read now stay.
                None => {
                    let rest: Vec<_> = before.iter().filter(|(key, _)| !entries.contains_key(key)).collect();
                    let known = stand_in.as_ref().is_none_or(|(key, _)| {
                        rest.iter()
                            .any(|(old, _)| *old == key || (old.kind.is_policy() && key.name.contains('@')))
                    });
                    let some = !rest.is_empty();
                    standing.extend(rest.into_iter().map(|(key, entry)| (key.clone(), entry.clone())));
                    match stand_in {
                        Some((key, object)) if !known => {
                            let consequence = closes(&key);
                            standing.push((key, Entry { object, place, good: false }));
                            consequence
                        }
                        _ if some => "the last good objects of this file stay in use",
                        _ => "it is left out",
                    }
                }
            };
            remark.message = format!("{}; {consequence}", remark.message);
            remarks.push(remark);
        }
        for (key, entry) in standing {
            entries.entry(key).or_insert(entry);
        }
        Self { stamp, entries, remarks, ignored, empty: None }
    }

    /// The file could not be read at all: all that it had stays.
    pub(crate) fn unread(old: Option<&File>, message: String, stamp: Option<Stamp>) -> Self {
        let entries = old.map(|old| old.entries.clone()).unwrap_or_default();
        let message = match entries.is_empty() {
            true => message,
            false => format!("{message}; what it had stays in use"),
        };
        let remarks = vec![Remark::of_file(Severity::Error, message)];
        Self { stamp, entries, remarks, ..Self::default() }
    }
}
