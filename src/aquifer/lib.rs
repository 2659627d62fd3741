//! Roles, configuration and command line of the one program that all of Aquifer is.

mod cli;
mod demo;
mod explain;
mod node;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use cli::{Cli, Command};

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let success = |()| ExitCode::SUCCESS;
    let result = match cli.command {
        Command::Node(flags) => node::run(*flags).map(success),
        Command::NodeWorker => node::work().map(success),
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
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("aquifer: {error:#}");
            ExitCode::FAILURE
        }
    }
}
