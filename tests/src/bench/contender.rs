//! The programs that are compared, and how each joins the three nodes.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::{Daemon, Lab, Topology};

const PATIENCE: Duration = Duration::from_secs(20);
const NODES: [&str; 3] = ["hub", "a", "b"];
const OUTER: [&str; 3] = ["10.1.0.1", "10.1.0.2", "10.2.0.2"];
/// Of the kernel's tunnels, in bytes: the same for both.
const KERNEL_MTU: &str = "1400";

/// One way to join the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    /// No tunnel: the links themselves.
    Plain,
    /// This project, userspace data plane; the value of `security.mode`.
    Nhrpd(&'static str),
    /// A WireGuard program that is set up with `wg`: its command line, to which the device's name
    /// is added.
    WireGuard(&'static str),
    /// This project, kernel data plane with ESP.
    Kernel,
    /// The same tunnel as that of [`Self::Kernel`], set up with `ip` and nobody to look after it.
    ByHand,
}

/// A contender at work.
pub struct Scene {
    /// The three nodes.
    pub lab: Lab,
    /// Its daemons, on `hub`, `a`, `b`; none without a tunnel.
    pub daemons: Vec<Daemon>,
    /// Where `hub` and `b` are reached through the tunnel.
    pub addresses: [Ipv4Addr; 2],
}

impl Contender {
    /// Those that want Debian's kernel, the control first.
    pub const KERNEL: [Self; 3] = [Self::Plain, Self::Kernel, Self::ByHand];

    /// Those whose packets go through the program, the control first.
    pub const USERSPACE: [Self; 6] = [
        Self::Plain,
        Self::Nhrpd("esp"),
        Self::Nhrpd("wireguard"),
        Self::WireGuard("boringtun-cli --foreground --disable-drop-privileges"),
        Self::WireGuard("gotatun --foreground --disable-drop-privileges"),
        Self::WireGuard("wireguard-go --foreground"),
    ];

    /// How it is called in tables.
    pub fn name(self) -> String {
        match self {
            Self::Plain => "veth, no tunnel".into(),
            Self::Nhrpd(mode) => format!("nhrpd {mode}"),
            Self::WireGuard(command) => program(command).into(),
            Self::Kernel => "nhrpd kernel".into(),
            Self::ByHand => "by hand".into(),
        }
    }

    /// Makes the nodes and joins them. `peers`: folder with programs that are not on the PATH.
    ///
    /// # Errors
    /// What did not work, in words.
    pub fn start(self, peers: &Path) -> Result<Scene, String> {
        let files = Path::new("bench.yaml");
        let text = self.topology();
        let topology = Topology::parse(files, &text).map_err(|error| error.to_string())?;
        let words = |error: lab::Error| error.to_string();
        let mut lab = Lab::up(&topology).map_err(words)?;
        let mut daemons = Vec::new();
        match self {
            Self::Plain => {}
            Self::ByHand => by_hand(&lab)?,
            Self::Nhrpd(_) | Self::Kernel => {
                for node in NODES {
                    daemons.push(lab.take_daemon(node, "nhrpd").map_err(words)?);
                }
            }
            Self::WireGuard(command) => daemons = wireguard(&lab, command, peers)?,
        }
        let addresses = match self {
            Self::Plain => [[10, 1, 0, 1], [10, 2, 0, 2]],
            _ => [[172, 16, 0, 1], [172, 16, 0, 3]],
        };
        let addresses = addresses.map(Ipv4Addr::from);
        // A WireGuard hub learns where a spoke is when that one speaks.
        for (node, address) in [("b", addresses[0]), ("a", addresses[0]), ("a", addresses[1])] {
            let node = lab.node(node).map_err(words)?;
            let ping = format!("ping -c 1 -W 1 {address} || true");
            node.until(["sh", "-c", &ping], PATIENCE, |said| said.contains(" 1 received"))
                .map_err(words)?;
        }
        Ok(Scene { lab, daemons, addresses })
    }

    fn topology(self) -> String {
        let lab: String = self.name().chars().filter(char::is_ascii_alphanumeric).collect();
        let link = match self {
            Self::Kernel | Self::ByHand => "{ gro: true }",
            _ => "",
        };
        let mut text = format!("name: bench-{lab}\nlinks: {{ wa: {link}, wb: {link} }}\n");
        let ours = match self {
            Self::Nhrpd(mode) => Some((mode, "userspace", "auto")),
            Self::Kernel => Some(("esp", "kernel", KERNEL_MTU)),
            _ => None,
        };
        if ours.is_some() {
            text += "setup:\n  - overlayctl pki init\n";
            for (name, n) in NODES.iter().zip(1..) {
                text += &format!("  - overlayctl pki issue {name} --address 172.16.0.{n}\n");
            }
        }
        text += "nodes:\n";
        let interfaces = [
            "eth0: { link: wa, address: 10.1.0.1/24 }, eth1: { link: wb, address: 10.2.0.1/24 }",
            "eth0: { link: wa, address: 10.1.0.2/24 }",
            "eth0: { link: wb, address: 10.2.0.2/24 }",
        ];
        for ((name, interfaces), n) in NODES.iter().zip(interfaces).zip(1..) {
            text += &format!("  {name}:\n    interfaces: {{ {interfaces} }}\n");
            text += match n {
                1 => "    sysctl: { net.ipv4.ip_forward: 1 }\n",
                2 => "    routes: { default: 10.1.0.1 }\n",
                _ => "    routes: { default: 10.2.0.1 }\n",
            };
            if let Some((mode, plane, mtu)) = ours {
                let role = match n {
                    1 => "nhrp: { registrations: accept, redirect: false }".to_owned(),
                    // In the kernel a node has one address.
                    _ if plane == "kernel" => {
                        "nhs: [{ address: 172.16.0.1, nbma: 10.1.0.1 }]".to_owned()
                    }
                    _ => format!("nhs: [{{ address: 172.16.0.1, nbma: 10.{}.0.1 }}]", n - 1),
                };
                let source = if plane == "kernel" { OUTER[n - 1] } else { "eth0" };
                let security = format!(
                    "{{ certificate: node.crt, private-key: node.key, ca: ca.crt, \
                     mode: {mode} }}"
                );
                text += &format!(
                    "    files:
      /etc/nhrpd/node.crt: {{ copy: pki/issued/{name}.crt }}
      /etc/nhrpd/node.key: {{ copy: pki/issued/{name}.key }}
      /etc/nhrpd/ca.crt: {{ copy: pki/ca.crt }}
      /etc/nhrpd/nhrpd.yaml: |
        tunnel: {{ interface: dmvpn0, address: 172.16.0.{n}/24, key: 42, mtu: {mtu} }}
        underlay: {{ source: {source} }}
        {role}
        security: {security}
        dataplane: {plane}
    run: [nhrpd --config /etc/nhrpd/nhrpd.yaml --socket /run/nhrpd/nhrpd.sock]\n"
                );
            }
        }
        text
    }
}

/// What [`Contender::Kernel`] makes, with `ip`: multipoint GRE, neighbours, ESP with AES-256-GCM,
/// ESN and the same replay window in transport mode.
fn by_hand(lab: &Lab) -> Result<(), String> {
    for (own, name) in NODES.iter().enumerate() {
        let (inner, outer) = (own + 1, OUTER[own]);
        let mut script = format!(
            "set -e
            ip link add gre1 type gre local {outer} key 42 ttl 64 nopmtudisc
            ip address add 172.16.0.{inner}/24 dev gre1
            ip link set gre1 mtu {KERNEL_MTU} up
            for device in all gre1; do echo 0 >/proc/sys/net/ipv4/conf/$device/send_redirects; done\n"
        );
        // The hub with each, and they with the hub.
        for other in if own == 0 { 1..3 } else { 0..1 } {
            let peer = OUTER[other];
            script += &format!(
                "ip neigh add 172.16.0.{} lladdr {peer} dev gre1 nud permanent\n",
                other + 1
            );
            for (from, to, spi, direction) in [
                (outer, peer, 0x1000 + 16 * own + other, "out"),
                (peer, outer, 0x1000 + 16 * other + own, "in"),
            ] {
                let key = "42".repeat(36);
                script += &format!(
                    "ip xfrm state add src {from} dst {to} proto esp spi {spi:#x} reqid 1 \
                     mode transport replay-window 4096 flag esn \
                     aead 'rfc4106(gcm(aes))' 0x{key} 128
                     ip xfrm policy add src {from}/32 dst {to}/32 proto gre dir {direction} \
                     tmpl src {from} dst {to} proto esp reqid 1 mode transport\n"
                );
            }
        }
        if own > 0 {
            let (spoke, hub) = (4 - own, OUTER[0]);
            script +=
                &format!("ip neigh add 172.16.0.{spoke} lladdr {hub} dev gre1 nud permanent\n");
        }
        let node = lab.node(name).map_err(|error| error.to_string())?;
        node.run(["sh", "-c", &script]).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn program(command: &str) -> &str {
    command.split_whitespace().next().unwrap_or_default()
}

/// Starts a WireGuard program on each node; `a` and `b` have `hub` for a peer.
fn wireguard(lab: &Lab, command: &str, peers: &Path) -> Result<Vec<Daemon>, String> {
    let words = |error: lab::Error| error.to_string();
    let mut arguments = command.split_whitespace().map(String::from);
    let name = arguments.next().unwrap_or_default();
    let built: PathBuf = peers.join(&name);
    let name = if built.exists() { built.to_string_lossy().into_owned() } else { name };
    let argv: Vec<String> =
        std::iter::once(name).chain(arguments).chain(["wg0".to_owned()]).collect();
    let mut daemons = Vec::new();
    let mut keys = Vec::new();
    for node in NODES {
        let node = lab.node(node).map_err(words)?;
        let private = node.run(["wg", "genkey"]).map_err(words)?;
        node.write_file(Path::new("/etc/wg.key"), &private).map_err(words)?;
        keys.push(node.run(["sh", "-c", "wg pubkey < /etc/wg.key"]).map_err(words)?);
        daemons.push(node.start(&argv).map_err(words)?);
        node.until(["sh", "-c", "wg show interfaces; true"], PATIENCE, |said| said.contains("wg0"))
            .map_err(words)?;
    }
    let key = |n: usize| keys[n].trim().to_owned();
    let peer = |n: usize, allowed: &str, endpoint: &str| {
        let mut words = vec!["peer".to_owned(), key(n), "allowed-ips".to_owned(), allowed.into()];
        if !endpoint.is_empty() {
            words.extend(["endpoint".to_owned(), endpoint.to_owned()]);
        }
        words
    };
    let settings = [
        [peer(1, "172.16.0.2/32", ""), peer(2, "172.16.0.3/32", "")].concat(),
        peer(0, "172.16.0.0/24", "10.1.0.1:51820"),
        peer(0, "172.16.0.0/24", "10.2.0.1:51820"),
    ];
    for ((node, peers), n) in NODES.iter().zip(settings).zip(1..) {
        let node = lab.node(node).map_err(words)?;
        let base = ["wg", "set", "wg0", "private-key", "/etc/wg.key", "listen-port", "51820"];
        node.run(base.map(String::from).into_iter().chain(peers)).map_err(words)?;
        let address = format!("172.16.0.{n}/24");
        node.run(["ip", "address", "add", &address, "dev", "wg0"]).map_err(words)?;
        node.run(["ip", "link", "set", "wg0", "mtu", "1420", "up"]).map_err(words)?;
    }
    Ok(daemons)
}
