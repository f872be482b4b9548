//! Nodes in network namespaces of the test's own, joined by a router that stands for the
//! internet. Needs root, or `unshare -Urn`.
#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Command, Output};
use std::time::Duration;

use boringtun::x25519::{PublicKey, StaticSecret};
use dataplane::{Config, Userspace};
use ipnet::IpNet;
use nix::sched::{CloneFlags, setns, unshare};
use overlay::desired::{Desired, Esp, EspCipher, EspKeys, Event, Hop, Peer, PeerId, Transport};
use tokio::sync::mpsc;

/// Long enough for a loaded machine; a test that waits so long has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A network namespace; the kernel removes it with the last user.
pub struct Namespace(File);

impl Namespace {
    pub fn new() -> Self {
        let fd = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace needs root");
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let this = Self(fd.join().unwrap());
        this.ip("link set lo up");
        this
    }

    /// Runs `f` on this thread within the namespace; sockets that it makes stay there.
    pub fn run<T>(&self, f: impl FnOnce() -> T) -> T {
        let home = File::open("/proc/thread-self/ns/net").unwrap();
        self.enter();
        let result = f();
        setns(home, CloneFlags::CLONE_NEWNET).unwrap();
        result
    }

    /// Moves this thread there.
    pub fn enter(&self) {
        setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
    }

    /// As [`Self::output`], while this thread goes on with its tasks.
    pub async fn output_meanwhile(&self, command: &str) -> Output {
        let there = Self(self.0.try_clone().unwrap());
        let command = command.to_owned();
        tokio::task::spawn_blocking(move || there.output(&command)).await.unwrap()
    }

    pub fn output(&self, command: &str) -> Output {
        let mut words = command.split_whitespace();
        self.run(|| Command::new(words.next().unwrap()).args(words).output().unwrap())
    }

    pub fn spawn(&self, command: &str) -> std::process::Child {
        let mut words = command.split_whitespace();
        let mut command = Command::new(words.next().unwrap());
        command.args(words).stdout(std::process::Stdio::piped());
        self.run(|| command.spawn().unwrap())
    }

    /// Standard output of a command that must succeed.
    pub fn ok(&self, command: &str) -> String {
        let output = self.output(command);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {text}{error}");
        text
    }

    pub fn ip(&self, arguments: &str) -> String {
        self.ok(&format!("ip {arguments}"))
    }

    pub fn sysctl(&self, key: &str, value: &str) {
        self.run(|| std::fs::write(format!("/proc/sys/net/{key}"), value).unwrap());
    }

    pub fn udp(&self, address: &str) -> UdpSocket {
        let socket = self.run(|| UdpSocket::bind(address).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }
}

/// The internet: node `n` has 10.9.n.2/24 and fd09:n::2/64 on `eth0`.
pub struct Internet {
    pub router: Namespace,
}

impl Internet {
    pub fn new() -> Self {
        let router = Namespace::new();
        router.sysctl("ipv4/ip_forward", "1");
        router.sysctl("ipv6/conf/all/forwarding", "1");
        Self { router }
    }

    pub fn attach(&self, n: u8) -> Namespace {
        let node = Namespace::new();
        self.router.run(|| {
            let file = &node.0;
            let fd = std::os::fd::AsRawFd::as_raw_fd(file);
            let path = format!("/proc/{}/fd/{fd}", std::process::id());
            let out = Command::new("ip")
                .args(["link", "add", &format!("n{n}"), "type", "veth", "peer", "name", "eth0"])
                .args(["netns", &path])
                .output()
                .unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        });
        self.router.ip(&format!("addr add 10.9.{n}.1/24 dev n{n}"));
        self.router.ip(&format!("addr add fd09:{n}::1/64 dev n{n} nodad"));
        self.router.ip(&format!("link set n{n} up"));
        node.ip(&format!("addr add 10.9.{n}.2/24 dev eth0"));
        node.ip(&format!("addr add fd09:{n}::2/64 dev eth0 nodad"));
        node.ip("link set eth0 up");
        node.ip(&format!("route add default via 10.9.{n}.1"));
        node.ip(&format!("-6 route add default via fd09:{n}::1"));
        // A new link carries its first packets up to a second late.
        for router in [format!("10.9.{n}.1"), format!("fd09:{n}::1")] {
            node.ok(&format!("ping -n -c 1 -i 0.01 -w 10 {router}"));
        }
        node
    }

