//! Policies. What a reader does not know must never allow, and is an error where it cannot deny.

use aquifer_model::{
    Action, AuthorizationPolicy, Clause, Match, MtlsMode, PeerAuthentication, PolicyScope, Rule, StringMatch,
};

use super::{Wrong, parts};
use crate::proto::mesh;
use mesh::scope::Scope;
use mesh::string_match::Match as Text;

/// What this version writes, and the most that it understands. Whoever adds a condition to policies raises it in those that have it: an
/// older reader would skip the condition, and allow more.
const LEVEL: u32 = 0;

pub(super) fn to_wire(policy: &AuthorizationPolicy) -> mesh::AuthorizationPolicy {
    mesh::AuthorizationPolicy {
        name: Some((&policy.name).into()),
        scope: Some(scope(&policy.scope)),
        action: i32::from(match policy.action {
            Action::Allow => mesh::Action::Allow,
            Action::Deny => mesh::Action::Deny,
            Action::Audit => mesh::Action::Audit,
            Action::Unknown => mesh::Action::Unknown,
        }),
        rules: policy
            .rules
            .iter()
            .map(|rule| mesh::Rule {
                clauses: rule
                    .clauses
                    .iter()
                    .map(|clause| mesh::Clause { matches: clause.0.iter().map(match_to_wire).collect() })
                    .collect(),
                l7: rule.l7,
            })
            .collect(),
        needs: LEVEL,
    }
}

pub(super) fn from_wire(wire: mesh::AuthorizationPolicy) -> Result<AuthorizationPolicy, Wrong> {
    understood(wire.needs)?;
    let clause = |clause: mesh::Clause| {
        clause.matches.into_iter().map(match_from_wire).collect::<Result<_, Wrong>>().map(Clause)
    };
    let rule = |rule: mesh::Rule| {
        let clauses = rule.clauses.into_iter().map(clause).collect::<Result<_, Wrong>>()?;
        Ok::<_, Wrong>(Rule { clauses, l7: rule.l7 })
    };
    Ok(AuthorizationPolicy {
        name: parts::name(wire.name)?,
        scope: to_scope(wire.scope)?,
        action: match mesh::Action::try_from(wire.action) {
            Ok(mesh::Action::Allow) => Action::Allow,
            Ok(mesh::Action::Deny) => Action::Deny,
            Ok(mesh::Action::Audit) => Action::Audit,
            // It denies.
            Ok(mesh::Action::Unknown) | Err(_) => Action::Unknown,
        },
        rules: wire.rules.into_iter().map(rule).collect::<Result<_, _>>()?,
    })
}

pub(super) fn peer_to_wire(policy: &PeerAuthentication) -> mesh::PeerAuthentication {
    mesh::PeerAuthentication {
        name: Some((&policy.name).into()),
        scope: Some(scope(&policy.scope)),
        mode: mode(policy.mode),
        ports: policy
            .ports
            .iter()
            .map(|(port, of)| mesh::PortMode { port: (*port).into(), mode: mode(*of) })
            .collect(),
        needs: LEVEL,
    }
}

pub(super) fn peer_from_wire(wire: mesh::PeerAuthentication) -> Result<PeerAuthentication, Wrong> {
    understood(wire.needs)?;
    let port = |port: mesh::PortMode| Ok::<_, Wrong>((parts::port(port.port)?, to_mode(port.mode)?));
    Ok(PeerAuthentication {
        name: parts::name(wire.name)?,
        scope: to_scope(wire.scope)?,
        mode: to_mode(wire.mode)?,
        ports: wire.ports.into_iter().map(port).collect::<Result<_, _>>()?,
    })
}

fn understood(needs: u32) -> Result<(), Wrong> {
    if needs > LEVEL {
        return Err(format!(
            "it has conditions that this version does not know (level {needs}, known is {LEVEL})"
        ));
    }
    Ok(())
}

fn mode(mode: Option<MtlsMode>) -> i32 {
    i32::from(match mode {
        None => mesh::Mode::Unset,
        Some(MtlsMode::Strict) => mesh::Mode::Strict,
        Some(MtlsMode::Permissive) => mesh::Mode::Permissive,
        Some(MtlsMode::Disable) => mesh::Mode::Disable,
    })
}

fn to_mode(number: i32) -> Result<Option<MtlsMode>, Wrong> {
    match mesh::Mode::try_from(number) {
        Ok(mesh::Mode::Unset) => Ok(None),
        Ok(mesh::Mode::Strict) => Ok(Some(MtlsMode::Strict)),
        Ok(mesh::Mode::Permissive) => Ok(Some(MtlsMode::Permissive)),
        Ok(mesh::Mode::Disable) => Ok(Some(MtlsMode::Disable)),
        Err(_) => Err(format!("mode {number} is not known")),
    }
}

