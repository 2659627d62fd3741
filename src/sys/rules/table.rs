//! The packet rules as data: which chains, rules and sets a mode consists of, and why.
//!
//! Two base chains decide. `output` marks what the pod's own sockets send and is to be ours; the routing rule for that mark
//! turns it to the loopback device, where `arrival` hands it to the listener on 15001. `arrival` also hands what the network
//! sends to the pod to the listener on 15006. Where nothing passes any more, the pod's sockets are routed to the loopback device
//! in the first place (`early.rs`), and `output` has nothing to mark.
//!
//! No rule looks at a connection-tracking entry: what is captured must not change because an entry ran out, nor may a pod
//! without connection tracking be given it. What a packet belongs to is told by its socket where it arrives, and by its
//! 4-tuple where the pod sends it, since there the other end of a captured connection cannot be seen.
//!
//! A SYN begins a connection, and so is judged apart from all other packets. It is never exempt by its 4-tuple, and one that the
//! pod sends ends the exemption, or the next connection that happens on an exempt one would leave in clear. (What follows one
//! that the pod receives is told by our socket, and not looked up.) (Only in `opening`, the connections
//! that were being opened at enrolment, may it still be repeated.) Nor does it ever belong to one of our sockets: where one is
//! in TIME-WAIT, the kernel would look for a listener again and find the application's.
//!
//! `tproxy` does nothing when nobody listens, and the packet would go on to the application. So a reset follows each. On its
//! way out such a reset cannot be told from one of the application's, which is to come to us; so it is announced in
//! `refused`.

use nlink::netlink::{
    nftables::{
        BaseChain, DynsetExpr, DynsetOp, Expr, FibFlags, FibResult, Field, FilterHook, LookupExpr, Match,
        MatchOp, PayloadBase, Priority, Register, Reject, RuleSpec, SocketKey, Stmt, TcpFlags, Value,
        Verdict,
    },
    types::route::RouteType,
};

use super::{
    group::{FAMILY, Group, Ip},
    routes::LOOPBACK,
};
use crate::{ARRIVED_MARK, CAPTURED_MARK, MARK, MARK_MASK, socket::Listen};

/// What a table captures. The two `…New` are passed through on the way, with a set of connections that the packets themselves
/// fill, so that the sockets can be listed without a connection slipping between the two states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// What begins now is captured (and noted in `fresh`), all else passes.
    CaptureNew,
    /// All is captured but `exempt`, and the SYN packets of `opening`.
    Capture,
    /// What begins now passes (and is noted in `fresh`), all else is captured but `exempt`.
    LeaveNew,
    /// All passes but `carried`, and what we ourselves still open towards the application (noted in `fresh`).
    Leave,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::CaptureNew, Self::Capture, Self::LeaveNew, Self::Leave];

    /// As written into the table; part of the name of a chain.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::CaptureNew => "capture_new",
            Self::Capture => "capture",
            Self::LeaveNew => "leave_new",
            Self::Leave => "leave",
        }
    }

    /// The sets that its rules use.
    pub(super) const fn sets(self) -> &'static [Group] {
        match self {
            Self::CaptureNew => &[Group::Refused, Group::Fresh],
            Self::Capture => &[Group::Refused, Group::Exempt, Group::Opening],
            Self::LeaveNew => &[Group::Refused, Group::Exempt, Group::Fresh],
            Self::Leave => &[Group::Refused, Group::Carried, Group::Fresh],
        }
    }
}

/// A chain: its name, its hook if it has one, and its rules.
pub(super) struct Chain {
    pub(super) name: &'static str,
    pub(super) base: Option<BaseChain>,
    pub(super) rules: Vec<RuleSpec>,
}

/// All chains of a kind of table, each before those that go to it.
pub(super) fn chains(kind: Kind) -> Vec<Chain> {
    let regular = |name, rules| Chain { name, base: None, rules };
    // Before the filters of others, and where packets may still be rerouted.
    let mangle = Priority::Mangle;
    vec![
        regular("application", application(kind)),
        regular("reset", reset()),
        Chain { name: "output", base: Some(BaseChain::route(mangle)), rules: output(kind) },
        regular("captured", captured()),
        regular("early", early()),
        regular("refusal", refusal()),
        regular("tunnel", tunnel()),
        regular("beginning", beginning(kind)),
        regular("network", network(kind)),
        Chain {
            name: "arrival",
            base: Some(BaseChain::filter(FilterHook::Prerouting, mangle)),
            rules: arrival(kind),
        },
    ]
}

