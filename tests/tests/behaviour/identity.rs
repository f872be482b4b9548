//! Who may come in, and who may claim what.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime};

use ike::psk::SharedKeys;
use nhrp::wire::{Body, Family, Packet, TrafficIndication};
use overlay::{Accept, Credentials, Notice};
use overlay_tests::sim::{
    Blueprint, Domain, INTERNET, Inner, Message, NodeId, PORT, Payload, Sim, WALL, address_of,
    host_of, lan_of, tunnel_address_of,
};
use pki::authority::{Request, Validity};
use pki::{KeyUsage, UnixTime};

use crate::common::*;

const DAY: Duration = Duration::from_secs(86_400);

/// The words of the first refusal that a node has told its operator.
fn refusal(sim: &Sim, node: NodeId) -> String {
    let words = sim.notices(node).iter().find_map(|(_, notice)| match notice {
        Notice::Refused(refused) => Some(refused.to_string()),
        _ => None,
    });
    words.unwrap_or_else(|| panic!("{node} refused nobody: {:?}", sim.notices(node)))
}

fn assert_words(sim: &Sim, node: NodeId, words: &[&str]) {
    let refusal = refusal(sim, node);
    println!("# {node}: {refusal}");
    for word in words {
        assert!(refusal.contains(word), "{word:?} is missing in: {refusal}");
    }
}

/// Spoke 1 with another certificate.
fn spoke_with(request: Request) -> Blueprint {
    let domain = domain();
    Blueprint { credentials: domain.credentials(request), ..domain.node(1) }
}

/// Runs a hub, a good spoke 2 and this spoke 1, which nobody may reach and which reaches nobody.
fn shut_out(spoke: Blueprint) -> (Sim, NodeId, NodeId) {
    let domain = domain();
    let mut sim = Sim::new(1, fair());
    let hub = sim.add(domain.node(0));
    let stranger = sim.add(spoke);
    let good = sim.add(domain.node(2));
    sim.run_for(secs(10));
    for (from, to) in [(stranger, good), (good, stranger), (stranger, hub), (hub, stranger)] {
        sim.flow(from, hosts(from, to), ms(100), 600);
    }
    sim.run_for(minutes(2));
    let arrived = sim.fates().iter().filter(|fate| fate.arrival.is_some()).count();
    assert_eq!(arrived, 0, "nothing of or for a node that was refused is forwarded");
    let registered: Vec<_> = sim.overlay(hub).bindings().map(|binding| binding.prefix).collect();
    assert_eq!(registered, [lan_of(2), tunnel_address_of(2).into()]);
    (sim, hub, stranger)
}

#[test]
fn a_certificate_of_another_ca_is_refused_on_both_sides() {
    let other = Domain { ca: "Another CA", ..domain() };
    let (sim, hub, spoke) = shut_out(other.node(1));
    assert_words(&sim, hub, &["CN=spoke1", "another CA", "CN=Another CA", "CN=Example CA"]);
    assert_words(&sim, spoke, &["203.0.113.1", "another CA", "CN=Another CA", "CN=Example CA"]);
}

#[test]
fn an_expired_certificate_is_refused_on_both_sides() {
    let validity = Validity {
        not_before: UnixTime::since_unix_epoch(WALL - 30 * DAY),
        not_after: UnixTime::since_unix_epoch(WALL - 3 * DAY),
    };
    let request = Request { validity, ..domain().request(1) };
    let (sim, hub, spoke) = shut_out(spoke_with(request));
    for node in [hub, spoke] {
        assert_words(&sim, node, &["CN=spoke1", "expired at 2026-11-18", "3 days ago"]);
    }
}

#[test]
fn a_certificate_without_the_needed_key_usage_is_refused_on_both_sides() {
    let usage = KeyUsage::from_bits(0x40).expect("one bit");
    let request = Request { key_usage: Some(usage), ..domain().request(1) };
    let (sim, hub, spoke) = shut_out(spoke_with(request));
    for node in [hub, spoke] {
        assert_words(&sim, node, &["key usage 0x40 (nonRepudiation)", "needs all of 0x80"]);
    }
}

#[test]
fn a_certificate_without_any_key_usage_is_refused_on_both_sides() {
    let request = Request { key_usage: None, ..domain().request(1) };
    let (sim, hub, spoke) = shut_out(spoke_with(request));
    for node in [hub, spoke] {
        assert_words(&sim, node, &["no key usage", "needs all of 0x80"]);
    }
}

