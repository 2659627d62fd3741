//! A bounded queue of lines and the one thread that writes them.

use std::io::{BufWriter, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use super::Dropped;

/// What is gathered into one write where lines come faster than they are written.
const BATCH: usize = 64 * 1024;
/// Pause of the writer after each batch. A line that finds it waiting wakes it, which costs the data path a system call and
/// the processor two switches; so under load many lines share one wake-up, and a lone line is still written at once.
const GATHER: Duration = Duration::from_millis(5);

/// What a line is, for counting those that are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineKind {
    Flow,
    Log,
}

/// The queue's sending half. Clones send into the same queue.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    /// Bounded by [`State::waiting`]: a bounded channel makes all its places at once, which stay resident in each process
    /// (320 KiB) though nearly all are never used.
    lines: Sender<(LineKind, Vec<u8>)>,
    /// Most lines that wait.
    capacity: usize,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Lines in the channel, and those that are being refused.
    waiting: AtomicUsize,
    queued: AtomicU64,
    /// Lines that the writer is done with, whether or not writing succeeded.
    done: Mutex<u64>,
    progress: Condvar,
    dropped_flow: AtomicU64,
    dropped_log: AtomicU64,
}

impl Queue {
    /// Starts the thread that writes to `out`. It ends with the last clone of the queue.
    pub(super) fn start(out: Box<dyn Write + Send>, capacity: usize) -> io::Result<Self> {
        let (lines, receiver) = channel();
        let state = Arc::new(State::default());
        let shared = state.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || write(&receiver, out, &shared))?;
        Ok(Self { lines, capacity, state })
    }

    /// Queues a line, which ends in a line feed, or drops and counts it. Never waits.
    pub(super) fn push(&self, kind: LineKind, line: Vec<u8>) {
        // Counted before it is queued, so that a flush never takes a line for written that is on its way.
        self.state.queued.fetch_add(1, Ordering::SeqCst);
        let full = self.state.waiting.fetch_add(1, Ordering::Relaxed) >= self.capacity;
        if full || self.lines.send((kind, line)).is_err() {
            self.state.waiting.fetch_sub(1, Ordering::Relaxed);
            self.state.drop_line(kind);
            self.state.finish(1);
        }
    }

    pub(super) fn dropped(&self) -> Dropped {
        Dropped {
            flow: self.state.dropped_flow.load(Ordering::Relaxed),
            log: self.state.dropped_log.load(Ordering::Relaxed),
        }
    }

    /// Waits until what is queued now is written; whether it is, in time.
    pub(super) fn flush(&self, within: Duration) -> bool {
        let goal = self.state.queued.load(Ordering::SeqCst);
        let deadline = Instant::now() + within;
        let mut done = self.state.done.lock().unwrap_or_else(PoisonError::into_inner);
        while *done < goal {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            done = self.state.progress.wait_timeout(done, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl State {
    fn drop_line(&self, kind: LineKind) {
        let counter = match kind {
            LineKind::Flow => &self.dropped_flow,
            LineKind::Log => &self.dropped_log,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn finish(&self, lines: u64) {
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) += lines;
        self.progress.notify_all();
    }
}

fn write(lines: &Receiver<(LineKind, Vec<u8>)>, out: Box<dyn Write + Send>, state: &State) {
    let mut out = BufWriter::with_capacity(BATCH, out);
    let mut batch: Vec<LineKind> = Vec::new();
    while let Ok(first) = lines.recv() {
        let (mut size, mut failed) = (0, false);
        let mut next = Some(first);
        while let Some((kind, line)) = next {
            state.waiting.fetch_sub(1, Ordering::Relaxed);
            size += line.len();
            batch.push(kind);
            failed |= out.write_all(&line).is_err();
            next = if size < BATCH { lines.try_recv().ok() } else { None };
        }
        failed |= out.flush().is_err();
        if failed {
            // A closed pipe or a full disk. There is nobody to tell but the counter; and what the buffer could not get
            // rid of must not come out torn later.
            batch.iter().for_each(|kind| state.drop_line(*kind));
            let (inner, _) = out.into_parts();
            out = BufWriter::with_capacity(BATCH, inner);
        }
        state.finish(batch.len() as u64);
        batch.clear();
        if size < BATCH {
            thread::sleep(GATHER);
        }
    }
}
