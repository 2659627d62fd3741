//! The routing that brings diverted packets back into the namespace: a rule for the mark, and a table in which all is local.

use std::{fs, net::IpAddr};

use nlink::{
    Result,
    netlink::{
        Connection, Route,
        messages::{RouteMessage, RuleMessage},
        route::{Ipv4Route, Ipv6Route},
        rule::RuleBuilder,
        types::route::{RouteScope, RouteType},
    },
};

use super::group::Ip;
use crate::{CAPTURED_MARK, MARK_MASK};

/// The routing table; Istio's number.
const TABLE: u32 = 100;
/// Place of the rule that looks the table up, before the main table (32766); Istio's number.
const LOOKUP: u32 = 32764;
/// Place of the rule that refuses what the table did not take, as when the loopback device was down and so lost its routes:
/// diverted packets must never leave in clear.
const REFUSE: u32 = 32765;
/// The loopback device has index 1 in every namespace.
pub(super) const LOOPBACK: u32 = 1;

/// How far a namespace has an address family.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Support {
    /// The kernel lacks it.
    None,
    /// There are no addresses, and the loopback device takes no routes; but it could be switched on.
    Off,
    On,
}

/// To be asked from inside the namespace, which /proc/sys/net shows to a thread in it.
fn support(ip: Ip) -> Support {
    match ip {
        Ip::V4 => Support::On,
        Ip::V6 => match fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6") {
            Ok(text) if text.trim() == "0" => Support::On,
            Ok(_) => Support::Off,
            Err(_) => Support::None,
        },
    }
}

fn builder(ip: Ip) -> RuleBuilder {
    let builder = match ip {
        Ip::V4 => RuleBuilder::v4(),
        Ip::V6 => RuleBuilder::v6(),
    };
    builder.fwmark_mask(CAPTURED_MARK, MARK_MASK)
}

fn wanted_rules(ip: Ip) -> [RuleBuilder; 2] {
    [builder(ip).priority(LOOKUP).table(TABLE), builder(ip).priority(REFUSE).prohibit()]
}

/// The route by which all of IPv4 is local, in a table.
pub(super) fn v4_route(table: u32) -> Ipv4Route {
    Ipv4Route::default_route()
        .route_type(RouteType::Local)
        .scope(RouteScope::Host)
        .dev_index(LOOPBACK)
        .table(table)
}

fn v6_route() -> Ipv6Route {
    Ipv6Route::default_route().route_type(RouteType::Local).dev_index(LOOPBACK).table(TABLE)
}

/// Adds what is missing.
pub(super) async fn lay() -> Result<()> {
    let connection = Connection::<Route>::new()?;
    for ip in Ip::BOTH {
        let support = support(ip);
        if support == Support::None {
            continue;
        }
        for rule in wanted_rules(ip) {
            match connection.add_rule(rule).await {
                Err(error) if error.is_already_exists() => {}
                result => result?,
            }
        }
        if support == Support::On {
            match ip {
                Ip::V4 => connection.replace_route(v4_route(TABLE)).await?,
                Ip::V6 => connection.replace_route(v6_route()).await?,
            }
        }
    }
    Ok(())
}

/// Takes all of it away; true if there was something.
pub(super) async fn remove() -> Result<bool> {
    let connection = Connection::<Route>::new()?;
    let mut removed = false;
    for ip in Ip::BOTH {
        if support(ip) == Support::None {
            continue;
        }
        for rule in wanted_rules(ip) {
            removed |= connection.del_rule_if_exists(rule).await?;
        }
        removed |= match ip {
            Ip::V4 => gone(connection.del_route_if_exists(v4_route(TABLE)).await)?,
            Ip::V6 => gone(connection.del_route_if_exists(v6_route()).await)?,
        };
    }
    Ok(removed)
}

/// A route that is absent answers ESRCH.
pub(super) fn gone(result: Result<bool>) -> Result<bool> {
    match result {
        Err(error) if error.errno() == Some(libc::ESRCH) => Ok(false),
        result => result,
    }
}

/// What is not as it was laid, one sentence each.
pub(super) async fn faults() -> Result<Vec<String>> {
    let connection = Connection::<Route>::new()?;
    let rules = connection.get_rules().await?;
    let routes = connection.get_routes_for_table(TABLE).await?;
    let mut faults = Vec::new();
    for ip in Ip::BOTH {
        let support = support(ip);
        if support == Support::None {
            continue;
        }
        let name = if ip == Ip::V4 { "IPv4" } else { "IPv6" };
        let rules = || rules.iter().filter(|rule| rule.is_ipv4() == (ip == Ip::V4) && is_for_mark(rule));
        if !rules().any(|rule| rule.priority() == LOOKUP && rule.is_lookup() && rule.table_id() == TABLE) {
            faults
                .push(format!("the {name} routing rule of diverted packets (priority {LOOKUP}) is missing"));
        }
        if !rules().any(|rule| rule.priority() == REFUSE && rule.is_prohibit()) {
            faults
                .push(format!("the {name} routing rule that refuses others (priority {REFUSE}) is missing"));
        }
        let mut routes = routes.iter().filter(|route| route.is_ipv4() == (ip == Ip::V4));
        if support == Support::On && !routes.any(is_local_default) {
            faults.push(format!("the {name} route in table {TABLE} is missing"));
        }
    }
    Ok(faults)
}

fn is_for_mark(rule: &RuleMessage) -> bool {
    !rule.is_invert() && rule.fwmark() == Some(CAPTURED_MARK) && rule.fwmask() == Some(MARK_MASK)
}

pub(super) fn is_local_default(route: &RouteMessage) -> bool {
    route.route_type() == RouteType::Local
        && route.dst_len() == 0
        && route.destination().is_none_or(IpAddr::is_unspecified)
        && route.oif() == Some(LOOPBACK)
}
