//! The listeners of the pages: the parent has them, so that they outlive a worker.

use std::net::{SocketAddr, TcpListener};

use anyhow::Context;
use tracing::info;

use crate::config::Pages;

/// Opens those that are on, in the order admin, metrics, ready.
///
/// # Errors
/// An address is taken.
pub(super) fn bind(pages: &Pages) -> anyhow::Result<Vec<TcpListener>> {
    let bind = |name: &str, address: Option<SocketAddr>| {
        address
            .map(|address| {
                TcpListener::bind(address).with_context(|| {
                    format!("--{name}-addr {address}: choose another, port 0, or `off` (two nodes of one machine run in a namespace each, or say which address is taken)")
                })
            })
            .transpose()
    };
    let pages = [bind("admin", pages.admin)?, bind("metrics", pages.metrics)?, bind("ready", pages.ready)?];
    for (name, page) in ["admin", "metrics", "ready"].iter().zip(&pages) {
        if let Some(page) = page {
            info!(page = name, address = %page.local_addr()?, "listening");
        }
    }
    Ok(pages.into_iter().flatten().collect())
}
