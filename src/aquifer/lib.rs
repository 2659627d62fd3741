//! Roles, configuration and command line of the one program that all of Aquifer is.

mod cli;
mod demo;
mod explain;
mod node;

use std::env;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use cli::{Cli, Command};

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let result = match node::process(env::args_os().skip(1)) {
        Some(ended) => ended.map(|()| ExitCode::SUCCESS),
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
        Command::Demo(flags) => demo::run(&flags),
        Command::DemoApp(flags) => demo::run_application(&flags),
        Command::Explain(flags) => Ok(explain::run(*flags)),
        Command::Version => {
            println!("aquifer {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "aquifer", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    }
}
