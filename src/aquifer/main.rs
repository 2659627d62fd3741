//! The program.

fn main() -> std::process::ExitCode {
    aquifer::main()
}
