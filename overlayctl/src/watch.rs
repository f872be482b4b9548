//! `show … --watch`: the same question again and again.

use std::io::{self, IsTerminal as _, Write as _};
use std::thread::sleep;
use std::time::Duration;

use anyhow::Context as _;

/// Asks and prints until the output is closed or the program is stopped. On a terminal, each
/// answer takes the place of the one before; one that is no answer (the daemon is being restarted)
/// is shown in its place.
pub(crate) fn run(
    json: bool,
    seconds: u64,
    ask: impl Fn() -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    let screen = io::stdout().is_terminal() && !json;
    loop {
        let answer = match ask() {
            Err(error) if screen => format!("{error:#}\n"),
            answer => answer?,
        };
        match print(screen, json, &answer) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written.context("cannot write the answer")?,
        }
        sleep(Duration::from_secs(seconds));
    }
}

fn print(screen: bool, json: bool, answer: &str) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    if screen {
        // To the corner; each line clears what was behind it, the last one all below.
        let lines: String = answer.lines().map(|line| format!("{line}\x1b[K\n")).collect();
        write!(out, "\x1b[H{lines}\x1b[J")?;
    } else if json {
        // One document a line: what reads it needs to know where each ends.
        let value: serde_json::Value = serde_json::from_str(answer)?;
        writeln!(out, "{value}")?;
    } else {
        writeln!(out, "{answer}")?;
    }
    out.flush()
}