#[test]
fn a_certificate_for_another_tunnel_address_is_refused_on_both_sides() {
    let request = Request {
        addresses: vec![tunnel_address_of(7)],
        prefixes: [lan_of(7)].into(),
        ..Request::new("spoke7", domain().request(1).validity)
    };
    let (sim, hub, spoke) = shut_out(spoke_with(request));
    assert_words(
        &sim,
        hub,
        &["CN=spoke7", "172.16.0.2/32", "allows only 10.0.7.0/24, 172.16.0.8/32"],
    );
    assert_words(&sim, spoke, &["refuses our registration of 172.16.0.2/32", "172.16.0.8/32"]);
}

#[test]
fn a_certificate_without_any_address_is_refused_on_both_sides() {
    let request = Request::new("nobody", domain().request(1).validity);
    let (sim, hub, spoke) = shut_out(spoke_with(request));
    assert_words(&sim, hub, &["CN=nobody", "172.16.0.2/32", "allows no tunnel address"]);
    assert_words(&sim, spoke, &["refuses our registration", "allows no tunnel address"]);
}

/// The spoke refuses its hub: whoever stands at that address is not the server.
#[test]
fn a_hub_with_a_spokes_certificate_is_refused_on_both_sides() {
    let domain = domain();
    let mut sim = Sim::new(1, fair());
    let impostor =
        Blueprint { credentials: domain.credentials(domain.request(9)), ..domain.node(0) };
    let hub = sim.add(impostor);
    let spoke = sim.add(domain.node(1));
    sim.flow(spoke, hosts(spoke, hub), ms(100), 600);
    sim.run_for(minutes(2));
    assert!(sim.fates().iter().all(|fate| fate.arrival.is_none()));
    for node in [hub, spoke] {
        assert_words(&sim, node, &["CN=spoke9", "next-hop server 172.16.0.1", "allows only"]);
    }
}

#[test]
fn a_hub_of_another_ca_is_refused_on_both_sides() {
    let other = Domain { ca: "Another CA", ..domain() };
    let domain = domain();
    let mut sim = Sim::new(1, fair());
    // It trusts the right one, so that only the spoke has a reason.
    let hub = sim.add(other.node(0));
    let spoke = sim.add(domain.node(1));
    sim.run_for(minutes(1));
    for node in [hub, spoke] {
        assert_words(&sim, node, &["another CA"]);
        assert_eq!(sim.overlay(node).sessions().count(), 0);
    }
}

/// A spoke with a good certificate that claims what is spoke 2's: before and after that one comes.
#[test]
fn a_spoke_cannot_take_anothers_address_or_lan() {
    let domain = domain();
    for first in [false, true] {
        let mut sim = Sim::new(1, fair());
        let hub = sim.add(domain.node(0));
        let good = sim.install(domain.node(1));
        let victim = sim.install(domain.node(2));
        let request = domain.request(3);
        let thief = sim.install(
            Blueprint {
                credentials: domain.credentials(request),
                address: address_of(3),
                ..domain.node(2)
            }
            .behind(INTERNET, Ipv4Addr::new(203, 0, 113, 4)),
        );
        let order = if first { [thief, good, victim] } else { [victim, good, thief] };
        for node in order {
            sim.start(node);
            sim.run_for(secs(5));
        }
        let flow = pings(&mut sim, good, victim, 300);
        sim.run_for(secs(10));
        assert!(sim.flow_fates(flow).all(|fate| fate.arrival.is_some()));
        assert!(is_direct(&sim, good, victim));
        assert_words(&sim, hub, &["CN=spoke3", "172.16.0.3/32", "172.16.0.4/32"]);
        assert_words(&sim, thief, &["refuses our registration of 172.16.0.3/32"]);
    }
}

/// Its own address is its own, but not the prefix that it announces with it.
#[test]
fn a_spoke_cannot_announce_anothers_lan() {
    let domain = domain();
    let mut sim = Sim::new(1, fair());
    let hub = sim.add(domain.node(0));
    let good = sim.add(domain.node(1));
    let victim = sim.install(domain.node(2));
    let greedy = domain.node(3).configured(|config| {
        config.nhrp.advertise = vec![lan_of(3), lan_of(2), "10.0.0.0/8".parse().expect("a prefix")];
    });
    let greedy = sim.add(greedy);
    sim.run_for(secs(5));
    sim.flow(good, hosts(good, victim), ms(10), 100);
    sim.run_for(secs(5));
    assert!(sim.fates().iter().all(|fate| fate.arrival.is_none()), "not to the greedy one either");
    sim.start(victim);
    sim.run_for(secs(5));
    assert!(reaches(&mut sim, good, victim, secs(20)).is_some());
    assert!(reaches(&mut sim, good, greedy, secs(5)).is_some(), "what is its own works");
    assert_words(&sim, hub, &["CN=spoke3", "10.0.2.0/24", "allows only"]);
    assert_words(&sim, greedy, &["refuses our registration of 10.0.2.0/24", "allows only"]);
}

