//! Enrolment and its mirror: from no capture to full capture and back, without losing or leaking a connection in between.
//!
//! Each goes by three steps. The first decides only about connections that begin from then on, and notes them. Then the
//! sockets are listed: what is among them and was not noted stood before. The third step decides about all, with these by
//! name. A connection that begins at any moment is so either listed or noted, whichever way the steps fall.

use std::collections::HashSet;

use super::{
    FourTuple, MAX_TUPLES, RulesError, group::Group, kernel::Kernel, kernel::Label, refill, replace,
    table::Kind,
};
use crate::{
    NetNs,
    diag::{self, State, TcpSocket},
    netlink,
};

/// Captures a running pod: all that begins from now on, in both directions. Returns the connections that stood before, which
/// pass untouched; the caller ends those that policy forbids ([`crate::diag::destroy`]), and calls [`refresh`] until none is
/// left. The three listeners must be open before.
///
/// Where rules of ours stand already, of an earlier life of the process or of a pod that was about to leave, what they
/// capture stays captured and what they let pass still passes.
///
/// # Errors
/// As [`super::lay`]. What was laid by then stays, and calling again goes on from there.
pub fn enrol(ns: &NetNs, generation: u64) -> Result<Vec<FourTuple>, RulesError> {
    netlink::within(ns, async || {
        let kernel = Kernel::open()?;
        let before = Table::read(&kernel).await?;
        if let Some(before) = before.as_ref().filter(|before| before.label.kind == Kind::Capture) {
            let standing = alive(&applications().await?, &before.named);
            replace(Label { generation, kind: Kind::Capture }, &vec![(Group::Exempt, standing.clone())])
                .await?;
            return Ok(standing);
        }
        let captured = match &before {
            Some(before) => before.captured(&applications().await?),
            None => Vec::new(),
        };
        replace(Label { generation, kind: Kind::CaptureNew }, &vec![(Group::Fresh, captured)]).await?;

        let mut sockets = applications().await?;
        let fresh: HashSet<_> = kernel.members(Group::Fresh).await?.into_iter().collect();
        sockets.retain(|socket| !fresh.contains(&socket.four_tuple()));

        let standing = bounded(sockets.iter().map(TcpSocket::four_tuple).collect())?;
        sockets.retain(|socket| matches!(socket.state, State::SynSent | State::SynReceived));
        let opening = sockets.iter().map(TcpSocket::four_tuple).collect();
        let contents = vec![(Group::Exempt, standing.clone()), (Group::Opening, opening)];
        replace(Label { generation, kind: Kind::Capture }, &contents).await?;
        Ok(standing)
    })
}

/// Lets a captured pod go: all that begins from now on passes, in both directions. Returns the connections that we carry, which
/// stay with us; the caller calls [`refresh`] until none is left, and then [`super::remove`]. `None` if there is no table of
/// this generation.
///
/// # Errors
/// As [`super::lay`]. What was laid by then stays, and calling again goes on from there.
pub fn leave(ns: &NetNs, generation: u64) -> Result<Option<Vec<FourTuple>>, RulesError> {
    netlink::within(ns, async || {
        let kernel = Kernel::open()?;
        let Some(before) = Table::of(&kernel, generation).await? else { return Ok(None) };
        match before.label.kind {
            Kind::Leave => return Ok(Some(alive(&applications().await?, &before.all()))),
            Kind::Capture => {
                let exempt = before.named.into_iter().collect();
                replace(Label { generation, kind: Kind::LeaveNew }, &vec![(Group::Exempt, exempt)]).await?;
            }
            // An earlier attempt ended half-way.
            Kind::CaptureNew | Kind::LeaveNew => {}
        }
        let sockets = applications().await?;
        let Some(now) = Table::of(&kernel, generation).await? else { return Ok(None) };
        let carried = bounded(now.captured(&sockets))?;
        replace(Label { generation, kind: Kind::Leave }, &vec![(Group::Carried, carried.clone())]).await?;
        Ok(Some(carried))
    })
}

/// Drops from the rules the connections that have ended, and returns those that have not: of a captured pod the ones that
/// stood before, of a leaving one the ones that we carry. `None` if there is no table of this generation.
///
/// # Errors
/// As [`super::lay`].
pub fn refresh(ns: &NetNs, generation: u64) -> Result<Option<Vec<FourTuple>>, RulesError> {
    netlink::within(ns, async || {
        let kernel = Kernel::open()?;
        let Some(table) = Table::of(&kernel, generation).await? else { return Ok(None) };
        let sockets = applications().await?;
        if table.label.kind == Kind::Leave {
            // What packets note is left alone: they may note more meanwhile, and it all goes with the table.
            return Ok(Some(alive(&sockets, &table.all())));
        }
        let left = alive(&sockets, &table.named);
        if left.len() < table.named.len() && !refill(generation, &left).await? {
            return Ok(None);
        }
        Ok(Some(left))
    })
}

/// A table that stands, with its sets.
struct Table {
    label: Label,
    /// The set that its mode is about: exempt, or carried.
    named: HashSet<FourTuple>,
    fresh: HashSet<FourTuple>,
}

impl Table {
    /// `None` where there is none, or one that does not say what it is and so is nobody's.
    async fn read(kernel: &Kernel) -> Result<Option<Self>, RulesError> {
        let Some(label) = kernel.label().await?.flatten() else { return Ok(None) };
        let mut table = Self { label, named: HashSet::new(), fresh: HashSet::new() };
        for group in label.kind.sets() {
            match group {
                Group::Exempt | Group::Carried => table.named.extend(kernel.members(*group).await?),
                Group::Fresh => table.fresh.extend(kernel.members(*group).await?),
                Group::Opening | Group::Refused => {}
            }
        }
        Ok(Some(table))
    }

    /// The same, of this generation only.
    async fn of(kernel: &Kernel, generation: u64) -> Result<Option<Self>, RulesError> {
        Ok(Self::read(kernel).await?.filter(|table| table.label.generation == generation))
    }

    fn all(&self) -> HashSet<FourTuple> {
        self.named.union(&self.fresh).copied().collect()
    }

    /// The connections that this table gives to us, of an application that has these sockets.
    fn captured(&self, sockets: &[TcpSocket]) -> Vec<FourTuple> {
        match self.label.kind {
            Kind::CaptureNew | Kind::Leave => self.all().into_iter().collect(),
            Kind::Capture | Kind::LeaveNew => {
                let passing = self.all();
                sockets.iter().map(TcpSocket::four_tuple).filter(|tuple| !passing.contains(tuple)).collect()
            }
        }
    }
}

/// The connections of the pod's application with others, but for those in TIME-WAIT: all that one of them may still do is to
/// acknowledge once more an end that both sides have seen.
async fn applications() -> Result<Vec<TcpSocket>, RulesError> {
    let mut sockets = diag::dump_sockets().await?;
    sockets.retain(|socket| {
        let (local, remote) = (socket.local.ip(), socket.remote.ip());
        let to_itself = local.is_loopback() || remote.is_loopback() || local == remote;
        socket.state.is_connection() && socket.state != State::TimeWait && !socket.is_ours() && !to_itself
    });
    Ok(sockets)
}

fn alive(sockets: &[TcpSocket], among: &HashSet<FourTuple>) -> Vec<FourTuple> {
    sockets.iter().map(TcpSocket::four_tuple).filter(|tuple| among.contains(tuple)).collect()
}

fn bounded(tuples: Vec<FourTuple>) -> Result<Vec<FourTuple>, RulesError> {
    if tuples.len() > MAX_TUPLES { Err(RulesError::TooMany(tuples.len())) } else { Ok(tuples) }
}
