//! Which of a pod's connections that stood before capture came from outside: only those are the pod's policy's concern.

use std::collections::HashSet;

use aquifer_sys::diag::{State, TcpSocket};
use aquifer_sys::rules::FourTuple;

/// Of the exempt connections, those whose local port the pod listens on.
pub(crate) fn inbound<'a>(
    exempt: &'a [FourTuple],
    dump: &[TcpSocket],
) -> impl Iterator<Item = FourTuple> + use<'a> {
    let ports: HashSet<u16> = dump
        .iter()
        .filter(|socket| socket.state == State::Listen && !socket.is_ours())
        .map(|socket| socket.local.port())
        .collect();
    exempt.iter().copied().filter(move |connection| ports.contains(&connection.local.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(local: &str, state: State, mark: u32) -> TcpSocket {
        let (local, remote) = (local.parse().unwrap(), "0.0.0.0:0".parse().unwrap());
        TcpSocket { local, remote, state, mark: Some(mark), inode: 1, uid: 0 }
    }

    #[test]
    fn only_calls_to_a_port_that_the_pod_serves_are_inbound() {
        let tuple = |local: &str, remote: &str| FourTuple {
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
        };
        let called = tuple("10.0.0.1:80", "10.0.0.9:4000");
        let calling = tuple("10.0.0.1:5000", "10.0.0.8:443");
        let ours = tuple("10.0.0.1:15001", "10.0.0.8:443");
        let dump = [
            socket("0.0.0.0:80", State::Listen, 0),
            socket("0.0.0.0:15001", State::Listen, aquifer_sys::MARK),
            socket("10.0.0.1:5000", State::Established, 0),
        ];
        let exempt = [called, calling, ours];
        assert_eq!(inbound(&exempt, &dump).collect::<Vec<_>>(), [called]);
    }
}
