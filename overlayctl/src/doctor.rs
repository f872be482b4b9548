//! `overlayctl doctor`: what is wrong with this machine, its configuration and the way to its
//! next-hop servers, and how to mend it. Works with and without a running daemon.

mod certificates;
mod clock;
mod daemon;
mod firewall;
mod machine;
mod paths;
mod probe;
mod routes;
mod ruleset;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anstyle::AnsiColor;
use clap::Args;
use control::Client;
use nhrpd::config::{self, Config};
use serde::Serialize;

use crate::text::{Column, painted, plural, table};

/// Where the file is, unless told otherwise.
const CONFIG: &str = "/etc/nhrpd/nhrpd.yaml";

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Configuration of nhrpd.
    #[arg(long, value_name = "FILE", default_value = CONFIG)]
    config: PathBuf,
}

/// All that was looked at.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// How many checks found something.
    pub(crate) findings: usize,
    /// In the order of the report.
    pub(crate) checks: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// What it is about.
    check: &'static str,
    state: State,
    /// What is so.
    found: String,
    /// How to mend it; `null` where nothing is to be mended.
    mend: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// To be mended.
    Finding,
    /// Worth knowing, or could not be looked at.
    Note,
    /// As it should be.
    Ok,
}

impl Check {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, state: State::Ok, found: found.into(), mend: None }
    }

    fn note(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, state: State::Note, found: found.into(), mend: None }
    }

    fn finding(check: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { check, state: State::Finding, found: found.into(), mend: Some(mend.into()) }
    }
}

/// Looks at everything.
pub(crate) fn examine(arguments: &Doctor, socket: &Path) -> Report {
    // What the daemon complains of is told last: the cause, where it is found here, stands before.
    let mut complaints = Vec::new();
    let told = daemon::ask(Client::connect(socket), &mut complaints);
    let loaded = config::load(&arguments.config);
    let mut checks = machine::abilities(loaded.as_ref().ok());
    match loaded {
        Ok(config) => {
            let file = arguments.config.display();
            checks.push(Check::ok("configuration", format!("{file} is good")));
            with_configuration(&config, &arguments.config, told.as_ref(), &mut checks);
        }
        Err(error) => {
            let mend = "correct the file; nhrpd check --config FILE says whether it is good";
            checks.push(Check::finding("configuration", format!("{error:#}"), mend));
        }
    }
    checks.extend(complaints);
    checks.sort_by_key(|check| check.state);
    let findings = checks.iter().filter(|check| check.state == State::Finding).count();
    Report { findings, checks }
}

fn with_configuration(
    config: &Config,
    file: &Path,
    told: Option<&control::Dmvpn>,
    checks: &mut Vec<Check>,
) {
    checks.extend(clock::check(file, told));
    checks.extend(certificates::check(config));
    checks.extend(machine::sysctls(config));
    if told.is_none() {
        checks.push(machine::port(config.underlay.port));
    }
    let servers = paths::resolve(config, checks);
    checks.extend(firewall::check(config, &servers, told));
    checks.extend(routes::check(config, &servers));
    checks.extend(paths::check(config, &servers, told));
}

/// The findings with what to do, then all checks as a table.
pub(crate) fn text(report: &Report, width: Option<u16>) -> String {
    let mut out = String::new();
    let count = report.findings;
    let (colour, headline) = match count {
        0 => (AnsiColor::Green, "no finding".to_owned()),
        _ => (AnsiColor::Red, format!("{count} finding{}", plural(count))),
    };
    out.push_str(&painted(colour.on_default(), &headline));
    out.push('\n');
    for (check, number) in report.checks.iter().filter(|c| c.state == State::Finding).zip(1..) {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{number}. {}: {}", check.check, check.found);
        if let Some(mend) = &check.mend {
            let _ = writeln!(out, "   mend: {mend}");
        }
    }
    out.push('\n');
    let rows = report.checks.iter().map(|check| {
        let state = match check.state {
            State::Finding => "FINDING",
            State::Note => "note",
            State::Ok => "ok",
        };
        vec![check.check.to_owned(), state.to_owned(), check.found.clone()]
    });
    let columns = [Column::Left("Check"), Column::Left("State"), Column::Left("Found")];
    out.push_str(&table(&columns, rows.collect(), width));
    out
}

/// What the system says of an error, without its number.
fn plain(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}
