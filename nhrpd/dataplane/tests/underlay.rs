//! What an eavesdropper sees, what garbage does, what stays behind, what changes underneath.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::net::UdpSocket;
use std::os::fd::OwnedFd;

use dataplane::underlay::{Source, Underlay, Watch};
use dataplane::{Config, Error, ROUTE_PROTOCOL, Userspace};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, sockopt};
use overlay::desired::{Event, Peer, PeerId};
use support::{Internet, Namespace, Node, PATIENCE, drops, join, net, pair, until};
use tokio::sync::mpsc;

/// Everything that passes the devices of a namespace.
struct Capture(OwnedFd);

impl Capture {
    fn start(namespace: &Namespace) -> Self {
        let flags = SockFlag::SOCK_NONBLOCK;
        let socket = namespace.run(|| {
            let all = SockProtocol::EthAll;
            nix::sys::socket::socket(AddressFamily::Packet, SockType::Datagram, flags, all)
        });
        let socket = socket.unwrap();
        // More than the few packets of these tests need, where it is allowed.
        let _ = nix::sys::socket::setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20));
        Self(socket)
    }

    /// The packets so far, IP header first.
    fn packets(&self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let mut buffer = vec![0; 65_536];
        while let Ok(len) = nix::unistd::read(&self.0, &mut buffer) {
            packets.push(buffer[..len].to_vec());
        }
        packets
    }
}

fn contains(packet: &[u8], bytes: &[u8]) -> bool {
    packet.windows(bytes.len()).any(|window| window == bytes)
}

/// Carries packets of every kind from `a` to `b`; gives what the router saw of it.
async fn overheard(internet: &Internet, a: &mut Node, b: &mut Node) -> Vec<Vec<u8>> {
    let capture = Capture::start(&internet.router);
    let id = join(a, b, 1);
    for node in [&mut *a, &mut *b] {
        node.route("172.16.0.0/24", id);
        node.route("fd00::/64", id);
        node.apply();
    }
    a.plane.send_nhrp(id, b"the secret registration");
    b.wait(|event| matches!(event, Event::Nhrp { .. }).then_some(())).await;
    assert_eq!(a.ping("-p 5ec2e7 172.16.0.2", 10), 10);
    assert_eq!(a.ping("-p 5ec2e7 fd00::2", 10), 10);
    capture.packets()
}

/// Protocol 47, inner addresses, and what was said.
fn secrets(packets: &[Vec<u8>]) -> [bool; 4] {
    let any = |pick: &dyn Fn(&[u8]) -> bool| packets.iter().any(|packet| pick(packet));
    [
        any(&|p| p[0] >> 4 == 4 && p[9] == 47),
        any(&|p| contains(p, &[172, 16, 0, 2])),
        any(&|p| contains(p, b"the secret registration")),
        any(&|p| contains(p, &[0x5e, 0xc2, 0xe7, 0x5e, 0xc2, 0xe7])),
    ]
}

#[tokio::test]
async fn an_eavesdropper_learns_nothing() {
    let internet = Internet::new();
    let mut a = internet.node(1, |_| {}).await;
    let mut b = internet.node(2, |_| {}).await;
    let packets = overheard(&internet, &mut a, &mut b).await;
    assert_eq!(secrets(&packets), [false; 4]);
    assert!(packets.iter().any(|p| p[0] >> 4 == 4 && p[9] == 17), "nothing was captured");
}

/// The same with `security: none`, so that the test above is known to be able to fail.
#[tokio::test]
async fn in_clear_an_eavesdropper_learns_all() {
    let internet = Internet::new();
    let mut a = internet.node(1, |config| config.clear = true).await;
    let mut b = internet.node(2, |config| config.clear = true).await;
    assert!(a.namespace.ip("link show dmvpn0").contains("mtu 1472"));
    let packets = overheard(&internet, &mut a, &mut b).await;
    assert_eq!(secrets(&packets), [true; 4]);
    assert!(!packets.iter().any(|p| p[0] >> 4 == 4 && p[9] == 17), "no UDP at all");

    // A node that is no peer yet.
    a.desired.peers.clear();
    a.desired.forwarding.clear();
    a.apply();
    b.plane.send_nhrp_clear("10.9.1.2".parse().unwrap(), b"first");
    let event = a.wait(|event| matches!(event, Event::Nhrp { .. }).then(|| event.clone())).await;
    let from = "10.9.2.2:0".parse().unwrap();
    assert_eq!(event, Event::Nhrp { peer: None, from, packet: b"first".to_vec() });
}

