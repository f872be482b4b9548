//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Networks of namespaces, for trying and testing a DMVPN overlay.
#[derive(Parser)]
#[command(name = "lab", version)]
pub struct Arguments {
    /// Which lab, where several are up
    #[arg(long, short, global = true)]
    pub name: Option<String>,
    /// What to do
    #[command(subcommand)]
    pub action: Action,
}

/// What to do
#[derive(Subcommand)]
pub enum Action {
    /// A hub and two spokes: the whole story, step by step
    Demo,
    /// Make a lab from a topology file and leave it up
    Up {
        /// Topology in YAML
        file: PathBuf,
    },
    /// Take a lab down, with everything that runs in it
    Down,
    /// Show the labs that are up
    List,
    /// Run a command on a node, as its root
    Exec {
        /// Name of the node
        node: String,
        /// The command and its arguments
        #[arg(last = true, required = true)]
        command: Vec<std::ffi::OsString>,
    },
    /// Record a link in pcap format until interrupted, and show what passes
    Capture {
        /// Name of the link
        link: String,
        /// Where to write
        file: PathBuf,
    },
    /// Record a device of the current network namespace (what `capture` runs)
    #[command(hide = true)]
    Sniff {
        /// Name of the device
        device: String,
    },
}
