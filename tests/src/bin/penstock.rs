//! The `penstock` command, for the suite to start, stop and kill: also at a named point, by its own hand.

use std::process::ExitCode;

fn main() -> ExitCode {
    match penstock_tests::death::registry() {
        Ok(registry) => penstock::cli::main_with(registry),
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