#[test]
fn a_packet_with_anothers_source_is_dropped_at_the_hub_and_at_the_other_spoke() {
    let (mut sim, nodes) = settled(1, 3);
    let [a, b, c] = [nodes.spokes[0], nodes.spokes[1], nodes.spokes[2]];
    let spoofed = |sim: &mut Sim| {
        let number = sim.send(a, host_of(c.0), host_of(b.0));
        sim.run_for(secs(1));
        sim.fate(number).dropped
    };
    assert_eq!(spoofed(&mut sim), Some((nodes.hub, "spoofed source")));
    pings(&mut sim, a, b, 100);
    sim.run_for(secs(2));
    assert!(is_direct(&sim, a, b));
    assert_eq!(spoofed(&mut sim), Some((b, "spoofed source")));
}

/// Encrypted or silent works in both directions.
#[test]
fn gre_in_the_clear_is_not_heard_where_security_is_on() {
    let (mut sim, nodes) = settled(1, 2);
    let (a, b) = (nodes.spokes[0], nodes.spokes[1]);
    let before = sim.overlay(nodes.hub).nhrp().counters().received;
    sim.record();
    pings(&mut sim, a, b, 10);
    sim.run_for(secs(1));
    let (from, to) = (address_of(a.0), address_of(nodes.hub.0));
    let inner: Vec<Inner> = sim
        .recording()
        .into_iter()
        .filter_map(|(_, _, payload)| match payload {
            Payload::WireGuard(_, Message::Data(_, _, inner)) => inner,
            Payload::Esp(packet) => Some(packet.inner),
            _ => None,
        })
        .collect();
    assert!(inner.iter().any(|inner| matches!(inner, Inner::Nhrp(_))));
    let after_honest = sim.overlay(nodes.hub).nhrp().counters().received;
    assert_ne!(before, after_honest);
    let arrived = sim.fates().iter().filter(|fate| fate.arrival.is_some()).count();
    for inner in inner {
        sim.inject((from, 0).into(), (to, 0).into(), &Payload::Gre(inner));
    }
    sim.run_for(secs(1));
    assert_eq!(sim.overlay(nodes.hub).nhrp().counters().received, after_honest);
    assert_eq!(sim.fates().iter().filter(|fate| fate.arrival.is_some()).count(), arrived);
}

/// A spoke with good keys that forges the outer source of its packets, so that they seem to come
/// from the hub or from another spoke. Nothing is believed that its certificate does not allow, and
/// those whose address it used go on undisturbed.
#[test]
fn a_spoke_that_forges_its_underlay_address_gains_nothing_by_it() {
    let (mut sim, nodes) = settled(1, 3);
    let [a, b, c] = [nodes.spokes[0], nodes.spokes[1], nodes.spokes[2]];
    pings(&mut sim, a, b, 100);
    pings(&mut sim, a, c, 100);
    sim.run_for(secs(2));
    sim.record();
    let flow = pings(&mut sim, a, b, 18_000);
    sim.run_for(ms(50));
    // B's own keys towards A; and words that only a server may say.
    let (.., genuine) = sim
        .recording()
        .into_iter()
        .find(|(from, to, payload)| {
            (from.ip(), to.ip()) == (address_of(b.0), address_of(a.0)) && payload.is_data()
        })
        .expect("B answers A");
    let indication = traffic_indication(host_of(a.0), host_of(77));
    let resolutions = sim.overlay(a).nhrp().counters().sent[1];
    for (forged, counter) in [(nodes.hub, 100_000), (c, 100_001)]
        .into_iter()
        .cycle()
        .zip(0..100)
        .map(|((n, base), i)| (n, base + 10 * i))
    {
        let packet = genuine.with(counter, Inner::Nhrp(indication.clone()));
        let (from, to) = (address_of(forged.0), address_of(a.0));
        sim.inject((from, PORT).into(), (to, PORT).into(), &packet);
        sim.run_for(ms(100));
    }
    assert_eq!(sim.overlay(a).nhrp().counters().sent[1], resolutions, "A asks for nothing");
    if crate::KIND == ike::TunnelKind::WireGuard {
        // Bare ESP does not follow a peer that moves without IKE's word.
        assert_words(&sim, a, &["CN=spoke2", "address of next-hop server 172.16.0.1"]);
    }
    for (from, to) in [(a, nodes.hub), (nodes.hub, a), (a, c), (c, a), (b, c)] {
        assert!(reaches(&mut sim, from, to, secs(5)).is_some(), "{from} to {to}");
    }
    // The genuine packets of B bring its session back to where it is.
    sim.run_for(minutes(2));
    let since = sim.elapsed() - secs(1);
    assert!(sim.flow_fates(flow).any(|fate| fate.sent >= since && fate.direct()));
    let down = count(&sim, a, |notice| matches!(notice, Notice::ServerDown { .. }));
    assert_eq!((down, sim.registrations(nodes.hub)), (0, 6));
}

