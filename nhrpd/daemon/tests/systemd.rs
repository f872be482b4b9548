//! The units, measured by systemd itself where it is on the machine, and the watchdog.

#![allow(clippy::unwrap_used)]

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

fn unit(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/systemd").join(name)
}

/// 2.0 or better on systemd's scale, where 10 is the worst.
#[test]
fn units_are_not_exposed() {
    for name in ["nhrpd.service", "nhrpd@.service"] {
        let analyze = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager", "--threshold=20"])
            .arg(unit(name))
            .output();
        let Ok(output) = analyze else {
            eprintln!("systemd-analyze is not on this machine: not measured");
            return;
        };
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("Overall exposure level"), "{name}: {output:?}");
        assert!(output.status.success(), "{name}: {text}");
    }
}

/// The instance unit is the unit, but for the names of its files.
#[test]
fn both_units_are_hardened_alike() {
    let read = |name| std::fs::read_to_string(unit(name)).unwrap();
    let instance = read("nhrpd@.service")
        .replace(" for %i", "")
        .replace(" --config /etc/nhrpd/%i.yaml", "")
        .replace(" --socket /run/nhrpd-%i/nhrpd.sock", "")
        .replace("nhrpd-%i", "nhrpd");
    assert_eq!(instance, read("nhrpd.service"));
}

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// In a network namespace of its own, as systemd starts it: READY, then WATCHDOG again and again.
#[test]
fn the_watchdog_is_fed() {
    let folder = tempfile::tempdir().unwrap();
    let (notify, config) = (folder.path().join("notify"), folder.path().join("nhrpd.yaml"));
    let socket = UnixDatagram::bind(&notify).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let text = "tunnel: {address: 172.16.0.1/24}\nunderlay: {source: lo}\nsecurity: {mode: none}\n";
    std::fs::write(&config, text).unwrap();
    let child = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", env!("CARGO_BIN_EXE_nhrpd"), "--config"])
        .arg(&config)
        .arg("--socket")
        .arg(folder.path().join("nhrpd.sock"))
        .env("NOTIFY_SOCKET", &notify)
        .env("WATCHDOG_USEC", "200000")
        .env_remove("WATCHDOG_PID")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let _daemon = Daemon(child);
    let heard = || {
        let mut message = [0; 256];
        let length = socket.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..length]).trim().to_owned()
    };
    // Nothing is to be kept over a restart without a socket for ESP in UDP.
    assert_eq!(heard(), "FDSTOREREMOVE=1\nFDNAME=ike");
    assert_eq!(heard(), "READY=1");
    assert_eq!(heard(), "WATCHDOG=1");
    assert_eq!(heard(), "WATCHDOG=1");
}
