//! nhrpd and stock strongSwan and libreswan: every cell of the matrix in docs/interoperability.md.
//!
//! The peer has a GRE device and no NHRP; our side has its address by `map`. A cell that held is
//! noted as a file in the folder that MATRIX names (`tests/kernel --matrix` makes the table of them).

use std::fs;
use std::net::IpAddr;

use control::{IkeSa, IkeSas, IkeState};
use lab::decode::{Kind, Packet};
use lab::ping::Ping;
use lab::{Daemon, Lab, Node};
use overlay_tests::e2e::ipsec::{Connection, Foreign, Secret};
use overlay_tests::e2e::{Ca, PATIENCE, Recording, days, go_on, good, until};
use overlay_tests::interop_cells;
use overlay_tests::matrix::{CELLS, Cell, End, Path, Peer, Plane, Proof, Side};
use pki::authority::Request;

const OUTSIDE: &str = "198.18.0.1";
const PEER: &str = "198.18.0.2";
const INNER: [&str; 2] = ["172.16.0.1", "172.16.0.2"];
const NAMES: [&str; 2] = ["ours.example.net", "peer.example.net"];
const KEY: &str = "Zq8vN4tR1xWb7LdHs0KpYc3M";
/// Between two pings of the machine without KVM, in ms.
const INTERVAL: u32 = 20;

fn network(path: Path) -> String {
    let (ours, translator) = match path {
        Path::Open => {
            (format!("{{ eth0: {{ link: wan, address: {OUTSIDE}/24 }} }} "), String::new())
        }
        Path::Translated => (
            "{ eth0: { link: home, address: 10.0.0.2/24 } }, routes: { default: 10.0.0.1 }".into(),
            format!(
                "  translator:\n    interfaces: {{ eth0: {{ link: wan, address: {OUTSIDE}/24 }}, \
                 eth1: {{ link: home, address: 10.0.0.1/24 }} }}\n    nat: {{ outside: eth0 }}\n"
            ),
        ),
    };
    format!(
        "links: {{ wan: , home: }}\nnodes:\n  ours: {{ interfaces: {ours} }}\n  peer: \
         {{ interfaces: {{ eth0: {{ link: wan, address: {PEER}/24 }} }} }}\n{translator}"
    )
}

/// nhrpd on its node.
struct Ours<'a> {
    node: &'a Node,
    config: String,
    daemon: Option<Daemon>,
}

impl Ours<'_> {
    fn start(&mut self) {
        let argv = ["nhrpd", "--config", &self.config, "--socket", "/run/nhrpd.sock"];
        self.daemon = Some(good("start nhrpd", self.node.start(argv)));
        self.sas("it runs", |_| true);
    }

    fn log(&self) -> String {
        self.daemon.as_ref().and_then(|daemon| daemon.log().ok()).unwrap_or_default()
    }

    fn sas(&self, what: &str, wish: impl Fn(&IkeSas) -> bool) -> IkeSas {
        let argv = ["overlayctl", "--socket", "/run/nhrpd.sock", "--json", "show", "ike", "sa"];
        until(what, || {
            let told = self.node.run(argv).ok()?;
            serde_json::from_str(&told).ok().filter(&wish)
        })
    }

    /// The one IKE SA, with one pair of ESP SAs that both sides use.
    fn settled(&self, what: &str, wish: impl Fn(&IkeSa) -> bool) -> IkeSa {
        let one = |all: &IkeSas| match &all.sas[..] {
            [sa] if sa.state == IkeState::Established && sa.ipsec.len() == 1 => Some(sa.clone()),
            _ => None,
        };
        let fits = |all: &IkeSas| one(all).is_some_and(|sa| wish(&sa));
        one(&self.sas(what, fits)).unwrap_or_else(|| panic!("{what}: gone again"))
    }
}

impl Drop for Ours<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("── log of nhrpd:\n{}", self.log());
        }
    }
}

fn ping(from: &Node, to: &str) -> Ping {
    good("ping", Ping::start(from, to, None, INTERVAL))
}

/// Traffic that begins before there is an SA, up to its first reply.
fn knock(from: &Node, to: &str) {
    let mut first = ping(from, to);
    good("ping", first.until("a reply", PATIENCE, |replies| replies.received() > 0));
}

