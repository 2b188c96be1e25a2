//! The `postern` command.

use std::process::ExitCode;

/// Measured with `bench/run instructions`; see docs/decisions.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    postern::cli::run()
}
