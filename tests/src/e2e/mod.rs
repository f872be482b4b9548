//! Scenarios with real daemons, each in a lab of its own.
//!
//! A [`Scene`] is a hub and spokes, every one on an underlay network of its own behind the router
//! `internet`, every spoke with a host behind it:
//!
//! ```text
//!   host-a ── spoke-a ──┐             ┌── spoke-b ── host-b
//!                     internet ── hub ┘ …
//! ```
//!
//! Helpers panic, saying what was waited for and what was there instead; the logs of all daemons
//! follow on standard error.

mod authority;
mod frr;
mod in_kernel;
pub mod ipsec;
pub mod nhrp;
mod onlooker;
mod site;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use control::{Cache, Dmvpn, NhsState, Peer, PeerState};
use lab::ping::{Ping, Replies};
use lab::{Daemon, Lab, Topology};
use nix::sched::{CloneFlags, setns};
use serde::de::DeserializeOwned;

pub use authority::{Ca, Identity, days};
pub use frr::Frr;
pub use in_kernel::InKernel;
pub use onlooker::{Onlooker, Recording};
pub use site::{CONFIG, Numbers, Site, dataplane};

/// Time for what should take a second or, after a crash, half a minute. Reached only on failure.
pub const PATIENCE: Duration = Duration::from_secs(90);

const SOCKET: &str = "/run/nhrpd/nhrpd.sock";

/// A lab with daemons on its nodes.
pub struct Scene {
    /// Where everything is.
    pub lab: Lab,
    /// Those that run.
    pub daemons: BTreeMap<String, Daemon>,
    sites: Vec<Site>,
}

impl Scene {
    /// Makes the network; no daemon runs yet.
    pub fn new(name: &str, sites: impl IntoIterator<Item = Site>) -> Self {
        Self::with(name, sites, |_| {})
    }

    /// The same, with a change to the network.
    pub fn with(
        name: &str,
        sites: impl IntoIterator<Item = Site>,
        change: impl FnOnce(&mut Topology),
    ) -> Self {
        let sites: Vec<Site> = sites.into_iter().collect();
        let mut topology = site::topology(&format!("{name}-{}", std::process::id()), &sites);
        change(&mut topology);
        Self::create(&topology, sites)
    }

    /// A lab of another shape; its `run` entries are not started.
    pub fn of(name: &str, topology: &Path, change: impl FnOnce(&mut Topology)) -> Self {
        let mut topology = good("read the topology", Topology::read(topology));
        topology.name = Some(format!("{name}-{}", std::process::id()));
        change(&mut topology);
        Self::create(&topology, Vec::new())
    }

    fn create(topology: &Topology, sites: Vec<Site>) -> Self {
        for program in ["nhrpd", "overlayctl", "lab"] {
            good("find the programs that the lab runs", lab::program(program));
        }
        let lab = good("make the lab", Lab::create(topology));
        Self { lab, daemons: BTreeMap::new(), sites }
    }

    /// A hub and so many spokes, with daemons.
    pub fn up(name: &str, spokes: u8) -> Self {
        let ca = Ca::new("Overlay CA");
        let mut scene = Self::new(name, (0..=spokes).map(|number| Site::new(&ca, number)));
        scene.start_all();
        scene
    }

    /// One of the nodes.
    #[track_caller]
    pub fn node(&self, name: &str) -> &lab::Node {
        good("find a node", self.lab.node(name))
    }

    /// Starts the daemon of one node.
    #[track_caller]
    pub fn start(&mut self, node: &str) {
        self.start_program(node, "nhrpd");
    }

    /// The same with another program.
    #[track_caller]
    pub fn start_program(&mut self, node: &str, program: &str) {
        self.start_command(node, &[program]);
    }

    /// The same, by a command that starts it.
    #[track_caller]
    pub fn start_by(&mut self, node: &str, starter: &[&str]) {
        self.start_command(node, &[starter, &["nhrpd"]].concat());
    }

    #[track_caller]
    fn start_command(&mut self, node: &str, words: &[&str]) {
        let argv = [words, &["--config", CONFIG, "--socket", SOCKET]].concat();
        let daemon = good("start a daemon", self.node(node).start(argv));
        self.daemons.insert(node.to_owned(), daemon);
    }