/// As a hub sends it about a packet that should have taken a shorter way.
fn traffic_indication(source: IpAddr, destination: IpAddr) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0];
    for address in [source, destination] {
        if let IpAddr::V4(address) = address {
            packet.extend(address.octets());
        }
    }
    let traffic = TrafficIndication {
        source_nbma: address_of(0).into(),
        source_protocol: Some(tunnel_address_of(0)),
        destination_protocol: Some(source),
        packet,
        ..TrafficIndication::default()
    };
    let (v4, body) = (Family::V4, Body::Traffic(traffic));
    Packet::new(v4, v4, 64, body, Vec::new()).encode()
}

/// Certificates are judged at each key exchange, by the time of day.
#[test]
fn a_certificate_that_expired_meanwhile_does_not_come_in_again() {
    let (mut sim, nodes) = settled(1, 1);
    let spoke = nodes.spokes[0];
    sim.set_clock(nodes.hub, SystemTime::UNIX_EPOCH + WALL + 400 * DAY);
    sim.run_for(minutes(10));
    assert_eq!(sim.registrations(nodes.hub), 2, "who is in, stays in");
    sim.kill(spoke);
    sim.run_for(secs(1));
    sim.start(spoke);
    sim.run_for(secs(10));
    assert_words(&sim, nodes.hub, &["CN=spoke1", "expired"]);
    sim.set_clock(nodes.hub, SystemTime::UNIX_EPOCH + WALL);
    let took = sim.run_until(minutes(3), |sim| is_registered_anew(sim, spoke));
    println!("# in again {:?} after the clock is right", took.expect("it comes in again"));
}

fn is_registered_anew(sim: &Sim, spoke: NodeId) -> bool {
    let mut notices = sim.notices(spoke).iter().rev();
    matches!(notices.next(), Some((_, Notice::ServerUp { .. })))
}

#[test]
fn who_finds_no_room_is_told_so_and_who_is_in_may_renew() {
    let domain = domain();
    let mut sim = Sim::new(1, fair());
    let hub = sim.add(domain.node(0).configured(|config| config.sessions = 2));
    let spokes = [1, 2].map(|n| sim.add(domain.node(n)));
    sim.run_for(secs(5));
    let late = sim.add(domain.node(3));
    sim.run_for(secs(5));
    assert_words(&sim, hub, &["CN=spoke3", "2 sessions already"]);
    assert_words(&sim, late, &["2 sessions already"]);
    sim.kill(spokes[0]);
    sim.run_for(secs(1));
    sim.start(spokes[0]);
    assert!(reaches(&mut sim, spokes[0], spokes[1], secs(10)).is_some());
    sim.kill(spokes[1]);
    let took = sim.run_until(minutes(3), |sim| {
        sim.overlay(hub).sessions().any(|s| s.identity.as_deref() == Some("CN=spoke3"))
    });
    println!("# room for the third {took:?} after the second died");
    assert!(took.is_some());
}

/// Each looks as if its sender had lost its session when we restarted. The addresses are forged, so
/// nobody answers when we call back.
#[test]
fn forged_strangers_fill_no_table_and_keep_nobody_out() {
    let domain = domain();
    let mut sim = Sim::new(1, fair());
    let limit = 64;
    let hub = sim.add(domain.node(0).configured(|config| config.sessions = limit));
    for n in 0..10_000u32 {
        let from = Ipv4Addr::from(0xc612_0000 + n); // 198.18.0.0/15, RFC 2544
        let message = Message::Data(1, 1, None);
        let to = (address_of(0), PORT).into();
        sim.inject((from, PORT).into(), to, &Payload::WireGuard([7; 32], message));
        sim.run_for(ms(50));
    }
    let attempts = sim.overlay(hub).attempts().count();
    println!("# {attempts} attempts at the end of the flood, {} IKE messages", sim.seen("ike"));
    let spoke = sim.add(domain.node(1));
    sim.flow(spoke, hosts(spoke, hub), ms(100), 100);
    let took = sim.run_until(secs(10), |sim| sim.registrations(hub) == 2);
    println!("# a spoke registers {took:?} after that");
    assert!(took.is_some());
    sim.run_for(minutes(1));
    assert_eq!(sim.overlay(hub).attempts().count(), 0, "nothing is left of it");
}

