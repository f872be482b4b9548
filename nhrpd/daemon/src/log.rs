//! Where the log goes, and how much of it.

use std::ffi::OsStr;

use anyhow::anyhow;
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

/// What `NHRPD_LOG` asks for instead of the configured level.
///
/// # Errors
/// When a part of it is neither a level nor a target with one.
pub(crate) fn asked() -> anyhow::Result<Option<Targets>> {
    let Some(asked) = std::env::var_os("NHRPD_LOG") else { return Ok(None) };
    parse(&asked).map(Some)
}

fn parse(asked: &OsStr) -> anyhow::Result<Targets> {
    let text = asked.to_string_lossy();
    let directives: Result<Vec<_>, _> = text.split(',').map(directive).collect();
    let directives = directives.map_err(|wrong| {
        anyhow!(
            "NHRPD_LOG is {asked:?}: {wrong}; it must be a level (off, error, warn, info, debug, \
             trace), or targets with a level each (info,dataplane=debug), or unset"
        )
    })?;
    Ok(directives.into_iter().fold(Targets::new(), |targets, (target, level)| match target {
        Some(target) => targets.with_target(target, level),
        None => targets.with_default(level),
    }))
}

/// `LEVEL` or `TARGET=LEVEL`. Stricter than [`Targets`] itself, which takes a misspelt level for a
/// target and then logs nothing else, and no level at all for an error's.
fn directive(text: &str) -> Result<(Option<&str>, LevelFilter), String> {
    let (target, level) = match text.split_once('=') {
        Some((target, level)) => (Some(target), level),
        None => (None, text),
    };
    if let Some(target) = target.filter(|target| !is_path(target)) {
        return Err(format!("{target:?} is no target"));
    }
    match level.parse() {
        Ok(parsed) if !level.is_empty() => Ok((target, parsed)),
        _ => Err(format!("{level:?} is no level")),
    }
}

/// A crate or a module of one.
fn is_path(target: &str) -> bool {
    let name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    target.split("::").all(|part| !part.is_empty() && part.chars().all(name))
}

/// Under systemd the journal gets fields; elsewhere standard error gets lines. `asked`: by
/// [`asked`].
pub(crate) fn to_journal_or_stderr(level: LogLevel, asked: Option<Targets>) -> LogSwitch {
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

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn a_filter_is_a_level_or_targets_with_one() {
        let level = parse(OsStr::new("debug")).unwrap();
        assert!(level.would_enable("overlay", &Level::DEBUG));
        assert!(!level.would_enable("overlay", &Level::TRACE));
        let both = parse(OsStr::new("warn,dataplane::kernel=trace,boringtun=off")).unwrap();
        assert!(both.would_enable("dataplane::kernel::xfrm", &Level::TRACE));
        assert!(both.would_enable("nhrpd", &Level::WARN));
        assert!(!both.would_enable("nhrpd", &Level::INFO));
        assert!(!both.would_enable("boringtun", &Level::ERROR));
    }

    #[test]
    fn a_wrong_filter_is_refused_with_what_is_wrong_in_it() {
        for (filter, wrong) in [
            ("", r#""" is no level"#),
            ("debgu", r#""debgu" is no level"#),
            ("info,", r#""" is no level"#),
            ("dataplane", r#""dataplane" is no level"#),
            ("dataplane=", r#""" is no level"#),
            ("dataplane=loud", r#""loud" is no level"#),
            ("dataplane=debug=trace", r#""debug=trace" is no level"#),
            ("info, dataplane=debug", r#"" dataplane" is no target"#),
            ("=debug", r#""" is no target"#),
            ("nhrpd::=debug", r#""nhrpd::" is no target"#),
            ("nhrpd[{peer}]=debug", r#""nhrpd[{peer}]" is no target"#),
        ] {
            let said = parse(OsStr::new(filter)).unwrap_err().to_string();
            let begin = format!("NHRPD_LOG is {filter:?}: {wrong}; it must be a level (off, ");
            assert!(said.starts_with(&begin), "{said}");
        }
    }
}
