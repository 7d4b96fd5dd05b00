//! The `penstock` command, for the suite to start, stop and kill.

use std::process::ExitCode;

fn main() -> ExitCode {
    penstock::cli::main()
}
