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
    /// A virtual machine with Debian's own kernel and this machine's files
    #[command(subcommand)]
    Vm(Vm),
    /// Record a device of the current network namespace (what `capture` runs)
    #[command(hide = true)]
    Sniff {
        /// Name of the device
        device: String,
    },
}

/// What a virtual machine is for
#[derive(Subcommand)]
pub enum Vm {
    /// Boot, run a command as root, and end with its exit status
    ///
    /// Needs qemu-system-x86 and, the first time, apt to fetch Debian's kernel and what else the
    /// machine has (FRR, strongSwan, libreswan, iperf3, tcpdump, ethtool); they are unpacked into
    /// $XDG_CACHE_HOME/lab-vm (~/.cache/lab-vm), and nothing is installed. KVM is not used.
    ///
    /// The machine sees all files of this one at the same paths and may change them as it likes:
    /// the changes go with it, save in folders given with --write. It has no network.
    Run {
        /// Give up after this many seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 900)]
        timeout: u64,
        /// Memory of the machine in MiB
        #[arg(long, value_name = "MIB", default_value_t = 3072)]
        memory: u32,
        /// CPUs of the machine
        #[arg(long, value_name = "N", default_value_t = 2)]
        cpus: u32,
        /// Its clock counts instructions, 1 ns each, for measurements that do not depend on this
        /// machine's load; slower
        #[arg(long)]
        icount: bool,
        /// A folder in which changes stay (can be given several times)
        #[arg(long, value_name = "FOLDER")]
        write: Vec<PathBuf>,
        /// The command and its arguments
        #[arg(value_name = "COMMAND", trailing_var_arg = true, required = true)]
        command: Vec<std::ffi::OsString>,
    },
    /// Fetch what the machine is made of, and do nothing with it
    Prepare,
}
