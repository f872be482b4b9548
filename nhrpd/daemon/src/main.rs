//! `nhrpd`: the DMVPN daemon.

use std::process::ExitCode;

use clap::Parser as _;
use nhrpd::cli::{Arguments, Command};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Some(Command::Check) => nhrpd::check(&arguments.config),
        None => nhrpd::run(&arguments.config, &arguments.socket),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nhrpd: {error:#}");
            ExitCode::FAILURE
        }
    }
}
