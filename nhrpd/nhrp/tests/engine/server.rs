//! Registration as the server judges it.

use nhrp::engine::{Authorization, Claim, Config, Event, Refusal};
use nhrp::wire::{Cie, Operation, Packet, code, flags};

use super::network::*;

/// The codes with which the hub answers `request` from `from`.
fn codes(network: &mut Network, from: nhrp::engine::Nbma, request: &Packet) -> Vec<u8> {
    network.take_sent();
    network.inject(from, underlay(1), request);
    let sent = network.take_sent();
    let replies = of(&sent, Operation::RegistrationReply);
    replies
        .first()
        .map(|reply| query(&reply.packet).entries.iter().map(|cie| cie.code).collect())
        .unwrap_or_default()
}

#[test]
fn rfc2332_5_2_4_unique_address_keeps_its_first_binding() {
    let mut network = Network::with_spokes(1);
    network.authorize(underlay(1), underlay(9), &[tunnel(2).into()]);
    let mut second = registration_of(2);
    query_mut(&mut second).source_nbma = underlay(9).address.into();
    assert_eq!(codes(&mut network, underlay(9), &second), [code::ALREADY_REGISTERED]);
    // Nor without the U bit.
    query_mut(&mut second).flags = 0;
    assert_eq!(codes(&mut network, underlay(9), &second), [code::ALREADY_REGISTERED]);
    let binding = network.binding(underlay(1), tunnel(2).into()).expect("still there");
    assert_eq!(binding.nbma, underlay(2));
    assert_eq!(network.refused(underlay(1), Refusal::NotUnique), 2);
    // The first may renew.
    assert_eq!(codes(&mut network, underlay(2), &registration_of(2)), [code::SUCCESS]);
}

#[test]
fn rfc2332_5_2_4_binding_that_is_not_unique_is_replaced() {
    let mut network = Network::new();
    network.add(underlay(1), hub());
    network.add(underlay(2), Config { unique: false, ..spoke(2) });
    network.authorize(underlay(1), underlay(2), &[tunnel(2).into(), lan(2)]);
    network.authorize(underlay(1), underlay(9), &[tunnel(2).into(), lan(2)]);
    network.run(seconds(1));
    let mut second = registration_of(2);
    query_mut(&mut second).flags = 0;
    assert_eq!(codes(&mut network, underlay(9), &second), [code::SUCCESS]);
    let at = |prefix| network.binding(underlay(1), prefix).expect("bound").nbma;
    assert_eq!(at(tunnel(2).into()), underlay(9));
    assert_eq!(at(lan(2)), underlay(9), "what is behind it comes along");
}

#[test]
fn rfc2332_5_2_4_address_of_somebody_else_is_refused_with_code_4() {
    let mut network = Network::with_spokes(2);
    // Spoke 2 claims spoke 3's address as its own …
    assert_eq!(codes(&mut network, underlay(2), &registration_of(3)), [code::PROHIBITED]);
    // … and as that of a client of its own.
    let mut request = registration_of(2);
    query_mut(&mut request).entries[0].protocol = Some(tunnel(4));
    assert_eq!(codes(&mut network, underlay(2), &request), [code::PROHIBITED]);
    assert_eq!(network.binding(underlay(1), tunnel(4).into()), None);
    // Unless it is authorised.
    network.engine(underlay(1)).set_authorization(underlay(2), Some(Authorization::Any));
    assert_eq!(codes(&mut network, underlay(2), &request), [code::SUCCESS]);
}

#[test]
fn rfc2332_5_2_4_refused_claim_says_who_claimed_what_and_may_claim_what() {
    let mut network = Network::with_spokes(1);
    codes(&mut network, underlay(2), &registration_of(3));
    let event = network.take_events(underlay(1)).pop().expect("an event");
    let Event::ClaimRefused { peer, claim, prefix, allowed, reason } = event else {
        panic!("{event:?}")
    };
    assert_eq!((peer, claim, prefix), (underlay(2), Claim::Registration, tunnel(3).into()));
    assert!(matches!(allowed, Some(Authorization::Within(_))));
    assert_eq!(
        reason,
        "198.51.100.2 claims 172.16.0.3/32, but may claim 172.16.0.2/32, 192.168.2.0/24 only"
    );
}

