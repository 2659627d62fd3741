//! An explanation in words, step by step.

use std::fmt;

use aquifer_model::MtlsMode;

use super::{Endpoint, Explanation, Mtls, Outcome, Party, PathKind};

/// Endpoints that are written out; JSON has all.
const SHOWN: usize = 20;

/// Problems that are written out; JSON has all.
const PROBLEMS: usize = 10;

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "caller     {}", self.caller)?;
        write!(f, "called     {}", self.called.asked)?;
        if let Some(hostname) = &self.called.service {
            write!(f, ", Service {hostname}")?;
        }
        if let [address] = self.called.addresses[..] {
            write!(f, ", address {address}")?;
        }
        writeln!(f, "\nresolved   {}", self.resolution.text)?;
        for (index, endpoint) in self.endpoints.iter().take(SHOWN).enumerate() {
            write!(f, "{:>9}. {endpoint}", index + 1)?;
        }
        if self.endpoints.len() > SHOWN {
            writeln!(f, "           and {} more", self.endpoints.len() - SHOWN)?;
        }
        writeln!(f, "outcome    {}", self.conclusion())?;
        for problem in self.problems.iter().take(PROBLEMS) {
            writeln!(f, "problem    {problem}")?;
        }
        match self.problems.len() {
            0 => writeln!(f, "{:<11}no problem found", self.origin.to_string()),
            many if many > PROBLEMS => writeln!(f, "problem    and {} more", many - PROBLEMS),
            _ => Ok(()),
        }
    }
}

impl Explanation {
    fn conclusion(&self) -> String {
        let allowed = self.verdicts().filter(|verdict| verdict.allowed).count();
        match self.outcome {
            Outcome::Allowed if self.endpoints.is_empty() => {
                "ALLOWED: it passes through, no policy is asked".into()
            }
            Outcome::Allowed => "ALLOWED".into(),
            Outcome::Denied => "DENIED: the caller sees a reset".into(),
            Outcome::Mixed => {
                format!("DENIED IN PART: allowed at {allowed} of {} endpoints", self.endpoints.len())
            }
            Outcome::Unresolved => format!("NOWHERE TO GO ({})", self.resolution.code),
        }
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let membership = if self.in_mesh { "in the mesh" } else { "not in the mesh" };
        write!(f, "{}, {membership} ({})", self.name, self.because)?;
        if self.identity.is_none() && self.node.is_none() {
            return Ok(());
        }
        let identity = self.identity.as_deref().unwrap_or("no identity");
        write!(f, "\n             {identity}, node {}", self.node.as_deref().unwrap_or("unknown"))?;
        for (index, ip) in self.addresses.iter().enumerate() {
            write!(f, "{} {ip}", if index == 0 { "," } else { " and" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.address, self.party)?;
        writeln!(f, "             path     {}", self.path)?;
        if let Some(mtls) = &self.mtls {
            writeln!(f, "             mTLS     {mtls}")?;
        }
        let verdict = if self.verdict.allowed { "allowed" } else { "denied" };
        write!(f, "             verdict  {verdict}: {}", self.verdict.text)?;
        match self.verdict.reason {
            Some(reason) => writeln!(f, " ({reason})")?,
            None => writeln!(f)?,
        }
        self.verdict.audited.iter().try_for_each(|rule| writeln!(f, "             audit    {rule} matches"))
    }
}

impl fmt::Display for PathKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tunnel => "tunnel: mutual TLS to the pod's node, port 15008",
            Self::SameNode => "same node: handed over inside the node's process, both identities checked",
            Self::Plaintext => "plaintext: as the caller sends it, without a proved identity",
        })
    }
}

impl fmt::Display for Mtls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.mode {
            MtlsMode::Strict => "STRICT, callers without identity are denied",
            MtlsMode::Permissive => "PERMISSIVE, plaintext is taken too",
            MtlsMode::Disable => "DISABLE, plaintext is taken too",
        };
        match &self.by {
            Some(by) => write!(f, "{mode}; so says {by}"),
            None => write!(f, "{mode}; the default, no PeerAuthentication applies"),
        }
    }
}
