//! The types of resources that are subscribed to: the mesh's own by nodes, Istio's by a ztunnel.

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

/// A type of Istio's own: the same mesh as a ztunnel understands it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IstioType {
    /// Policies.
    Authorization,
    /// Pods and Services.
    Address,
}

impl IstioType {
    /// Both of them, policies before what they protect.
    pub const ALL: [Self; 2] = [Self::Authorization, Self::Address];

    /// Its type URL.
    pub fn url(self) -> &'static str {
        match self {
            Self::Authorization => "type.googleapis.com/istio.security.Authorization",
            Self::Address => "type.googleapis.com/istio.workload.Address",
        }
    }

    /// The type of a URL.
    pub fn of_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|of| of.url() == url)
    }

    /// Its place in [`IstioType::ALL`].
    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

/// Any type that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Served {
    /// One of the mesh's own.
    Own(Type),
    /// One of Istio's.
    Istio(IstioType),
}

impl Served {
    /// The type of a URL.
    pub fn of_url(url: &str) -> Option<Self> {
        Type::of_url(url).map(Self::Own).or_else(|| IstioType::of_url(url).map(Self::Istio))
    }
}

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(of) => write!(f, "{of}"),
            Self::Istio(of) => write!(f, "istio.{of:?}"),
        }
    }
}
