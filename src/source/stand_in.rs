//! What stands in for policies that cannot be read and of which no good version is known: an unreadable policy must
//! never be an open door.

use std::sync::Arc;

use aquifer_k8s::names;
use aquifer_model::PolicyScope;

use crate::TranslateConfig;
use crate::object::{self, Key, Kind, Meta, Object};
use crate::read::Place;
use crate::yaml::Document;

/// What stands in for a policy of that name and scope.
pub(crate) fn stand_in(kind: Kind, meta: &Meta, scope: PolicyScope) -> (Key, Object) {
    let object = match kind {
        Kind::PeerAuthentication | Kind::IstioPeerAuthentication => {
            Object::PeerAuthentication(object::strict(meta, scope))
        }
        _ => Object::AuthorizationPolicy(object::deny_all(meta, scope)),
    };
    (Key::new(kind, &meta.namespace, &meta.name), object)
}

/// What a stand-in does, told to the user.
pub(crate) fn closes(key: &Key) -> &'static str {
    match key.kind {
        Kind::PeerAuthentication | Kind::IstioPeerAuthentication => {
            "no good version of it is known, so until it is mended it demands mutual TLS (STRICT) of all callers"
        }
        _ => {
            "no good version of it is known, so until it is mended it denies all calls to the workloads it is about"
        }
    }
}

/// A name for a policy that has none to be read. Kubernetes allows no `@` in a name, so it cannot meet another.
pub(crate) fn nameless(place: Place) -> Arc<str> {
    format!("unreadable@{}.{}", place.document.unwrap_or(0), place.line.unwrap_or(0)).into()
}

/// A document that is no YAML may still be a policy, as its lines tell. Then what stands in for it is about the whole
/// namespace that a line names, or about the whole mesh where that line, too, is unreadable.
pub(crate) fn guess(document: &Document<'_>, config: &TranslateConfig) -> Option<(Key, Object)> {
    let value = |key: &str| {
        document.text.lines().find_map(|line| {
            let rest = line.trim_start().trim_start_matches("- ").trim_start_matches(['"', '\'', '{', ' ']);
            let rest = rest.strip_prefix(key)?.trim_start_matches(['"', '\'']).trim_start();
            Some(rest.strip_prefix(':')?.split('#').next()?.trim_matches([' ', '"', '\'', ',', '}', '\t']))
        })
    };
    let istio = document.text.contains(names::ISTIO_GROUP);
    let says = |kind: &str| document.text.contains(kind);
    let kind = match (says("AuthorizationPolicy"), says("PeerAuthentication"), istio) {
        (true, _, false) => Kind::AuthorizationPolicy,
        (true, _, true) => Kind::IstioAuthorizationPolicy,
        (false, true, false) => Kind::PeerAuthentication,
        (false, true, true) => Kind::IstioPeerAuthentication,
        (false, false, _) => return None,
    };
    let namespace = match value("namespace").map(|text| Meta::new(Some("x"), Some(text))) {
        Some(Ok(meta)) => meta.namespace,
        None if !says("namespace") => "default".into(),
        _ => config.root_namespace.clone(),
    };
    let place = Place { document: Some(document.number), ..Place::default() };
    let name = value("name").and_then(|name| Meta::new(Some(name), None).ok());
    let name = name.map_or_else(|| nameless(place), |meta| meta.name);
    let meta = Meta { namespace, name };
    let scope = object::whole(&meta.namespace, config);
    Some(stand_in(kind, &meta, scope))
}
