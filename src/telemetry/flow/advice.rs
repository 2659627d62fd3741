//! What to do about a connection that was denied or failed, in one sentence.

use crate::{FlowEnd, Hop, Path, Verdict};

/// The advice for an end, by its reason where that says enough, else by the hop. None for one that ended well.
pub(crate) fn advice(end: &FlowEnd, path: Path) -> Option<&'static str> {
    if end.verdict == Verdict::Allowed {
        return None;
    }
    by_reason(end.reason.as_deref().unwrap_or_default()).or_else(|| match (end.verdict, end.hop) {
        (Verdict::Denied, _) => {
            Some("see why with `aquifer explain`, and change the policy named here if it is wrong")
        }
        (_, hop) => hop.map(|hop| by_hop(hop, path)),
    })
}

fn by_reason(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "deny-policy" => {
            "a DENY rule matches this caller; change the rule named here if the call is legitimate"
        }
        "no-allow-match" => "add the caller to an ALLOW rule of this workload; try it with `aquifer explain`",
        "strict-mtls" => {
            "put the caller into the mesh, or set PeerAuthentication to PERMISSIVE for this port"
        }
        "unknown-policy" => {
            "the policy has an action this version does not know: remove it or upgrade aquifer"
        }
        "no-endpoint" => "no pod behind the Service is ready: look at its selector and at its pods",
        "no-such-port" => "call a port that the Service has, or add this one to it",
        "proxy-port" => "ports 15001, 15006 and 15008 belong to the proxy: call the application's own port",
        "unknown-destination" => {
            "nothing known has this address: see whether the pod exists and the source is in sync"
        }
        "certificate-expired" => {
            "see why the certificate was not renewed: /certificates and the log of its node"
        }
        "root-removed" => {
            "the root behind the peer's certificate left the trust bundle: renew the peer's certificate"
        }
        "out-of-descriptors" => {
            "raise RLIMIT_NOFILE of the node (LimitNOFILE= in a systemd unit) or lower --max-connections"
        }
        "peer-reset" => {
            "the other side's application reset it, or its node did; the record of that node says which and why"
        }
        "reader-stopped" => {
            "see why that application reads no more; where it will again, raise --buffer-cap to wait for it"
        }
        "half-close-idle" => {
            "raise --half-close-idle if the application means to be silent for so long after the other's end"
        }
        "aborted" => "the proxy gave the connection up; look at its log of this moment",
        _ => return None,
    })
}

fn by_hop(hop: Hop, path: Path) -> &'static str {
    match (hop, path) {
        (Hop::Application, _) => "the application on this side reset its connection; look at its log",
        (Hop::Dial, Path::Tunnel) => {
            "see whether `aquifer node` runs on the destination's node and nothing (a NetworkPolicy?) blocks port 15008"
        }
        (Hop::Dial, _) => "see whether the destination runs and listens on this port",
        (Hop::Tls, _) => "compare both nodes' trust domain, roots and clocks (/certificates shows them)",
        (Hop::Tunnel, _) => {
            "the tunnel to the other node broke; look at that node's proxy and the network between"
        }
        (Hop::Peer, _) => "the other node's proxy refused; its own record of this connection says why",
        (Hop::Destination, _) => {
            "the destination application refused or reset; see whether it runs and listens"
        }
    }
}
