//! `aquifer-cni`, started by the container runtime: request in the environment and on standard input, answer on standard output.

use std::io::{Read, Write};
use std::process::ExitCode;

use aquifer_cni::plugin;
use aquifer_cni::spec::{Call, MAX_INPUT};

fn main() -> ExitCode {
    let mut input = Vec::new();
    // One byte more than may be there tells that there is more.
    let read = std::io::stdin().lock().take(MAX_INPUT + 1).read_to_end(&mut input);
    let call = Call::from_environment(|name| std::env::var(name).ok());
    let answer = plugin::run(&call, read.map(|_| input.as_slice()));
    let (text, code) = match answer {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(error) => (error.to_json(), ExitCode::FAILURE),
    };
    // A runtime that does not read the answer has the exit code.
    std::io::stdout().lock().write_all(&text).ok();
    code
}
