//! Roles, configuration and command line of the one program that all of Aquifer is.

mod cli;
mod explain;
mod node;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use cli::{Cli, Command};

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Node(flags) => node::run(*flags),
        Command::NodeWorker => node::work(),
        Command::Explain(flags) => return explain::run(*flags),
        Command::Version => {
            println!("aquifer {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "aquifer", &mut std::io::stdout());
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("aquifer: {error:#}");
            ExitCode::FAILURE
        }
    }
}
