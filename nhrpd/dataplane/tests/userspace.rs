//! Whole data planes in network namespaces.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

use dataplane::{Config, Error, Userspace};
use overlay::desired::{EspCipher, Event, Peer, PeerId};
use support::{Internet, Node, drops, esp_keys, esp_pair, join, join_with, net, pair, star, until};

#[tokio::test]
async fn packets_pass_and_nhrp_is_told_apart() {
    let internet = Internet::new();
    let (mut a, mut b, id) = pair(&internet).await;
    assert_eq!(a.ping("172.16.0.2", 20), 20);
    assert_eq!(b.ping("fd00::1", 20), 20);
    assert_eq!(a.ping("-s 1384 -M do 172.16.0.2", 1), 1);

    a.plane.send_nhrp(id, b"registration");
    let event = b.wait(|event| matches!(event, Event::Nhrp { .. }).then(|| event.clone())).await;
    let (from, packet) = (a.endpoint(), b"registration".to_vec());
    assert_eq!(event, Event::Nhrp { peer: Some(id), from, packet });

    b.plane.send_ike(b.endpoint().port(), a.endpoint(), b"ike");
    let event = a.wait(|event| matches!(event, Event::Ike { .. }).then(|| event.clone())).await;
    assert_eq!(
        event,
        Event::Ike { port: a.endpoint().port(), from: b.endpoint(), datagram: b"ike".to_vec() }
    );

    let counters = a.plane.counters()[&id];
    assert!(counters.tx_packets >= 41 && counters.rx_packets >= 41, "{counters:?}");
    assert!(counters.last_rx.is_some());
    assert!(a.plane.packets(net("172.16.0.0/24")) >= 21);
    for node in [&a, &b] {
        // An initiation may have been said twice, and the kernel sends multicast of its own.
        let harmless = ["unknown-session", "no-multicast-member"];
        let drops: Vec<_> =
            drops(node).into_keys().filter(|name| !harmless.contains(name)).collect();
        assert!(drops.is_empty(), "{drops:?}");
    }
}

/// Large pieces in and out, of both families: what arrives is what was sent.
fn streams_arrive_unchanged(a: &Node, b: &Node) {
    for address in ["172.16.0.2:7000", "[fd00::2]:7000"] {
        let listener = b.namespace.run(|| TcpListener::bind(address).unwrap());
        let data: Vec<u8> = (0..4_000_000u32).map(|n| (n ^ (n >> 8)) as u8).collect();
        let mut sender = a.namespace.run(|| TcpStream::connect(address).unwrap());
        let mut received = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                sender.write_all(&data).unwrap();
                sender.shutdown(std::net::Shutdown::Write).unwrap();
            });
            listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
        });
        assert!(received == data, "{address}: {} of {} bytes", received.len(), data.len());
    }
}

#[tokio::test]
async fn tcp_streams_arrive_unchanged() {
    let internet = Internet::new();
    let (a, b, _) = pair(&internet).await;
    streams_arrive_unchanged(&a, &b);
}

#[tokio::test]
async fn esp_carries_what_wireguard_carries() {
    for cipher in [EspCipher::Aes128Gcm16, EspCipher::Aes256Gcm16, EspCipher::ChaCha20Poly1305] {
        let internet = Internet::new();
        let (mut a, mut b, id) = esp_pair(&internet, cipher).await;
        assert_eq!(a.ping("-s 1384 -M do 172.16.0.2", 3), 3);
        assert_eq!(b.ping("fd00::1", 3), 3);
        a.wait_up(id).await;
        b.wait_up(id).await;
        streams_arrive_unchanged(&a, &b);
        a.plane.send_nhrp(id, b"registration");
        let nhrp = |event: &Event| matches!(event, Event::Nhrp { .. }).then(|| event.clone());
        let (from, packet) = (a.endpoint(), b"registration".to_vec());
        assert_eq!(b.wait(nhrp).await, Event::Nhrp { peer: Some(id), from, packet });
        assert!(a.plane.counters()[&id].last_rx.is_some());
        let drops: Vec<_> = drops(&a).into_keys().filter(|n| *n != "no-multicast-member").collect();
        assert!(drops.is_empty(), "{drops:?}");
    }
}