#[tokio::test]
async fn in_clear_ipv6_carries_both_families() {
    let internet = Internet::new();
    let change = |n: u8| {
        move |config: &mut Config| {
            config.clear = true;
            config.source = format!("fd09:{n}::2").parse().ok();
        }
    };
    let mut a = internet.node(1, change(1)).await;
    let mut b = internet.node(2, change(2)).await;
    let id = join(&mut a, &mut b, 1);
    for node in [&mut a, &mut b] {
        node.route("172.16.0.0/24", id);
        node.route("fd00::/64", id);
        node.apply();
    }
    assert_eq!(a.ping("172.16.0.2", 5), 5);
    assert_eq!(a.ping("fd00::2", 5), 5);
}

/// Nothing in clear leaves or is taken in while there are keys to use.
#[tokio::test]
async fn encrypted_or_silent() {
    let internet = Internet::new();
    let (mut a, b, id) = pair(&internet).await;
    let capture = Capture::start(&internet.router);
    // A peer in clear is refused; what the old keys sealed goes nowhere now.
    a.desired.peers.insert(id, Peer::new(b.endpoint(), overlay::desired::Transport::Clear));
    a.apply();
    a.plane.send_nhrp(id, b"the secret registration");
    a.plane.send_nhrp_clear("10.9.2.2".parse().unwrap(), b"the secret registration");
    assert_eq!(a.ping("-W 1 172.16.0.2", 1), 0);
    assert_eq!(secrets(&capture.packets()), [false; 4]);
}

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test]
async fn garbage_and_replays_leave_the_session_up_and_the_memory_as_it_was() {
    let internet = Internet::new();
    let capture = Capture::start(&internet.router);
    let (a, mut b, id) = pair(&internet).await;
    assert_eq!(a.ping("172.16.0.2", 20), 20);
    let to_b = |p: &&Vec<u8>| p[0] >> 4 == 4 && p[9] == 17 && p[16..20] == [10, 9, 2, 2];
    let heard: Vec<Vec<u8>> =
        capture.packets().iter().filter(to_b).map(|p| p[28..].to_vec()).collect();
    drop(capture);
    assert!(heard.len() > 20);

    let attacker = internet.attach(3);
    let sockets: Vec<UdpSocket> = (0..4).map(|_| attacker.udp("10.9.3.2:0")).collect();
    let mut random = 1u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as u8
    };
    let mut flood = |count: usize| {
        for n in 0..count {
            let mut datagram = match n % 4 {
                0 => heard[n / 4 % heard.len()].clone(),
                // What was heard, with a byte changed.
                1 => {
                    let mut datagram = heard[n / 4 % heard.len()].clone();
                    let at = usize::from(next()) % datagram.len();
                    datagram[at] ^= next() | 1;
                    datagram
                }
                // The right beginning, and nonsense.
                2 => {
                    let mut datagram: Vec<u8> = (0..next()).map(|_| next()).collect();
                    datagram.splice(0..0, [next() % 5, 0, 0, 0]);
                    datagram
                }
                _ => (0..next()).map(|_| next()).collect(),
            };
            if n % 8 == 1 {
                // Cut off.
                datagram.truncate(usize::from(next()));
            }
            sockets[n % 4].send_to(&datagram, "10.9.2.2:4500").unwrap();
        }
    };
    flood(10_000);
    assert_eq!(a.ping("172.16.0.2", 5), 5);
    let before = resident();
    flood(100_000);
    assert_eq!(a.ping("172.16.0.2", 5), 5);
    let grown = resident().saturating_sub(before);
    assert!(grown < 2 << 20, "{grown} bytes more");
    assert_eq!(b.plane.counters()[&id].rx_packets, a.plane.counters()[&id].tx_packets);
    // A replayed packet moves nobody.
    while let Ok(event) = b.events.try_recv() {
        b.seen.push(event);
    }
    assert!(!b.seen.iter().any(|e| matches!(e, Event::Moved { .. } | Event::Down { .. })));
    let drops = drops(&b);
    for reason in ["replayed", "unauthentic", "unknown-datagram", "unknown-session"] {
        assert!(drops.contains_key(reason), "{drops:?}");
    }
}

