//! AuthorizationPolicy and PeerAuthentication become the model's normal form.
//!
//! What only HTTP shows is left out of the clauses and marks the rule: an ALLOW rule with the mark never matches at
//! L4, a DENY rule matches more. An alternative of which nothing is left then matches any call, and so does its whole
//! clause, which is left out.

use std::sync::Arc;

use aquifer_k8s as k8s;
use aquifer_model::{
    Action, AuthorizationPolicy, Clause, Match, MtlsMode, PeerAuthentication, PolicyScope, Rule,
};

use super::Meta;
use super::meta::network;
use super::policy::{each, port_text, principal, scope, service_account, string};
use crate::field::{Complain, Field};
use crate::{Severity, TranslateConfig};

/// How what is said of a rule begins that asks for more than L4 can see.
pub(crate) const ONLY_HTTP: &str = "the rule asks for what only HTTP shows";

/// Fields that are named of a rule at most.
const MAX_NAMED: usize = 10;

/// Rules of a policy, alternatives of a clause and conditions of a rule at most: all are looked at for each call.
const MAX_ITEMS: usize = 1_000;

/// Reads an AuthorizationPolicy; `None` where it cannot be taken as written, which was then complained of.
pub fn authorization_policy(
    meta: &Meta,
    object: &k8s::AuthorizationPolicy,
    config: &TranslateConfig,
    complain: &mut Complain<'_>,
) -> Option<Arc<AuthorizationPolicy>> {
    let spec = &object.spec;
    let field = Field::ROOT.key("spec");
    let targets = (spec.target_ref.as_ref(), spec.target_refs.as_slice());
    let scope = scope(meta, spec.selector.as_ref(), targets, config, complain)?;
    let action = match spec.action.as_deref() {
        None | Some("" | "ALLOW") => Action::Allow,
        Some("DENY") => Action::Deny,
        Some("AUDIT") => Action::Audit,
        Some("CUSTOM") => {
            let message = "CUSTOM asks an external authorizer, which is not supported: calls that the rules match are denied";
            complain(Severity::Warning, &field.key("action"), message.to_owned());
            Action::Unknown
        }
        Some(other) => {
            let message = format!("{other:?} is no action: ALLOW, DENY, AUDIT or CUSTOM");
            complain(Severity::Error, &field.key("action"), message);
            return None;
        }
    };
    let list = field.key("rules");
    bounded(spec.rules.len(), &list, complain)?;
    let mut rules = Vec::with_capacity(spec.rules.len());
    for (index, each) in spec.rules.iter().enumerate() {
        let at = list.index(index);
        let read = rule(meta, each, &at, complain)?;
        if read.l7 && scope != PolicyScope::Elsewhere {
            let effect = match action {
                Action::Allow => "where no waypoint sees requests, the rule never allows",
                Action::Deny | Action::Unknown => {
                    "where no waypoint sees requests, the rule denies without looking at that"
                }
                Action::Audit => {
                    "where no waypoint sees requests, the rule is written down without looking at that"
                }
            };
            let message = format!("{ONLY_HTTP} ({}); {effect}", http_fields(each).join(", "));
            complain(Severity::Warning, &at, message);
        }
        rules.push(read);
    }
    Some(Arc::new(AuthorizationPolicy { name: meta.namespaced(), scope, action, rules }))
}

/// What stands in for a policy that cannot be read and of which no good version is known: it denies every call that
/// it is about.
pub fn deny_all(meta: &Meta, scope: PolicyScope) -> Arc<AuthorizationPolicy> {
    let rules = vec![Rule { clauses: Vec::new(), l7: false }];
    Arc::new(AuthorizationPolicy { name: meta.namespaced(), scope, action: Action::Unknown, rules })
}

fn rule(meta: &Meta, object: &k8s::Rule, field: &Field<'_>, complain: &mut Complain<'_>) -> Option<Rule> {
    let mut clauses = Vec::new();
    let mut l7 = false;

    let from = field.key("from");
    bounded(object.from.len(), &from, complain)?;
    let mut matches = Vec::with_capacity(object.from.len());
    for (index, each) in object.from.iter().enumerate() {
        matches.push(source(meta, &each.source, &from.index(index).key("source"), complain)?);
    }
    clauses.extend(clause(matches, &mut l7));

    let to = field.key("to");
    bounded(object.to.len(), &to, complain)?;
    let mut matches = Vec::with_capacity(object.to.len());
    for (index, each) in object.to.iter().enumerate() {
        matches.push(operation(&each.operation, &to.index(index).key("operation"), complain)?);
    }
    clauses.extend(clause(matches, &mut l7));

    let when = field.key("when");
    bounded(object.when.len(), &when, complain)?;
    for (index, each) in object.when.iter().enumerate() {
        let read = condition(meta, each, &when.index(index), complain)?;
        clauses.extend(clause(vec![read], &mut l7));
    }
    Some(Rule { clauses, l7 })
}

