//! What the environment asks of the daemon and cannot be had, at the command line.

#![allow(clippy::unwrap_used)]

use std::process::Command;

#[test]
fn a_wrong_variable_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("nhrpd.yaml");
    let text = "tunnel: {address: 172.16.0.1/24}\nunderlay: {source: lo}\nsecurity: {mode: none}\n";
    std::fs::write(&config, text).unwrap();
    for (variable, value, said) in [
        (
            "NHRPD_WORKERS",
            "nine",
            "NHRPD_WORKERS is \"nine\"; it must be a number from 1 to 8, or unset",
        ),
        (
            "NHRPD_LOG",
            "info,dataplane=loud",
            "NHRPD_LOG is \"info,dataplane=loud\": \"loud\" is no level; it must be a level (off, error, \
             warn, info, debug, trace), or targets with a level each (info,dataplane=debug), or unset",
        ),
    ] {
        for check in [Some("check"), None] {
            let output = Command::new(env!("CARGO_BIN_EXE_nhrpd"))
                .args(check)
                .arg("--config")
                .arg(&config)
                .arg("--socket")
                .arg(folder.path().join("nhrpd.sock"))
                .env(variable, value)
                .output()
                .unwrap();
            assert_eq!(output.status.code(), Some(1), "{check:?}: {output:?}");
            let stderr = String::from_utf8(output.stderr).unwrap();
            let last = stderr.lines().last().unwrap();
            assert_eq!(last, format!("nhrpd: {said}"), "{check:?}: {stderr}");
            assert!(output.stdout.is_empty(), "{check:?}");
        }
    }
}