/// Replays of a handshake, from the place where its maker is: they cost little and change
/// nothing.
#[tokio::test]
async fn foreign_keys_are_refused() {
    let internet = Internet::new();
    let mut a = internet.node(1, |_| {}).await;
    let mut b = internet.node(2, |_| {}).await;
    let [to_b, _] = support::keys(1);
    let [_, to_a] = support::keys(2);
    let id = PeerId(1);
    let peer = |node: &Node, transport| Peer::new(node.endpoint(), transport);
    a.desired.peers.insert(id, peer(&b, to_b));
    b.desired.peers.insert(id, peer(&a, to_a));
    b.apply();
    a.apply();
    let from = a.endpoint();
    b.wait(|event| (*event == Event::Unknown { from }).then_some(())).await;
    assert_eq!(b.plane.counters()[&id].last_rx, None);
}

#[tokio::test]
async fn routes_are_tagged_repaired_and_taken_away() {
    let internet = Internet::new();
    let mut a = internet.node(1, |_| {}).await;
    let show = format!("ip route show proto {ROUTE_PROTOCOL}");
    let show6 = format!("ip -6 route show proto {ROUTE_PROTOCOL}");
    a.namespace.ip("route add 192.168.9.0/24 dev dmvpn0");
    a.desired.routes = [net("192.168.7.0/24"), net("192.168.8.0/24"), net("fd07::/64")].into();
    a.apply();
    let both = |text: &str| text.contains("192.168.7.0/24") && text.contains("192.168.8.0/24");
    until(&a.namespace, &show, both).await;
    until(&a.namespace, &show6, |text| text.contains("fd07::/64")).await;

    a.namespace.ip("route del 192.168.7.0/24");
    until(&a.namespace, &show, both).await;

    a.desired.routes = [net("192.168.8.0/24")].into();
    a.apply();
    until(&a.namespace, &show, |text| !text.contains("192.168.7.0/24")).await;
    until(&a.namespace, &show6, |text| !text.contains("fd07::/64")).await;
    assert!(a.namespace.ip("route show").contains("192.168.9.0/24"), "not ours");

    let Node { plane, namespace, .. } = a;
    plane.stop().await;
    assert!(!namespace.ip("link show").contains("dmvpn0"));
    assert_eq!(namespace.ok(&show), "");
}

#[tokio::test]
async fn the_device_is_gone_with_its_owner() {
    let internet = Internet::new();
    let Node { plane, namespace, .. } = internet.node(1, |_| {}).await;
    drop(plane);
    until(&namespace, "ip link show", |text| !text.contains("dmvpn0")).await;
}

#[tokio::test]
async fn what_a_killed_owner_left_behind_is_taken_over() {
    let namespace = Internet::new().attach(1);
    namespace.ip("tuntap add dev dmvpn0 mode tun");
    for address in ["172.16.0.1/24", "172.17.0.1/24"] {
        namespace.ip(&format!("address add {address} dev dmvpn0"));
    }
    namespace.ip("link set dmvpn0 up");
    for prefix in ["192.168.7.0/24", "192.168.8.0/24"] {
        namespace.ip(&format!("route add {prefix} dev dmvpn0 proto {ROUTE_PROTOCOL}"));
    }

    let mut a = Node::start(1, namespace, |_| {}).await;
    let addresses = a.namespace.ip("address show dev dmvpn0");
    assert!(addresses.contains("172.16.0.1/24") && !addresses.contains("172.17.0.1"));
    a.desired.routes = [net("192.168.8.0/24"), net("192.168.9.0/24")].into();
    a.apply();
    let show = format!("ip route show proto {ROUTE_PROTOCOL}");
    until(&a.namespace, &show, |text| text.contains("192.168.9.0/24")).await;
    let routes = a.namespace.ok(&show);
    assert!(routes.contains("192.168.7.0/24"), "its peer may come back: {routes}");

    let Node { plane, namespace, .. } = a;
    plane.stop().await;
    assert!(!namespace.ip("link show").contains("dmvpn0"));
}

