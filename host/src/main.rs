//! The `samovar` command.

use std::process::ExitCode;

/// A request makes some eighty small allocations, on one thread, and gives them back on another as often as not.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    samovar::cli::main()
}
