//! The types of resources that nodes subscribe to.

use std::fmt;

/// A type of resource, one for each kind of update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // The names say it.
pub enum Type {
    Node,
    AuthorizationPolicy,
    PeerAuthentication,
    Workload,
    Service,
    EndpointSlice,
}

impl Type {
    /// All of them, policies before what they protect.
    pub const ALL: [Self; 6] = [
        Self::Node,
        Self::AuthorizationPolicy,
        Self::PeerAuthentication,
        Self::Workload,
        Self::Service,
        Self::EndpointSlice,
    ];

    /// Its type URL.
    pub fn url(self) -> &'static str {
        match self {
            Self::Node => "type.googleapis.com/aquifer.discovery.v1alpha1.Node",
            Self::AuthorizationPolicy => "type.googleapis.com/aquifer.discovery.v1alpha1.AuthorizationPolicy",
            Self::PeerAuthentication => "type.googleapis.com/aquifer.discovery.v1alpha1.PeerAuthentication",
            Self::Workload => "type.googleapis.com/aquifer.discovery.v1alpha1.Workload",
            Self::Service => "type.googleapis.com/aquifer.discovery.v1alpha1.Service",
            Self::EndpointSlice => "type.googleapis.com/aquifer.discovery.v1alpha1.EndpointSlice",
        }
    }

    /// The type of a URL.
    pub fn of_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|of| of.url() == url)
    }

    /// Its place in [`Type::ALL`].
    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
