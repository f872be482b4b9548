//! `overlayctl`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    overlayctl::main()
}
