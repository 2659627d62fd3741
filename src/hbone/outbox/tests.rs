//! Any use of an outbox, opened again with the matching keys: the frames are there, in order, once.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::tls::Opener;

/// Keys that both ends of a test know.
fn secrets(n: u8) -> (u64, rustls::ConnectionTrafficSecrets) {
    let key = rustls::crypto::cipher::AeadKey::from([n; 32]);
    (0, rustls::ConnectionTrafficSecrets::Aes256Gcm { key, iv: [n; 12].into() })
}

pub(crate) fn outbox() -> Outbox {
    Outbox::new(Sealer::new(secrets(0)).unwrap())
}

/// Opens what an outbox wrote.
pub(crate) struct Reader {
    opener: Opener,
    sealed: Vec<u8>,
    key: u8,
}

impl Reader {
    pub(crate) fn new() -> Self {
        Self { opener: Opener::new(secrets(0)).unwrap(), sealed: Vec::new(), key: 0 }
    }

    /// The records that are whole by now. One of a handshake changes the key for those after it.
    pub(crate) fn read(&mut self, sealed: &[u8]) -> Vec<(u8, Vec<u8>)> {
        self.sealed.extend_from_slice(sealed);
        let (mut records, mut at) = (Vec::new(), 0);
        while let Some(length) =
            Opener::length(&self.sealed[at..]).unwrap().filter(|n| at + n <= self.sealed.len())
        {
            let (kind, content) = self.opener.open(&mut self.sealed[at..at + length]).unwrap();
            assert!(content.len() <= MAX_PLAIN, "{} bytes in a record", content.len());
            records.push((kind, content.to_vec()));
            if kind == content::HANDSHAKE {
                self.key += 1;
                self.opener = Opener::new(secrets(self.key)).unwrap();
            }
            at += length;
        }
        self.sealed.drain(..at);
        records
    }

    /// All that is data in what the outbox has to send.
    pub(crate) fn data(&mut self, out: &mut Outbox) -> Vec<u8> {
        let mut sealed = Vec::new();
        out.flush(|bytes| {
            sealed.extend_from_slice(bytes);
            Ok(bytes.len())
        })
        .unwrap();
        let records = self.read(&sealed).into_iter();
        records.filter(|(kind, _)| *kind == content::DATA).flat_map(|(_, bytes)| bytes).collect()
    }
}

#[derive(Clone, Debug)]
enum Op {
    /// A frame that is no DATA, with a payload of so many bytes.
    Push(usize),
    Data(u32, usize),
    /// A read that asks for so many bytes, and what it brings: more than that is that.
    Read(u32, usize, Brings),
    Alert,
    Rekey,
    /// A socket that takes some bytes in writes of a size, and then no more; it may be interrupted.
    Flush(usize, usize, bool),
}

#[derive(Clone, Debug)]
enum Brings {
    Bytes(usize),
    Nothing,
    Error,
}

fn op() -> impl Strategy<Value = Op> {
    let size = || prop_oneof![4 => 0..200usize, 2 => 16_000..17_000usize, 1 => 1..300_000usize];
    let stream = || 1..4u32;
    let brings = prop_oneof![
        4 => size().prop_map(Brings::Bytes),
        2 => Just(Brings::Bytes(usize::MAX)),
        1 => Just(Brings::Nothing),
        1 => Just(Brings::Error),
    ];
    let write = prop_oneof![1..40usize, 10_000..300_000usize];
    prop_oneof![
        3 => prop_oneof![8 => 0..300usize, 1 => 16_000..40_000usize].prop_map(Op::Push),
        3 => (stream(), size()).prop_map(|(stream, size)| Op::Data(stream, size)),
        5 => (stream(), size(), brings).prop_map(|(stream, want, brings)| Op::Read(stream, want, brings)),
        1 => Just(Op::Alert),
        1 => Just(Op::Rekey),
        3 => (0..300_000usize, write, any::<bool>()).prop_map(|(most, write, broken)| Op::Flush(most, write, broken)),
    ]
}