    /// A node with its data plane; tunnel addresses 172.16.0.n/24 and fd00::n/64.
    pub async fn node(&self, n: u8, change: impl FnOnce(&mut Config)) -> Node {
        Node::start(n, self.attach(n), change).await
    }
}

impl Node {
    pub async fn start(n: u8, namespace: Namespace, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            addresses: vec![net(&format!("172.16.0.{n}/24")), net(&format!("fd00::{n}/64"))],
            key: Some(42),
            source: Some(IpAddr::from([10, 9, n, 2])),
            ..Config::default()
        };
        change(&mut config);
        let (sender, events) = mpsc::channel(256);
        // All that start() makes is made in the namespace of this thread.
        let home = File::open("/proc/thread-self/ns/net").unwrap();
        namespace.enter();
        let plane = Userspace::start(config.clone(), sender).await.unwrap();
        setns(home, CloneFlags::CLONE_NEWNET).unwrap();
        Self { n, namespace, plane, events, seen: Vec::new(), desired: Desired::default(), config }
    }
}

pub struct Node {
    pub n: u8,
    pub namespace: Namespace,
    pub plane: Userspace,
    pub events: mpsc::Receiver<Event>,
    pub seen: Vec<Event>,
    pub desired: Desired,
    pub config: Config,
}

impl Node {
    pub fn apply(&self) {
        self.plane.apply(&self.desired);
    }

    pub fn endpoint(&self) -> SocketAddr {
        let port = if self.config.clear { 0 } else { 4500 };
        match self.config.source {
            Some(IpAddr::V6(address)) => SocketAddr::new(address.into(), port),
            _ => SocketAddr::from(([10, 9, self.n, 2], port)),
        }
    }

    /// Waits for an event of a kind; others are kept for later.
    pub async fn wait<T>(&mut self, mut pick: impl FnMut(&Event) -> Option<T>) -> T {
        for (place, event) in self.seen.iter().enumerate() {
            if let Some(picked) = pick(event) {
                self.seen.remove(place);
                return picked;
            }
        }
        loop {
            match tokio::time::timeout(PATIENCE, self.events.recv()).await {
                Ok(Some(event)) => match pick(&event) {
                    Some(picked) => return picked,
                    None => self.seen.push(event),
                },
                _ => panic!("node {}: waited in vain; saw {:?}", self.n, self.seen),
            }
        }
    }

    pub async fn wait_up(&mut self, peer: PeerId) {
        self.wait(|event| (*event == Event::Up { peer }).then_some(())).await;
    }

    pub fn route(&mut self, prefix: &str, peer: PeerId) {
        let prefix = net(prefix);
        self.desired.forwarding.insert(prefix, Hop { peer, via: prefix.addr() });
    }

    /// Pings; how many of `count` were answered.
    pub fn ping(&self, arguments: &str, count: u32) -> u32 {
        // With -w it waits for answers that come late; they are not lost.
        let wait = if arguments.contains("-W") { "" } else { "-w 10" };
        let command = format!("ping -n -c {count} -i 0.01 {wait} {arguments}");
        let output = self.namespace.output(&command);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let received = text.split(", ").find_map(|part| part.strip_suffix(" received"));
        let received: u32 = received.unwrap_or_else(|| panic!("{text}")).parse().unwrap();
        // It goes on while answers are late, and they may come together.
        received.min(count)
    }
}

/// Repeats a command until its output pleases.
pub async fn until(namespace: &Namespace, command: &str, pleases: impl Fn(&str) -> bool) {
    let repeat = async {
        loop {
            let output = namespace.output_meanwhile(command).await;
            if pleases(&String::from_utf8_lossy(&output.stdout)) {
                return;
            }
        }
    };
    if tokio::time::timeout(PATIENCE, repeat).await.is_err() {
        panic!("{command}: {:?}", namespace.output(command));
    }
}

pub fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// Keys for both ends of a session.
pub fn keys(seed: u8) -> [Transport; 2] {
    let private = [[seed; 32], [seed ^ 0xff; 32]];
    let public = private.map(|key| PublicKey::from(&StaticSecret::from(key)).to_bytes());
    [(0, 1), (1, 0)].map(|(own, other): (usize, usize)| Transport::WireGuard {
        private_key: private[own].into(),
        peer_public_key: public[other],
        preshared_key: [seed.wrapping_add(1); 32].into(),
        initiate: own == 0,
    })
}

