//! A client and a server wired together, whose owners do anything that they may, in any order, while bytes are on their way.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Open,
    /// The server takes a request, and answers: that it may go on, or that it is refused.
    Answer(bool),
    /// Side, stream, bytes.
    Send(usize, Index, usize),
    Take(usize, Index),
    Finish(usize, Index),
    Reset(usize, Index),
    Release(usize, Index),
    /// SETTINGS with another initial window.
    Window(usize, u32),
    Ping(usize),
    Drain,
    /// So many bytes arrive at that side.
    Arrive(usize, usize),
}

fn op() -> impl Strategy<Value = Op> {
    let (side, stream) = (|| 0..2usize, any::<Index>);
    let size = prop_oneof![0..50usize, 0..5_000usize, 0..200_000usize];
    let window = prop_oneof![1 => Just(0u32), 1 => 1..100u32, 2 => 0..200_000u32];
    prop_oneof![
        4 => Just(Op::Open),
        6 => any::<[bool; 2]>().prop_map(|[one, other]| Op::Answer(one || other)),
        12 => (side(), stream(), size.clone()).prop_map(|(side, stream, size)| Op::Send(side, stream, size)),
        8 => (side(), stream()).prop_map(|(side, stream)| Op::Take(side, stream)),
        3 => (side(), stream()).prop_map(|(side, stream)| Op::Finish(side, stream)),
        1 => (side(), stream()).prop_map(|(side, stream)| Op::Reset(side, stream)),
        1 => (side(), stream()).prop_map(|(side, stream)| Op::Release(side, stream)),
        2 => (side(), window).prop_map(|(side, window)| Op::Window(side, window)),
        1 => side().prop_map(Op::Ping),
        30 => (side(), size).prop_map(|(side, size)| Op::Arrive(side, size)),
        1 => Just(Op::Drain),
    ]
}

/// One direction of a stream.
#[derive(Debug, Default)]
struct Flow {
    sent: usize,
    finished: bool,
    taken: usize,
    /// The reader was told that this was all.
    ended: bool,
}

/// What one side's owner knows of a stream.
#[derive(Debug, Default)]
struct Owner {
    held: bool,
    /// It may send: at a client from the start, at a server when it has answered.
    may_send: bool,
    /// It was reset or released here.
    given_up: bool,
}

struct Side {
    end: End,
    /// Bytes on their way to this side, and where in them the peer acknowledges SETTINGS.
    coming: Vec<u8>,
    arrived: usize,
    promised: usize,
    acks: Vec<usize>,
    /// The initial window that holds, and those that were said and not yet acknowledged: at first the greeting's.
    windows: Vec<u32>,
    owners: BTreeMap<u32, Owner>,
}

struct World {
    sides: [Side; 2],
    /// By stream, of the bytes that a side sends.
    flows: [BTreeMap<u32, Flow>; 2],
    drained: bool,
}

/// The byte of a stream at an offset.
fn byte(side: usize, id: u32, offset: usize) -> u8 {
    (offset % 253) as u8 ^ (id as u8) ^ (side as u8 * 0x80)
}

impl World {
    fn new() -> Self {
        // More streams share the connection's window than fit into it.
        let client = Config {
            stream_window: 60_000,
            connection_window: 90_000,
            client_streams: 3,
            ..Config::default()
        };
        let server = Config {
            stream_window: 30_000,
            connection_window: 100_000,
            server_streams: 6,
            ..Config::default()
        };
        let side = |role, config| Side {
            end: End::new(role, config),
            coming: Vec::new(),
            arrived: 0,
            promised: 0,
            acks: Vec::new(),
            windows: vec![config.stream_window; 2],
            owners: BTreeMap::new(),
        };
        let sides = [side(Role::Client, &client), side(Role::Server, &server)];
        Self { sides, flows: Default::default(), drained: false }
    }

    /// A stream that the side's owner holds.
    fn pick(&self, side: usize, index: &Index) -> Option<u32> {
        let held: Vec<u32> =
            self.sides[side].owners.iter().filter(|(_, owner)| owner.held).map(|(id, _)| *id).collect();
        (!held.is_empty()).then(|| held[index.index(held.len())])
    }

