//! However a stream of bytes is cut into pieces, it means the same.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Frames of a client: mostly honest ones, some that are not.
fn some_frames() -> impl Strategy<Value = Vec<u8>> {
    let stream = || prop_oneof![6 => (0..4u32).prop_map(|n| 2 * n + 1), 1 => 0..12u32];
    let end = || prop_oneof![4 => Just(0), 1 => Just(flag::END_STREAM)];
    let request = (stream(), end(), vec(0..60usize, 0..3), 0..9u8).prop_map(|(id, end, cuts, pad)| {
        let asks = asks();
        let (first, mut rest) = asks.split_at(cuts.first().copied().unwrap_or(99).min(asks.len()));
        let whole = if cuts.is_empty() { flag::END_HEADERS } else { 0 };
        let first = [&[pad][..], first, &vec![0; pad.into()]].concat();
        let mut bytes = raw(kind::HEADERS, end | whole | flag::PADDED, id, &first);
        for (n, cut) in cuts.iter().enumerate() {
            let last = n + 1 == cuts.len();
            let cut = if last { rest.len() } else { (*cut).min(rest.len()) };
            let (now, later) = rest.split_at(cut);
            bytes.extend(raw(kind::CONTINUATION, if last { flag::END_HEADERS } else { 0 }, id, now));
            rest = later;
        }
        bytes
    });
    let padded = (stream(), end(), 0..40u8, 0..60usize).prop_map(|(id, end, pad, len)| {
        raw(kind::DATA, end | flag::PADDED, id, &[&[pad][..], &vec![5; len], &vec![0; pad.into()]].concat())
    });
    prop_oneof![
        6 => request,
        6 => (stream(), 0..200usize, end()).prop_map(|(id, len, end)| data(id, len, end)),
        3 => padded,
        1 => (stream(), 0..9u32).prop_map(|(id, code)| frame::rst_stream(id, ResetReason(code)).to_vec()),
        1 => any::<[u8; 8]>().prop_map(|payload| frame::ping(false, payload).to_vec()),
        1 => (1..7u16, 0..80_000u32).prop_map(|(id, value)| frame::settings(&[(id, value)])),
        1 => (stream(), 0..90_000u32).prop_map(|(id, by)| frame::window_update(id, by).to_vec()),
        1 => (10..255u8, any::<u8>(), stream(), 0..60usize).prop_map(|(kind, flags, id, len)| raw(kind, flags, id, &vec![1; len])),
        1 => stream().prop_map(|id| raw(kind::PRIORITY, 0, id, &[0; 5])),
        1 => (0..9u32).prop_map(|last| frame::goaway(last, ResetReason::NO_ERROR).to_vec()),
        1 => vec(any::<u8>(), 0..30),
    ]
}

/// What came of bytes.
#[derive(Debug, PartialEq)]
struct Came {
    data: Vec<(u32, Vec<u8>)>,
    requests: Vec<u32>,
    /// Streams, with their windows and what of them is over.
    streams: Vec<(u32, i64, i64, bool, Option<Reset>)>,
    windows: (i64, i64, usize),
    output: Vec<u8>,
    violation: Option<Violation>,
}

fn come<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Came {
    let config = Config { stream_window: 70_000, server_streams: 3, ..Config::default() };
    let mut end = End::new(Role::Server, &config);
    let (mut seen, mut violation) = (Vec::<(u32, Vec<u8>)>::new(), None);
    'all: for mut piece in pieces {
        loop {
            match end.mux.receive(&mut piece, &mut end.out) {
                Ok(None) => break,
                Ok(Some((id, bytes))) => match seen.last_mut() {
                    Some((last, all)) if *last == id => all.extend_from_slice(bytes),
                    _ => seen.push((id, bytes.to_vec())),
                },
                Err(fault) => {
                    violation = Some(fault);
                    break 'all;
                }
            }
        }
    }
    let requests = std::iter::from_fn(|| end.mux.take_request()).collect();
    let entry =
        |(id, entry): (&u32, &Entry)| (*id, entry.send, entry.receive, entry.received_end, entry.reset);
    Came {
        data: seen,
        requests,
        streams: end.mux.streams.iter().map(entry).collect(),
        windows: (end.mux.send, end.mux.receive, end.mux.open),
        output: end.output(),
        violation,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_cut_means_the_same(
        frames in vec(some_frames(), 1..30),
        cuts in vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let bytes = [&PREFACE[..], &frame::settings(&[(99, 1)]), &frames.concat()].concat();
        let whole = come([&bytes[..]].into_iter());
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        at.extend([0, bytes.len()]);
        at.sort_unstable();
        prop_assert_eq!(&come(at.windows(2).map(|pair| &bytes[pair[0]..pair[1]])), &whole);
        prop_assert_eq!(&come(bytes.chunks(1)), &whole);
    }
}
