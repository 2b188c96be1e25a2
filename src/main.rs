//! The `postern` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    postern::cli::run()
}
