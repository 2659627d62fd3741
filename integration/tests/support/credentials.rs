//! Credentials from the mesh's own authority, or from one that the mesh knows nothing of.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use aquifer_model::Identity;
use aquifer_pki::{Issued, LocalCa, Validity};

/// Issues a certificate that holds now for `identity` (`spiffe://…`), from the authority in `ca`, which is made where it
/// is not there yet.
pub(crate) fn issue(ca: &Path, identity: &str) -> Result<Issued> {
    issue_for(ca, identity, Validity::starting(SystemTime::now(), Duration::from_secs(3600)))
}

/// As [`issue`], with a validity of the caller's choice.
pub(crate) fn issue_for(ca: &Path, identity: &str, validity: Validity) -> Result<Issued> {
    let identity: Identity = identity.parse()?;
    // The folder does not say whose it is: for this one call it is the identity's own.
    let authority = LocalCa::open_or_create(ca, &identity.trust_domain)
        .with_context(|| format!("cannot open the authority in {}", ca.display()))?;
    Ok(authority.issue(&identity, validity)?)
}