/// Where IKE begins: we begin on 4500, and our userspace data plane has no other.
fn port(cell: &Cell) -> u16 {
    match (cell.begins, cell.plane) {
        (Side::They, Plane::Kernel) => 500,
        _ => 4500,
    }
}

fn configuration(cell: &Cell) -> String {
    let plane = match cell.plane {
        Plane::Kernel => "kernel",
        Plane::Userspace => "userspace",
    };
    let [own, peer] = INNER;
    let seconds = match cell.rekeys {
        Side::We => 5,
        Side::They => 3600,
    };
    let security = match cell.proof {
        Proof::Certificates => "certificate: own.crt, private-key: own.key, ca: ca.crt".to_owned(),
        Proof::SharedKey => format!("identity: {}, psk-file: psk", NAMES[0]),
    };
    let accept = match cell.proof {
        Proof::Certificates => String::new(),
        Proof::SharedKey => {
            format!("accept: [{{ identity: {}, prefixes: [{peer}/32] }}]\n", NAMES[1])
        }
    };
    format!(
        "tunnel: {{ interface: dmvpn0, address: {own}/24, key: 42 }}\nunderlay: {{ source: eth0 }}\n\
         map: [{{ address: {peer}, nbma: {PEER} }}]\ndataplane: {plane}\nlog: debug\n\
         limits: {{ dead-peer-interval: 2 }}\n{accept}\
         security: {{ {security}, rekey-interval: {seconds} }}\n"
    )
}

