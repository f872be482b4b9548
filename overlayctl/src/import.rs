//! `overlayctl import`: from the configuration of another DMVPN to `nhrpd.yaml`. Needs no daemon.
//!
//! A reader takes the lines of a file apart into what was `Found`; `draft` makes of it a
//! configuration that loads, and every line that is not in there gets a [`Note`].

mod cisco;
mod draft;
mod found;
mod opennhrp;
#[cfg(test)]
mod tests;

use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use ipnet::IpNet;
use serde::Serialize;

use self::cisco::Dialect;
use self::found::Note;

/// Make nhrpd.yaml from the configuration of another DMVPN. Needs no daemon.
#[derive(Debug, Subcommand)]
pub(crate) enum ImportCommand {
    /// A running-config of Cisco IOS or IOS XE.
    Ios(Import),
    /// A configuration of FRR (frr.conf, or what `show running-config` prints).
    Frr(Import),
    /// A configuration of OpenNHRP (opennhrp.conf).
    Opennhrp(Import),
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The file to read; `-` is standard input.
    file: PathBuf,
    /// Where to write; must not be there yet. Default: standard output.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    given: Given,
}

/// What the file does not say, or what shall be otherwise here.
#[derive(Debug, Default, Args)]
pub(crate) struct Given {
    /// Which tunnel interface, where the file has several.
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// Own tunnel address with the tunnel's prefix length.
    #[arg(long, value_name = "PREFIX")]
    address: Option<IpNet>,
    /// GRE key.
    #[arg(long, value_name = "NUMBER")]
    key: Option<u32>,
    /// Device of this machine that the tunnel's packets leave from.
    #[arg(long, value_name = "DEVICE")]
    source: Option<String>,
    /// Clear GRE (security mode none), as it is without tunnel protection.
    #[arg(long)]
    clear: bool,
}

/// A configuration, and what did not get into it.
#[derive(Debug, Serialize)]
struct Imported {
    /// The text of nhrpd.yaml.
    configuration: String,
    /// Lines that could not be carried over.
    notes: Vec<Note>,
    /// What is left to do.
    next: Vec<String>,
}

pub(crate) fn run(command: &ImportCommand, json: bool) -> anyhow::Result<()> {
    let (ImportCommand::Ios(import) | ImportCommand::Frr(import) | ImportCommand::Opennhrp(import)) =
        command;
    let name = match import.file.as_os_str() == "-" {
        true => "standard input".to_owned(),
        false => import.file.display().to_string(),
    };
    let text = read(&import.file).with_context(|| format!("cannot read {name}"))?;
    let imported = convert(command, &text).with_context(|| name.clone())?;
    if json {
        let mut out = io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, &imported)?;
        writeln!(out)?;
        if import.output.is_none() {
            return Ok(());
        }
    } else {
        for note in &imported.notes {
            eprintln!("{name}{note}");
        }
        for step in &imported.next {
            eprintln!("next: {step}");
        }
    }
    match &import.output {
        Some(path) => write_new(path, &imported.configuration),
        None => io::stdout()
            .write_all(imported.configuration.as_bytes())
            .context("cannot write the configuration"),
    }
}

fn convert(command: &ImportCommand, text: &str) -> anyhow::Result<Imported> {
    let (found, given, from) = match command {
        ImportCommand::Ios(import) => {
            (cisco::read(text, Dialect::Ios, &import.given)?, &import.given, "Cisco IOS")
        }
        ImportCommand::Frr(import) => {
            (cisco::read(text, Dialect::Frr, &import.given)?, &import.given, "FRR")
        }
        ImportCommand::Opennhrp(import) => {
            (opennhrp::read(text, &import.given)?, &import.given, "OpenNHRP")
        }
    };
    let interface = found.interface.clone();
    let drafted = found.draft(given)?;
    let configuration = format!(
        "# From the configuration of {from}, interface {interface}.\n{}",
        serde_yaml::to_string(&drafted.draft)?
    );
    Ok(Imported { configuration, notes: drafted.notes, next: drafted.next })
}

/// Configurations are written in every code page; only comments and descriptions suffer.
fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    match path.as_os_str() == "-" {
        true => io::stdin().read_to_end(&mut bytes)?,
        false => std::fs::File::open(path)?.read_to_end(&mut bytes)?,
    };
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The NHRP password may be in it.
fn write_new(path: &Path, text: &str) -> anyhow::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    match written {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            bail!("{} is there already", path.display())
        }
        written => written.with_context(|| format!("cannot write {}", path.display())),
    }
}
