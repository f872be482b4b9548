//! Address translation: the claimed and the seen address are both kept (Cisco NAT extension).

use nhrp::engine::{Authorization, Event, Nbma};
use nhrp::wire::{Cie, ExtensionBody, Operation, Packet, extension_type};

use super::network::*;

fn seen(packet: &Packet) -> Vec<(Option<std::net::IpAddr>, Cie)> {
    match packet.extension(extension_type::NAT_ADDRESS) {
        Some(ExtensionBody::NatAddress(entries)) => {
            entries.iter().map(|cie| (cie.protocol, cie.clone())).collect()
        }
        _ => panic!("no NAT extension"),
    }
}

fn outside(port: u16) -> Nbma {
    Nbma { address: ip("203.0.113.7"), port }
}

/// Hub, and two spokes behind one translator.
fn behind_one_translator() -> Network {
    let mut network = Network::new();
    network.translated.insert(underlay(2), outside(4500));
    network.translated.insert(underlay(3), outside(1024));
    network.add(underlay(1), hub());
    for n in [2, 3] {
        network.add(underlay(n), spoke(n));
        let at = network.translated[&underlay(n)];
        network.authorize(underlay(1), at, &[tunnel(n).into(), lan(n)]);
    }
    network.run(seconds(1));
    network
}

#[test]
fn nat_extension_says_where_the_client_was_seen() {
    let mut network = behind_one_translator();
    let sent = network.take_sent();
    let requests = of(&sent, Operation::RegistrationRequest);
    assert_eq!(seen(&requests[0].packet), [], "the client's is empty");
    let reply = of(&sent, Operation::RegistrationReply)
        .into_iter()
        .find(|s| s.to == outside(1024))
        .expect("a reply");
    let entries = seen(&reply.packet);
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].0, Some(tunnel(3)));
    assert_eq!(entries[0].1.nbma.address, Some(outside(0).address));
    assert_eq!(entries[0].1.nbma.port(), 1024);

    let told = Event::SeenAs { server: tunnel(1), nbma: outside(1024) };
    assert!(network.take_events(underlay(3)).contains(&told));
    let binding = network.binding(underlay(1), tunnel(3).into()).expect("registered");
    assert_eq!((binding.nbma, binding.claimed), (outside(1024), Some(underlay(3).address)));
}

#[test]
fn client_that_is_not_translated_gets_an_empty_extension() {
    let mut network = Network::with_spokes(1);
    let sent = network.take_sent();
    let replies = of(&sent, Operation::RegistrationReply);
    assert_eq!(seen(&replies[0].packet), []);
    let binding = network.binding(underlay(1), tunnel(2).into()).expect("registered");
    assert_eq!(binding.claimed, None);
}

#[test]
fn shortcut_between_two_behind_one_translator_has_both_addresses() {
    let mut network = behind_one_translator();
    network.take_sent();
    network.resolve(2, host(3));
    let there = network.binding(underlay(2), lan(3)).expect("a shortcut");
    assert_eq!((there.nbma, there.claimed), (outside(1024), Some(underlay(3).address)));
    // Each says itself where it is seen, for a hub that does not.
    let sent = network.take_sent();
    for (operation, n, port) in
        [(Operation::ResolutionRequest, 2, 4500), (Operation::ResolutionReply, 3, 1024)]
    {
        let entries = seen(&of(&sent, operation)[0].packet);
        let own = entries.iter().find(|(protocol, _)| *protocol == Some(tunnel(n)));
        assert_eq!(own.map(|(_, cie)| cie.nbma.port()), Some(port));
    }
    let back = network.binding(underlay(3), tunnel(2).into()).expect("the way back");
    assert_eq!((back.nbma, back.claimed), (outside(4500), Some(underlay(2).address)));
}

#[test]
fn hub_says_where_it_saw_a_node_that_does_not_know() {
    let mut network = behind_one_translator();
    // As a spoke sends it that never learnt its outside address.
    let request = resolution_of(2, host(3));
    assert_eq!(seen(&request), []);
    network.take_sent();
    network.inject(outside(4500), underlay(1), &request);
    let sent = network.take_sent();
    assert_eq!(sent[0].to, outside(1024));
    let entries = seen(&sent[0].packet);
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].0, entries[0].1.nbma.port()), (Some(tunnel(2)), 4500));
}

#[test]
fn hub_that_answers_for_a_translated_client_gives_both_addresses() {
    let mut network = behind_one_translator();
    network.node(underlay(3)).reachable = false;
    network.engine(underlay(1)).set_authorization(outside(1024), None);
    network.resolve(2, host(3));
    let there = network.binding(underlay(2), lan(3)).expect("a shortcut");
    assert_eq!((there.nbma, there.claimed), (outside(1024), Some(underlay(3).address)));
}

#[test]
fn rebinding_of_the_translator_is_followed() {
    let mut network = behind_one_translator();
    network.translated.insert(underlay(3), outside(2222));
    let who = Authorization::Within([tunnel(3).into(), lan(3)].into());
    network.at(underlay(1), |engine, now| {
        engine.set_authorization(outside(2222), Some(who.clone()));
        engine.peer_moved(now, outside(1024), outside(2222), &who);
    });
    assert_eq!(network.binding(underlay(1), lan(3)).expect("bound").nbma, outside(2222));
    network.run(seconds(HOLDING));
    assert_eq!(network.binding(underlay(1), lan(3)).expect("bound").nbma, outside(2222));
    assert!(
        network
            .take_events(underlay(3))
            .contains(&Event::SeenAs { server: tunnel(1), nbma: outside(2222) })
    );
}