fn scope(of: &PolicyScope) -> mesh::Scope {
    let scope = match of {
        PolicyScope::Mesh => Scope::Mesh(true),
        PolicyScope::Namespace => Scope::Namespace(true),
        PolicyScope::Selector(labels) => Scope::Selector(mesh::scope::Pairs { pairs: parts::pairs(labels) }),
        PolicyScope::Services(names) => {
            Scope::Services(mesh::scope::Names { names: names.iter().map(Into::into).collect() })
        }
        PolicyScope::Elsewhere => Scope::Elsewhere(true),
    };
    mesh::Scope { scope: Some(scope) }
}

fn to_scope(wire: Option<mesh::Scope>) -> Result<PolicyScope, Wrong> {
    match wire.and_then(|wire| wire.scope) {
        Some(Scope::Mesh(_)) => Ok(PolicyScope::Mesh),
        Some(Scope::Namespace(_)) => Ok(PolicyScope::Namespace),
        Some(Scope::Selector(labels)) => Ok(PolicyScope::Selector(parts::to_pairs(labels.pairs))),
        Some(Scope::Services(services)) => {
            let names = services.names.into_iter().map(|name| parts::name(Some(name)));
            Ok(PolicyScope::Services(names.collect::<Result<_, _>>()?))
        }
        Some(Scope::Elsewhere(_)) => Ok(PolicyScope::Elsewhere),
        None => Err("whom it is about is not known".to_owned()),
    }
}

fn match_to_wire(of: &Match) -> mesh::Match {
    let texts = |all: &[StringMatch]| all.iter().map(text).collect();
    let networks = |all: &[ipnet::IpNet]| all.iter().map(ToString::to_string).collect();
    let ports = |all: &[u16]| all.iter().map(|port| u32::from(*port)).collect();
    mesh::Match {
        principals: texts(&of.principals),
        not_principals: texts(&of.not_principals),
        namespaces: texts(&of.namespaces),
        not_namespaces: texts(&of.not_namespaces),
        service_accounts: texts(&of.service_accounts),
        not_service_accounts: texts(&of.not_service_accounts),
        source_ips: networks(&of.source_ips),
        not_source_ips: networks(&of.not_source_ips),
        destination_ips: networks(&of.destination_ips),
        not_destination_ips: networks(&of.not_destination_ips),
        destination_ports: ports(&of.destination_ports),
        not_destination_ports: ports(&of.not_destination_ports),
    }
}

fn match_from_wire(wire: mesh::Match) -> Result<Match, Wrong> {
    let texts = |all: Vec<mesh::StringMatch>| all.into_iter().map(to_text).collect::<Result<Vec<_>, _>>();
    let networks = |all: Vec<String>| -> Result<Vec<ipnet::IpNet>, Wrong> {
        all.iter().map(|text| text.parse().map_err(|_| format!("{text:?} is no network"))).collect()
    };
    let ports = |all: Vec<u32>| all.into_iter().map(parts::port).collect::<Result<Vec<_>, _>>();
    Ok(Match {
        principals: texts(wire.principals)?,
        not_principals: texts(wire.not_principals)?,
        namespaces: texts(wire.namespaces)?,
        not_namespaces: texts(wire.not_namespaces)?,
        service_accounts: texts(wire.service_accounts)?,
        not_service_accounts: texts(wire.not_service_accounts)?,
        source_ips: networks(wire.source_ips)?,
        not_source_ips: networks(wire.not_source_ips)?,
        destination_ips: networks(wire.destination_ips)?,
        not_destination_ips: networks(wire.not_destination_ips)?,
        destination_ports: ports(wire.destination_ports)?,
        not_destination_ports: ports(wire.not_destination_ports)?,
    })
}

fn text(of: &StringMatch) -> mesh::StringMatch {
    let text = match of {
        StringMatch::Exact(text) => Text::Exact(text.to_string()),
        StringMatch::Prefix(text) => Text::Prefix(text.to_string()),
        StringMatch::Suffix(text) => Text::Suffix(text.to_string()),
        StringMatch::Present => Text::Present(true),
    };
    mesh::StringMatch { r#match: Some(text) }
}

fn to_text(wire: mesh::StringMatch) -> Result<StringMatch, Wrong> {
    match wire.r#match {
        Some(Text::Exact(text)) => Ok(StringMatch::Exact(text.into())),
        Some(Text::Prefix(text)) => Ok(StringMatch::Prefix(text.into())),
        Some(Text::Suffix(text)) => Ok(StringMatch::Suffix(text.into())),
        Some(Text::Present(_)) => Ok(StringMatch::Present),
        None => Err("a text is compared in a way that is not known".to_owned()),
    }
}
