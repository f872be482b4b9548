//! The daemon as a library: configuration, and the shell around the core.

mod assemble;
pub mod cli;
pub mod config;
mod event;
mod expiry;
mod harden;
mod kept;
mod key_log;
mod log;
mod metrics;
pub mod names;
mod plane;
mod reload;
mod resolve;
mod shell;
mod show;
mod trace;

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::time::SystemTime;

use anyhow::Context as _;

use config::Config;
use dataplane::underlay::Watch;
use dataplane::{esp_ciphers, probe};
use key_log::KeyTables;
use tokio::runtime::Runtime;

/// Runs the daemon until SIGTERM or SIGINT.
pub fn run(path: &Path, socket: &Path) -> anyhow::Result<()> {
    let asked = log::asked()?;
    let config = config::load(path)?;
    let log = log::to_journal_or_stderr(config.log, asked);
    let keys = config.key_log.as_deref().map(KeyTables::open).transpose()?;
    harden::give_up(&config, path, socket);
    runtime()?.block_on(shell::run(config, path, socket, log, keys))
}

fn runtime() -> anyhow::Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")
}

/// Own address on the underlay, as [`run`] would find it now.
fn own_address(config: &Config) -> anyhow::Result<Option<IpAddr>> {
    runtime()?.block_on(async {
        let mut watch = Watch::start(assemble::source(config))?;
        Ok(watch.changed().await.address)
    })
}

/// Reads the configuration and every file that it names, and says what is good and what doubtful, line
/// by line.
///
/// # Errors
/// Where the file, or one that it names, or the environment is not good.
pub fn check(path: &Path) -> anyhow::Result<String> {
    assemble::workers()?;
    log::asked()?;
    let config = config::load(path)?;
    let mut said = String::new();
    for doubt in doubts(&config)?.into_iter().chain(assemble::leak(&config)) {
        writeln!(said, "warning: {doubt}")?;
    }
    writeln!(said, "{}: good", path.display())?;
    let role = if config.nhrp.accept_registrations { "hub" } else { "spoke" };
    let Config { tunnel, underlay, .. } = &config;
    writeln!(said, "{role} {} on {}, over {}", tunnel.address, tunnel.interface, underlay.source)?;
    let choice = plane::choose(&config, own_address(&config)?)?;
    let name = if choice.kernel { "kernel" } else { "userspace" };
    assemble::esp(&config, esp_ciphers(choice.kernel))?;
    writeln!(said, "data plane: {name} ({})", choice.why)?;
    let secured = config.security != config::Security::None;
    for (name, abilities) in [("kernel", probe::kernel(secured)), ("userspace", probe::userspace())]
    {
        writeln!(said, "  {name}:")?;
        for ability in abilities {
            writeln!(said, "    {ability}")?;
        }
    }
    Ok(said)
}

/// Why peers will refuse the certificate that a configuration names, although it can be read.
///
/// # Errors
/// When a file is missing, malformed or open to others, or the parts do not belong together.
pub fn doubts(config: &Config) -> anyhow::Result<Vec<String>> {
    let credentials = assemble::credentials(config)?;
    let Some(credentials) = credentials else { return Ok(Vec::new()) };
    let now = SystemTime::now();
    let mut doubts = assemble::doubts(config, &credentials, now);
    // Whose end is past is a doubt already.
    let own = expiry::Ending::own(&credentials).filter(|own| own.left(now) > 0);
    doubts.extend(own.and_then(|own| own.warning(now)));
    Ok(doubts)
}
