//! Somebody on the same network as a node who sends what he likes, from whomever he likes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdout, Command, Stdio};

use lab::{Addresses, Interface, NodeTopology, Topology};
use overlay_tests::e2e::{Numbers, Scene};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use socket2::{Domain, Protocol, Socket, Type};

/// Datagrams that he sends at a time.
pub(crate) const BURST: u32 = 1_000;
/// Bytes that may wait in the victim's socket when the next burst begins.
const BACKLOG: u64 = 64 << 10;
pub(crate) const PORT: u16 = 4500;
const TOLD: &str = "STRANGER";

/// Gives him a node on the network of node `number`.
pub(crate) fn settle(topology: &mut Topology, number: u8, link: &str) {
    let address = Addresses::One(Numbers::default().underlay(number, 66));
    let eth0 = Interface { link: link.into(), address };
    let interfaces = [("eth0".to_owned(), eth0)].into();
    let node = NodeTopology { interfaces, ..NodeTopology::default() };
    topology.nodes.insert(format!("stranger-{number}"), node);
}

/// The process that sends, on its own node.
pub(crate) struct Stranger<'a> {
    scene: &'a Scene,
    victim: &'a str,
    process: Child,
    output: BufReader<ChildStdout>,
}

impl<'a> Stranger<'a> {
    /// On the network of node `number`, which is his victim. `helper` is the test that does what he
    /// does, by [`obey`]; `knows` is what he was told.
    pub(crate) fn start(
        scene: &'a Scene,
        (number, victim): (u8, &'a str),
        helper: &str,
        knows: &[u8],
    ) -> Self {
        let program = std::env::current_exe().unwrap();
        let node = scene.node(&format!("stranger-{number}"));
        let [own, at] = [66, 10].map(|host| Numbers::default().underlay(number, host).addr());
        let mut command: Command =
            node.command([program.as_os_str(), "--exact".as_ref(), helper.as_ref()]);
        let mut process = command
            .arg("--nocapture")
            .env(TOLD, format!("{own} {at} {}", knows.len()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        process.stdin.as_mut().unwrap().write_all(knows).unwrap();
        let mut stranger = Self { scene, victim, process, output };
        stranger.hear();
        stranger
    }

    /// One burst, when the victim has read most of the one before.
    pub(crate) fn paced_burst(&mut self) {
        while waiting(self.scene, self.victim) > BACKLOG {
            std::thread::yield_now();
        }
        self.burst();
    }

    /// One burst, at once.
    pub(crate) fn burst(&mut self) {
        self.process.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        self.hear();
    }

    /// Waits until it says that it is done.
    fn hear(&mut self) {
        let mut line = String::new();
        while !line.ends_with("sent\n") {
            line.clear();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "the stranger is gone");
        }
    }

    /// Ends him, when the victim has read everything.
    pub(crate) fn end(mut self) {
        drop(self.process.stdin.take());
        assert!(self.process.wait().unwrap().success());
        while waiting(self.scene, self.victim) > 0 {
            std::thread::yield_now();
        }
    }
}

/// Where a stranger is, and what he knows.
pub(crate) struct Told {
    pub(crate) own: Ipv4Addr,
    pub(crate) knows: Vec<u8>,
}

/// What he does in his own process, where this is it: sends bursts of what `prepare` makes. Each
/// datagram comes with whom it is from.
pub(crate) fn obey<F>(prepare: impl FnOnce(Told) -> F)
where
    F: FnMut(&mut ChaCha8Rng) -> (SocketAddr, Vec<u8>),
{
    let Ok(told) = std::env::var(TOLD) else { return };
    let words: Vec<_> = told.splitn(3, ' ').collect();
    let [own, victim] = [words[0], words[1]].map(|word| word.parse().unwrap());
    let mut knows = vec![0; words[2].parse().unwrap()];
    std::io::stdin().read_exact(&mut knows).unwrap();
    let mut next = prepare(Told { own, knows });
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)).unwrap();
    socket.set_header_included_v4(true).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(u64::from(u32::from(victim)));
    let to = SocketAddr::from((victim, PORT)).into();
    println!("sent");
    let mut word = [0];
    while std::io::stdin().read(&mut word).unwrap() == 1 {
        for _ in 0..BURST {
            let (from, payload) = next(&mut rng);
            // A full queue of the device is no reason to stop.
            let _ = socket.send_to(&packet(from, victim, &payload), &to);
        }
        println!("sent");
    }
}

/// Bytes that wait in a daemon's UDP socket (proc_net_udp).
pub(crate) fn waiting(scene: &Scene, node: &str) -> u64 {
    let of = |table: &str| -> Option<u64> {
        let table = scene.proc(node, table);
        let line = table.lines().find(|line| line.contains(&format!(":{PORT:04X} ")))?;
        let (_, waiting) = line.split_whitespace().nth(4)?.split_once(':')?;
        u64::from_str_radix(waiting, 16).ok()
    };
    of("net/udp").unwrap_or_default() + of("net/udp6").unwrap_or_default()
}

/// Datagrams that programs on a node have read from their sockets.
pub(crate) fn read_by(scene: &Scene, node: &str) -> u64 {
    let table = scene.proc(node, "net/snmp");
    let numbers = table.lines().filter_map(|line| line.strip_prefix("Udp: ")).nth(1);
    let first = numbers.and_then(|numbers| numbers.split(' ').next());
    let v4: u64 = first.and_then(|number| number.parse().ok()).unwrap_or_default();
    let table = scene.proc(node, "net/snmp6");
    let v6 = table.lines().find_map(|line| line.strip_prefix("Udp6InDatagrams"));
    v4 + v6.and_then(|number| number.trim().parse::<u64>().ok()).unwrap_or_default()
}

/// IPv4 and UDP around it; the kernel fills in checksum and length.
fn packet(from: SocketAddr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let IpAddr::V4(source) = from.ip() else { unreachable!() };
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(source.octets());
    packet.extend(to.octets());
    packet.extend(from.port().to_be_bytes());
    packet.extend(PORT.to_be_bytes());
    packet.extend((payload.len() as u16 + 8).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}
