//! `nhrpd`: the DMVPN daemon.

use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use nhrpd::cli::{Arguments, Command};

fn main() -> ExitCode {
    nhrpd::names::without_modules();
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Some(Command::Check) => nhrpd::check(&arguments.config).and_then(|report| {
            match std::io::stdout().write_all(report.as_bytes()) {
                // `nhrpd check | head -1`
                Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
                written => written.context("cannot write the report"),
            }
        }),
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