/// The fields of a rule that only HTTP shows, by name.
fn http_fields(rule: &k8s::Rule) -> Vec<String> {
    let mut fields: Vec<String> = Vec::new();
    let mut add = |set: bool, name: &str| {
        if set && fields.len() < MAX_NAMED && !fields.iter().any(|field| field == name) {
            fields.push(name.to_owned());
        }
    };
    let sources = rule.from.iter().flat_map(|from| http_of_source(&from.source));
    let operations = rule.to.iter().flat_map(|to| http_of_operation(&to.operation));
    for (name, values) in sources.chain(operations) {
        add(!values.is_empty(), name);
    }
    for condition in &rule.when {
        let shown: String = condition.key.chars().take(100).collect();
        add(is_http(&condition.key), &shown);
    }
    fields
}

/// A field's name, and what stands in it.
type Named<'a> = (&'static str, &'a [String]);

/// What only HTTP shows of a caller: claims of its token, and the original client's address.
fn http_of_source(source: &k8s::Source) -> [Named<'_>; 4] {
    [
        ("requestPrincipals", &source.request_principals),
        ("notRequestPrincipals", &source.not_request_principals),
        ("remoteIpBlocks", &source.remote_ip_blocks),
        ("notRemoteIpBlocks", &source.not_remote_ip_blocks),
    ]
}

/// What only HTTP shows of a call.
fn http_of_operation(operation: &k8s::Operation) -> [Named<'_>; 6] {
    [
        ("hosts", &operation.hosts),
        ("notHosts", &operation.not_hosts),
        ("methods", &operation.methods),
        ("notMethods", &operation.not_methods),
        ("paths", &operation.paths),
        ("notPaths", &operation.not_paths),
    ]
}

/// Whether an attribute is seen in requests alone. The server name of the application's own TLS is inside what is carried, never
/// looked at here.
fn is_http(key: &str) -> bool {
    key == "remote.ip"
        || key == "connection.sni"
        || key.starts_with("request.")
        || key.starts_with("experimental.envoy.filters.")
}

/// One alternative: what L4 can compare, and whether there was more.
struct Alternative {
    l4: Match,
    l7: bool,
}

/// Alternatives become a clause; none where there are none, or where one of them matches any call at L4.
fn clause(alternatives: Vec<Alternative>, l7: &mut bool) -> Option<Clause> {
    let mut matches = Vec::with_capacity(alternatives.len());
    let mut any = alternatives.is_empty();
    for alternative in alternatives {
        *l7 |= alternative.l7;
        any |= alternative.l7 && alternative.l4 == Match::default();
        matches.push(alternative.l4);
    }
    (!any).then_some(Clause(matches))
}

fn source(
    meta: &Meta,
    object: &k8s::Source,
    field: &Field<'_>,
    complain: &mut Complain<'_>,
) -> Option<Alternative> {
    if *object == k8s::Source::default() {
        return empty(field, complain);
    }
    let account = |text: &str, at: &Field<'_>, complain: &mut Complain<'_>| {
        service_account(&meta.namespace, text, at, complain)
    };
    let l4 = Match {
        principals: each(&object.principals, &field.key("principals"), complain, principal)?,
        not_principals: each(&object.not_principals, &field.key("notPrincipals"), complain, principal)?,
        namespaces: each(&object.namespaces, &field.key("namespaces"), complain, string)?,
        not_namespaces: each(&object.not_namespaces, &field.key("notNamespaces"), complain, string)?,
        service_accounts: each(&object.service_accounts, &field.key("serviceAccounts"), complain, account)?,
        not_service_accounts: each(
            &object.not_service_accounts,
            &field.key("notServiceAccounts"),
            complain,
            account,
        )?,
        source_ips: each(&object.ip_blocks, &field.key("ipBlocks"), complain, network)?,
        not_source_ips: each(&object.not_ip_blocks, &field.key("notIpBlocks"), complain, network)?,
        ..Match::default()
    };
    // Read, so that a wrong one is told.
    each(&object.remote_ip_blocks, &field.key("remoteIpBlocks"), complain, network)?;
    each(&object.not_remote_ip_blocks, &field.key("notRemoteIpBlocks"), complain, network)?;
    Some(Alternative { l4, l7: http_of_source(object).iter().any(|(_, values)| !values.is_empty()) })
}

fn operation(object: &k8s::Operation, field: &Field<'_>, complain: &mut Complain<'_>) -> Option<Alternative> {
    if *object == k8s::Operation::default() {
        return empty(field, complain);
    }
    let l4 = Match {
        destination_ports: each(&object.ports, &field.key("ports"), complain, port_text)?,
        not_destination_ports: each(&object.not_ports, &field.key("notPorts"), complain, port_text)?,
        ..Match::default()
    };
    Some(Alternative { l4, l7: http_of_operation(object).iter().any(|(_, values)| !values.is_empty()) })
}

