//! Multicast: from a spoke to its hub, from the hub to every spoke.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use lab::Scalar;
use nix::sys::socket::{setsockopt, sockopt};
use overlay_tests::e2e::{Ca, Scene, Site, dataplane, on_network_of, until};
use socket2::{Domain, Protocol, Socket, Type};

const NODES: [(&str, Ipv4Addr); 3] = [
    ("hub", Ipv4Addr::new(172, 16, 0, 1)),
    ("spoke-a", Ipv4Addr::new(172, 16, 0, 2)),
    ("spoke-b", Ipv4Addr::new(172, 16, 0, 3)),
];
/// Routing protocols with packets of their own, and their groups.
const EIGRP: (u8, Ipv4Addr) = (88, Ipv4Addr::new(224, 0, 0, 10));
const PIM: (u8, Ipv4Addr) = (103, Ipv4Addr::new(224, 0, 0, 13));
/// Port of datagrams to everybody.
const ALL: u16 = 5556;

#[test]
fn multicast_goes_to_the_hub_and_from_it_to_all() {
    let ca = Ca::new("Overlay CA");
    let sites = (0..=2).map(|number| Site::new(&ca, number));
    let mut scene = Scene::with("multicast", sites, |topology| {
        for node in topology.nodes.values_mut() {
            // So that who hears a ping to "all hosts" answers it.
            let key = "net.ipv4.icmp_echo_ignore_broadcasts".to_owned();
            node.sysctl.insert(key, Scalar::Number(0));
        }
    });
    scene.start_all();
    scene.all_registered();
    let heard_from = |from: &str, own: &str| {
        let ping = ["ping", "-n", "-c", "3", "-i", "0.2", "-W", "1", "-I", "dmvpn0", "224.0.0.1"];
        let said = scene.node(from).run(ping).unwrap_or_else(|error| error.to_string());
        let mut all = vec!["172.16.0.1", "172.16.0.2", "172.16.0.3"];
        all.retain(|other| *other != own && said.contains(&format!("from {other}:")));
        all
    };
    until("both spokes hear the hub", || {
        (heard_from("hub", "172.16.0.1") == ["172.16.0.2", "172.16.0.3"]).then_some(())
    });
    assert_eq!(heard_from("spoke-a", "172.16.0.2"), ["172.16.0.1"], "the hub only");

    // A checksum is more than ping has: a datagram that the hub itself sends.
    let group = Ipv4Addr::new(239, 1, 1, 1);
    for node in ["hub", "spoke-a", "spoke-b"] {
        scene.run(node, "ip route add 239.0.0.0/8 dev dmvpn0");
    }
    let from = on_network_of(scene.node("hub"), || UdpSocket::bind(("172.16.0.1", 0)).unwrap());
    for (spoke, own) in [("spoke-a", [172, 16, 0, 2]), ("spoke-b", [172, 16, 0, 3])] {
        let heard = on_network_of(scene.node(spoke), || {
            let socket = UdpSocket::bind((group, 5555)).unwrap();
            socket.join_multicast_v4(&group, &own.into()).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            socket
        });
        until(&format!("a datagram to a group, on {spoke}"), || {
            from.send_to(b"to all", (group, 5555)).unwrap();
            let mut buffer = [0; 16];
            heard.recv(&mut buffer).ok().filter(|&len| &buffer[..len] == b"to all")
        });
    }
    let page = scene.run("hub", "overlayctl show multicast");
    assert!(page.contains("172.16.0.2") && page.contains("172.16.0.3"), "{page}");

    for (from, _) in NODES {
        hellos_arrive(&scene, from, EIGRP);
        hellos_arrive(&scene, from, PIM);
        for everybody in [Ipv4Addr::new(172, 16, 0, 255), Ipv4Addr::BROADCAST] {
            broadcast_arrives(&scene, from, everybody);
        }
    }
    if dataplane() == "kernel" {
        a_stream_is_limited(&scene);
    }
}

/// Who hears what a node sends to all.
fn receivers(from: &str) -> impl Iterator<Item = (&'static str, Ipv4Addr)> {
    let hub = from == "hub";
    NODES.into_iter().filter(move |(name, _)| *name != from && (hub || *name == "hub"))
}

fn own(node: &str) -> Ipv4Addr {
    NODES.into_iter().find(|(name, _)| *name == node).unwrap().1
}

const SHORT: Option<Duration> = Some(Duration::from_millis(200));

/// What a routing daemon sends and hears by a socket of its own protocol.
fn hellos_arrive(scene: &Scene, from: &str, (protocol, group): (u8, Ipv4Addr)) {
    let raw = |node: &str, act: &(dyn Fn(&Socket) -> std::io::Result<()> + Sync)| {
        on_network_of(scene.node(node), || {
            let protocol = Protocol::from(i32::from(protocol));
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(protocol)).unwrap();
            act(&socket).unwrap();
            socket
        })
    };
    let sender = raw(from, &|socket| {
        socket.set_multicast_if_v4(&own(from))?;
        socket.set_multicast_loop_v4(false)
    });
    for (to, address) in receivers(from) {
        let receiver = raw(to, &|socket| {
            socket.join_multicast_v4(&group, &address)?;
            socket.set_read_timeout(SHORT)
        });
        until(&format!("a hello of {from} to {group}, on {to}"), || {
            sender.send_to(b"hello", &SocketAddrV4::new(group, 0).into()).unwrap();
            let mut packet = [0; 64];
            let len = (&receiver).read(&mut packet).ok()?;
            let packet = &packet[..len];
            (packet[12..16] == own(from).octets() && packet.ends_with(b"hello")).then_some(())
        });
    }
}

fn broadcast_arrives(scene: &Scene, from: &str, everybody: Ipv4Addr) {
    let sender = on_network_of(scene.node(from), || {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        socket.set_broadcast(true).unwrap();
        setsockopt(&socket, sockopt::BindToDevice, &"dmvpn0".into()).unwrap();
        socket.bind(&SocketAddrV4::new(own(from), 0).into()).unwrap();
        socket
    });
    for (to, _) in receivers(from) {
        let receiver = on_network_of(scene.node(to), || UdpSocket::bind(("0.0.0.0", ALL)).unwrap());
        receiver.set_read_timeout(SHORT).unwrap();
        until(&format!("a datagram of {from} to {everybody}, on {to}"), || {
            sender.send_to(b"to all", &SocketAddrV4::new(everybody, ALL).into()).unwrap();
            let mut buffer = [0; 16];
            let (len, of) = receiver.recv_from(&mut buffer).ok()?;
            (&buffer[..len] == b"to all" && of.ip() == own(from)).then_some(())
        });
    }
}

/// More than the daemon copies in a second goes nowhere, and is counted.
fn a_stream_is_limited(scene: &Scene) {
    let group = SocketAddrV4::new(Ipv4Addr::new(239, 1, 1, 1), ALL);
    let sender = on_network_of(scene.node("hub"), || UdpSocket::bind((NODES[0].1, 0)).unwrap());
    let counted = || {
        let rules = scene.run("hub", "nft list chain inet nhrpd-dmvpn0 to-all");
        let limit = rules.lines().find(|line| line.contains("limit rate over 1000/second"));
        let limit = limit.unwrap_or_else(|| panic!("{rules}"));
        let (_, packets) = limit.split_once("counter packets ").unwrap();
        packets.split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(counted(), 0, "until now it was little");
    until("more than it copies", || {
        for _ in 0..2000 {
            sender.send_to(b"stream", group).unwrap();
        }
        (counted() > 0).then_some(())
    });
    broadcast_arrives(scene, "hub", Ipv4Addr::new(172, 16, 0, 255));
}
