//! A pod's application in the demo: a process of its own in the pod's namespace, which knows nothing of the mesh.

use std::net::TcpListener;
use std::process::ExitCode;

use anyhow::Context;
use aquifer_integration::{Serve, app};

use crate::cli::DemoAppFlags;

/// Serves HTTP on one port and echoes raw TCP on another, until killed.
pub(crate) fn run(flags: &DemoAppFlags) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let http = app::run(listen(flags.http)?, Serve::Http, &flags.name);
        let echo = app::run(listen(flags.echo)?, Serve::Echo, &flags.name);
        tokio::try_join!(http, echo)?;
        Ok(ExitCode::SUCCESS)
    })
}

fn listen(port: u16) -> anyhow::Result<TcpListener> {
    let listener =
        TcpListener::bind(("::", port)).with_context(|| format!("cannot listen on port {port}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