/// An alternative without a field would never match: in a DENY, an open door.
fn empty(field: &Field<'_>, complain: &mut Complain<'_>) -> Option<Alternative> {
    let message =
        "nothing stands in it, so it matches nothing; name something, or leave it out to mean any".to_owned();
    complain(Severity::Error, field, message);
    None
}

fn condition(
    meta: &Meta,
    object: &k8s::Condition,
    field: &Field<'_>,
    complain: &mut Complain<'_>,
) -> Option<Alternative> {
    if object.values.is_empty() && object.not_values.is_empty() {
        return empty(field, complain);
    }
    let mut l4 = Match::default();
    let (values, not_values) = (field.key("values"), field.key("notValues"));
    macro_rules! lists {
        ($field:ident, $not:ident, $read:expr) => {{
            l4.$field = each(&object.values, &values, complain, $read)?;
            l4.$not = each(&object.not_values, &not_values, complain, $read)?;
        }};
    }
    match object.key.as_str() {
        "source.ip" => lists!(source_ips, not_source_ips, network),
        "source.namespace" => lists!(namespaces, not_namespaces, string),
        "source.principal" => lists!(principals, not_principals, principal),
        "source.serviceAccount" => {
            lists!(
                service_accounts,
                not_service_accounts,
                |text: &str, at: &Field<'_>, complain: &mut Complain<'_>| {
                    service_account(&meta.namespace, text, at, complain)
                }
            );
        }
        "destination.ip" => lists!(destination_ips, not_destination_ips, network),
        "destination.port" => lists!(destination_ports, not_destination_ports, port_text),
        "remote.ip" => {
            each(&object.values, &values, complain, network)?;
            each(&object.not_values, &not_values, complain, network)?;
            return Some(Alternative { l4, l7: true });
        }
        key if is_http(key) => return Some(Alternative { l4, l7: true }),
        other => {
            let shown: String = other.chars().take(100).collect();
            complain(Severity::Error, &field.key("key"), format!("{shown:?} is no attribute that Istio has"));
            return None;
        }
    }
    Some(Alternative { l4, l7: false })
}

fn bounded(count: usize, field: &Field<'_>, complain: &mut Complain<'_>) -> Option<()> {
    if count > MAX_ITEMS {
        complain(Severity::Error, field, format!("{count} items are more than the bound of {MAX_ITEMS}"));
        return None;
    }
    Some(())
}

/// Reads a PeerAuthentication; `None` where it cannot be taken as written, which was then complained of.
pub fn peer_authentication(
    meta: &Meta,
    object: &k8s::PeerAuthentication,
    config: &TranslateConfig,
    complain: &mut Complain<'_>,
) -> Option<Arc<PeerAuthentication>> {
    let spec = &object.spec;
    let field = Field::ROOT.key("spec");
    let scope = scope(meta, spec.selector.as_ref(), (None, &[]), config, complain)?;
    let mode = mode(spec.mtls.as_ref(), &field.key("mtls"), complain)?;
    let list = field.key("portLevelMtls");
    bounded(spec.port_level_mtls.len(), &list, complain)?;
    if !spec.port_level_mtls.is_empty() && !matches!(scope, PolicyScope::Selector(_)) {
        let message = "modes of single ports need a selector: ports are those of a workload".to_owned();
        complain(Severity::Error, &list, message);
        return None;
    }
    let mut ports = Vec::with_capacity(spec.port_level_mtls.len());
    for (port, each) in &spec.port_level_mtls {
        let at = list.key(port);
        ports.push((port_text(port, &at, complain)?, self::mode(Some(each), &at, complain)?));
    }
    ports.sort_by_key(|(port, _)| *port);
    Some(Arc::new(PeerAuthentication { name: meta.namespaced(), scope, mode, ports }))
}

/// What stands in for a PeerAuthentication that cannot be read and of which no good version is known.
pub fn strict(meta: &Meta, scope: PolicyScope) -> Arc<PeerAuthentication> {
    let mode = Some(MtlsMode::Strict);
    Arc::new(PeerAuthentication { name: meta.namespaced(), scope, mode, ports: Vec::new() })
}

/// `Some(None)` where it is left to the wider scope.
fn mode(
    object: Option<&k8s::MutualTls>,
    field: &Field<'_>,
    complain: &mut Complain<'_>,
) -> Option<Option<MtlsMode>> {
    match object.and_then(|mtls| mtls.mode.as_deref()) {
        None | Some("" | "UNSET") => Some(None),
        Some("STRICT") => Some(Some(MtlsMode::Strict)),
        Some("PERMISSIVE") => Some(Some(MtlsMode::Permissive)),
        Some("DISABLE") => Some(Some(MtlsMode::Disable)),
        Some(other) => {
            let message = format!("{other:?} is no mode: STRICT, PERMISSIVE, DISABLE or UNSET");
            complain(Severity::Error, &field.key("mode"), message);
            None
        }
    }
}

#[cfg(test)]
mod tests;