#[test]
fn unknown_peer_may_claim_nothing() {
    let mut network = Network::with_spokes(0);
    assert_eq!(codes(&mut network, underlay(2), &registration_of(2)), [code::PROHIBITED]);
    let event = network.take_events(underlay(1)).pop();
    assert!(matches!(event, Some(Event::ClaimRefused { allowed: None, .. })), "{event:?}");
}

#[test]
fn default_authorization_trusts_whoever_comes() {
    let mut network = Network::new();
    let default_authorization = Some(Authorization::Any);
    network.add(underlay(1), Config { default_authorization, ..hub() });
    network.add(underlay(2), spoke(2));
    network.run(seconds(1));
    assert!(network.binding(underlay(1), lan(2)).is_some());
}

#[test]
fn own_address_of_the_server_is_refused() {
    let mut network = Network::with_spokes(0);
    network.engine(underlay(1)).set_authorization(underlay(2), Some(Authorization::Any));
    assert_eq!(codes(&mut network, underlay(2), &registration_of(1)), [code::PROHIBITED]);
}

#[test]
fn static_map_is_not_overridden() {
    let mut network = Network::new();
    network.add(underlay(1), Config { maps: vec![(tunnel(2), underlay(2))], ..hub() });
    network.authorize(underlay(1), underlay(9), &[tunnel(2).into()]);
    assert_eq!(codes(&mut network, underlay(9), &registration_of(2)), [code::ALREADY_REGISTERED]);
    let binding = network.binding(underlay(1), tunnel(2).into()).expect("static");
    assert_eq!(binding.nbma, underlay(2));
}

#[test]
fn prefix_of_another_client_is_refused() {
    let mut network = Network::with_spokes(2);
    network.authorize(underlay(1), underlay(3), &[tunnel(3).into(), lan(2)]);
    let mut request = registration_of(3);
    let query = query_mut(&mut request);
    query.flags = 0;
    query.entries[0].prefix_length = 24;
    query.entries[0].protocol = Some(lan(2).addr());
    assert_eq!(codes(&mut network, underlay(3), &request), [code::ALREADY_REGISTERED]);
    assert_eq!(network.binding(underlay(1), lan(2)).expect("bound").next_hop, tunnel(2));
}

#[test]
fn prefix_needs_a_registered_address() {
    let mut network = Network::with_spokes(0);
    network.authorize(underlay(1), underlay(2), &[tunnel(2).into(), lan(2)]);
    let mut request = registration_of(2);
    let query = query_mut(&mut request);
    query.flags = 0;
    query.entries[0].prefix_length = 24;
    query.entries[0].protocol = Some(lan(2).addr());
    assert_eq!(codes(&mut network, underlay(2), &request), [code::PROHIBITED]);
    // And from the same place.
    network.authorize(underlay(1), underlay(9), &[tunnel(2).into(), lan(2)]);
    assert_eq!(codes(&mut network, underlay(2), &registration_of(2)), [code::SUCCESS]);
    assert_eq!(codes(&mut network, underlay(9), &request), [code::PROHIBITED]);
    assert_eq!(codes(&mut network, underlay(2), &request), [code::SUCCESS]);
}

#[test]
fn rfc2332_5_2_3_unique_request_has_one_entry_without_prefix() {
    for spoil in [
        (|entries: &mut Vec<Cie>| entries[0].prefix_length = 24) as fn(&mut Vec<Cie>),
        |entries| entries.push(entries[0].clone()),
        Vec::clear,
    ] {
        let mut network = Network::with_spokes(0);
        network.authorize(underlay(1), underlay(2), &[tunnel(2).into(), lan(2)]);
        let mut request = registration_of(2);
        assert_ne!(query(&request).flags & flags::REGISTRATION_UNIQUE, 0);
        spoil(&mut query_mut(&mut request).entries);
        network.inject(underlay(2), underlay(1), &request);
        let sent = network.take_sent();
        assert_eq!(sent.iter().map(|s| error_code(&s.packet)).collect::<Vec<_>>(), [Some(7)]);
        assert_eq!(network.nodes[&underlay(1)].bindings.len(), 0);
    }
}

