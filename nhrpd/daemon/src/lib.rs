//! The daemon as a library: configuration, and the shell around the core.

mod assemble;
pub mod cli;
pub mod config;
mod event;
mod harden;
mod key_log;
mod log;
mod metrics;
mod plane;
mod reload;
mod resolve;
mod shell;
mod show;
mod trace;

use std::path::Path;
use std::time::SystemTime;

use anyhow::Context as _;

use config::Config;
use dataplane::probe;
use dataplane::userspace::ESP_CIPHERS;
use ike::EspCipher;
use key_log::KeyTables;

/// Runs the daemon until SIGTERM or SIGINT.
pub fn run(path: &Path, socket: &Path) -> anyhow::Result<()> {
    let config = config::load(path)?;
    let log = log::to_journal_or_stderr(config.log);
    let keys = config.key_log.as_deref().map(KeyTables::open).transpose()?;
    harden::give_up(&config, path, socket);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(shell::run(config, path, socket, log, keys))
}

/// Reads the configuration and every file that it names, and says what is wrong or doubtful.
pub fn check(path: &Path) -> anyhow::Result<()> {
    let config = config::load(path)?;
    for doubt in doubts(&config)? {
        println!("warning: {doubt}");
    }
    println!("{}: good", path.display());
    let role = if config.nhrp.accept_registrations { "hub" } else { "spoke" };
    let Config { tunnel, underlay, .. } = &config;
    println!("{role} {} on {}, over {}", tunnel.address, tunnel.interface, underlay.source);
    let nbma = match &underlay.source {
        config::Source::Address(address) => Some(*address),
        config::Source::Device(_) => None,
    };
    let choice = plane::choose(&config, nbma)?;
    let (name, ciphers) = match choice.kernel {
        true => ("kernel", &EspCipher::ALL[..]),
        false => ("userspace", &ESP_CIPHERS[..]),
    };
    assemble::esp(&config, ciphers)?;
    println!("data plane: {name} ({})", choice.why);
    let secured = config.security != config::Security::None;
    for (name, abilities) in [("kernel", probe::kernel(secured)), ("userspace", probe::userspace())]
    {
        println!("  {name}:");
        for ability in abilities {
            println!("    {ability}");
        }
    }
    Ok(())
}

/// Why peers will refuse the certificate that a configuration names, although it can be read.
///
/// # Errors
/// When a file is missing, malformed or open to others, or the parts do not belong together.
pub fn doubts(config: &Config) -> anyhow::Result<Vec<String>> {
    let credentials = assemble::credentials(config)?;
    let told = credentials.map(|all| assemble::doubts(config, &all, SystemTime::now()));
    Ok(told.unwrap_or_default())
}