/// What leaves this namespace: of a socket, of the kernel, or of these rules.
fn output(kind: Kind) -> Vec<RuleSpec> {
    let mut rules = vec![rule(vec![not_tcp()], Verdict::Accept)];
    if kind.sets().contains(&Group::Fresh) && kind != Kind::LeaveNew {
        // A connection that we open to the application: its answers are to be ours.
        for ip in Ip::BOTH {
            let mut spec = matching([marked(MARK), syn(), to_loopback(), family(ip)]);
            note(&mut spec, ip, Reading::Received);
            rules.push(spec);
        }
    }
    rules.extend([
        // Our own sockets.
        rule(vec![marked(MARK)], Verdict::Accept),
        rule(vec![Match::eq(Field::TcpFlags, flags(TcpFlags::RST, TcpFlags::RST))], goto("reset")),
        // The pod's to itself, by loopback or its own address, and what is routed to us already.
        rule(vec![to_loopback()], Verdict::Accept),
        unconditional(goto("application")),
    ]);
    rules
}

/// A reset: ours for what was refused, which goes to the network whatever its route was, or the application's.
fn reset() -> Vec<RuleSpec> {
    let mut rules: Vec<RuleSpec> = Ip::BOTH
        .map(|ip| listed(Group::Refused, ip, Reading::Sent, None).then(mark(MARK)).then(Verdict::Accept))
        .into();
    rules.push(rule(vec![to_loopback()], Verdict::Accept));
    rules.push(unconditional(goto("application")));
    rules
}

/// What the application sends, or the kernel on its behalf.
fn application(kind: Kind) -> Vec<RuleSpec> {
    let mut rules = Vec::new();
    let each = |spec: &dyn Fn(Ip) -> RuleSpec| Ip::BOTH.map(spec);
    match kind {
        Kind::CaptureNew => {
            rules.extend(each(&|ip| {
                let mut spec = matching([syn(), family(ip)]);
                note(&mut spec, ip, Reading::Sent);
                spec.then(divert()).then(Verdict::Accept)
            }));
            rules.push(rule(vec![syn()], Verdict::Drop));
            rules.extend(each(&|ip| listed(Group::Fresh, ip, Reading::Sent, None).then(divert())));
        }
        Kind::Capture => {
            rules.extend(each(&|ip| {
                listed(Group::Opening, ip, Reading::Sent, Some(syn())).then(Verdict::Accept)
            }));
            rules.extend(each(&|ip| {
                let mut spec = matching([syn(), family(ip)]);
                change(&mut spec, DynsetOp::Delete, Group::Exempt, ip, Reading::Sent);
                spec
            }));
            rules.extend(each(&|ip| listed(Group::Exempt, ip, Reading::Sent, None).then(Verdict::Accept)));
            rules.push(RuleSpec::new().then(divert()));
        }
        Kind::LeaveNew => {
            rules.extend(each(&|ip| {
                let mut spec = matching([syn(), family(ip)]);
                note(&mut spec, ip, Reading::Sent);
                spec.then(Verdict::Accept)
            }));
            rules.push(rule(vec![syn()], Verdict::Drop));
            for group in [Group::Fresh, Group::Exempt] {
                rules.extend(each(&|ip| listed(group, ip, Reading::Sent, None).then(Verdict::Accept)));
            }
            rules.push(RuleSpec::new().then(divert()));
        }
        Kind::Leave => {
            for group in [Group::Carried, Group::Fresh] {
                rules.extend(each(&|ip| listed(group, ip, Reading::Sent, None).then(divert())));
            }
        }
    }
    rules
}

/// What arrives in this namespace, from the network or from itself.
fn arrival(kind: Kind) -> Vec<RuleSpec> {
    let mut rules = vec![rule(vec![not_tcp()], Verdict::Accept)];
    if kind == Kind::Capture {
        rules.push(rule(vec![from_loopback(), marked(0), family(Ip::V4)], goto("early")));
    }
    rules.extend([
        rule(vec![from_loopback(), marked(CAPTURED_MARK)], goto("captured")),
        // We call the application. Where `tcp_fwmark_accept` is on, its socket would take over the mark, and its answers would leave.
        matching([from_loopback(), marked(MARK), syn()]).then(mark(0)).then(Verdict::Accept),
        // The pod calls itself, or what goes on between it and us.
        rule(vec![from_loopback()], Verdict::Accept),
        RuleSpec::new().then(mark(ARRIVED_MARK)),
        // Only what is for the pod, should it forward for others.
        rule(vec![to_elsewhere()], Verdict::Accept),
        rule(vec![syn()], goto("beginning")),
        unconditional(goto("network")),
    ]);
    rules
}

/// What was routed to the loopback device in the first place: the application's, or what the pod says to itself.
fn early() -> Vec<RuleSpec> {
    vec![to_our_socket(), rule(vec![to_elsewhere()], goto("captured"))]
}