#[test]
fn rfc2332_5_2_0_1_prefix_above_the_address_length_is_a_protocol_error() {
    let mut network = Network::with_spokes(0);
    network.engine(underlay(1)).set_authorization(underlay(2), Some(Authorization::Any));
    let mut request = registration_of(2);
    query_mut(&mut request).flags = 0;
    query_mut(&mut request).entries[0].prefix_length = 33;
    network.inject(underlay(2), underlay(1), &request);
    assert_eq!(error_code(&network.sent[0].packet), Some(7));
    assert_eq!(network.nodes[&underlay(1)].bindings.len(), 0);
}

#[test]
fn rfc2332_5_2_0_1_registration_dies_with_its_holding_time() {
    let mut network = Network::with_spokes(1);
    network.node(underlay(2)).reachable = false;
    network.take_events(underlay(1));
    network.run(seconds(HOLDING - 1));
    assert!(network.binding(underlay(1), lan(2)).is_some());
    network.run(seconds(1));
    assert_eq!(network.nodes[&underlay(1)].bindings.len(), 0);
    let ended = |event: &Event| {
        matches!(event, Event::Unregistered { reason: "its holding time ran out", .. })
    };
    assert_eq!(network.take_events(underlay(1)).iter().filter(|e| ended(e)).count(), 2);
}

#[test]
fn renewal_tells_nothing_new() {
    let mut network = Network::with_spokes(1);
    network.take_events(underlay(1));
    network.run(seconds(5 * HOLDING));
    assert_eq!(network.take_events(underlay(1)), []);
    assert!(network.binding(underlay(1), lan(2)).is_some());
}

#[test]
fn registration_with_holding_time_0_ends_it() {
    let mut network = Network::with_spokes(1);
    let mut request = registration_of(2);
    query_mut(&mut request).entries[0].holding_time = 0;
    assert_eq!(codes(&mut network, underlay(2), &request), [code::SUCCESS]);
    assert_eq!(network.binding(underlay(1), tunnel(2).into()), None);
}

#[test]
fn node_that_is_no_server_refuses() {
    let mut network = Network::new();
    network.add(underlay(1), Config { accept_registrations: false, ..hub() });
    network.engine(underlay(1)).set_authorization(underlay(2), Some(Authorization::Any));
    assert_eq!(codes(&mut network, underlay(2), &registration_of(2)), [code::PROHIBITED]);
    assert_eq!(network.refused(underlay(1), Refusal::NotEnabled), 1);
}

#[test]
fn peer_that_moves_takes_its_bindings_along() {
    let mut network = Network::with_spokes(1);
    let who = Authorization::Within([tunnel(2).into(), lan(2)].into());
    network.at(underlay(1), |engine, now| {
        engine.peer_moved(now, underlay(2), underlay(9), &who);
    });
    for prefix in [tunnel(2).into(), lan(2)] {
        assert_eq!(network.binding(underlay(1), prefix).expect("bound").nbma, underlay(9));
    }
}

#[test]
fn peer_that_moves_leaves_behind_what_is_anothers() {
    let mut network = Network::with_spokes(1);
    let who = Authorization::Within([tunnel(3).into()].into());
    network.at(underlay(1), |engine, now| {
        engine.peer_moved(now, underlay(2), underlay(9), &who);
    });
    assert_eq!(network.binding(underlay(1), lan(2)).expect("bound").nbma, underlay(2));
    network.at(underlay(2), |engine, now| {
        engine.peer_moved(now, underlay(1), underlay(9), &who);
    });
    let server = network.binding(underlay(2), tunnel(1).into());
    assert_eq!(server.expect("bound").nbma, underlay(1));
}

#[test]
fn client_that_does_not_know_its_server_writes_its_own_address() {
    let mut network = Network::with_spokes(0);
    network.authorize(underlay(1), underlay(2), &[tunnel(2).into()]);
    let mut request = registration_of(2);
    query_mut(&mut request).destination_protocol = Some(tunnel(2));
    network.inject(underlay(2), underlay(1), &request);
    let reply = query(&network.sent[0].packet);
    assert_eq!(reply.operation, Operation::RegistrationReply);
    assert_eq!(reply.destination_protocol, Some(tunnel(1)));
    assert_eq!(reply.request_id, query(&request).request_id);
}