#[tokio::test]
async fn esp_packets_that_come_before_their_session_wait_for_it() {
    let internet = Internet::new();
    let mut a = internet.node(1, |_| {}).await;
    let mut b = internet.node(2, |_| {}).await;
    let id = PeerId(1);
    let [to_b, to_a] = esp_keys(EspCipher::Aes256Gcm16, 5);
    a.desired.peers.insert(id, Peer::new(b.endpoint(), to_b));
    b.desired.peers.insert(id, Peer::new(a.endpoint(), to_a));
    a.apply();
    a.plane.send_nhrp(id, b"first");
    a.plane.send_nhrp(id, b"second");
    let from = a.endpoint();
    b.wait(|event| (*event == Event::Unknown { from }).then_some(())).await;
    b.apply();
    for expected in [b"first".to_vec(), b"second".to_vec()] {
        let nhrp = |event: &Event| match event {
            Event::Nhrp { packet, .. } => Some(packet.clone()),
            _ => None,
        };
        assert_eq!(b.wait(nhrp).await, expected);
    }
}

#[tokio::test]
async fn a_hub_joins_esp_and_wireguard() {
    let internet = Internet::new();
    let [mut hub, mut b, c] = star(&internet, |_, _| {}).await;
    let id = join_with(&mut b, &mut hub, 4, esp_keys(EspCipher::Aes256Gcm16, 4));
    hub.route("172.16.0.2/32", id);
    b.route("172.16.0.0/24", id);
    hub.apply();
    b.apply();
    assert_eq!(b.ping("-s 1384 -M do 172.16.0.3", 5), 5);
    assert_eq!(c.ping("172.16.0.2", 5), 5);
    let counters = hub.plane.counters()[&id];
    assert!(counters.forwarded_packets >= 10 && counters.tx_packets >= 10, "{counters:?}");
}

#[tokio::test]
async fn an_ipv6_underlay_carries_both_families() {
    let internet = Internet::new();
    let v6 = |n: u8| format!("fd09:{n}::2").parse().ok();
    let mut a = internet.node(1, |config| config.source = v6(1)).await;
    let mut b = internet.node(2, |config| config.source = v6(2)).await;
    let id = join(&mut a, &mut b, 1);
    for node in [&mut a, &mut b] {
        node.route("172.16.0.0/24", id);
        node.route("fd00::/64", id);
        node.apply();
        node.wait_up(id).await;
    }
    assert!(a.namespace.ip("link show dmvpn0").contains("mtu 1360"));
    assert_eq!(a.ping("172.16.0.2", 5), 5);
    assert_eq!(a.ping("-s 1312 -M do fd00::2", 5), 5);
}