    fn play(&mut self, op: Op) {
        match op {
            Op::Open => self.open(),
            Op::Answer(go_on) => self.answer(go_on),
            Op::Send(side, index, size) => drop(self.pick(side, &index).map(|id| self.send(side, id, size))),
            Op::Take(side, index) => drop(self.pick(side, &index).map(|id| self.take(side, id))),
            Op::Finish(side, index) => drop(self.pick(side, &index).map(|id| self.finish(side, id))),
            Op::Reset(side, index) => {
                let Some(id) = self.pick(side, &index) else { return };
                let Side { end, owners, .. } = &mut self.sides[side];
                end.mux.reset(id, ResetReason::CANCEL, &mut end.out);
                owners.get_mut(&id).unwrap().given_up = true;
            }
            Op::Release(side, index) => drop(self.pick(side, &index).map(|id| self.release(side, id))),
            Op::Window(side, window) => {
                let Side { end, windows, .. } = &mut self.sides[side];
                end.out.push(&frame::settings(&[(setting::INITIAL_WINDOW_SIZE, window)]));
                windows.push(window);
            }
            Op::Ping(side) => {
                let end = &mut self.sides[side].end;
                end.mux.send_ping(&mut end.out);
            }
            Op::Drain => {
                let end = &mut self.sides[1].end;
                self.drained = true;
                end.mux.drain(&mut end.out);
            }
            Op::Arrive(side, size) => self.arrive(side, size),
        }
    }

    fn open(&mut self) {
        let Side { end, owners, .. } = &mut self.sides[0];
        // A client that keeps to the server's limit is never refused.
        if end.mux.ready()
            && end.mux.open_streams() < end.mux.peer_streams() as usize
            && end.mux.goaway().is_none()
        {
            let id = end.open();
            owners.insert(id, Owner { held: true, may_send: true, given_up: false });
            for flows in &mut self.flows {
                flows.insert(id, Flow::default());
            }
        }
    }

    fn answer(&mut self, go_on: bool) {
        let Side { end, owners, .. } = &mut self.sides[1];
        let Some(id) = end.mux.take_request() else { return };
        let answered = end.mux.answer(id, &block(&[(":status", "200")]), !go_on, &mut end.out);
        owners.insert(id, Owner { held: true, may_send: answered && go_on, given_up: false });
        self.flows[1].get_mut(&id).unwrap().finished = answered && !go_on;
    }

    fn send(&mut self, side: usize, id: u32, size: usize) {
        let Side { end, owners, .. } = &mut self.sides[side];
        let Some(window) = end.mux.window(id).filter(|_| owners[&id].may_send) else { return };
        let flow = self.flows[side].get_mut(&id).unwrap();
        let bytes: Vec<u8> = (flow.sent..flow.sent + size.min(window)).map(|at| byte(side, id, at)).collect();
        end.out.data(id, &bytes);
        end.mux.sent(id, bytes.len());
        flow.sent += bytes.len();
    }

    fn take(&mut self, side: usize, id: u32) {
        let end = &mut self.sides[side].end;
        let entry = end.mux.stream(id).unwrap();
        let flow = self.flows[1 - side].get_mut(&id).unwrap();
        if let Some(bytes) = entry.inbox.pop() {
            assert!(flow.taken + bytes.len() <= flow.sent, "more came than was sent");
            let right = bytes.iter().enumerate().all(|(n, now)| *now == byte(1 - side, id, flow.taken + n));
            assert!(right, "other bytes than were sent, or in another order");
            flow.taken += bytes.len();
            end.mux.taken(id, bytes.len(), &mut end.out);
        } else if entry.received_end {
            assert!(
                flow.finished && flow.taken == flow.sent,
                "a truncated stream was taken for a finished one"
            );
            flow.ended = true;
        }
    }

    fn finish(&mut self, side: usize, id: u32) {
        let Side { end, owners, .. } = &mut self.sides[side];
        if owners[&id].may_send && end.mux.window(id).is_some() {
            end.mux.finish(id, &mut end.out);
            self.flows[side].get_mut(&id).unwrap().finished = true;
        }
    }

    fn release(&mut self, side: usize, id: u32) {
        let Side { end, owners, .. } = &mut self.sides[side];
        end.mux.release(id, &mut end.out);
        let owner = owners.get_mut(&id).unwrap();
        (owner.held, owner.given_up) = (false, true);
    }

    fn arrive(&mut self, side: usize, size: usize) {
        self.flush(1 - side);
        let Self { sides, .. } = self;
        let Side { end, coming, arrived, acks, windows, .. } = &mut sides[side];
        let mut rest = size.min(coming.len());
        while rest > 0 {
            // Up to the next acknowledgement, as its effect is exactly there.
            let now = acks.first().map_or(rest, |ack| rest.min(ack - *arrived));
            end.receive(&coming[..now]).unwrap();
            coming.drain(..now);
            *arrived += now;
            rest -= now;
            if acks.first() == Some(arrived) {
                acks.remove(0);
                let before = windows.remove(0);
                let change = i64::from(windows[0]) - i64::from(before);
                end.mux.own.window = windows[0].into();
                end.mux.streams.values_mut().for_each(|entry| entry.receive += change);
                let ids: Vec<u32> = end.mux.streams.keys().copied().collect();
                for id in ids {
                    if end.mux.streams[&id].credit == 0 {
                        continue;
                    }
                    end.mux.taken(id, 0, &mut end.out);
                }
            }
        }
    }

