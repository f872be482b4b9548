//! Traffic Indications.

use std::net::IpAddr;

use nhrp::engine::{Config, Limits, Refusal};
use nhrp::wire::{Body, Operation, Packet, TrafficIndication};

use super::network::*;

/// An IPv4 packet of `length` bytes.
fn ip_packet(source: IpAddr, destination: IpAddr, length: usize) -> Vec<u8> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, destination) else {
        panic!("IPv4 only")
    };
    let mut packet = vec![0; length];
    packet[0] = 0x45;
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&destination.octets());
    packet
}

fn traffic(packet: &Packet) -> &TrafficIndication {
    match &packet.body {
        Body::Traffic(traffic) => traffic,
        other => panic!("not an indication: {other:?}"),
    }
}

fn redirected(network: &mut Network, n: u8, destination: IpAddr) {
    let packet = ip_packet(host(n), destination, 84);
    network.at(underlay(1), |engine, now| engine.redirect(now, underlay(n), &packet));
}

#[test]
fn first_packet_through_the_hub_leads_to_a_shortcut() {
    let mut network = Network::with_spokes(2);
    network.take_sent();
    redirected(&mut network, 2, host(3));
    let sent = network.take_sent();
    let indication = traffic(&sent[0].packet);
    assert_eq!(sent[0].to, underlay(2));
    assert_eq!(indication.code, 0);
    assert_eq!(indication.source_protocol, Some(tunnel(1)));
    assert_eq!(indication.destination_protocol, Some(host(2)));
    assert_eq!(indication.packet, ip_packet(host(2), host(3), 84));

    // Half a round trip for the indication, two for the resolution.
    network.run(DELAY * 5);
    assert!(network.binding(underlay(2), lan(3)).is_some());
}

#[test]
fn long_packet_is_cut() {
    let mut network = Network::with_spokes(1);
    network.take_sent();
    let packet = ip_packet(host(2), host(3), 1400);
    network.at(underlay(1), |engine, now| engine.redirect(now, underlay(2), &packet));
    assert_eq!(traffic(&network.sent[0].packet).packet, packet[..128]);
}

#[test]
fn only_the_packet_within_is_acted_on() {
    let mut network = Network::with_spokes(2);
    redirected(&mut network, 2, host(3));
    let mut indication = network.take_sent().pop().expect("an indication").packet;
    match &mut indication.body {
        Body::Traffic(traffic) => traffic.destination_protocol = Some(ip("10.99.99.99")),
        _ => unreachable!(),
    }
    let mut other = Network::with_spokes(2);
    other.take_sent();
    other.inject(underlay(1), underlay(2), &indication);
    assert_eq!(query(&other.sent[0].packet).destination_protocol, Some(host(3)));
}

#[test]
fn flood_of_indications_is_no_flood_of_requests() {
    let mut network = Network::with_spokes(1);
    network.take_sent();
    // For one destination that nobody has, for a minute.
    for _ in 0..600 {
        redirected(&mut network, 2, host(9));
        network.run(DELAY * 10);
    }
    let requests = of(&network.take_sent(), Operation::ResolutionRequest).len();
    assert!((3..=5).contains(&requests), "{requests}");
    assert!(network.refused(underlay(2), Refusal::Known) > 500);
}

#[test]
fn flood_of_indications_for_many_destinations_is_capped() {
    let mut network = Network::new();
    network.add(
        underlay(1),
        Config { limits: Limits { indications: 100_000, ..Limits::default() }, ..hub() },
    );
    let limits = Limits { pending: 10, packets_per_peer: 100_000, ..Limits::default() };
    network.add(underlay(2), Config { limits, ..spoke(2) });
    network.authorize(underlay(1), underlay(2), &[tunnel(2).into(), lan(2)]);
    network.run(seconds(1));
    network.take_sent();
    for i in 0..1000_u32 {
        let destination = IpAddr::from((0x0a00_0000 + i).to_be_bytes());
        redirected(&mut network, 2, destination);
    }
    network.run(DELAY);
    assert_eq!(of(&network.take_sent(), Operation::ResolutionRequest).len(), 10);
    assert_eq!(network.refused(underlay(2), Refusal::PendingFull), 990);
}

#[test]
fn indications_that_we_send_are_limited() {
    let mut network = Network::new();
    let limits = Limits { indications: 5, ..Limits::default() };
    network.add(underlay(1), Config { limits, ..hub() });
    for _ in 0..20 {
        redirected(&mut network, 2, host(3));
    }
    assert_eq!(network.take_sent().len(), 5);
    assert_eq!(network.refused(underlay(1), Refusal::IndicationRate), 15);
    network.run(seconds(1));
    redirected(&mut network, 2, host(3));
    assert_eq!(network.take_sent().len(), 1);
}

#[test]
fn indication_of_a_node_that_is_no_server_is_refused() {
    let mut network = Network::with_spokes(2);
    redirected(&mut network, 2, host(3));
    let indication = network.take_sent().pop().expect("an indication").packet;
    let mut network = Network::with_spokes(2);
    network.take_sent();
    network.inject(underlay(3), underlay(2), &indication);
    assert_eq!(network.take_sent().len(), 0);
    assert_eq!(network.refused(underlay(2), Refusal::IndicationSource), 1);
}

#[test]
fn indications_are_sent_and_followed_only_where_asked_for() {
    let mut network = Network::new();
    network.add(underlay(1), Config { redirect: false, ..hub() });
    redirected(&mut network, 2, host(3));
    assert_eq!(network.take_sent().len(), 0);

    let mut network = Network::new();
    network.add(underlay(1), hub());
    network.add(underlay(2), Config { shortcut: false, ..spoke(2) });
    network.authorize(underlay(1), underlay(2), &[tunnel(2).into(), lan(2)]);
    network.run(seconds(1));
    network.take_sent();
    redirected(&mut network, 2, host(3));
    network.run(seconds(1));
    assert_eq!(of(&network.take_sent(), Operation::ResolutionRequest).len(), 0);
}

#[test]
fn packet_without_an_ip_header_is_refused() {
    let mut network = Network::with_spokes(1);
    network.take_sent();
    for packet in [&[][..], &[0x45; 19], &[0x60; 39], &[0x00; 64]] {
        network.at(underlay(1), |engine, now| engine.redirect(now, underlay(2), packet));
    }
    assert_eq!(network.take_sent().len(), 0);
    assert_eq!(network.refused(underlay(1), Refusal::Protocol), 4);

    redirected(&mut network, 2, host(3));
    let mut indication = network.take_sent().pop().expect("an indication").packet;
    match &mut indication.body {
        Body::Traffic(traffic) => traffic.packet.truncate(19),
        _ => unreachable!(),
    }
    network.inject(underlay(1), underlay(2), &indication);
    assert_eq!(error_code(&network.sent[0].packet), Some(7));
}