#[tokio::test]
async fn a_hub_forwards_and_tells_of_the_detour_once() {
    let internet = Internet::new();
    let [mut hub, b, _c] = star(&internet, |_, _| {}).await;
    // With -W it sends no more than these, however late the answers are.
    assert_eq!(b.ping("-W 10 172.16.0.3", 50), 50);
    assert_eq!(b.ping("-W 10 fd00::3", 5), 5);

    let event =
        hub.wait(|event| matches!(event, Event::Redirect { .. }).then(|| event.clone())).await;
    let Event::Redirect { peer, packet } = event else { unreachable!() };
    assert_eq!(peer, PeerId(2));
    assert_eq!(packet[12..20], [172, 16, 0, 2, 172, 16, 0, 3]);
    assert_eq!(packet[8], 64, "as it came, before the TTL was decremented");
    while let Ok(event) = hub.events.try_recv() {
        hub.seen.push(event);
    }
    let redirects = 1 + hub.seen.iter().filter(|e| matches!(e, Event::Redirect { .. })).count();
    // Both directions of two flows.
    assert_eq!(redirects, 4);

    let counters = hub.plane.counters();
    assert_eq!(counters[&PeerId(2)].forwarded_packets, 55);
    assert_eq!(counters[&PeerId(3)].forwarded_packets, 55);
    assert_eq!(hub.plane.packets(net("172.16.0.3/32")), 50);

    for (ttl, address) in [("-t 1", "172.16.0.3"), ("-t 1", "fd00::3")] {
        let output = b.namespace.output(&format!("ping -n -c 1 -W 5 {ttl} {address}"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let hub = if address.contains(':') { "From fd00::1" } else { "From 172.16.0.1" };
        assert!(text.contains(hub) && text.contains("exceeded"), "{text}");
    }
}

#[tokio::test]
async fn what_does_not_fit_is_answered() {
    let internet = Internet::new();
    // Spoke 2 believes in a wide underlay; the hub knows better.
    let [_hub, b, _c] = star(&internet, |n, config| {
        if n == 2 {
            config.underlay_mtu = 2000;
        }
    })
    .await;
    let text = |arguments: &str| {
        let output = b.namespace.output(&format!("ping -n -c 1 -W 5 {arguments}"));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let hairpin = text("-M do -s 1450 172.16.0.3");
    assert!(hairpin.contains("From 172.16.0.1") && hairpin.contains("mtu = 1412"), "{hairpin}");
    let hairpin = text("-s 1450 fd00::3");
    assert!(hairpin.contains("From fd00::1") && hairpin.contains("mtu=1412"), "{hairpin}");
    // What may be cut is carried.
    assert_eq!(b.ping("-M dont -s 1450 172.16.0.3", 3), 3);
}

#[tokio::test]
async fn a_device_wider_than_the_path_answers_its_own_senders() {
    let internet = Internet::new();
    let mut a = internet.node(1, |config| config.mtu = Some(1500)).await;
    let mut b = internet.node(2, |_| {}).await;
    let id = join(&mut a, &mut b, 1);
    for node in [&mut a, &mut b] {
        node.route("172.16.0.0/24", id);
        node.apply();
        node.wait_up(id).await;
    }
    let output = a.namespace.output("ping -n -c 1 -W 5 -M do -s 1450 172.16.0.2");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("mtu = 1412"), "{text}");
}

#[tokio::test]
async fn multicast_is_copied_to_the_members_and_no_further() {
    let internet = Internet::new();
    let [mut hub, mut b, c] = star(&internet, |_, _| {}).await;
    hub.desired.multicast = [PeerId(2), PeerId(3)].into();
    hub.apply();
    b.desired.multicast = [PeerId(2)].into();
    b.apply();
    let group = "239.1.2.3".parse().unwrap();
    let listen = |node: &support::Node| {
        let socket = node.namespace.udp("0.0.0.0:5000");
        let own = format!("172.16.0.{}", node.n).parse().unwrap();
        node.namespace.run(|| socket.join_multicast_v4(&group, &own).unwrap());
        socket
    };
    let sockets = [listen(&hub), listen(&b), listen(&c)];
    let send = |node: &support::Node, text: &[u8]| {
        let socket = node.namespace.udp(&format!("172.16.0.{}:0", node.n));
        node.namespace.ip("route add 239.0.0.0/8 dev dmvpn0");
        socket.send_to(text, "239.1.2.3:5000").unwrap();
    };
    // The spoke's packet reaches the hub; the hub's own reaches both spokes. Had the hub copied
    // the first one on, spoke 3 would see it before the second.
    send(&b, b"from the spoke");
    let mut buffer = [0; 100];
    let mut text = |socket: &std::net::UdpSocket| {
        let len = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    };
    assert_eq!(text(&sockets[0]), "from the spoke");
    send(&hub, b"from the hub");
    assert_eq!(text(&sockets[2]), "from the hub");
    while text(&sockets[1]) != "from the hub" {}
}

/// A LAN behind a spoke whose prefix lies within a route that leads to the hub.
#[tokio::test]
async fn what_is_behind_a_spoke_is_found_there() {
    let internet = Internet::new();
    let [hub, mut b, mut c] = star(&internet, |_, _| {}).await;
    for spoke in [&mut b, &mut c] {
        spoke.namespace.ip(&format!("addr add 192.168.{}.1/24 dev lo", spoke.n));
        spoke.desired.routes = [net("192.168.0.0/16")].into();
        spoke.apply();
    }
    // The kernel's notices take a moment.
    for (spoke, path) in [(&b, "192.168.2.1 192.168.3.1"), (&c, "192.168.3.1 192.168.2.1")] {
        let command = format!("ping -n -c 1 -W 1 -I {path}");
        until(&spoke.namespace, &command, |text| text.contains(" 1 received")).await;
    }
    assert_eq!(b.ping("-I 192.168.2.1 192.168.3.1", 20), 20);
    // Nobody has 192.168.9.0/24: the hub's kernel is asked, not the spoke again.
    assert_eq!(b.ping("-W 1 192.168.9.1", 1), 0);
    assert_eq!(drops(&hub).get("same-way"), None);
}

#[tokio::test]
async fn a_spoofed_source_is_dropped_and_counted() {
    let internet = Internet::new();
    let (a, mut b, id) = pair(&internet).await;
    b.desired.sources.insert(id, [net("172.16.0.1/32"), net("fd00::1/128")].into());
    b.apply();
    assert_eq!(a.ping("172.16.0.2", 3), 3);
    a.namespace.ip("addr add 172.16.0.77/32 dev lo");
    let liar = a.namespace.udp("172.16.0.77:0");
    liar.send_to(b"x", "172.16.0.2:9").unwrap();
    // A ping after it passes the same threads in order.
    assert_eq!(a.ping("172.16.0.2", 1), 1);
    assert_eq!(drops(&b).get("spoofed-source"), Some(&1));
    assert_eq!(b.plane.counters()[&id].dropped_packets, 1);
}

#[tokio::test]
async fn a_destination_without_path_is_reported_and_refused() {
    let internet = Internet::new();
    let mut a = internet.node(1, |_| {}).await;
    let output = a.namespace.output("ping -n -c 1 -W 5 172.16.0.9");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("From 172.16.0.9") && text.contains("Unreachable"), "{text}");
    let destination = "172.16.0.9".parse().unwrap();
    a.wait(|event| (*event == Event::Unroutable { destination }).then_some(())).await;
}

/// A node that takes another underlay address is followed.
#[tokio::test]
async fn a_peer_that_moves_is_followed() {
    let internet = Internet::new();
    follow(pair(&internet).await).await;
    let internet = Internet::new();
    follow(esp_pair(&internet, EspCipher::Aes256Gcm16).await).await;
}

async fn follow((a, mut b, id): (Node, Node, PeerId)) {
    a.namespace.ip("addr del 10.9.1.2/24 dev eth0");
    a.namespace.ip("addr add 10.9.1.77/24 dev eth0");
    a.namespace.ip("route replace default via 10.9.1.1");
    a.plane.set_underlay("10.9.1.77".parse().ok(), 1500).await;
    assert_eq!(a.ping("172.16.0.2", 10), 10);
    let endpoint = "10.9.1.77:4500".parse().unwrap();
    b.wait(|event| (*event == Event::Moved { peer: id, endpoint }).then_some(())).await;
    // What the control plane still believes does not undo it.
    b.desired.routes = [net("192.168.50.0/24")].into();
    b.apply();
    assert_eq!(b.ping("172.16.0.1", 10), 10);
}

/// A new session takes over from an old one while packets flow: none is lost.
#[tokio::test]
async fn new_keys_replace_old_ones_without_loss() {
    let internet = Internet::new();
    let (mut a, mut b, old) = pair(&internet).await;
    let receiver = b.namespace.udp("172.16.0.2:5000");
    let sender = a.namespace.udp("172.16.0.1:0");
    const COUNT: u32 = 20_000;
    // As many are under way as no queue refuses.
    let arrived = Arc::new(AtomicU32::new(0));
    let progress = arrived.clone();
    let stream = std::thread::spawn(move || {
        for n in 0..COUNT {
            while n > progress.load(SeqCst).saturating_add(64) {
                std::thread::yield_now();
            }
            sender.send_to(&n.to_be_bytes(), "172.16.0.2:5000").unwrap();
        }
    });
    let count = std::thread::spawn(move || {
        let mut seen = vec![false; COUNT as usize];
        let mut buffer = [0; 4];
        while seen.iter().any(|seen| !seen) && receiver.recv(&mut buffer).is_ok() {
            seen[u32::from_be_bytes(buffer) as usize] = true;
            arrived.fetch_add(1, SeqCst);
        }
        arrived.store(COUNT, SeqCst);
        seen.iter().filter(|seen| !**seen).count()
    });
    let new = join(&mut a, &mut b, 2);
    a.wait_up(new).await;
    b.wait_up(new).await;
    for node in [&mut a, &mut b] {
        node.route("172.16.0.0/24", new);
        node.apply();
    }
    assert_eq!(a.ping("172.16.0.2", 5), 5);
    stream.join().unwrap();
    let lost = count.join().unwrap();
    for node in [&mut a, &mut b] {
        node.desired.peers.remove(&old);
        node.desired.forwarding.retain(|_, hop| hop.peer == new);
        node.apply();
    }
    assert_eq!(a.ping("172.16.0.2", 5), 5);
    assert_eq!(lost, 0);
}

/// The first initiation comes before the responder knows its keys.
#[tokio::test]
async fn a_responder_that_learns_its_keys_late_is_reached() {
    let internet = Internet::new();
    let mut a = internet.node(1, |_| {}).await;
    let mut b = internet.node(2, |_| {}).await;
    let id = PeerId(1);
    let [to_b, to_a] = support::keys(9);
    let peer = |node: &support::Node, transport| Peer::new(node.endpoint(), transport);
    a.desired.peers.insert(id, peer(&b, to_b));
    b.desired.peers.insert(id, peer(&a, to_a));
    a.apply();
    let from = a.endpoint();
    b.wait(|event| (*event == Event::Unknown { from }).then_some(())).await;
    b.apply();
    a.wait_up(id).await;
    b.wait_up(id).await;
}

#[tokio::test]
async fn packets_that_come_before_the_keys_wait_for_them() {
    let internet = Internet::new();
    let mut a = internet.node(1, |_| {}).await;
    let mut b = internet.node(2, |_| {}).await;
    let receiver = b.namespace.udp("172.16.0.2:5000");
    let id = PeerId(1);
    a.route("172.16.0.0/24", id);
    b.route("172.16.0.0/24", id);
    let [to_b, to_a] = support::keys(9);
    a.desired.peers.insert(id, Peer::new(b.endpoint(), to_b));
    b.desired.peers.insert(id, Peer::new(a.endpoint(), to_a));
    a.apply();
    let sender = a.namespace.udp("172.16.0.1:0");
    for n in 0..10 {
        sender.send_to(&[n], "172.16.0.2:5000").unwrap();
    }
    b.apply();
    let mut buffer = [0; 10];
    for n in 0..10 {
        assert_eq!(receiver.recv(&mut buffer).unwrap(), 1);
        assert_eq!(buffer[0], n);
    }
}

#[tokio::test]
async fn keepalives_of_nat_are_no_garbage() {
    let internet = Internet::new();
    let (a, b, _) = pair(&internet).await;
    let socket = a.namespace.udp("10.9.1.2:0");
    socket.send_to(&[0xff], "10.9.2.2:4500").unwrap();
    socket.send_to(&[0xfe], "10.9.2.2:4500").unwrap();
    assert_eq!(a.ping("172.16.0.2", 1), 1);
    assert_eq!(drops(&b).get("unknown-datagram"), Some(&1));
}

/// The hub floods one spoke with more than it can seal; what it has for the other is not lost.
#[tokio::test]
async fn a_flood_to_one_peer_leaves_room_for_another() {
    let internet = Internet::new();
    let [hub, b, _c] = star(&internet, |_, _| {}).await;
    let receiver = b.namespace.udp("172.16.0.2:5000");
    let sender = hub.namespace.udp("172.16.0.1:0");
    receiver.set_nonblocking(true).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let stop = done.clone();
    let flood = std::thread::spawn(move || {
        let mut sent = 0u64;
        // Bounded: some ten times of what the pings take.
        while sent < 20_000_000 && !stop.load(SeqCst) {
            // Now and then it is answered, as any exchange is: the hub learns whose flow it is.
            if sent.is_multiple_of(64)
                && let Ok((_, from)) = receiver.recv_from(&mut [0; 64])
            {
                receiver.send_to(b"go on", from).unwrap();
            }
            sent += u64::from(sender.send_to(&[0; 64], "172.16.0.2:5000").is_ok());
        }
    });
    let before = dropped(&hub);
    let answered = hub.ping("-W 5 172.16.0.3", 100);
    let overrun = dropped(&hub) - before;
    done.store(true, SeqCst);
    flood.join().unwrap();
    assert!(overrun > 1000, "it was no flood: the device dropped {overrun}");
    assert!(answered >= 98, "{answered} of 100");
}

/// What the tunnel device dropped because a queue was full.
fn dropped(node: &Node) -> u64 {
    let read = || std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let text = node.namespace.run(read);
    let line = text.lines().find_map(|line| line.trim().strip_prefix("dmvpn0:")).unwrap();
    line.split_whitespace().nth(11).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_device_with_a_single_queue_is_taken_over() {
    let internet = Internet::new();
    let namespace = internet.attach(1);
    namespace.ip("tuntap add dev dmvpn0 mode tun");
    let mut a = Node::start(1, namespace, |_| {}).await;
    let mut b = internet.node(2, |_| {}).await;
    let id = join(&mut a, &mut b, 1);
    for node in [&mut a, &mut b] {
        node.route("172.16.0.0/24", id);
        node.apply();
        node.wait_up(id).await;
    }
    assert_eq!(a.ping("172.16.0.2", 5), 5);
}

#[tokio::test]
async fn a_device_that_another_carries_is_refused() {
    let internet = Internet::new();
    let a = internet.node(1, |_| {}).await;
    let other = Config { port: 4501, ..Config::default() };
    let (events, _) = tokio::sync::mpsc::channel(1);
    let home = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
    a.namespace.enter();
    let refused = Userspace::start(other, events).await;
    nix::sched::setns(home, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    assert!(matches!(refused, Err(Error::InterfaceExists(name)) if name == "dmvpn0"));
}