/// ESP keys for both ends.
pub fn esp_keys(cipher: EspCipher, seed: u8) -> [Transport; 2] {
    let length = if cipher == EspCipher::Aes128Gcm16 { 16 + 4 } else { 32 + 4 };
    let [a, b] = [seed, !seed].map(|seed| EspKeys {
        spi: u32::from_be_bytes([seed, 1, 2, 3]),
        encryption: vec![seed; length].into(),
        integrity: Vec::new().into(),
    });
    [(&a, &b), (&b, &a)].map(|(inbound, outbound)| {
        let (inbound, outbound) = (inbound.clone(), outbound.clone());
        Transport::Esp(Esp {
            cipher,
            esn: true,
            encapsulated: true,
            lifetime: Duration::from_secs(3600),
            inbound,
            outbound,
        })
    })
}

/// Makes `a` and `b` peers under one id; `a` initiates.
pub fn join(a: &mut Node, b: &mut Node, id: u32) -> PeerId {
    let keys = match a.config.clear {
        true => [Transport::Clear, Transport::Clear],
        false => keys(id as u8),
    };
    join_with(a, b, id, keys)
}

/// The same with these keys.
pub fn join_with(a: &mut Node, b: &mut Node, id: u32, [to_b, to_a]: [Transport; 2]) -> PeerId {
    let id = PeerId(id);
    a.desired.peers.insert(id, Peer::new(b.endpoint(), to_b));
    b.desired.peers.insert(id, Peer::new(a.endpoint(), to_a));
    b.apply();
    a.apply();
    id
}

/// Two nodes that are up, with each other's tunnel addresses routed.
pub async fn pair(internet: &Internet) -> (Node, Node, PeerId) {
    let mut a = internet.node(1, |_| {}).await;
    let mut b = internet.node(2, |_| {}).await;
    let id = join(&mut a, &mut b, 1);
    for node in [&mut a, &mut b] {
        node.route("172.16.0.0/24", id);
        node.route("fd00::/64", id);
        node.apply();
    }
    a.wait_up(id).await;
    b.wait_up(id).await;
    (a, b, id)
}

/// Two nodes with ESP between them, and each other's tunnel addresses routed.
pub async fn esp_pair(internet: &Internet, cipher: EspCipher) -> (Node, Node, PeerId) {
    let mut a = internet.node(1, |_| {}).await;
    let mut b = internet.node(2, |_| {}).await;
    let id = join_with(&mut a, &mut b, 1, esp_keys(cipher, 77));
    for node in [&mut a, &mut b] {
        node.route("172.16.0.0/24", id);
        node.route("fd00::/64", id);
        node.apply();
    }
    (a, b, id)
}

/// A hub (node 1) with two spokes (2 and 3), which reach each other through it.
pub async fn star(internet: &Internet, change: impl Fn(u8, &mut Config)) -> [Node; 3] {
    let mut nodes = Vec::new();
    for n in 1..=3 {
        nodes.push(internet.node(n, |config| change(n, config)).await);
    }
    let [mut hub, mut b, mut c]: [Node; 3] = nodes.try_into().ok().unwrap();
    let ids = [join(&mut b, &mut hub, 2), join(&mut c, &mut hub, 3)];
    for (spoke, id) in [&mut b, &mut c].into_iter().zip(ids) {
        hub.route(&format!("172.16.0.{}/32", spoke.n), id);
        hub.route(&format!("fd00::{}/128", spoke.n), id);
        hub.route(&format!("192.168.{}.0/24", spoke.n), id);
        for prefix in ["172.16.0.0/24", "fd00::/64", "192.168.0.0/16"] {
            spoke.route(prefix, id);
        }
        spoke.apply();
        hub.apply();
        if !spoke.config.clear {
            spoke.wait_up(id).await;
            hub.wait_up(id).await;
        }
    }
    [hub, b, c]
}

/// Counters of drops that are not 0.
pub fn drops(node: &Node) -> BTreeMap<&'static str, u64> {
    node.plane.drops().into_iter().filter(|(_, n)| *n > 0).collect()
}