    /// Starts the daemons of all sites.
    #[track_caller]
    pub fn start_all(&mut self) {
        let names: Vec<String> = self.sites.iter().map(|site| site.name.clone()).collect();
        for name in names {
            self.start(&name);
        }
    }

    /// SIGKILL.
    #[track_caller]
    pub fn kill(&mut self, node: &str) {
        let status = good("kill a daemon", self.take(node).kill());
        assert!(!status.success(), "nhrpd on {node} had ended by itself");
    }

    /// SIGTERM; the daemon must end well.
    #[track_caller]
    pub fn stop(&mut self, node: &str) {
        let status = good("stop a daemon", self.take(node).stop());
        assert!(status.success(), "nhrpd on {node}: {status}");
    }

    #[track_caller]
    fn take(&mut self, node: &str) -> Daemon {
        let daemon = self.daemons.remove(node);
        daemon.unwrap_or_else(|| panic!("no daemon runs on {node}"))
    }

    /// All that a node's daemon has logged.
    #[track_caller]
    pub fn log(&self, node: &str) -> String {
        let daemon = self.daemons.get(node).unwrap_or_else(|| panic!("no daemon runs on {node}"));
        good("read a log", daemon.log())
    }

    /// Runs a command on a node to its end.
    #[track_caller]
    pub fn run(&self, node: &str, command: &str) -> String {
        good("run a command", self.node(node).run(command.split(' ')))
    }

