//! YAML text becomes documents, and each document a tree in which every value knows its line and column.
//!
//! Documents are cut apart before they are parsed, at the marks that YAML itself allows nowhere else (`---` and `...`
//! at the start of a line), so that one broken document does not take the others of its file along.

use std::fmt;
use std::io;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use crate::field::{Field, Step};

/// Nesting of a document at most. The deepest kind that is read has about 20 levels; CRDs, which may stand in the same
/// file, have up to 60.
const MAX_DEPTH: usize = 64;

/// The stack for [`MAX_DEPTH`] levels, of which each needs up to 64 KiB without optimisation.
const STACK: usize = 16 * 1024 * 1024;

/// Values in a document at most: more than 16 MiB of ordinary YAML have, so the size of the file is what counts.
const MAX_VALUES: usize = 4_000_000;

/// Parser events that aliases of one document may repeat. Hand-written YAML repeats a few dozen; a bomb of nine
/// levels asks for 10⁹.
const MAX_REPEATED: usize = 100_000;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tree {
    pub(crate) value: Value,
    /// In the file, from 1; 0 where it is not known.
    pub(crate) line: u32,
    /// In the line, in characters, from 1; 0 where it is not known.
    pub(crate) column: u32,
}

/// YAML's values, keys as texts (Kubernetes reads them so, too).
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    Unsigned(u64),
    Float(f64),
    Text(String),
    List(Vec<Tree>),
    Map(Vec<(String, Tree)>),
}

/// A document of a file, not yet parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Document<'a> {
    /// From 1, empty ones not counted.
    pub(crate) number: u32,
    /// The line in the file where its text starts, from 1.
    pub(crate) first_line: u32,
    pub(crate) text: &'a str,
}

/// Why a document is no YAML, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    pub(crate) line: Option<u32>,
    pub(crate) column: Option<u32>,
    pub(crate) message: String,
}

/// Cuts a file into its documents; those without content are left out.
pub(crate) fn documents(text: &str) -> Vec<Document<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut found = Vec::new();
    let mut keep = |first_line: u32, text| {
        if has_content(text) {
            let number = u32::try_from(found.len() + 1).unwrap_or(u32::MAX);
            found.push(Document { number, first_line, text });
        }
    };
    let (mut start, mut first_line, mut offset) = (0, 1, 0);
    for (line_number, line) in (1..).zip(text.split_inclusive('\n')) {
        let end = offset + line.len();
        if is_mark(line, "---") {
            // What stands behind the mark on its line belongs to the document after it.
            keep(first_line, &text[start..offset]);
            (start, first_line) = (offset, line_number);
        } else if is_mark(line, "...") {
            keep(first_line, &text[start..offset]);
            (start, first_line) = (end, line_number + 1);
        }
        offset = end;
    }
    keep(first_line, &text[start..]);
    found
}

fn is_mark(line: &str, mark: &str) -> bool {
    line.strip_prefix(mark).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\n', '\r']))
}

/// Anything but comments, blank lines, directives and a bare mark.
fn has_content(text: &str) -> bool {
    text.lines().any(|line| {
        let line = line.strip_prefix("---").unwrap_or(line).trim();
        !(line.is_empty() || line.starts_with('#') || line.starts_with('%'))
    })
}

/// Does something that parses on a stack on which every document has room. Fails where no thread is to be had.
pub(crate) fn with_stack<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("yaml".to_owned()).stack_size(STACK);
        match thread.spawn_scoped(scope, work)?.join() {
            Ok(done) => Ok(done),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Parses one document. To be called [`with_stack`], unless the text is known to be flat.
pub(crate) fn parse(document: &Document<'_>) -> Result<Tree, SyntaxError> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            max_events: MAX_VALUES,
            max_nodes: MAX_VALUES,
            max_recorded_anchor_events: MAX_REPEATED,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_REPEATED },
        // As JSON and Kubernetes: only `true` and `false`; `on` and `yes` are texts.
        strict_booleans: true,
        with_snippet: false,
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
    };
    let offset = document.first_line - 1;
    match serde_saphyr::from_str_with_options::<Tree>(document.text, options) {
        Ok(mut tree) => {
            if offset > 0 {
                tree.move_down(offset);
            }
            Ok(tree)
        }
        Err(error) => {
            let known = |number: u64| u32::try_from(number).ok().filter(|n| *n > 0);
            let (line, column) =
                error.location().map_or((None, None), |at| (known(at.line()), known(at.column())));
            Err(SyntaxError { line: line.map(|l| l + offset), column, message: without_place(&error) })
        }
    }
}

/// The parser's message without the place that it puts behind or before it; a problem says the place itself.
fn without_place(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let mut text = text.trim();
    if let Some(rest) = text.strip_prefix("error: ") {
        text = rest;
    }
    if let Some(rest) = text.strip_prefix("line ")
        && let Some((_, message)) = rest.split_once(": ")
    {
        text = message;
    }
    text.rfind(" at line ").map_or(text, |at| &text[..at]).to_owned()
}

impl Tree {
    /// How many values it has, itself included.
    pub(crate) fn size(&self) -> usize {
        1 + match &self.value {
            Value::List(items) => items.iter().map(Tree::size).sum::<usize>(),
            Value::Map(entries) => entries.iter().map(|(_, value)| value.size()).sum(),
            _ => 0,
        }
    }

    /// The value of a key, where this is a map that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Tree> {
        let Value::Map(entries) = &self.value else { return None };
        entries.iter().find(|(k, _)| k == key).map(|(_, value)| value)
    }

    /// The text, where this is one.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value at a field, or the nearest around it that there is.
    pub(crate) fn nearest(&self, field: &Field<'_>) -> &Tree {
        let mut at = self;
        for step in field.steps() {
            let next = match (step, &at.value) {
                (Step::Key(key), _) => at.get(key),
                (Step::Index(index), Value::List(items)) => items.get(index),
                _ => None,
            };
            match next {
                Some(next) => at = next,
                None => break,
            }
        }
        at
    }

    /// Adds to all line numbers. Depth is bounded by the parser.
    fn move_down(&mut self, lines: u32) {
        self.line = self.line.saturating_add(lines);
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|item| item.move_down(lines)),
            Value::Map(entries) => entries.iter_mut().for_each(|(_, value)| value.move_down(lines)),
            _ => {}
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value, referenced, .. } = Spanned::<Value>::deserialize(deserializer)?;
        let small = |number: u64| u32::try_from(number).unwrap_or(0);
        Ok(Self { value, line: small(referenced.line()), column: small(referenced.column()) })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or(Value::Unsigned(value), Value::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests;
