//! The process's log: text or JSON, a filter that changes at run time, and a writer that never holds up a caller.

mod line;
mod queue;
mod tap;
#[cfg(test)]
mod tests;

use std::time::Duration;

use tracing::Subscriber;
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

use self::queue::{LineKind, Queue};
use self::tap::Taps;

/// Lines that wait for standard output. With lines of 1 KiB this is 8 MiB and, at 10,000 connections a second, half a
/// second of a stopped reader; what comes after is dropped and counted, since the data path must not wait.
const QUEUE: usize = 8_192;
/// A filter that a person would write is far shorter.
const FILTER_LIMIT: usize = 1_024;

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One line a person can read.
    #[default]
    Text,
    /// One flat JSON object a line.
    Json,
}

/// Why the log could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter does not parse.
    #[error(
        "the log filter {filter:?} is not valid: {reason}; write a level (info) or directives (info,flow=off)"
    )]
    Filter {
        /// What was given, at most its first 100 characters.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Somebody set a subscriber before.
    #[error("the log of this process was set up twice; this is a fault in aquifer, please report it")]
    Twice,
    /// The writer thread did not start.
    #[error(
        "no thread for writing the log: {0}; the process is at its limit of threads (ulimit -u, pids.max)"
    )]
    Thread(#[source] std::io::Error),
}

/// Lines dropped since the queue was full or writing failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Flow records.
    pub flow: u64,
    /// All others.
    pub log: u64,
}

/// The log, to change it and to see it written. Clones are the same log.
#[derive(Clone, Debug)]
pub struct LogHandle {
    filter: reload::Handle<Targets, Registry>,
    queue: Queue,
    taps: Taps,
}

/// Sets up the log of this process on standard output. `filter` is what `RUST_LOG` says, which the caller reads;
/// `info` where it says nothing. Flow records are target `flow` at info, so `info,flow=off` is a log without them.
///
/// # Errors
///
/// The filter does not parse, the process has a log already, or the writer thread does not start.
pub fn init_logging(format: LogFormat, filter: Option<&str>) -> Result<LogHandle, LogError> {
    let queue = Queue::start(Box::new(std::io::stdout()), QUEUE).map_err(LogError::Thread)?;
    let (subscriber, handle) = subscriber(format, filter.unwrap_or_default(), queue)?;
    subscriber.try_init().map_err(|_| LogError::Twice)?;
    Ok(handle)
}

fn subscriber(
    format: LogFormat,
    filter: &str,
    queue: Queue,
) -> Result<(impl Subscriber + Send + Sync + use<>, LogHandle), LogError> {
    let (layer, handle) = reload::Layer::new(parse(filter)?);
    let taps = Taps::default();
    let lines = Lines { format, queue: queue.clone(), taps: taps.clone() };
    let subscriber = tracing_subscriber::registry().with(layer).with(lines);
    Ok((subscriber, LogHandle { filter: handle, queue, taps }))
}

impl LogHandle {
    /// The filter in force.
    pub fn filter(&self) -> String {
        self.filter.with_current(Targets::to_string).unwrap_or_default()
    }

    /// Puts another filter in force, for all of the process, at once.
    ///
    /// # Errors
    ///
    /// The filter does not parse; the one before stays.
    pub fn set_filter(&self, filter: &str) -> Result<(), LogError> {
        let new = parse(filter)?;
        self.filter.reload(new).map_err(|error| LogError::Filter {
            filter: filter.chars().take(100).collect(),
            reason: error.to_string(),
        })
    }

    /// Lines dropped so far.
    pub fn dropped(&self) -> Dropped {
        self.queue.dropped()
    }

    /// Whether the filter lets flow records through.
    pub(crate) fn writes_flows(&self) -> bool {
        self.filter
            .with_current(|filter| filter.would_enable(crate::flow::TARGET, &tracing::Level::INFO))
            .unwrap_or(false)
    }

    /// Flow records from now on; see [`Taps::view`].
    pub(crate) fn flows(&self) -> tokio::sync::mpsc::Receiver<bytes::Bytes> {
        self.taps.view()
    }

    /// Waits until all lines queued before are written, at most `within`; whether they are. Call it before the process
    /// ends.
    pub fn flush(&self, within: Duration) -> bool {
        self.queue.flush(within)
    }
}

/// A log that writes where a test can look, installed for nobody: the subscriber and the handle.
#[cfg(test)]
pub(crate) fn captured(
    format: LogFormat,
    filter: &str,
    out: Box<dyn std::io::Write + Send>,
    capacity: usize,
) -> (impl Subscriber + Send + Sync + use<>, LogHandle) {
    subscriber(format, filter, Queue::start(out, capacity).unwrap()).unwrap()
}

/// The layer that makes lines of events. Spans are not written: what matters is in the events' own fields.
struct Lines {
    format: LogFormat,
    queue: Queue,
    taps: Taps,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let now = jiff::Timestamp::now();
        let line = match self.format {
            LogFormat::Text => line::text(now, event),
            LogFormat::Json => line::json(now, event),
        };
        let flow = event.metadata().target() == crate::flow::TARGET;
        if flow && self.taps.open() {
            self.taps.show(line::json(now, event));
        }
        self.queue.push(if flow { LineKind::Flow } else { LineKind::Log }, line);
    }
}

/// Levels by target are all that a filter says here, since no spans are written; so no regular expressions are linked.
fn parse(filter: &str) -> Result<Targets, LogError> {
    let filter = if filter.trim().is_empty() { "info" } else { filter.trim() };
    let error = |reason: String| LogError::Filter { filter: filter.chars().take(100).collect(), reason };
    if filter.len() > FILTER_LIMIT {
        return Err(error(format!("it is longer than {FILTER_LIMIT} bytes")));
    }
    filter.parse().map_err(|e: ParseError| error(e.to_string()))
}