/// What goes on in a connection of ours. Half-open and time-wait sockets are not found here, but by `tproxy` itself, which hands
/// a packet first of all to the connection that it belongs to.
fn to_our_socket() -> RuleSpec {
    let ours = [
        not_syn(),
        Match::eq(Field::Socket(SocketKey::Transparent), true),
        Match::eq(Field::Socket(SocketKey::Wildcard), false),
    ];
    rule(ours.into(), Verdict::Accept)
}

/// What the application sent.
fn captured() -> Vec<RuleSpec> {
    let mut rules = vec![to_our_socket()];
    rules.push(RuleSpec::new().then(tproxy(Listen::Outbound)).then(Verdict::Accept));
    // The reset goes to the pod itself.
    rules.push(RuleSpec::new().then(refuse()));
    rules
}

/// The SYN of a connection from the network.
fn beginning(kind: Kind) -> Vec<RuleSpec> {
    let mut rules = vec![rule(vec![port(Listen::Hbone)], goto("tunnel"))];
    for listener in [Listen::Outbound, Listen::Inbound] {
        rules.push(rule(vec![port(listener)], goto("refusal")));
    }
    match kind {
        Kind::CaptureNew => rules.push(heard()),
        Kind::Capture => {
            for ip in Ip::BOTH {
                rules.push(listed(Group::Opening, ip, Reading::Received, None).then(Verdict::Accept));
            }
            rules.push(heard());
        }
        Kind::LeaveNew => {
            for ip in Ip::BOTH {
                let mut spec = matching([family(ip)]);
                note(&mut spec, ip, Reading::Received);
                rules.push(spec.then(Verdict::Accept));
            }
            rules.push(RuleSpec::new().then(Verdict::Drop));
        }
        Kind::Leave => return rules,
    }
    rules.push(unconditional(goto("refusal")));
    rules
}

/// Ours is what an application listens for. Where none does, the caller is refused, as without us: taken here, the connection would
/// stand, and a TCP probe would pass.
fn heard() -> RuleSpec {
    RuleSpec::new().then(has_socket()).then(tproxy(Listen::Inbound)).then(Verdict::Accept)
}

/// The SYN of a tunnel: for our listener, nobody else's.
fn tunnel() -> Vec<RuleSpec> {
    let foreign = Match::ne(Field::Socket(SocketKey::Mark), masked(MARK));
    vec![
        rule(vec![Match::eq(Field::Socket(SocketKey::Wildcard), true), foreign], goto("refusal")),
        rule(vec![has_socket()], Verdict::Accept),
        unconditional(goto("refusal")),
    ]
}

/// All other packets from the network.
fn network(kind: Kind) -> Vec<RuleSpec> {
    // Of one of our sockets, in whatever state; all of them are transparent.
    let mut rules = vec![rule(vec![Match::eq(Field::Socket(SocketKey::Transparent), true)], Verdict::Accept)];
    let exempt: &[Group] = match kind {
        Kind::CaptureNew | Kind::Leave => return rules,
        Kind::Capture => &[Group::Exempt],
        Kind::LeaveNew => &[Group::Fresh, Group::Exempt],
    };
    for group in exempt {
        for ip in Ip::BOTH {
            rules.push(listed(*group, ip, Reading::Received, None).then(Verdict::Accept));
        }
    }
    rules.push(RuleSpec::new().then(tproxy(Listen::Inbound)).then(Verdict::Accept));
    rules.push(unconditional(goto("refusal")));
    rules
}

/// The end of what the network sent and may not go on.
fn refusal() -> Vec<RuleSpec> {
    let mut rules = Vec::new();
    for ip in Ip::BOTH {
        let mut spec = matching([family(ip)]);
        change(&mut spec, DynsetOp::Update, Group::Refused, ip, Reading::Received);
        rules.push(spec.then(refuse()));
    }
    rules.push(RuleSpec::new().then(Verdict::Drop));
    rules
}

/// Hands a packet to a listener of ours, or to the connection that it belongs to there. The rule ends where there is neither.
fn tproxy(listener: Listen) -> Stmt {
    Stmt::Tproxy { family: FAMILY, addr: None, port: Some(listener.port()) }
}

fn refuse() -> Stmt {
    Stmt::Reject(Reject::TcpReset)
}

/// Marks a packet as captured.
fn divert() -> Stmt {
    mark(CAPTURED_MARK)
}

/// Marks a packet; the bits that are not ours stay.
fn mark(value: u32) -> Stmt {
    Stmt::SetMarkMasked { value, mask: MARK_MASK }
}

fn goto(chain: &'static str) -> Verdict {
    #[expect(clippy::expect_used, reason = "the names are literals of this file, within the kernel's bounds")]
    Verdict::GotoTo(nlink::netlink::nftables::ChainName::new(chain).expect("a valid name"))
}

fn matching<const N: usize>(matches: [Match; N]) -> RuleSpec {
    matches.into_iter().fold(RuleSpec::new(), RuleSpec::then)
}

