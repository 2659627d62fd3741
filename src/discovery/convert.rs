//! Updates to resources and back. What comes from the wire is checked: a resource that says nonsense is an error with its name.

mod parts;
mod policy;
mod service;
#[cfg(test)]
mod tests;
mod workload;

use std::fmt::Display;
use std::sync::Arc;

use aquifer_model::{NamespacedName, Pool, Update, WorkloadName};
use bytes::Bytes;
use prost::Message;

use crate::Type;
use crate::proto::mesh;
pub(crate) use parts::address;

/// What an update is on the wire.
pub struct Encoded {
    /// Its type.
    pub of: Type,
    /// The name of its resource.
    pub name: Arc<str>,
    /// The resource; `None` where it is gone.
    pub value: Option<Bytes>,
}

/// A resource that cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{of} {name:?} cannot be read: {why}; is the controller of a much newer version?")]
pub struct WireError {
    /// Its type.
    pub of: Type,
    /// Its name, at most 300 characters of it.
    pub name: String,
    /// What is wrong.
    pub why: String,
}

/// What a message lacks.
type Wrong = String;

/// An update as a resource.
pub fn encode(update: &Update) -> Encoded {
    let (of, name) = named(update);
    let value = match update {
        Update::Workload(w) => Some(workload::to_wire(w).encode_to_vec()),
        Update::Service(s) => Some(service::to_wire(s).encode_to_vec()),
        Update::EndpointSlice(s) => Some(service::slice_to_wire(s).encode_to_vec()),
        Update::Authorization(p) => Some(policy::to_wire(p).encode_to_vec()),
        Update::PeerAuthentication(p) => Some(policy::peer_to_wire(p).encode_to_vec()),
        Update::Node(n) => Some(workload::node_to_wire(n).encode_to_vec()),
        Update::WorkloadGone(_)
        | Update::ServiceGone(_)
        | Update::EndpointSliceGone(_)
        | Update::AuthorizationGone(_)
        | Update::PeerAuthenticationGone(_)
        | Update::NodeGone(_) => None,
    };
    Encoded { of, name, value: value.map(Bytes::from) }
}

/// Type and name of the resource that an update is about.
fn named(update: &Update) -> (Type, Arc<str>) {
    let text = |name: &dyn Display| Arc::from(name.to_string());
    match update {
        Update::Workload(w) => (Type::Workload, text(w.name())),
        Update::WorkloadGone(name) => (Type::Workload, text(name)),
        Update::Service(s) => (Type::Service, text(&s.name)),
        Update::ServiceGone(name) => (Type::Service, text(name)),
        Update::EndpointSlice(s) => (Type::EndpointSlice, text(&s.name)),
        Update::EndpointSliceGone(name) => (Type::EndpointSlice, text(name)),
        Update::Authorization(p) => (Type::AuthorizationPolicy, text(&p.name)),
        Update::AuthorizationGone(name) => (Type::AuthorizationPolicy, text(name)),
        Update::PeerAuthentication(p) => (Type::PeerAuthentication, text(&p.name)),
        Update::PeerAuthenticationGone(name) => (Type::PeerAuthentication, text(name)),
        Update::Node(n) => (Type::Node, n.name.clone()),
        Update::NodeGone(name) => (Type::Node, name.clone()),
    }
}

/// A resource as an update; what it has in common with others comes from `pool`.
pub fn decode(of: Type, name: &str, value: &[u8], pool: &mut Pool) -> Result<Update, WireError> {
    let error = |why| WireError { of, name: name.chars().take(300).collect(), why };
    let update = read(of, value, pool).map_err(error)?;
    // The name is what a removal will say, so it has to be the object's own.
    if *named(&update).1 == *name { Ok(update) } else { Err(error("it is another object's".to_owned())) }
}

fn read(of: Type, value: &[u8], pool: &mut Pool) -> Result<Update, Wrong> {
    Ok(match of {
        Type::Workload => Update::Workload(workload::from_wire(message(value)?, pool)?.into()),
        Type::Service => Update::Service(service::from_wire(message(value)?, pool)?.into()),
        Type::EndpointSlice => Update::EndpointSlice(service::slice_from_wire(message(value)?, pool)?.into()),
        Type::AuthorizationPolicy => Update::Authorization(policy::from_wire(message(value)?)?.into()),
        Type::PeerAuthentication => {
            Update::PeerAuthentication(policy::peer_from_wire(message(value)?)?.into())
        }
        Type::Node => Update::Node(workload::node_from_wire(message(value)?)?.into()),
    })
}

/// Reads any bytes as a resource, and what is understood once more after it was written: for fuzz targets. The first byte says of
/// which type. Returns whether it was a resource.
pub fn fuzz_resource(bytes: &[u8]) -> bool {
    let Some((first, value)) = bytes.split_first() else { return false };
    let of = Type::ALL[usize::from(*first) % Type::ALL.len()];
    let mut pool = Pool::default();
    let Ok(update) = read(of, value, &mut pool) else { return false };
    let Encoded { of: again, name, value } = encode(&update);
    let back = decode(of, &name, &value.unwrap_or_default(), &mut pool);
    assert_eq!((again, back.as_ref()), (of, Ok(&update)), "it is not what was written");
    let gone = removed(of, &name).map(|update| encode(&update));
    assert!(gone.is_ok_and(|gone| gone.of == of && gone.name == name && gone.value.is_none()));
    true
}

/// A resource that is gone, as an update.
pub type Removed = Result<Update, WireError>;

/// What is meant by a name that was removed.
pub fn removed(of: Type, name: &str) -> Removed {
    let namespaced = || match name.split_once('/') {
        Some((namespace, name)) => Ok(NamespacedName::new(namespace, name)),
        None => {
            let why = "its name has no namespace".to_owned();
            Err(WireError { of, name: name.chars().take(300).collect(), why })
        }
    };
    Ok(match of {
        Type::Workload => Update::WorkloadGone(WorkloadName::from_wire(name)),
        Type::Service => Update::ServiceGone(namespaced()?),
        Type::EndpointSlice => Update::EndpointSliceGone(namespaced()?),
        Type::AuthorizationPolicy => Update::AuthorizationGone(namespaced()?),
        Type::PeerAuthentication => Update::PeerAuthenticationGone(namespaced()?),
        Type::Node => Update::NodeGone(name.into()),
    })
}

fn message<T: Message + Default>(value: &[u8]) -> Result<T, Wrong> {
    T::decode(value).map_err(|error| error.to_string())
}

impl From<&NamespacedName> for mesh::Name {
    fn from(name: &NamespacedName) -> Self {
        Self { namespace: name.namespace.to_string(), name: name.name.to_string() }
    }
}
