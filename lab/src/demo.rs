//! stub
use std::process::ExitCode;
pub(crate) fn run(_colour: bool) -> ExitCode {
    ExitCode::SUCCESS
}
