//! Roles, configuration and command line of the one program that all of Aquifer is.

mod certificates;
mod check;
mod cli;
mod cluster;
mod completion;
mod config;
mod controller;
mod demo;
mod explain;
mod flows;
mod install;
mod logs;
mod node;
mod status;
mod table;
mod upgrade;

use std::env;
use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command, LogsCommand, LogsFlags};

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let result = match node::process(env::args_os().skip(1)) {
        Some(ended) => ended.map(|()| ExitCode::SUCCESS),
        None if completion::asked() => return completion::answer(),
        None => command(Cli::parse().command),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("aquifer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does what a person asked for.
fn command(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Node(flags) => node::run(*flags).map(|()| ExitCode::SUCCESS),
        Command::Controller(flags) => controller::run(*flags).map(|()| ExitCode::SUCCESS),
        Command::Demo(flags) => demo::run(&flags),
        Command::DemoApp(flags) => demo::run_application(&flags),
        Command::Explain(flags) => Ok(explain::run(*flags)),
        Command::Install(flags) => install::install(&flags).map(|()| ExitCode::SUCCESS),
        Command::Uninstall(flags) => {
            install::uninstall(&flags);
            Ok(ExitCode::SUCCESS)
        }
        Command::Status(flags) => cluster::blocking(status::run(&flags)),
        Command::Flows(flags) => cluster::blocking(flows::run(&flags)),
        Command::Check(flags) => cluster::blocking(check::run(&flags)),
        Command::Certificates(flags) => cluster::blocking(certificates::run(&flags)),
        Command::Config(flags) => cluster::blocking(config::run(&flags)),
        Command::Logs(LogsFlags { command: LogsCommand::Level(flags) }) => {
            cluster::blocking(logs::run(&flags))
        }
        Command::Upgrade(flags) => cluster::blocking(upgrade::run(&flags)),
        Command::ProbeApp => cluster::blocking(check::serve_probe()).map(|()| ExitCode::SUCCESS),
        Command::Version => {
            println!("aquifer {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
        Command::Completion { shell } => {
            completion::script(shell)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