/// What the other side sees.
#[derive(Debug, PartialEq)]
enum Seen {
    Frame(Head, Vec<u8>),
    /// Bytes of a stream, in whatever frames.
    Data(u32, Vec<u8>),
    Record(u8, Vec<u8>),
}

#[derive(Default)]
struct Log(Vec<Seen>);

impl Log {
    fn data(&mut self, stream: u32, bytes: &[u8]) {
        match self.0.last_mut() {
            Some(Seen::Data(last, all)) if *last == stream => all.extend_from_slice(bytes),
            _ if bytes.is_empty() => {}
            _ => self.0.push(Seen::Data(stream, bytes.to_vec())),
        }
    }

    /// Cuts frames out of the records of data.
    fn records(&mut self, records: Vec<(u8, Vec<u8>)>) {
        let mut plain = Vec::new();
        for (kind, bytes) in records {
            if kind == content::DATA {
                plain.extend_from_slice(&bytes);
                continue;
            }
            self.frames(&mut plain);
            assert!(plain.is_empty(), "a record of type {kind} stands in a frame");
            self.0.push(Seen::Record(kind, bytes));
        }
        self.frames(&mut plain);
        assert!(plain.is_empty(), "the last frame is not whole");
    }

    fn frames(&mut self, plain: &mut Vec<u8>) {
        let mut rest = &plain[..];
        while let Some((head, after)) = rest.split_first_chunk() {
            let head = Head::parse(head);
            let (payload, after) = after.split_at(head.len as usize);
            rest = after;
            if head.kind == frame::kind::DATA {
                assert!(!payload.is_empty() && payload.len() <= MAX_PIECE && head.flags == 0, "{head:?}");
                self.data(head.stream, payload);
            } else {
                self.0.push(Seen::Frame(head, payload.to_vec()));
            }
        }
        *plain = rest.to_vec();
    }
}

/// Bytes that tell where they belong.
struct Pattern {
    bytes: Vec<u8>,
    at: usize,
}