    /// What a side has written goes on its way.
    fn flush(&mut self, side: usize) {
        let bytes = self.sides[side].end.output();
        let to = &mut self.sides[1 - side];
        let mut at = to.promised + if bytes.starts_with(PREFACE) { PREFACE.len() } else { 0 };
        for (head, payload) in frames(&bytes) {
            at += HEADER + payload.len();
            if head.kind == kind::SETTINGS && head.has(flag::ACK) {
                to.acks.push(at);
            }
            if head.kind == kind::RST_STREAM {
                let code = u32::from_be_bytes(payload[..].try_into().unwrap());
                assert!([0, 8].contains(&code), "a reset with {:?}", ResetReason(code));
            }
        }
        to.promised += bytes.len();
        to.coming.extend(bytes);
    }

    fn check(&self) {
        for side in &self.sides {
            let mux = &side.end.mux;
            assert_eq!(mux.open, mux.streams.values().filter(|entry| !entry.closed()).count());
            for window in mux.streams.values().flat_map(|entry| [entry.send, entry.receive]) {
                assert!(window <= MAX_WINDOW);
            }
            assert!(mux.send >= 0 && mux.receive >= 0 && mux.send <= MAX_WINDOW && mux.receive <= MAX_WINDOW);
        }
    }

    /// All owners send a last time, finish, and take all that comes.
    fn end(&mut self) {
        for side in 0..2 {
            self.play(Op::Window(side, 20_000));
        }
        let mut quiet = 0;
        let mut said = BTreeMap::new();
        while quiet < 3 {
            let before: (usize, usize) = (self.sides[0].promised, self.sides[1].promised);
            for _ in 0..6 {
                self.answer(true);
            }
            for side in 0..2 {
                self.arrive(side, usize::MAX);
                let held: Vec<u32> = self.sides[side]
                    .owners
                    .iter()
                    .filter(|(_, owner)| owner.held)
                    .map(|(id, _)| *id)
                    .collect();
                for id in held {
                    self.take(side, id);
                    let left: &mut usize = said.entry((side, id)).or_insert(50_000);
                    let sent = self.flows[side][&id].sent;
                    self.send(side, id, *left);
                    *left -= self.flows[side][&id].sent - sent;
                    if *left == 0 {
                        self.finish(side, id);
                    }
                }
            }
            self.check();
            self.flush(0);
            self.flush(1);
            let now = (self.sides[0].promised, self.sides[1].promised);
            quiet = if now == before { quiet + 1 } else { 0 };
        }
        self.verdict();
    }

    fn verdict(&mut self) {
        for side in 0..2 {
            for (id, owner) in &self.sides[side].owners {
                let other = self.sides[1 - side].owners.get(id);
                if owner.given_up || other.is_none_or(|other| other.given_up) {
                    continue;
                }
                let flow = &self.flows[1 - side][id];
                // What a server has refused it reads no more of, and the client may go on as long as it likes.
                assert!(
                    flow.finished && flow.ended && flow.taken == flow.sent,
                    "stream {id} is stuck: {flow:?}"
                );
            }
        }
        for side in 0..2 {
            let held: Vec<u32> =
                self.sides[side].owners.iter().filter(|(_, owner)| owner.held).map(|(id, _)| *id).collect();
            held.into_iter().for_each(|id| self.release(side, id));
        }
        for side in [0, 1, 0, 1] {
            self.arrive(side, usize::MAX);
        }
        assert_eq!(self.sides[1].end.mux.take_request(), None);
        for side in 0..2 {
            let (mux, peer) = (&self.sides[side].end.mux, &self.sides[1 - side].end.mux);
            assert!(mux.streams.is_empty() && mux.open == 0 && mux.requests.is_empty());
            assert!(window_is_whole(mux), "the window of the connection");
            assert_eq!(mux.receive, peer.send, "both sides' view of it");
            assert_eq!(mux.ping, None);
        }
        assert_eq!(self.sides[1].end.mux.drained(), self.drained);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn each_byte_arrives_once_in_order_and_nothing_is_stuck(ops in vec(op(), 1..250)) {
        let mut world = World::new();
        for op in ops {
            world.play(op);
            world.check();
        }
        world.end();
    }
}
