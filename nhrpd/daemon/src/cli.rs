//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// A DMVPN daemon: NHRP, IKEv2 and the tunnel in one.
#[derive(Debug, Parser)]
#[command(name = "nhrpd", version, about)]
pub struct Arguments {
    /// Configuration file.
    #[arg(long, global = true, value_name = "FILE", default_value = "/etc/nhrpd/nhrpd.yaml")]
    pub config: PathBuf,
    /// Control socket.
    #[arg(long, global = true, value_name = "PATH", default_value = control::DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// Nothing: run.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do instead of running.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum Command {
    /// Say whether the configuration and the certificates that it names are good.
    Check,
}
