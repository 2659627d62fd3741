//! What both policies share: whom they are about, and how their texts are read.

use std::sync::Arc;

use aquifer_k8s::{Selector, TargetRef};
use aquifer_model::{NamespacedName, PolicyScope, StringMatch};

use super::Meta;
use super::meta::reference;
use crate::field::{Complain, Field};
use crate::{Severity, TranslateConfig};

/// Objects that a policy may name at most.
const MAX_TARGETS: usize = 1_000;

/// Whom a policy is about; `None` where that is unreadable, which was then complained of.
pub fn scope(
    meta: &Meta,
    selector: Option<&Selector>,
    targets: (Option<&TargetRef>, &[TargetRef]),
    config: &TranslateConfig,
    complain: &mut Complain<'_>,
) -> Option<PolicyScope> {
    let spec = Field::ROOT.key("spec");
    let labels = selector.map(|selector| &selector.match_labels).filter(|labels| !labels.is_empty());
    let (one, several) = targets;
    if one.is_some() && !several.is_empty() {
        let message = "targetRef and targetRefs do not go together; keep targetRefs".to_owned();
        complain(Severity::Error, &spec.key("targetRef"), message);
        return None;
    }
    if one.is_none() && several.is_empty() {
        return Some(match labels {
            Some(labels) => PolicyScope::Selector(
                labels.iter().map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect(),
            ),
            None => whole(&meta.namespace, config),
        });
    }
    if labels.is_some() {
        let message =
            "selector and targetRefs do not go together: a policy is about pods or about Services".to_owned();
        complain(Severity::Error, &spec.key("selector"), message);
        return None;
    }
    if several.len() > MAX_TARGETS {
        let message = format!("{} targets are more than the bound of {MAX_TARGETS}", several.len());
        complain(Severity::Error, &spec.key("targetRefs"), message);
        return None;
    }
    let mut services = Vec::new();
    let list = spec.key("targetRefs");
    if let Some(target) = one {
        services.extend(service(meta, target, &spec.key("targetRef"), complain)?);
    }
    for (index, target) in several.iter().enumerate() {
        services.extend(service(meta, target, &list.index(index), complain)?);
    }
    services.sort();
    services.dedup();
    Some(if services.is_empty() { PolicyScope::Elsewhere } else { PolicyScope::Services(services) })
}

/// All of the policy's namespace; of the mesh, where it stands in the root namespace.
pub(crate) fn whole(namespace: &Arc<str>, config: &TranslateConfig) -> PolicyScope {
    if *namespace == config.root_namespace { PolicyScope::Mesh } else { PolicyScope::Namespace }
}

/// The Service that a target names; `Some(None)` for a target that is enforced elsewhere.
fn service(
    meta: &Meta,
    target: &TargetRef,
    field: &Field<'_>,
    complain: &mut Complain<'_>,
) -> Option<Option<NamespacedName>> {
    if target.namespace.as_deref().is_some_and(|namespace| namespace != meta.namespace.as_ref()) {
        let message = "a policy is about objects of its own namespace only".to_owned();
        complain(Severity::Error, &field.key("namespace"), message);
        return None;
    }
    let name = reference(&target.name, &field.key("name"), complain)?;
    match (target.group.as_str(), target.kind.as_str()) {
        ("" | "core", "Service") => Some(Some(NamespacedName::new(meta.namespace.clone(), name))),
        ("gateway.networking.k8s.io", "Gateway" | "GatewayClass")
        | ("networking.istio.io", "ServiceEntry") => Some(None),
        (group, kind) => {
            let message =
                format!("{kind} of group {group:?} is no target; Service, Gateway and GatewayClass are");
            complain(Severity::Error, &field.key("kind"), message);
            None
        }
    }
}

/// How many values a list of a policy may have. Each is compared with each call that the policy is about.
const MAX_VALUES: usize = 10_000;

/// Reads each text of a list.
pub(super) fn each<T>(
    texts: &[String],
    field: &Field<'_>,
    complain: &mut Complain<'_>,
    mut read: impl FnMut(&str, &Field<'_>, &mut Complain<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    if texts.len() > MAX_VALUES {
        complain(
            Severity::Error,
            field,
            format!("{} values are more than the bound of {MAX_VALUES}", texts.len()),
        );
        return None;
    }
    texts.iter().enumerate().map(|(index, text)| read(text, &field.index(index), complain)).collect()
}

/// Istio's string match. A star inside a text would be compared as a star, which nothing that is compared here can
/// have: then a DENY would never deny, so it is refused.
pub(super) fn string(text: &str, field: &Field<'_>, complain: &mut Complain<'_>) -> Option<StringMatch> {
    let inner = text.strip_suffix('*').or_else(|| text.strip_prefix('*')).unwrap_or(text);
    if text.is_empty() || inner.contains('*') {
        let message = if text.is_empty() {
            "an empty text matches nothing".to_owned()
        } else {
            format!("{text:?} has a * that stands neither alone, nor only at the start, nor only at the end")
        };
        complain(Severity::Error, field, message);
        return None;
    }
    Some(StringMatch::parse(text))
}

/// A principal, with or without `spiffe://` in front.
pub(super) fn principal(text: &str, field: &Field<'_>, complain: &mut Complain<'_>) -> Option<StringMatch> {
    let text = text.strip_prefix("spiffe://").unwrap_or(text);
    let matched = string(text, field, complain)?;
    if let StringMatch::Exact(text) = &matched
        && format!("spiffe://{text}").parse::<aquifer_model::Identity>().is_err()
    {
        let message =
            format!("{text:?} is nobody's identity: write TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT");
        complain(Severity::Warning, field, message);
    }
    Some(matched)
}

/// `NAMESPACE/SERVICE-ACCOUNT`, or a service account of the policy's namespace. Wildcards are not part of it, as in
/// Istio.
pub(super) fn service_account(
    namespace: &str,
    text: &str,
    field: &Field<'_>,
    complain: &mut Complain<'_>,
) -> Option<StringMatch> {
    let (namespace, account) = text.split_once('/').unwrap_or((namespace, text));
    if account.is_empty() || namespace.is_empty() || account.contains('/') || text.contains('*') {
        let message =
            format!("{text:?} is neither SERVICE-ACCOUNT nor NAMESPACE/SERVICE-ACCOUNT (without wildcards)");
        complain(Severity::Error, field, message);
        return None;
    }
    Some(StringMatch::Exact(format!("{namespace}/{account}").into()))
}

/// A port written as a text.
pub(super) fn port_text(text: &str, field: &Field<'_>, complain: &mut Complain<'_>) -> Option<u16> {
    let port = text.parse::<u16>().ok().filter(|port| *port > 0);
    if port.is_none() {
        complain(Severity::Error, field, format!("{text:?} is no port: ports are 1 to 65535"));
    }
    port
}
