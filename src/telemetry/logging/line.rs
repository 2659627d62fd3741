//! One line for one event: text for people, flat JSON for machines. Never more than one line, whatever a peer sent.

use std::fmt::{self, Debug, Write as _};

use jiff::Timestamp;
use tracing::Event;
use tracing::field::{Field, Visit};

/// A value longer than this is cut. Nothing of ours is; an error's text may quote a peer.
const VALUE_LIMIT: usize = 4_096;
/// The field that holds an event's sentence.
const MESSAGE: &str = "message";

/// `TIME LEVEL target: sentence key=value …`. A flow record's sentence says all that its fields do.
pub(super) fn text(now: Timestamp, event: &Event<'_>) -> Vec<u8> {
    let meta = event.metadata();
    let keep = meta.target() != crate::flow::TARGET;
    let mut visitor = Text { message: String::new(), fields: String::new(), keep };
    event.record(&mut visitor);
    let Text { message, fields, .. } = visitor;
    format!("{} {:<5} {}: {message}{fields}\n", time(now), meta.level().as_str(), meta.target()).into_bytes()
}

/// `{"timestamp":…,"level":…,"target":…,…}` with the event's fields in their order, its sentence as `message`. Flow
/// records have no sentence: their fields say it all.
pub(super) fn json(now: Timestamp, event: &Event<'_>) -> Vec<u8> {
    let meta = event.metadata();
    let mut line = Vec::with_capacity(1_024);
    line.push(b'{');
    let mut visitor = Json { line, sentence: meta.target() != crate::flow::TARGET };
    visitor.put("timestamp", &time(now));
    visitor.put("level", meta.level().as_str());
    visitor.put("target", meta.target());
    event.record(&mut visitor);
    let mut line = visitor.line;
    line.extend_from_slice(b"}\n");
    line
}

fn time(now: Timestamp) -> String {
    format!("{now:.6}")
}

struct Text {
    message: String,
    fields: String,
    /// Whether fields are kept.
    keep: bool,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let out = if field.name() == MESSAGE {
            &mut self.message
        } else if !self.keep {
            return;
        } else {
            let _ = write!(self.fields, " {}=", field.name());
            &mut self.fields
        };
        let _ = write!(Bounded { out, left: VALUE_LIMIT, escape: true }, "{value:?}");
    }
}

struct Json {
    line: Vec<u8>,
    sentence: bool,
}

/// Takes text up to a limit and leaves out the rest.
struct Bounded<'a> {
    out: &'a mut String,
    left: usize,
    /// Writes control characters as escapes: a line feed in a peer's text must not begin a line of its own, nor an
    /// escape sequence reach a terminal. (JSON does so anyway.)
    escape: bool,
}

impl fmt::Write for Bounded<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if text.len() <= self.left && !(self.escape && text.contains(char::is_control)) {
            self.left -= text.len();
            self.out.push_str(text);
            return Ok(());
        }
        for c in text.chars() {
            let Some(left) = self.left.checked_sub(c.len_utf8()) else {
                // An error stops the formatting: nobody makes megabytes that nobody takes.
                self.out.push('…');
                return Err(fmt::Error);
            };
            self.left = left;
            if self.escape && c.is_control() {
                self.out.extend(c.escape_default());
            } else {
                self.out.push(c);
            }
        }
        Ok(())
    }
}

impl Json {
    /// `key` is a name of the code, which needs no escapes.
    fn put(&mut self, key: &str, value: &(impl serde::Serialize + ?Sized)) {
        let before: &[u8] = if self.line.len() > 1 { b",\"" } else { b"\"" };
        for part in [before, key.as_bytes(), b"\":"] {
            self.line.extend_from_slice(part);
        }
        // Text, numbers and booleans always have a JSON form (a NaN is null), and memory always takes it.
        let _ = serde_json::to_writer(&mut self.line, value);
    }

    fn put_bounded(&mut self, key: &str, value: fmt::Arguments<'_>) {
        let mut text = String::new();
        let _ = write!(Bounded { out: &mut text, left: VALUE_LIMIT, escape: false }, "{value}");
        self.put(key, &text);
    }
}

impl Visit for Json {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() != MESSAGE || self.sentence {
            self.put_bounded(field.name(), format_args!("{value:?}"));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if value.len() <= VALUE_LIMIT {
            self.put(field.name(), value);
        } else {
            self.put_bounded(field.name(), format_args!("{value}"));
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field.name(), &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field.name(), &value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field.name(), &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field.name(), &value);
    }
}
