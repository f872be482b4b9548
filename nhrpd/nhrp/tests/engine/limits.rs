//! Caps and rates: nothing grows without end, and every refusal is counted.

use std::net::{IpAddr, Ipv4Addr};

use nhrp::engine::{Authorization, Config, Limits, Nbma, Refusal};
use nhrp::wire::{Operation, code};

use super::network::*;

fn stranger(i: u32) -> Nbma {
    IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + i)).into()
}

fn open_hub(limits: Limits) -> Network {
    let mut network = Network::new();
    let default_authorization = Some(Authorization::Any);
    network.add(underlay(1), Config { default_authorization, limits, ..hub() });
    network
}

#[test]
fn flood_of_spoofed_sources_fills_no_more_than_the_cache() {
    let mut network = open_hub(Limits { cache_entries: 50, ..Limits::default() });
    let mut request = registration_of(2);
    for i in 0..1000 {
        let query = query_mut(&mut request);
        query.source_protocol = Some(stranger(i).address);
        query.entries[0].protocol = Some(stranger(i).address);
        network.inject(stranger(i), underlay(1), &request);
    }
    assert_eq!(network.nodes[&underlay(1)].bindings.len(), 50);
    let sent = network.take_sent();
    let full = of(&sent, Operation::RegistrationReply)
        .iter()
        .filter(|s| query(&s.packet).entries[0].code == code::INSUFFICIENT_RESOURCES)
        .count();
    assert!(full > 0);
    // Beyond 50 peers a second, all others together have the rate of one peer.
    let dropped = network.refused(underlay(1), Refusal::PeerRate);
    assert_eq!(dropped, 1000 - 50 - u64::from(Limits::default().packets_per_peer));
    assert_eq!(network.refused(underlay(1), Refusal::CacheFull), full as u64);
}

#[test]
fn peer_above_its_rate_does_not_slow_down_another() {
    let mut network = open_hub(Limits { packets_per_peer: 10, ..Limits::default() });
    let request = registration_of(2);
    for _ in 0..100 {
        network.inject(underlay(2), underlay(1), &request);
    }
    assert_eq!(network.take_sent().len(), 10);
    assert_eq!(network.refused(underlay(1), Refusal::PeerRate), 90);
    network.inject(underlay(3), underlay(1), &registration_of(3));
    assert_eq!(network.take_sent().len(), 1);
    network.run(seconds(1));
    network.inject(underlay(2), underlay(1), &request);
    assert_eq!(network.take_sent().len(), 1);
}

#[test]
fn flood_of_garbage_is_counted_and_answered_within_the_rate() {
    let mut network = open_hub(Limits { packets_per_peer: 100_000, ..Limits::default() });
    let good = registration_of(2).encode();
    for i in 0..10_000_usize {
        let mut bytes = good.clone();
        let at = i % bytes.len();
        bytes[at] ^= 1 << (i % 8);
        network.at(underlay(1), |engine, now| engine.handle_packet(now, underlay(2), &bytes));
    }
    let limit = Limits::default().errors as usize;
    assert!(network.take_sent().len() <= limit);
    // ar$pro.snap is neither read nor kept; every other bit is covered by the checksum.
    assert!(network.refused(underlay(1), Refusal::Malformed) == 10_000);
    assert_eq!(network.nodes[&underlay(1)].bindings.len(), 0);
}

#[test]
fn negative_entries_count_against_the_cap() {
    let mut network = Network::new();
    network.add(underlay(1), hub());
    let limits = Limits { cache_entries: 20, ..Limits::default() };
    network.add(underlay(2), Config { limits, ..spoke(2) });
    network.authorize(underlay(1), underlay(2), &[tunnel(2).into(), lan(2)]);
    network.run(seconds(1));
    for i in 0..100 {
        network.at(underlay(2), |engine, now| engine.resolve(now, stranger(i).address));
    }
    network.run(seconds(1));
    assert!(network.nodes[&underlay(2)].engine.cache().len() <= 20 + 2);
}

#[test]
fn engine_sleeps_when_nothing_is_due() {
    let network = Network::with_spokes(1);
    let due = network.nodes[&underlay(2)].engine.poll_timeout().expect("the renewal");
    assert!(due > network.now + seconds(100));
}
