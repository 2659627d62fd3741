//! Scenarios of faults.

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = aquifer_integration::node::or_program(aquifer::main) {
        return code;
    }
    aquifer_integration::main(&[])
}
