//! Networks of namespaces: real kernels' network stacks, on one machine, gone without a trace.
//!
//! A [`Topology`] says which nodes there are and how they are joined. [`Lab::up`] makes it: one
//! *keeper* process is process 1 of a PID namespace (and, unless run by root, of a user namespace),
//! every node is a network, mount and UTS namespace below it, and every link is a bridge in the
//! keeper's network namespace. Whatever ends the keeper ends every process of the lab, and with them
//! go all namespaces, devices, rules and mounts. The keeper ends when its creator does, even by
//! SIGKILL, unless [`Lab::detach`] was called.
//!
//! ```no_run
//! # fn main() -> Result<(), lab::Error> {
//! let topology = lab::Topology::read("configs/lab/nat.yaml".as_ref())?;
//! let lab = lab::Lab::up(&topology)?;
//! let capture = lab.capture("internet")?;
//! lab.node("host-a")?.run(["ping", "-c", "3", "192.168.2.10"])?;
//! for packet in capture.stop()?.packets {
//!     println!("{}", lab::decode::Packet::of(&packet.bytes));
//! }
//! # Ok(()) }
//! ```

pub mod capture;
pub mod cli;
pub mod decode;
mod keeper;
mod network;
pub mod ping;
mod process;
pub mod state;
mod topology;
pub mod vm;

use std::path::PathBuf;

pub use capture::{Capture, Captured, Recorded, Watch};
pub use network::{Daemon, Lab, Node};
pub use process::program;
pub use topology::{
    Addresses, CommandLine, Contents, Delay, Destination, Interface, Link, Nat, NatPorts,
    Node as NodeTopology, Percent, Scalar, Topology, TopologyError,
};

/// Why something in a lab did not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The topology is at fault.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// This machine lacks something: what, and how to get it.
    #[error("{what}; {remedy}")]
    Missing {
        /// What is missing.
        what: String,
        /// How to get it.
        remedy: String,
    },
    /// A command failed.
    #[error("`{command}` {outcome}")]
    Command {
        /// The command as a person would type it.
        command: String,
        /// How it ended, and what it said.
        outcome: String,
    },
    /// There is no such lab, node or link.
    #[error("no {kind} `{name}`; there are: {known}")]
    Unknown {
        /// What was looked for.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// No lab, or one of several to choose.
    #[error("{0}")]
    Choice(String),
    /// The operating system refused.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The reason.
        source: std::io::Error,
    },
    /// A condition did not come true in time.
    #[error("{what} did not come true within {seconds} s; last seen:\n{last}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// For how long.
        seconds: u64,
        /// The last output.
        last: String,
    },
}

impl Error {
    pub(crate) fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io { what: what.into(), source }
    }

    pub(crate) fn unknown<'a>(
        kind: &'static str,
        name: &str,
        known: impl Iterator<Item = &'a String>,
    ) -> Self {
        let known: Vec<_> = known.map(String::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Self::Unknown { kind, name: name.into(), known }
    }
}

/// A file that a lab left behind for reading: logs, captures.
pub(crate) fn read_text(path: &PathBuf) -> Result<String, Error> {
    std::fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .map_err(|source| Error::io(format!("read {}", path.display()), source))
}
