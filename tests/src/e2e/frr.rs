//! FRR's daemons on a node of a scene, as Debian packages them.

use std::path::Path;

use lab::Daemon;

use super::{Numbers, Scene, good, until};

/// FRR on a node. The daemons end with the lab.
pub struct Frr {
    node: String,
    daemons: Vec<Daemon>,
}

impl Frr {
    /// Starts daemons, each with its configuration; zebra must be the first.
    #[track_caller]
    pub fn start(scene: &Scene, node: &str, daemons: &[(&str, String)]) -> Self {
        let write = |path: &str, text: &str| {
            good("write a file", scene.node(node).write_file(Path::new(path), text));
        };
        // They insist on being in this group.
        write("/etc/group", "root:x:0:\nfrrvty:x:999:root\n");
        write("/etc/frr/vtysh.conf", "");
        good("make a folder", scene.node(node).run(["mkdir", "-p", "/run/frr"]));
        let mut started = Vec::new();
        for (name, configuration) in daemons {
            write(&format!("/etc/frr/{name}.conf"), configuration);
            let (program, file) = (format!("/usr/lib/frr/{name}"), format!("/etc/frr/{name}.conf"));
            let pid = format!("/run/frr/{name}.pid");
            let argv = [
                program.as_str(),
                "--user=root",
                "--group=root",
                "--log=stdout",
                "--log-level=debugging",
                "--socket=/run/frr/zserv.api",
                "--vty_socket=/run/frr",
                "--config_file",
                &file,
                "--pid_file",
                &pid,
            ];
            let daemon = good("start one of FRR's daemons", scene.node(node).start(argv));
            until(&format!("{name} is ready on {node}"), || {
                assert!(daemon.running(), "{name}: {}", daemon.log().unwrap_or_default());
                scene.node(node).run(["test", "-S", &format!("/run/frr/{name}.vty")]).ok()
            });
            started.push(daemon);
        }
        Self { node: node.to_owned(), daemons: started }
    }

    /// zebra, staticd and nhrpd on the mGRE device `gre1` of site `number`, which is made here: FRR
    /// has nobody who would. `nhrp` are the lines of its interface, `routes` those of staticd.
    #[track_caller]
    pub fn nhrpd(scene: &Scene, node: &str, number: u8, nhrp: &[&str], routes: &[&str]) -> Self {
        Self::device(scene, node, number);
        let nhrp: String = nhrp.iter().map(|line| format!(" {line}\n")).collect();
        let routes = routes.iter().map(|route| format!("ip route {route}\n")).collect();
        let nhrp = format!("debug nhrp all\nnhrp nflog-group 1\ninterface gre1\n{nhrp}");
        let daemons = [("zebra", String::new()), ("staticd", routes), ("nhrpd", nhrp)];
        Self::start(scene, node, &daemons)
    }

    /// Its daemons, zebra first.
    pub fn daemons(&self) -> &[Daemon] {
        &self.daemons
    }

    /// The mGRE device `gre1` of site `number`.
    #[track_caller]
    pub fn device(scene: &Scene, node: &str, number: u8) {
        let numbers = Numbers::default();
        let (outer, inner) = (numbers.underlay(number, 10).addr(), numbers.tunnel(number).addr());
        // Not FRR's `tunnel source`: it makes the device anew, without key and down.
        scene.run(node, &format!("ip link add gre1 type gre key 42 ttl 64 local {outer}"));
        scene.run(node, &format!("ip address add {inner}/32 dev gre1"));
        scene.run(node, "ip link set gre1 up");
    }

    /// What vtysh says to a command.
    #[track_caller]
    pub fn show(&self, scene: &Scene, command: &str) -> String {
        let argv = ["vtysh", "--vty_socket", "/run/frr", "-c", command];
        good("ask FRR", scene.node(&self.node).run(argv))
    }

    /// Asks until the answer is as wished.
    #[track_caller]
    pub fn when(&self, scene: &Scene, command: &str, wish: impl Fn(&str) -> bool) -> String {
        until(&format!("FRR on {}: {command}", self.node), || {
            Some(self.show(scene, command)).filter(|told| wish(told))
        })
    }

    /// SIGTERM for the last daemon.
    #[track_caller]
    pub fn stop(mut self) {
        if let Some(daemon) = self.daemons.pop() {
            good("stop a daemon of FRR", daemon.stop());
        }
    }

    /// The log of the last daemon.
    #[track_caller]
    pub fn log(&self) -> String {
        self.daemons.last().map(|daemon| good("read a log", daemon.log())).unwrap_or_default()
    }
}

impl Drop for Frr {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("── log of FRR on {}:\n{}", self.node, self.log());
        }
    }
}
