//! Capture at the socket: a routing rule by which the pod's TCP sockets lead to the loopback device from their first packet on.
//!
//! Without it each packet of the application goes through the tables, is marked, and is routed a second time; that is most of
//! what capture costs. With it the kernel asks once for each connection, and remembers.
//!
//! It may stand only while a table of [`super::table::Kind::Capture`] stands that lets nothing pass: to a connection that stood
//! before the capture it would be the end. So it is laid after such a table, and taken away before any other. The table does
//! without it, and captures as well: it is not there for IPv6, in a pod with several addresses (the kernel would choose the source by
//! the route, and there is one for all destinations), and where a setting cannot be written.

use std::{
    fs::{self, OpenOptions},
    net::{IpAddr, Ipv4Addr},
};

use nlink::{
    Result,
    netlink::{
        Connection, Route,
        messages::{RouteMessage, RuleMessage},
        rule::RuleBuilder,
        types::addr::Scope,
    },
};

use super::routes::{LOOPBACK, gone, is_local_default, v4_route};
use crate::MARK_MASK;

/// The routing table. It is not the one of marked packets, since its route goes with the pod's address.
const TABLE: u32 = 101;
/// Place of the rule, before those of marked packets.
const LOOKUP: u32 = 32763;
/// Has the kernel look for the way back by a packet's mark. What arrives is marked (`arrival` in `table.rs`), and so finds the
/// network; unmarked it would find the loopback device, and be dropped as one that claims to be from here. It stays when the rule goes:
/// without marks it says nothing.
const WAY_BACK: &str = "/proc/sys/net/ipv4/conf/all/src_valid_mark";

/// All TCP of this machine's sockets, but what has a mark: it is ours, captured, or of an application that routes by marks.
fn rule() -> RuleBuilder {
    RuleBuilder::v4().priority(LOOKUP).iif("lo").fwmark_mask(0, MARK_MASK).tcp().table(TABLE)
}

/// Adds what is missing, where it can be; elsewhere nothing is left.
pub(super) async fn lay() -> Result<()> {
    let connection = Connection::<Route>::new()?;
    let Some(address) = possible(&connection).await? else {
        remove().await?;
        return Ok(());
    };
    fs::write(WAY_BACK, "1")?;
    connection.replace_route(v4_route(TABLE).prefsrc(address)).await?;
    match connection.add_rule(rule()).await {
        Err(error) if error.is_already_exists() => Ok(()),
        result => result,
    }
}

/// Takes it away; true if there was something.
pub(super) async fn remove() -> Result<bool> {
    let connection = Connection::<Route>::new()?;
    let removed = connection.del_rule_if_exists(rule()).await?;
    Ok(removed | gone(connection.del_route_if_exists(v4_route(TABLE)).await)?)
}

/// What is not as [`lay`] leaves it, or is there where it is not `wanted`.
pub(super) async fn fault(wanted: bool) -> Result<Option<String>> {
    let connection = Connection::<Route>::new()?;
    let stands = connection.get_rules().await?.iter().any(is_ours);
    let address = if wanted { possible(&connection).await? } else { None };
    let name = format!("the routing rule of the pod's sockets (priority {LOOKUP})");
    let Some(address) = address else { return Ok(stands.then(|| format!("{name} must not stand now"))) };
    let leads = |route: &RouteMessage| {
        route.is_ipv4() && is_local_default(route) && route.prefsrc() == Some(&address.into())
    };
    Ok(if !stands {
        Some(format!("{name} is missing"))
    } else if !connection.get_routes_for_table(TABLE).await?.iter().any(leads) {
        Some(format!("the route of the pod's sockets in table {TABLE} is missing"))
    } else if fs::read_to_string(WAY_BACK)?.trim() == "0" {
        Some(format!("{WAY_BACK} was set to 0"))
    } else {
        None
    })
}

/// The pod's one address, where all that is needed can be laid.
async fn possible(connection: &Connection<Route>) -> Result<Option<Ipv4Addr>> {
    let addresses = connection.get_addresses().await?;
    let mut addresses = addresses
        .iter()
        .filter(|address| address.ifindex() != LOOPBACK && address.scope() == Scope::Universe)
        .filter_map(|address| match address.primary_address() {
            Some(IpAddr::V4(v4)) => Some(*v4),
            _ => None,
        });
    let only = addresses.next().filter(|_| addresses.next().is_none());
    // Nothing is written by opening it.
    let writable = || OpenOptions::new().write(true).open(WAY_BACK).is_ok();
    Ok(only.filter(|_| writable()))
}

fn is_ours(rule: &RuleMessage) -> bool {
    // The kernel does not tell a mark of 0, only its mask.
    rule.is_ipv4()
        && rule.priority() == LOOKUP
        && rule.is_lookup()
        && rule.table_id() == TABLE
        && !rule.is_invert()
        && rule.iifname() == Some("lo")
        && rule.fwmark().unwrap_or(0) == 0
        && rule.fwmask() == Some(MARK_MASK)
        && rule.ip_proto() == Some(libc::IPPROTO_TCP as u8)
}
