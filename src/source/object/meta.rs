//! What every object has: a name, a namespace, labels.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use aquifer_k8s::ObjectMeta;
use aquifer_model::{NamespacedName, Protocol, Text};
use ipnet::IpNet;

use crate::Severity;
use crate::field::{Complain, Field};

/// The checked name of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// `metadata.namespace`, `default` where unset.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

/// Why an object has no usable name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    /// `metadata.name` is missing.
    #[error("the object has no name")]
    NoName,
    /// Kubernetes would not take the text as a name.
    #[error(
        "{0:?} is no Kubernetes name (a-z 0-9 - ., at most {1} characters, a letter or digit at both ends)"
    )]
    Form(String, usize),
}

impl Meta {
    /// Checks name and namespace; the error comes with the key in `metadata` that it is about.
    pub fn new(name: Option<&str>, namespace: Option<&str>) -> Result<Self, (&'static str, MetaError)> {
        let name = name.filter(|name| !name.is_empty()).ok_or(("name", MetaError::NoName))?;
        let namespace = namespace.filter(|name| !name.is_empty()).unwrap_or("default");
        Ok(Self {
            namespace: checked(namespace, 63).map_err(|error| ("namespace", error))?,
            name: checked(name, 253).map_err(|error| ("name", error))?,
        })
    }

    /// Namespace and name together.
    pub fn namespaced(&self) -> NamespacedName {
        NamespacedName::new(self.namespace.clone(), self.name.clone())
    }
}

/// RFC 1123 names, which end up in host names, identities and headers.
fn checked(name: &str, longest: usize) -> Result<Arc<str>, MetaError> {
    let inner =
        |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || (c == b'.' && longest > 63);
    let edge = |c: Option<&u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let bytes = name.as_bytes();
    if bytes.len() <= longest && bytes.iter().all(|c| inner(*c)) && edge(bytes.first()) && edge(bytes.last())
    {
        Ok(name.into())
    } else {
        Err(MetaError::Form(name.chars().take(longest + 1).collect(), longest))
    }
}

/// Checks a name that refers to another object.
pub(super) fn reference(name: &str, field: &Field<'_>, complain: &mut Complain<'_>) -> Option<Arc<str>> {
    checked(name, 253).map_err(|error| complain(Severity::Error, field, error.to_string())).ok()
}

/// Labels, sorted by key as the map is.
pub(super) fn labels(meta: &ObjectMeta) -> Vec<(Text, Text)> {
    let labels = meta.labels.iter().flatten();
    labels.map(|(key, value)| (key.into(), value.into())).collect()
}

/// The value of a label that is set and not empty.
pub(super) fn label<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.labels.as_ref()?.get(key).map(String::as_str).filter(|value| !value.is_empty())
}

/// An address, v4-mapped ones as v4.
pub(super) fn address(text: &str, field: &Field<'_>, complain: &mut Complain<'_>) -> Option<IpAddr> {
    match IpAddr::from_str(text) {
        Ok(address) => Some(address.to_canonical()),
        Err(_) => {
            complain(Severity::Error, field, format!("{text:?} is no IP address"));
            None
        }
    }
}

/// An address or a network in CIDR form; bits behind the prefix are dropped.
pub(super) fn network(text: &str, field: &Field<'_>, complain: &mut Complain<'_>) -> Option<IpNet> {
    let net = match (IpNet::from_str(text), IpAddr::from_str(text)) {
        (Ok(net), _) => net.trunc(),
        (_, Ok(address)) => IpNet::from(address.to_canonical()),
        _ => {
            complain(
                Severity::Error,
                field,
                format!("{text:?} is no IP address and no CIDR such as 10.0.0.0/8"),
            );
            return None;
        }
    };
    // Addresses are compared as v4 where they are v4-mapped, so such a network has to be one of v4, too.
    if let IpNet::V6(v6) = net
        && let Some(v4) = v6.network().to_ipv4_mapped()
        && v6.prefix_len() >= 96
    {
        return IpNet::new(v4.into(), v6.prefix_len() - 96).ok();
    }
    Some(net)
}

/// A port, 1 to 65535.
pub(super) fn port(number: i64, field: &Field<'_>, complain: &mut Complain<'_>) -> Option<u16> {
    let port = u16::try_from(number).ok().filter(|port| *port > 0);
    if port.is_none() {
        complain(Severity::Error, field, format!("{number} is no port: ports are 1 to 65535"));
    }
    port
}

/// A protocol, TCP where unset.
pub(super) fn protocol(
    text: Option<&str>,
    field: &Field<'_>,
    complain: &mut Complain<'_>,
) -> Option<Protocol> {
    match text {
        None | Some("" | "TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(other) => {
            complain(Severity::Error, field, format!("{other:?} is no protocol: TCP, UDP or SCTP"));
            None
        }
    }
}