impl Pattern {
    fn next(&mut self, n: usize) -> Vec<u8> {
        let start = self.at % 251;
        self.at += n;
        self.bytes[start..start + n].to_vec()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn what_goes_in_comes_out_once_and_in_order(ops in vec(op(), 1..60)) {
        let mut pattern = Pattern { bytes: (0..400_000).map(|n| (n % 251) as u8).collect(), at: 0 };
        let (mut out, mut reader, mut expected) = (outbox(), Reader::new(), Log::default());
        let (mut sealed, mut key, mut peak) = (Vec::new(), 0, 0);
        for op in ops {
            match op {
                Op::Push(len) => {
                    let head = Head { len: len as u32, kind: frame::kind::HEADERS, flags: 4, stream: 9 };
                    let payload = pattern.next(len);
                    out.push(&head.bytes());
                    out.push(&payload);
                    expected.0.push(Seen::Frame(head, payload));
                }
                Op::Data(stream, len) => {
                    let bytes = pattern.next(len);
                    out.data(stream, &bytes);
                    expected.data(stream, &bytes);
                }
                Op::Read(stream, want, brings) => {
                    let before = out.pending();
                    let mut brought = Vec::new();
                    let result = out.read_data(stream, want, |slices| {
                        let room: usize = slices.iter().map(|slice| slice.len()).sum();
                        assert!(room <= want, "{room} of {want}");
                        // Less only where the rest of a record will do, or where it is more than one read takes.
                        let all = room == want || want > 256 << 10;
                        assert!(all || (want <= MAX_PIECE && room >= ROOMY), "{room} of {want}");
                        match brings {
                            Brings::Bytes(n) => {
                                brought = pattern.next(n.min(room));
                                let mut left = &brought[..];
                                for slice in slices {
                                    let (now, later) = left.split_at(left.len().min(slice.len()));
                                    slice[..now.len()].copy_from_slice(now);
                                    left = later;
                                }
                                Ok(brought.len())
                            }
                            Brings::Nothing => Ok(0),
                            Brings::Error => Err(io::ErrorKind::WouldBlock.into()),
                        }
                    });
                    match brings {
                        Brings::Error => prop_assert!(result.is_err()),
                        _ => prop_assert_eq!(result.unwrap(), brought.len()),
                    }
                    if brought.is_empty() {
                        prop_assert_eq!(out.pending(), before);
                    }
                    expected.data(stream, &brought);
                }
                Op::Alert => {
                    out.record(content::ALERT, &[1, 0]);
                    expected.0.push(Seen::Record(content::ALERT, vec![1, 0]));
                }
                Op::Rekey => {
                    key += 1;
                    out.record(content::HANDSHAKE, &[key]);
                    out.rekey(Sealer::new(secrets(key)).unwrap());
                    expected.0.push(Seen::Record(content::HANDSHAKE, vec![key]));
                }
                Op::Flush(mut most, write, mut interrupted) => {
                    let done = out.flush(|bytes| {
                        if std::mem::take(&mut interrupted) {
                            return Err(io::ErrorKind::Interrupted.into());
                        }
                        let n = bytes.len().min(write).min(most);
                        most -= n;
                        sealed.extend_from_slice(&bytes[..n]);
                        if n == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(n) }
                    });
                    prop_assert_eq!(done.unwrap(), out.pending() == 0);
                }
            }
            peak = peak.max(out.pending());
            // As much again as waits, a read, and what rounding adds.
            let bound = KEEP.max(2 * peak + PIECES * (MAX_PLAIN + RECORD_OVERHEAD) + 2 * BUFFER);
            prop_assert!(out.buffer.len() <= bound, "{} for {}", out.buffer.len(), peak);
        }
        out.flush(|bytes| { sealed.extend_from_slice(bytes); Ok(bytes.len()) }).unwrap();
        prop_assert_eq!(out.pending(), 0);
        let mut seen = Log::default();
        seen.records(reader.read(&sealed));
        prop_assert!(reader.sealed.is_empty());
        prop_assert!(seen.0 == expected.0, "{} and {} entries", seen.0.len(), expected.0.len());
    }
}

#[test]
fn a_socket_that_is_always_behind_does_not_make_the_buffer_grow() {
    let (mut out, mut reader) = (outbox(), Reader::new());
    let (mut sealed, mut got) = (Vec::new(), 0);
    out.data(1, &[7; 200_000]);
    for _ in 0..3000 {
        out.data(1, &[7; 10_000]);
        let mut most = 10_000 + HEADER + RECORD_OVERHEAD;
        out.flush(|bytes| {
            let n = bytes.len().min(most);
            most -= n;
            sealed.extend_from_slice(&bytes[..n]);
            if n == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(n) }
        })
        .unwrap();
        assert!((190_000..210_000).contains(&out.pending()), "{}", out.pending());
        assert!(out.buffer.len() <= KEEP, "{}", out.buffer.len());
        got += reader.read(&std::mem::take(&mut sealed)).iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
    }
    assert!(got > 29_000_000);
}

#[test]
fn a_write_of_nothing_and_an_error_end_a_flush() {
    let mut out = outbox();
    out.push(b"frame");
    assert_eq!(out.flush(|_| Ok(0)).unwrap_err().kind(), io::ErrorKind::WriteZero);
    let broken = out.flush(|_| Err(io::ErrorKind::ConnectionReset.into()));
    assert_eq!(broken.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    // It is all still there, for whoever tries again.
    assert_eq!(Reader::new().data(&mut out), b"frame");
}

#[test]
fn small_frames_share_a_record() {
    let mut out = outbox();
    for _ in 0..100 {
        out.data(1, b"0123456789");
    }
    let mut sealed = Vec::new();
    out.flush(|bytes| {
        sealed.extend_from_slice(bytes);
        Ok(bytes.len())
    })
    .unwrap();
    assert_eq!(Reader::new().read(&sealed).len(), 1);
}
