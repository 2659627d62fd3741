//! One line for one event: text for people, flat JSON for machines. Never more than one line, whatever a peer sent.

use std::fmt::{self, Debug, Write};

use jiff::Timestamp;
use tracing::Event;
use tracing::field::{Field, Visit};

/// A value longer than this is cut. Nothing of ours is; an error's text may quote a peer.
const VALUE_LIMIT: usize = 4_096;
/// The field that holds an event's sentence.
const MESSAGE: &str = "message";

/// `TIME LEVEL target: sentence key=value …`. A flow record's sentence says all that its fields do.
pub(super) fn text(now: Timestamp, event: &Event<'_>) -> String {
    let meta = event.metadata();
    let mut visitor = Text { message: String::new(), fields: String::new() };
    event.record(&mut visitor);
    let fields = if meta.target() == crate::flow::TARGET { "" } else { &visitor.fields };
    format!("{} {:<5} {}: {}{fields}\n", time(now), meta.level().as_str(), meta.target(), visitor.message)
}

/// `{"timestamp":…,"level":…,"target":…,…}` with the event's fields in their order, its sentence as `message`. Flow
/// records have no sentence: their fields say it all.
pub(super) fn json(now: Timestamp, event: &Event<'_>) -> String {
    let meta = event.metadata();
    let mut line = String::with_capacity(1_024);
    line.push('{');
    let mut visitor = Json { line, sentence: meta.target() != crate::flow::TARGET };
    visitor.put("timestamp", &time(now));
    visitor.put("level", meta.level().as_str());
    visitor.put("target", meta.target());
    event.record(&mut visitor);
    let mut line = visitor.line;
    line.push_str("}\n");
    line
}

fn time(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let out = if field.name() == MESSAGE {
            &mut self.message
        } else {
            let _ = write!(self.fields, " {}=", field.name());
            &mut self.fields
        };
        let _ = write!(Bounded { out, left: VALUE_LIMIT, escape: true }, "{value:?}");
    }
}

struct Json {
    line: String,
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

impl Write for Bounded<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match self.left.checked_sub(c.len_utf8()) {
                None => {
                    if std::mem::take(&mut self.left) > 0 {
                        self.out.push('…');
                    }
                    break;
                }
                Some(left) => self.left = left,
            }
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
    fn put(&mut self, key: &str, value: &(impl serde::Serialize + ?Sized)) {
        if !self.line.ends_with('{') {
            self.line.push(',');
        }
        // Text, numbers and booleans always have a JSON form (a NaN is null).
        let json_key = serde_json::to_string(key).unwrap_or_default();
        let json_value = serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned());
        let _ = write!(self.line, "{json_key}:{json_value}");
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
        self.put_bounded(field.name(), format_args!("{value}"));
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