/// Whatever a stranger sends, or sends again, the sessions stay up and nothing grows.
#[test]
fn garbage_and_replays_change_nothing() {
    let (mut sim, nodes) = settled(1, 2);
    let (a, b) = (nodes.spokes[0], nodes.spokes[1]);
    sim.record();
    pings(&mut sim, a, b, 100);
    sim.run_for(secs(60));
    let arrived = sim.fates().iter().filter(|fate| fate.arrival.is_some()).count();
    let before: Vec<usize> = sim.nodes().map(|id| sim.overlay(id).sessions().count()).collect();
    let replays = sim.recording();
    println!("# {} datagrams replayed from their own and from another address", replays.len());
    for (from, to, payload) in replays {
        sim.inject(from, to, &payload);
        sim.inject((Ipv4Addr::new(192, 0, 2, 66), 6666).into(), to, &payload);
        if let Payload::Ike(mut bytes) = payload {
            let at = usize::try_from(sim.random(bytes.len() as u64)).expect("it fits");
            bytes[at] ^= 1 << sim.random(8);
            sim.inject(from, to, &Payload::Ike(bytes.clone()));
            bytes.truncate(at);
            sim.inject(from, to, &Payload::Ike(bytes));
        }
        sim.run_for(ms(20));
    }
    sim.run_for(secs(60));
    let after: Vec<usize> = sim.nodes().map(|id| sim.overlay(id).sessions().count()).collect();
    assert_eq!(before, after);
    assert_eq!(sim.fates().iter().filter(|fate| fate.arrival.is_some()).count(), arrived);
    for node in sim.nodes() {
        assert!(sim.overlay(node).attempts().count() <= 2);
    }
    pings(&mut sim, a, b, 100);
    sim.run_for(secs(2));
    assert_nothing_lost(&sim);
    assert!(is_direct(&sim, a, b));
}

/// Node n with a pre-shared key, and who may claim what as its configuration says.
fn with_key(n: usize, key: &'static str) -> Blueprint {
    let name = |n: usize| if n == 0 { "hub".to_owned() } else { format!("spoke{n}.example") };
    let accept = |n: usize| Accept {
        identity: name(n),
        prefixes: [tunnel_address_of(n).into(), lan_of(n)].into(),
    };
    let mut blueprint = Domain::default().node(n);
    blueprint.config.accept = (0..=3).map(accept).collect();
    let identity: ike::Identity = name(n).parse().expect("a DNS name");
    blueprint.credentials = Box::new(move || {
        let keys = SharedKeys::parse(&format!("* {key}"), false).expect("a good key");
        Some(Credentials::shared(identity.clone(), keys))
    });
    blueprint
}

#[test]
fn pre_shared_keys_bring_up_spokes_and_shortcuts_and_accept_says_who_may_claim_what() {
    const KEY: &str = "what the nodes of this overlay share";
    let mut sim = Sim::new(1, fair());
    let hub = sim.add(with_key(0, KEY));
    let [a, b] = [1, 2].map(|n| sim.add(with_key(n, KEY)));
    let mut thief = with_key(3, KEY);
    let nhrp = &mut thief.config.nhrp;
    nhrp.advertise = vec![lan_of(1)];
    let thief = sim.add(thief);
    let stranger = sim.add(with_key(4, "what another overlay's nodes share"));
    sim.run_for(secs(10));
    let flow = pings(&mut sim, a, b, 200);
    sim.run_for(secs(5));
    assert_nothing_lost(&sim);
    assert!(until_direct(&sim, flow).expect("it becomes direct") <= ms(120));
    assert_words(&sim, hub, &["no pre-shared key is configured for spoke4.example"]);
    let words =
        "claims 10.0.1.0/24, but it has a pre-shared key, and `accept` allows it only 10.0.3.0";
    let told = sim.notices(hub).iter().any(|(_, notice)| notice.to_string().contains(words));
    assert!(told, "{:?}", sim.notices(hub));
    assert_words(&sim, thief, &["refuses our registration of 10.0.1.0/24", "accept"]);
    assert_words(&sim, stranger, &["no pre-shared key is configured for spoke4.example"]);
    assert_eq!(sim.overlay(stranger).sessions().count(), 0);
    assert_eq!(sim.overlay(thief).sessions().count(), 1);
}
