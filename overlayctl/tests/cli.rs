//! The program as a user calls it, against a server with fixed answers.

#![allow(clippy::unwrap_used)]

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use control::{
    Cache, Call, Cleared, Dmvpn, Endpoints, Handler, IkeSas, Multicast, NextHopServers, Reloaded,
    Server, Shortcuts, Trace, Traffic,
};
use tokio::sync::mpsc;

const DMVPN: &str = include_str!("../../nhrpd/control/tests/samples/ShowDmvpn.json");
const TRACE: &str = include_str!("../../nhrpd/control/tests/samples/Trace.json");

struct Fixed;

impl Handler for Fixed {
    fn dmvpn(&mut self) -> Dmvpn {
        serde_json::from_str(DMVPN).unwrap()
    }

    fn nhrp_cache(&mut self) -> Cache {
        Cache::default()
    }

    fn nhs(&mut self) -> NextHopServers {
        NextHopServers::default()
    }

    fn shortcuts(&mut self) -> Shortcuts {
        Shortcuts::default()
    }

    fn nhrp_traffic(&mut self) -> Traffic {
        Traffic::default()
    }

    fn tunnel_endpoints(&mut self) -> Endpoints {
        Endpoints::default()
    }

    fn ike_sa(&mut self) -> IkeSas {
        IkeSas::default()
    }

    fn multicast(&mut self) -> Multicast {
        Multicast::default()
    }

    fn trace(&mut self, _: IpAddr) -> Trace {
        serde_json::from_str(TRACE).unwrap()
    }

    fn reload(&mut self) -> Result<Reloaded, String> {
        let warnings = vec!["certificate of \"CN=spoke1\" has expired".to_owned()];
        Ok(Reloaded { changed: vec!["nhs".into(), "log".into()], warnings })
    }

    fn clear_cache(&mut self) -> Cleared {
        Cleared { cleared: 1 }
    }

    fn clear_shortcuts(&mut self) -> Cleared {
        Cleared { cleared: 0 }
    }

    fn clear_peer(&mut self, address: IpAddr) -> Cleared {
        Cleared { cleared: 2 * u64::from(address == IpAddr::from([172, 16, 0, 3])) }
    }
}

fn overlayctl(socket: &Path, arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_overlayctl"))
        .args(arguments.split(' '))
        .arg("--socket")
        .arg(socket)
        .output()
        .unwrap()
}

/// Status, standard output, standard error.
fn said(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn beside_server(client: impl FnOnce(PathBuf) + Send + 'static) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nhrpd.sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let server = Server::bind(&path).unwrap();
        let (calls_in, mut calls) = mpsc::channel::<Call>(1);
        let serving = tokio::spawn(server.run(calls_in));
        let mut client = tokio::task::spawn_blocking(move || client(path));
        loop {
            tokio::select! {
                done = &mut client => break done.unwrap(),
                Some(call) = calls.recv() => call.answer(&mut Fixed),
            }
        }
        serving.abort();
    });
}

#[test]
fn every_answer_is_text_or_one_json_document() {
    beside_server(|socket| {
        for command in [
            "show dmvpn",
            "show dmvpn detail",
            "show nhrp",
            "show nhrp cache",
            "show nhrp nhs",
            "show nhrp shortcuts",
            "show nhrp traffic",
            "show tunnel endpoints",
            "show ike sa",
            "show multicast",
            "clear nhrp cache",
            "clear nhrp shortcuts",
            "clear nhrp peer 172.16.0.3",
            "reload",
        ] {
            let (status, _, error) = said(&overlayctl(&socket, command));
            assert_eq!((status, error.as_str()), (0, ""), "{command}");
            let (status, json, error) = said(&overlayctl(&socket, &format!("{command} --json")));
            assert_eq!((status, error.as_str()), (0, ""), "{command}");
            assert!(serde_json::from_str::<serde_json::Value>(&json).unwrap().is_object());
        }
        let (_, text, _) = said(&overlayctl(&socket, "show dmvpn"));
        assert!(text.contains("\n     2 198.51.100.1         172.16.0.1    UP 00:22:51     S "));
        assert!(!text.contains('\x1b'), "no colour outside a terminal");
        let (_, json, _) = said(&overlayctl(&socket, "--json show dmvpn"));
        let value = |text| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&json), value(DMVPN));
    });
}

#[test]
fn clear_says_how_many() {
    beside_server(|socket| {
        for (command, expected) in [
            ("cache", "cache: 1 entry cleared\n"),
            ("shortcuts", "shortcuts: 0 entries cleared\n"),
            ("peer 172.16.0.3", "peer 172.16.0.3: 2 entries cleared\n"),
        ] {
            let (status, text, _) = said(&overlayctl(&socket, &format!("clear nhrp {command}")));
            assert_eq!((status, text.as_str()), (0, expected));
        }
        let (status, text, error) = said(&overlayctl(&socket, "--json clear nhrp peer 172.16.0.4"));
        let reason = "overlayctl: nhrpd knows no peer 172.16.0.4\n";
        assert_eq!((status, text.as_str(), error.as_str()), (1, "", reason));
    });
}

#[test]
fn reload_says_what_changed_and_what_is_doubtful() {
    beside_server(|socket| {
        let (status, text, _) = said(&overlayctl(&socket, "reload"));
        let expected = "reloaded: nhs, log changed; certificates read again\n\
                        warning: certificate of \"CN=spoke1\" has expired\n";
        assert_eq!((status, text.as_str()), (0, expected));
    });
}

#[test]
fn no_daemon() {
    let (status, text, error) =
        said(&overlayctl(Path::new("/nonexistent/nhrpd.sock"), "show nhrp"));
    assert_eq!((status, text.as_str()), (1, ""));
    assert_eq!(
        error,
        "overlayctl: cannot reach nhrpd at /nonexistent/nhrpd.sock: No such file or directory: is \
         it running? (systemctl status nhrpd)\n"
    );
}

#[test]
fn wrong_usage() {
    let (status, text, _) = said(&overlayctl(Path::new("/nonexistent"), "show nothing"));
    assert_eq!((status, text.as_str()), (2, ""));
}

#[test]
fn import_writes_the_file_and_names_what_is_not_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("hub.cfg"), folder.path().join("nhrpd.yaml"));
    std::fs::write(&from, include_str!("../src/import/samples/ios-hub.cfg")).unwrap();
    let import = format!("import ios {}", from.display());
    let nobody = Path::new("/nonexistent");

    let (status, out, err) = said(&overlayctl(nobody, &import));
    assert_eq!(status, 0, "{err}");
    assert!(out.contains("address: 172.16.0.1/24"), "{out}");
    assert!(err.contains("hub.cfg:38: ip tcp adjust-mss 1360: "), "{err}");

    let (status, json, err) = said(&overlayctl(nobody, &format!("{import} --json")));
    assert_eq!((status, err.as_str()), (0, ""));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["configuration"], out);
    assert!(json["notes"].as_array().unwrap().iter().any(|note| note["line"] == 38));

    let output = format!("{import} --output {}", to.display());
    assert_eq!(said(&overlayctl(nobody, &output)).0, 0);
    assert_eq!(std::fs::read_to_string(&to).unwrap(), out);
    let (status, _, err) = said(&overlayctl(nobody, &output));
    assert_eq!(status, 1);
    assert!(err.contains("is there already"), "{err}");

    std::fs::write(&from, "hostname x\n").unwrap();
    let (status, out, err) = said(&overlayctl(nobody, &import));
    assert_eq!((status, out.as_str()), (1, ""));
    assert!(err.ends_with("hub.cfg: no interface speaks NHRP\n"), "{err}");
}
