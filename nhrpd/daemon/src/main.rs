//! `nhrpd`: the DMVPN daemon.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A DMVPN daemon: NHRP, IKEv2 and the tunnel in one.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// Configuration file.
    #[arg(long, global = true, value_name = "FILE", default_value = "/etc/nhrpd/nhrpd.yaml")]
    config: PathBuf,
    /// Control socket.
    #[arg(long, global = true, value_name = "PATH", default_value = control::DEFAULT_SOCKET)]
    socket: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Command {
    /// Say whether the configuration and the certificates that it names are good.
    Check,
}

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
