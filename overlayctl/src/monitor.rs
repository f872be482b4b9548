//! `monitor`: events as they happen.

use std::io::{self, Write};
use std::path::Path;

use anyhow::Context as _;
use control::{Client, Monitored};
use serde_json::json;

/// Prints events until the reader or the daemon goes away.
pub(crate) fn run(socket: &Path, json: bool) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    for told in Client::connect(socket)?.monitor()? {
        match line(&told?, json) {
            None => eprintln!("overlayctl: told of every event from now on; Ctrl-C ends this"),
            Some(line) => match writeln!(out, "{line}").and_then(|()| out.flush()) {
                // `overlayctl monitor | head`
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                written => written.context("cannot write the event")?,
            },
        }
    }
    Ok(())
}

/// One line; none for what only says that events follow.
fn line(told: &Monitored, json: bool) -> Option<String> {
    match (&told.event, told.lost) {
        (Some(event), _) if json => Some(json!(event).to_string()),
        (Some(event), _) => Some(format!("{} {}", event.time, event.message)),
        (None, 0) => None,
        (None, lost) if json => Some(json!({ "lost": lost }).to_string()),
        (None, 1) => Some("1 event lost: this terminal is too slow".to_owned()),
        (None, lost) => Some(format!("{lost} events lost: this terminal is too slow")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_or_one_object_each() {
        let sample = include_str!("../../nhrpd/control/tests/samples/Monitor.json");
        let told: Monitored = serde_json::from_str(sample).unwrap();
        assert_eq!(
            line(&told, false).unwrap(),
            "2026-03-01T12:00:00.250Z session down with CN=spoke2 at 203.0.113.3:4500: idle"
        );
        let object: serde_json::Value = serde_json::from_str(&line(&told, true).unwrap()).unwrap();
        assert_eq!(object["kind"], "peer_down");
        let lost = Monitored { event: None, lost: 7 };
        assert_eq!(line(&lost, false).unwrap(), "7 events lost: this terminal is too slow");
        assert_eq!(line(&lost, true).unwrap(), r#"{"lost":7}"#);
        assert_eq!(line(&Monitored::default(), false), None);
    }
}