#[tokio::test]
async fn what_hinders_the_start_is_said() {
    let namespace = Namespace::new();
    let (events, _keep) = mpsc::channel(16);
    let home = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
    namespace.enter();
    let start = async |change: &dyn Fn(&mut Config)| {
        let mut config = Config { addresses: vec![net("172.16.0.1/24")], ..Config::default() };
        change(&mut config);
        Userspace::start(config, events.clone()).await.map(drop).unwrap_err()
    };
    let error = start(&|config| config.interface = "lo".into()).await;
    assert!(matches!(&error, Error::InterfaceExists(name) if name == "lo"), "{error}");
    for name in ["", "much-too-long-a-name", "a/b", "a b"] {
        let error = start(&|config| config.interface = name.into()).await;
        assert!(matches!(error, Error::InterfaceName(_)), "{error}");
    }
    let taken = UdpSocket::bind("0.0.0.0:4500").unwrap();
    let error = start(&|_| {}).await;
    assert!(matches!(error, Error::PortInUse(4500)), "{error}");
    assert!(error.to_string().contains("ss -ulpn"));
    drop(taken);
    let error = start(&|config| config.device = Some("eth7".into())).await;
    assert!(matches!(&error, Error::NoUnderlay(name) if name == "eth7"), "{error}");
    // Nothing is left behind by a start that failed.
    assert!(!namespace.ip("link show").contains("dmvpn0"));
    nix::sched::setns(home, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
}

#[tokio::test]
async fn the_underlay_is_watched() {
    let internet = Internet::new();
    let node = internet.attach(1);
    let mut watch = node.run(|| Watch::start(Source::Device("eth0".into())).unwrap());
    let mut other = node.run(|| Watch::start(Source::Address([10, 9, 1, 77].into())).unwrap());
    let mut next = async |expected: Option<&str>, mtu| {
        let expected = Underlay { address: expected.map(|address| address.parse().unwrap()), mtu };
        let mut last = None;
        let wait = async {
            while last.as_ref() != Some(&expected) {
                last = Some(watch.changed().await);
            }
        };
        let result = tokio::time::timeout(PATIENCE, wait).await;
        assert!(result.is_ok(), "{last:?} instead of {expected:?}");
    };
    next(Some("10.9.1.2"), 1500).await;
    assert_eq!(other.changed().await.address, None);
    node.ip("addr del 10.9.1.2/24 dev eth0");
    next(Some("fd09:1::2"), 1500).await;
    node.ip("addr add 10.9.1.77/24 dev eth0");
    next(Some("10.9.1.77"), 1500).await;
    assert_eq!(other.changed().await.address, Some([10, 9, 1, 77].into()));
    node.ip("link set eth0 mtu 1400");
    next(Some("10.9.1.77"), 1400).await;
    node.ip("link set eth0 down");
    next(None, 1400).await;
    node.ip("link del eth0");
    next(None, 1500).await;
}

#[tokio::test]
async fn a_narrower_underlay_makes_the_tunnel_narrower() {
    let internet = Internet::new();
    let (a, b, _) = pair(&internet).await;
    a.plane.set_underlay(a.config.source, 1400).await;
    assert!(a.namespace.ip("link show dmvpn0").contains("mtu 1300"));
    assert_eq!(b.ping("172.16.0.1", 3), 3);
}

/// A message larger than the underlay's MTU (IKE with certificates) is cut by the kernel.
#[tokio::test]
async fn long_ike_messages_arrive() {
    let internet = Internet::new();
    let (a, mut b, _) = pair(&internet).await;
    let message: Vec<u8> = (0..5000u32).map(|n| n as u8).collect();
    a.plane.send_ike(a.endpoint().port(), b.endpoint(), &message);
    let event = b.wait(|event| matches!(event, Event::Ike { .. }).then(|| event.clone())).await;
    assert_eq!(
        event,
        Event::Ike { port: b.endpoint().port(), from: a.endpoint(), datagram: message }
    );
}

/// Somebody removes the device: what comes for it is counted, and the stop is as usual.
#[tokio::test]
async fn a_device_that_is_removed_does_no_more_harm() {
    let internet = Internet::new();
    let (a, b, id) = pair(&internet).await;
    a.namespace.ip("link del dmvpn0");
    assert_eq!(b.ping("-W 1 172.16.0.1", 1), 0);
    assert_eq!(drops(&a).get("device-failed"), Some(&1));
    b.plane.send_nhrp(id, b"still heard");
    let mut a = a;
    a.wait(|event| matches!(event, Event::Nhrp { .. }).then_some(())).await;
    a.plane.stop().await;
}