    /// What `overlayctl --json` says.
    #[track_caller]
    pub fn ask<T: DeserializeOwned>(&self, node: &str, command: &str) -> T {
        let text = self.run(node, &format!("overlayctl --json {command}"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{command}: {error}: {text}"))
    }

    /// What `overlayctl --json` says as soon as it is as wished.
    #[track_caller]
    pub fn when<T: DeserializeOwned>(
        &self,
        node: &str,
        command: &str,
        what: &str,
        wish: impl Fn(&T) -> bool,
    ) -> T {
        let read = |text: &str| serde_json::from_str::<T>(text).ok().filter(&wish);
        let command = format!("overlayctl --json {command}");
        let answer =
            self.node(node).until(command.split(' '), PATIENCE, |text| read(text).is_some());
        match answer.map(|text| read(&text)) {
            Ok(Some(answer)) => answer,
            Ok(None) => panic!("{what}: gone again"),
            Err(error) => panic!("{what}: {error}"),
        }
    }

    /// `show dmvpn` as soon as it is as wished.
    #[track_caller]
    pub fn dmvpn(&self, node: &str, what: &str, wish: impl Fn(&Dmvpn) -> bool) -> Dmvpn {
        self.when(node, "show dmvpn", what, wish)
    }

    /// Waits until a spoke is registered.
    #[track_caller]
    pub fn registered(&self, node: &str) -> Dmvpn {
        self.dmvpn(node, &format!("{node} is registered"), is_registered)
    }

    /// Waits until every spoke is registered and the hub knows it.
    #[track_caller]
    pub fn all_registered(&self) {
        for spoke in self.sites.iter().filter(|site| site.number > 0) {
            self.registered(&spoke.name);
            let what = format!("the hub knows {}", spoke.name);
            self.when("hub", "show nhrp cache", &what, |cache: &Cache| {
                cache.entries.iter().any(|entry| entry.next_hop == Some(spoke.tunnel.addr()))
            });
        }
    }

    /// Pings from the host behind one spoke to that behind another.
    #[track_caller]
    pub fn ping(&self, from: &str, to: &str, count: Option<u32>, interval_ms: u32) -> Ping {
        good("ping", Ping::start(self.node(from), to, count, interval_ms))
    }

    /// Waits for a direct path from host to host.
    #[track_caller]
    pub fn direct(&self, from: &str, to: &str) {
        let mut ping = self.ping(from, to, None, 20);
        go_direct(&mut ping);
    }

    /// Starts to record all networks of the underlay.
    #[track_caller]
    pub fn record(&self) -> Recording {
        let links = self.sites.iter().map(Site::wan_link);
        Recording::new(links.map(|link| good("capture", self.lab.capture(&link))).collect())
    }

    /// Addresses that only the tunnel may know.
    pub fn inner(&self) -> Vec<IpAddr> {
        self.sites.iter().flat_map(Site::inner).collect()
    }

    /// A file of a daemon in /proc.
    #[track_caller]
    pub fn proc(&self, node: &str, file: &str) -> String {
        let pid = self.daemons.get(node).map(Daemon::pid).unwrap_or_default();
        good("read /proc", std::fs::read_to_string(format!("/proc/{pid}/{file}")))
    }

    /// CPU time that the threads of a daemon have used.
    #[track_caller]
    pub fn cpu(&self, node: &str) -> Duration {
        let pid = self.daemons.get(node).map(Daemon::pid).unwrap_or_default();
        let threads = good("read /proc", std::fs::read_dir(format!("/proc/{pid}/task")));
        let nanoseconds = threads.flatten().filter_map(|thread| {
            let spent = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
            spent.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanoseconds.sum())
    }

    /// Memory of a daemon in KiB, by its name in /proc/PID/status.
    #[track_caller]
    pub fn memory_kib(&self, node: &str, name: &str) -> u64 {
        let status = self.proc(node, "status");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        good("read it", line.trim_matches(|c: char| !c.is_ascii_digit()).parse())
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (node, daemon) in &self.daemons {
                eprintln!("── log of nhrpd on {node}:\n{}", daemon.log().unwrap_or_default());
            }
        }
    }
}

/// The optimised nhrpd, where it has been built.
pub fn release() -> Option<PathBuf> {
    let debug = good("find nhrpd", lab::program("nhrpd"));
    let release = debug.parent()?.parent()?.join("release/nhrpd");
    release.is_file().then_some(release)
}

/// The value, or a panic that says what was tried.
#[track_caller]
pub fn good<T, E: fmt::Display>(what: &str, result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("cannot {what}: {error}"))
}

/// Asks again and again until the answer is there.
#[track_caller]
pub fn until<T>(what: &str, ask: impl Fn() -> Option<T>) -> T {
    let give_up = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < give_up, "{what}: not within {} s", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Does this on the network of a node, as with a socket for this process.
#[track_caller]
pub fn on_network_of<T: Send>(node: &lab::Node, act: impl FnOnce() -> T + Send) -> T {
    let inhabitant = good("start a process", node.start(["sleep", "1000"]));
    let there = good("open", File::open(format!("/proc/{}/ns/net", inhabitant.pid())));
    let there = || {
        good("go to the network of a node", setns(there, CloneFlags::CLONE_NEWNET));
        act()
    };
    std::thread::scope(|threads| match threads.spawn(there).join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Waits until the last replies come over two routers: straight from spoke to spoke.
#[track_caller]
pub fn go_direct(ping: &mut Ping) {
    go_direct_after(ping, 0);
}

/// The same, up to a reply from `number` on.
#[track_caller]
pub fn go_direct_after(ping: &mut Ping, number: u32) {
    let steady = |replies: &Replies| {
        replies.over_routers_from(2).is_some_and(|from| replies.last() >= (from + 5).max(number))
    };
    good("ping", ping.until("replies that come directly", PATIENCE, steady));
}

/// Waits for so many further replies; the number of the last one.
#[track_caller]
pub fn go_on(ping: &mut Ping, count: u32) -> u32 {
    let from = ping.replies().received();
    let enough = |replies: &Replies| replies.received() >= from + count;
    good("ping", ping.until("further replies", PATIENCE, enough));
    ping.replies().last()
}

/// All peers.
pub fn peers(dmvpn: &Dmvpn) -> impl Iterator<Item = &Peer> {
    dmvpn.interfaces.iter().flat_map(|interface| &interface.peers)
}

/// The peer with this tunnel address.
pub fn peer(dmvpn: &Dmvpn, tunnel_address: IpAddr) -> Option<&Peer> {
    peers(dmvpn).find(|peer| peer.tunnel_address == Some(tunnel_address))
}

/// Is the peer with this tunnel address up?
pub fn is_up(dmvpn: &Dmvpn, tunnel_address: IpAddr) -> bool {
    peer(dmvpn, tunnel_address).is_some_and(|peer| peer.state == PeerState::Up)
}

/// Does a next-hop server respond?
pub fn is_registered(dmvpn: &Dmvpn) -> bool {
    let servers = dmvpn.interfaces.iter().flat_map(|interface| &interface.nhs);
    servers.into_iter().any(|nhs| nhs.state == NhsState::Responding)
}

/// Packets that a hub passed from peer to peer.
pub fn forwarded(dmvpn: &Dmvpn) -> u64 {
    peers(dmvpn).map(|peer| peer.counters.forwarded_packets).sum()
}