fn run(name: &str) {
    let cell = CELLS.iter().find(|cell| cell.name == name).unwrap_or_else(|| panic!("no {name}"));
    let file = std::path::Path::new("matrix.yaml");
    let mut topology = good("read", lab::Topology::parse(file, &network(cell.path)));
    topology.name = Some(format!("ipsec-{}", std::process::id()));
    let lab = good("make the lab", Lab::up(&topology));
    let [ours, peer] = ["ours", "peer"].map(|name| good("find a node", lab.node(name)));

    let ca = Ca::new("CA");
    let [own, other] = [0, 1].map(|n| {
        let mut request = Request::new(["ours", "peer"][n], days(5, 50));
        request.addresses.push(good("read an address", INNER[n].parse()));
        ca.issue(&request)
    });
    let proof = match cell.proof {
        Proof::Certificates => Secret::Certificate(other),
        Proof::SharedKey => {
            let [other, own] = NAMES.map(str::to_owned);
            Secret::Shared { own, other, key: KEY.to_owned() }
        }
    };
    let connection = Connection {
        local: PEER.to_owned(),
        remote: OUTSIDE.to_owned(),
        port: port(cell),
        proof,
        ike: Some(cell.ike.to_owned()),
        esp: Some(cell.esp.to_owned()),
        trap: cell.begins == Side::They,
        quiet: false,
    };
    let gre = format!(
        "ip link add gre1 type gre key 42 ttl 64 local {PEER} remote {OUTSIDE}; \
         sysctl -qw net.ipv6.conf.gre1.disable_ipv6=1; \
         ip address add {}/24 dev gre1; ip link set gre1 up mtu 1400",
        INNER[1]
    );
    good("make the GRE device", peer.run(["sh", "-c", &gre]));
    let capture = Recording::new(vec![good("capture", lab.capture("wan"))]);
    // Not in /run or /etc: nodes have their own.
    let folder = good("make a folder", tempfile::tempdir());
    let folder = folder.path();
    let mut foreign = Foreign::start(cell.peer, peer, folder, connection);

    for (name, text) in [
        ("nhrpd.yaml", &configuration(cell)),
        ("own.crt", &own.certificate),
        ("own.key", &own.private_key),
        ("ca.crt", &own.ca),
        ("psk", &format!("{} {KEY}\n", NAMES[1])),
    ] {
        let path = folder.join(name);
        good("write a file", fs::write(&path, text));
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        good("keep it private", fs::set_permissions(&path, mode));
    }
    let config = folder.join("nhrpd.yaml").display().to_string();
    let mut nhrpd = Ours { node: ours, config, daemon: None };
    nhrpd.start();

    let begin = || match cell.begins {
        Side::We => knock(ours, INNER[1]),
        Side::They => knock(peer, INNER[0]),
    };
    begin();
    let sa = nhrpd.settled("an SA", |_| true);
    // The SA may have given way to another one by now.
    let log = nhrpd.log();
    let first = log.lines().find(|line| line.contains("IKE_SA_INIT request 0 of"));
    assert_eq!(first.map(|line| line.contains(" IKE to ")), Some(cell.begins == Side::We));
    let at = format!(":{}: ", port(cell));
    assert_eq!(first.map(|line| line.contains(&at)), Some(true), "{first:?}");
    assert_eq!(sa.suite.as_deref(), Some(cell.ike));
    assert_eq!(sa.nat_local, cell.path == Path::Translated);

    let mut pings = [ping(ours, INNER[1]), ping(peer, INNER[0])];
    let mut both = |count| {
        pings.iter_mut().for_each(|ping| {
            go_on(ping, count);
        });
    };
    both(20);
    let spi = |sa: &IkeSa| (sa.initiator_spi, sa.ipsec.first().map(|esp| esp.inbound_spi.clone()));
    match cell.rekeys {
        Side::They => {
            for ike in [false, true] {
                let before = spi(&nhrpd.settled("an SA", |_| true));
                foreign.rekey(ike);
                nhrpd.settled("new keys", |sa| match ike {
                    true => spi(sa).0 != before.0,
                    false => spi(sa).1 != before.1,
                });
                both(20);
            }
        }
        Side::We => {
            for _ in 0..2 {
                let before = spi(&nhrpd.settled("an SA", |_| true));
                nhrpd.settled("new keys of both", |sa| {
                    spi(sa).0 != before.0 && spi(sa).1 != before.1
                });
                both(20);
            }
        }
    }
    for ping in pings {
        let replies = ping.stop();
        if replies.lost() > 0 {
            for node in [ours, peer] {
                let counted = node.run(["grep", "-v", "[[:space:]]0$", "/proc/net/xfrm_stat"]);
                eprintln!("{}: {}", node.name(), counted.unwrap_or_default());
            }
        }
        println!("{} pings, {} lost", replies.sent(), replies.lost());
        if !cell.may_lose() {
            assert_eq!(replies.lost(), 0);
        }
    }

    match cell.end {
        End::Deleted(Side::We) => {
            let daemon = nhrpd.daemon.take();
            good("stop nhrpd", daemon.map(Daemon::stop).transpose());
            until("the peer has no SA", || (!foreign.has_sas()).then_some(()));
        }
        End::Deleted(Side::They) => {
            foreign.delete();
            nhrpd.sas("no SA", |all| all.sas.is_empty());
        }
        End::Died(Side::They) => {
            foreign.kill();
            nhrpd.sas("no SA", |all| all.sas.is_empty());
            foreign.restart();
            begin();
        }
        End::Died(Side::We) => {
            let daemon = nhrpd.daemon.take();
            good("kill nhrpd", daemon.map(Daemon::kill).transpose());
            until("the peer has no SA", || (!foreign.has_sas()).then_some(()));
            nhrpd.start();
            begin();
        }
    }
    let outside: IpAddr = good("read an address", OUTSIDE.parse());
    let inner = INNER.map(|address| good("read an address", address.parse()));
    let seen = capture.stop(&inner);
    if cell.peer == Peer::Libreswan && cell.begins == Side::They {
        // Its trap lets GRE through while it negotiates.
        let ours = |packet: &Packet| packet.addresses.is_some_and(|(from, _)| from == outside);
        let packets = seen.packets.iter().map(|packet| Packet::of(&packet.bytes)).filter(ours);
        assert_eq!(packets.filter(|packet| matches!(packet.kind, Kind::Gre(_))).count(), 0);
    } else if cell.plane == Plane::Userspace {
        seen.sees_ciphers_only();
    } else {
        seen.sees_nothing();
    }
    if let Some(folder) = std::env::var_os("MATRIX") {
        good("note it", fs::write(std::path::Path::new(&folder).join(cell.name), ""));
    }
}

macro_rules! tests {
    ($($name:ident: $($field:expr),*;)*) => { $(
        #[test]
        fn $name() {
            run(stringify!($name));
        }
    )* };
}
interop_cells!(tests);