fn rule(matches: Vec<Match>, verdict: Verdict) -> RuleSpec {
    matches.into_iter().fold(RuleSpec::new(), RuleSpec::then).then(verdict)
}

fn unconditional(verdict: Verdict) -> RuleSpec {
    RuleSpec::new().then(verdict)
}

fn not_tcp() -> Match {
    Match::ne(Field::L4Proto, libc::IPPROTO_TCP as u8)
}

fn family(ip: Ip) -> Match {
    Match::eq(Field::NfProto, ip.number())
}

fn to_loopback() -> Match {
    Match::eq(Field::Oif, LOOPBACK)
}

fn from_loopback() -> Match {
    Match::eq(Field::Iif, LOOPBACK)
}

fn to_elsewhere() -> Match {
    Match::ne(Field::Fib { flags: FibFlags::DADDR, result: FibResult::AddrType }, RouteType::Local)
}

fn port(listener: Listen) -> Match {
    Match::eq(Field::TcpDport, listener.port())
}

fn marked(mark: u32) -> Match {
    Match::eq(Field::Mark, masked(mark))
}

fn masked(mark: u32) -> Value {
    Value::Masked { value: mark.into(), mask: MARK_MASK.into() }
}

/// Whether the packet has a socket at all; whatever the property, it can only be read from one.
fn has_socket() -> Match {
    Match::new(Field::Socket(SocketKey::Transparent), MatchOp::Le, true)
}

fn flags(value: TcpFlags, mask: TcpFlags) -> Value {
    Value::Masked { value: value.0.into(), mask: mask.0.into() }
}

const OPENING: TcpFlags = TcpFlags(TcpFlags::SYN.0 | TcpFlags::ACK.0 | TcpFlags::RST.0 | TcpFlags::FIN.0);

/// A packet that begins a connection.
fn syn() -> Match {
    Match::eq(Field::TcpFlags, flags(TcpFlags::SYN, OPENING))
}

fn not_syn() -> Match {
    Match::ne(Field::TcpFlags, flags(TcpFlags::SYN, OPENING))
}

/// Which ends of a packet are the pod's: its key in a set begins with them.
#[derive(Clone, Copy)]
enum Reading {
    /// The application sent it: its source.
    Sent,
    /// The network, or we, sent it to the application: its destination.
    Received,
}

/// Loads the key of a packet's connection, one 32-bit word after the other.
fn load(spec: &mut RuleSpec, ip: Ip, reading: Reading) {
    let (source, destination, length) = ip.addresses();
    let network = PayloadBase::Network;
    let transport = PayloadBase::Transport;
    let source = [(network, source, length), (transport, 0, 2)];
    let destination = [(network, destination, length), (transport, 2, 2)];
    let ends = match reading {
        Reading::Sent => [source, destination],
        Reading::Received => [destination, source],
    };
    let mut word = 0;
    for (base, offset, len) in ends.into_iter().flatten() {
        #[expect(clippy::expect_used, reason = "ten words at most, of the sixteen that there are")]
        let dreg = Register::word(word).expect("a register");
        spec.push(Expr::Payload { dreg, base, offset, len });
        word += (len as usize).div_ceil(4);
    }
}

/// A rule that goes on for packets of the connections in a group.
fn listed(group: Group, ip: Ip, reading: Reading, also: Option<Match>) -> RuleSpec {
    let mut spec = RuleSpec::new();
    spec.extend(also.map(nlink::netlink::nftables::Item::from));
    spec.push(family(ip));
    load(&mut spec, ip, reading);
    spec.push(Expr::Lookup(LookupExpr::new(group.set_name(ip), Register::R0)));
    spec
}

/// Notes the packet's connection in `fresh`; the rule ends where that is full.
fn note(spec: &mut RuleSpec, ip: Ip, reading: Reading) {
    change(spec, DynsetOp::Add, Group::Fresh, ip, reading);
}

/// Puts the packet's connection into a set, or takes it out (which is no failure where it is not in).
fn change(spec: &mut RuleSpec, operation: DynsetOp, group: Group, ip: Ip, reading: Reading) {
    load(spec, ip, reading);
    spec.push(Expr::Dynset(DynsetExpr::new(operation, group.set_name(ip), Register::R0)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_can_be_sent_and_every_chain_gone_to_exists_before() {
        for kind in Kind::ALL {
            let mut known = Vec::new();
            for chain in chains(kind) {
                for rule in &chain.rules {
                    let lowered = rule.lower(FAMILY).unwrap();
                    for expression in lowered {
                        if let Expr::Verdict(Verdict::GotoTo(to)) = expression {
                            assert!(
                                known.contains(&to.as_str().to_owned()),
                                "{kind:?}: {} goes to {to:?}",
                                chain.name
                            );
                        }
                    }
                }
                known.push(chain.name.to_owned());
            }
        }
    }
}
