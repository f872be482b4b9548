//! NAT detection, ESP in UDP, ports (RFC 7296 §2.23), and moves (RFC 4555).

mod support;

use ike::{Config, Event, TunnelKeys, TunnelKind};
use support::*;

fn esp() -> Config {
    Config { tunnels: vec![TunnelKind::Esp], ..Config::default() }
}

/// A behind a translator if `a` is another address than the one it knows of itself, and B too.
fn exchange(a: &str, b: &str, config: [Config; 2]) -> Net {
    let [own_a, own_b] = config;
    let mut net = Net::pair_as(1, &Authority::new(), own_a, own_b);
    (net.nodes[A].address, net.nodes[B].address) = (address(a), address(b));
    net.initiate(A, B);
    net.settle();
    net
}

fn encapsulated(node: &Node) -> bool {
    let TunnelKeys::Esp(esp) = node.tunnel() else { panic!("ESP") };
    esp.encapsulated
}

#[test]
fn rfc7296_2_23_esp_goes_in_udp_where_somebody_translates() {
    let (here, there) = ("192.0.2.1:4500", "192.0.2.2:4500");
    for (a, b, nat) in [
        (here, there, false),
        ("198.51.100.1:61000", there, true),
        ("192.0.2.1:61000", there, true),
        (here, "198.51.100.2:4500", true),
        ("198.51.100.1:61000", "198.51.100.2:4500", true),
    ] {
        let net = exchange(a, b, [esp(), esp()]);
        net.assert_one_sa();
        assert_eq!(encapsulated(&net.nodes[A]), nat, "{a} {b}");
        let remote = net.nodes[B].established()[0].remote;
        assert_eq!(remote, address(a));
    }
}

#[test]
fn either_side_can_ask_for_esp_in_udp() {
    let asking = || Config { encapsulate: true, ..esp() };
    for config in [[asking(), esp()], [esp(), asking()], [asking(), asking()]] {
        let net = exchange("192.0.2.1:4500", "192.0.2.2:4500", config);
        net.assert_one_sa();
        for node in &net.nodes {
            assert!(encapsulated(node));
            let nat = node.engine.sas().next().unwrap().nat;
            assert_eq!((nat.local, nat.remote, nat.wanted), (false, false, true));
        }
    }
}

#[test]
fn who_wants_esp_in_udp_anyway_still_finds_out_where_it_is() {
    let asking = || Config { encapsulate: true, ..esp() };
    let net = exchange("198.51.100.1:61000", "192.0.2.2:4500", [asking(), esp()]);
    let nat = |node: &Node| node.engine.sas().next().unwrap().nat;
    assert!(nat(&net.nodes[A]).local && nat(&net.nodes[A]).wanted);
    assert!(nat(&net.nodes[B]).wanted);
}

#[test]
fn a_peer_on_port_500_is_met_there_and_followed_to_4500_where_somebody_translates() {
    for (a, b) in [("192.0.2.1:500", "192.0.2.2:500"), ("198.51.100.1:500", "192.0.2.2:500")] {
        let mut net = Net::pair_as(1, &Authority::new(), esp(), esp());
        let translated = a.starts_with("198");
        (net.nodes[A].address, net.nodes[B].address) = (address(a), address(b));
        net.ports = true;
        for (node, ip) in [(A, a), (B, b)] {
            net.nodes[node].aliases = vec![address(&ip.replace(":500", ":4500"))];
        }
        net.record = Some(Vec::new());
        net.initiate(A, B);
        net.settle();
        net.assert_one_sa();
        assert_eq!(encapsulated(&net.nodes[A]), translated);
        let used: Vec<_> =
            net.record.unwrap().iter().map(|f| (f.from.port(), f.to.port())).collect();
        assert_eq!(used[..2], [(500, 500); 2]);
        let then = if translated { 4500 } else { 500 };
        assert!(used[2..].iter().all(|ports| *ports == (then, then)), "{used:?}");
    }
}

#[test]
fn rfc4555_3_8_who_moves_behind_a_translator_has_its_esp_in_udp_from_then_on() {
    let mut net = exchange("192.0.2.1:4500", "192.0.2.2:4500", [esp(), esp()]);
    // Its own address is 10.0.0.1, and the translator's 203.0.113.7.
    let (inside, outside) = (address("10.0.0.1:4500"), address("203.0.113.7:31000"));
    (net.nodes[A].address, net.nodes[A].mapped) = (inside, Some(outside));
    net.update_addresses(A);
    net.run(secs(5));
    net.assert_one_sa();
    assert!(encapsulated(&net.nodes[A]) && encapsulated(&net.nodes[B]));
    let moved = |event: &&Event| matches!(event, Event::Moved { remote, encapsulated: true, .. } if *remote == outside);
    assert!(net.nodes[B].events.iter().any(|event| moved(&event)));
    // And back where nobody translates.
    (net.nodes[A].address, net.nodes[A].mapped) = (address("192.0.2.1:4500"), None);
    net.update_addresses(A);
    net.run(secs(5));
    net.assert_one_sa();
    assert!(!encapsulated(&net.nodes[A]));
}

/// The kernel takes ESP only as its SA says, in UDP or not: both sides have to say the same.
#[test]
fn who_moves_during_the_handshake_is_behind_no_translator() {
    let authority = Authority::new();
    for millis in (5..100).step_by(10) {
        let mut net = Net::pair_as(millis, &authority, esp(), esp());
        net.initiate(A, B);
        net.run(ms(millis));
        net.nodes[A].address = address("203.0.113.7:4500");
        net.update_addresses(A);
        net.run(secs(5));
        net.assert_one_sa();
        let [a, b] = [A, B].map(|node| encapsulated(&net.nodes[node]));
        assert!(!a && !b, "moved after {millis} ms: in UDP at A {a}, at B {b}");
    }
}

#[test]
fn rfc3948_4_behind_a_translator_the_peer_is_asked_in_time_for_the_mapping() {
    let config = || Config { dead_peer_interval: secs(300), ..esp() };
    for (a, least, most) in [("192.0.2.1:4500", 2, 20), ("198.51.100.1:4500", 50, 70)] {
        let mut net = exchange(a, "192.0.2.2:4500", [config(), config()]);
        net.record = Some(Vec::new());
        net.run(secs(600));
        let sent = net.record.unwrap().len();
        assert!((least..=most).contains(&sent), "{sent} messages in ten minutes");
    }
}
