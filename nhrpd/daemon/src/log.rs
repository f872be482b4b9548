//! Where the log goes, and how much of it.

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, reload};

use crate::config::LogLevel;

/// Changes the level that is logged while the daemon runs.
pub(crate) struct LogSwitch {
    /// `None` where `NHRPD_LOG` says what is logged.
    filter: Option<reload::Handle<Targets, Registry>>,
}

impl LogSwitch {
    pub(crate) fn set(&self, level: LogLevel) {
        if let Some(filter) = &self.filter {
            // It fails only where there is no log any more.
            let _ = filter.reload(targets(level));
        }
    }
}

fn targets(level: LogLevel) -> Targets {
    // boringtun calls a peer that went away an error; the overlay says it in its own words.
    let level = level.as_str().parse().unwrap_or(LevelFilter::INFO);
    Targets::new().with_default(level).with_target("boringtun", LevelFilter::OFF)
}

/// Under systemd the journal gets fields; elsewhere standard error gets lines.
pub(crate) fn to_journal_or_stderr(level: LogLevel) -> LogSwitch {
    let asked: Option<Targets> =
        std::env::var("NHRPD_LOG").ok().and_then(|filter| filter.parse().ok());
    let fixed = asked.is_some();
    let (filter, handle) = reload::Layer::new(asked.unwrap_or_else(|| targets(level)));
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
    LogSwitch { filter: (!fixed).then_some(handle) }
}
