//! The daemon as a library: configuration, and the shell around the core.

mod assemble;
pub mod cli;
pub mod config;
mod event;
mod resolve;
mod shell;
mod show;
mod trace;

use std::path::Path;
use std::time::SystemTime;

use anyhow::Context as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use config::{Config, LogLevel};

/// Runs the daemon until SIGTERM or SIGINT.
pub fn run(config: &Path, socket: &Path) -> anyhow::Result<()> {
    let config = config::load(config)?;
    log_to_journal_or_stderr(config.log);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(shell::run(config, socket))
}

/// Reads the configuration and every file that it names, and says what is wrong or doubtful.
pub fn check(path: &Path) -> anyhow::Result<()> {
    let config = config::load(path)?;
    let credentials = assemble::credentials(&config)?;
    let doubts = credentials
        .as_ref()
        .map(|credentials| assemble::doubts(&config, credentials, SystemTime::now()))
        .unwrap_or_default();
    for doubt in &doubts {
        println!("warning: {doubt}");
    }
    println!("{}: good", path.display());
    let role = if config.nhrp.accept_registrations { "hub" } else { "spoke" };
    let Config { tunnel, underlay, .. } = &config;
    println!("{role} {} on {}, over {}", tunnel.address, tunnel.interface, underlay.source);
    println!("data plane: userspace");
    for ability in dataplane::probe() {
        println!("  {ability}");
    }
    Ok(())
}

/// Under systemd the journal gets fields; elsewhere standard error gets lines.
fn log_to_journal_or_stderr(level: LogLevel) {
    // boringtun calls a peer that went away an error; the overlay says it in its own words.
    let level = level.as_str().parse().unwrap_or(LevelFilter::INFO);
    let default = Targets::new().with_default(level).with_target("boringtun", LevelFilter::OFF);
    let asked = std::env::var("NHRPD_LOG").ok().and_then(|filter| filter.parse().ok());
    let filter: Targets = asked.unwrap_or(default);
    let registry = tracing_subscriber::registry().with(filter);
    let journal = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    let journal = journal.map(|layer| layer.with_field_prefix(Some("NHRPD".to_owned())));
    match journal {
        Some(journal) => registry.with(journal).init(),
        None => registry
            .with(
                tracing_subscriber::fmt::layer()
                    .with_writer(std::io::stderr)
                    .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
                    .with_target(false)
                    .fmt_fields(debug_fn(|line, field, value| match field.name() {
                        // The words say all that the fields of an event do.
                        "message" => write!(line, "{value:?}"),
                        _ => Ok(()),
                    })),
            )
            .init(),
    }
}
