//! Flow records for who asks for them now: a live view beside the log.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::sync::{broadcast, mpsc};

/// Records that wait for the slowest viewer, of about 1 KiB each; a viewer that is further behind is told how many it missed.
const BEHIND: usize = 2_048;

/// Pieces under way to one viewer. What does not fit waits in the line of [`BEHIND`].
const PIECES: usize = 4;

/// Bytes of a piece at which no further record is put in it.
const PIECE: usize = 32 * 1024;

/// The viewers of this process's flow records. Clones are the same. Without a viewer it costs a look, and no memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Taps(Arc<OnceLock<broadcast::Sender<Bytes>>>);

impl Taps {
    /// Whether anybody looks.
    pub(super) fn open(&self) -> bool {
        self.0.get().is_some_and(|sender| sender.receiver_count() > 0)
    }

    /// Shows a record, one line of JSON, to all who look. Never waits.
    pub(super) fn show(&self, line: Vec<u8>) {
        if let Some(sender) = self.0.get() {
            // An error means that the last viewer has just left.
            let _ = sender.send(line.into());
        }
    }

    /// A viewer from now on: lines of JSON, several in a piece where they come fast. `{"dropped":N}` stands where it was too slow. Ends
    /// when the receiver is dropped. Needs a tokio runtime.
    pub(crate) fn view(&self) -> mpsc::Receiver<Bytes> {
        let mut records = self.0.get_or_init(|| broadcast::Sender::new(BEHIND)).subscribe();
        let (pieces, view) = mpsc::channel(PIECES);
        tokio::spawn(async move {
            loop {
                let first = tokio::select! {
                    record = records.recv() => record,
                    () = pieces.closed() => return,
                };
                let Some(mut piece) = line(first) else { return };
                while piece.len() < PIECE {
                    let more = match records.try_recv() {
                        Ok(record) => Ok(record),
                        Err(broadcast::error::TryRecvError::Lagged(missed)) => {
                            Err(broadcast::error::RecvError::Lagged(missed))
                        }
                        Err(_) => break,
                    };
                    piece.extend(line(more).unwrap_or_default());
                }
                if pieces.send(piece.into()).await.is_err() {
                    return;
                }
            }
        });
        view
    }
}

/// `None` where there will be no more.
fn line(record: Result<Bytes, broadcast::error::RecvError>) -> Option<Vec<u8>> {
    match record {
        Ok(record) => Some(record.into()),
        Err(broadcast::error::RecvError::Lagged(missed)) => {
            Some(format!("{{\"dropped\":{missed}}}\n").into_bytes())
        }
        Err(broadcast::error::RecvError::Closed) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(pieces: &[Bytes]) -> String {
        pieces.iter().map(|piece| String::from_utf8_lossy(piece)).collect()
    }

    #[tokio::test]
    async fn without_a_viewer_nothing_is_kept() {
        let taps = Taps::default();
        assert!(!taps.open());
        taps.show(b"lost\n".to_vec());
        let view = taps.view();
        assert!(taps.open());
        drop(view);
        // The task notices that its viewer is gone.
        while taps.open() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn every_viewer_sees_every_record_in_order() {
        let taps = Taps::default();
        let mut views = [taps.view(), taps.view()];
        for n in 0..100 {
            taps.show(format!("{n}\n").into_bytes());
        }
        let expected: String = (0..100).map(|n| format!("{n}\n")).collect();
        for view in &mut views {
            let mut seen = Vec::new();
            while text(&seen).len() < expected.len() {
                seen.push(view.recv().await.unwrap());
            }
            assert_eq!(text(&seen), expected);
        }
    }

    #[tokio::test]
    async fn who_is_too_slow_is_told_how_many_it_missed() {
        let taps = Taps::default();
        let mut view = taps.view();
        let shown = BEHIND + 10;
        for n in 0..shown {
            taps.show(format!("{n}\n").into_bytes());
        }
        let mut seen = String::new();
        while !seen.ends_with(&format!("\n{}\n", shown - 1)) {
            seen.push_str(&text(&[view.recv().await.unwrap()]));
        }
        let missed: usize = seen
            .lines()
            .filter_map(|line| line.strip_prefix("{\"dropped\":")?.strip_suffix('}')?.parse::<usize>().ok())
            .sum();
        assert_eq!(missed, 10);
        assert_eq!(seen.lines().filter(|line| !line.starts_with('{')).count(), BEHIND);
    }
}
