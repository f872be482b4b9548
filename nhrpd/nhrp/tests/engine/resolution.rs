//! Resolution from the first packet to the shortcut, and the shortcut's life.

use nhrp::engine::{Authorization, BindingKind, Claim, Config, EntryKind, Event, Refusal};
use nhrp::wire::{Cie, Operation, Packet, code, extension_type, flags};

use super::network::*;

/// The reply that spoke 2's request for spoke 3's LAN gets, before it reaches spoke 2, and a
/// network in which that request waits.
fn waiting_for_reply() -> (Network, Packet) {
    let mut network = Network::with_spokes(2);
    network.take_sent();
    network.at(underlay(2), |engine, now| engine.resolve(now, host(3)));
    // Request to hub, to owner, reply to hub: the hub forwards it at 30 ms.
    network.run(DELAY * 3);
    let sent = network.take_sent();
    let reply = of(&sent, Operation::ResolutionReply);
    assert_eq!(reply[1].to, underlay(2));
    (network, reply[1].packet.clone())
}

#[test]
fn rfc2332_5_2_1_owner_answers_for_its_prefix_through_the_hub() {
    let mut network = Network::with_spokes(2);
    network.take_sent();
    network.resolve(2, host(3));
    let sent = network.take_sent();
    let path: Vec<_> = sent.iter().map(|s| (s.from, s.to)).collect();
    let (hub, a, b) = (underlay(1), underlay(2), underlay(3));
    assert_eq!(path, [(a, hub), (hub, b), (b, hub), (hub, a)]);

    let request = query(&sent[0].packet);
    let set = flags::ROUTER | flags::AUTHORITATIVE | flags::SOURCE_STABLE | flags::NAT;
    assert_eq!(request.flags, set);
    assert_eq!(request.entries.len(), 1);
    let answer = query(&sent[3].packet);
    assert_eq!(answer.flags, set | flags::DESTINATION_STABLE);
    assert_eq!(answer.request_id, request.request_id);
    assert_eq!(answer.entries[0].prefix_length, 24);
    assert_eq!(responder(&sent[3].packet), Some(tunnel(3)));

    let binding = network.binding(a, lan(3)).expect("a shortcut");
    assert_eq!((binding.next_hop, binding.nbma), (tunnel(3), b));
    assert_eq!((binding.kind, binding.authoritative), (BindingKind::Shortcut, true));
    // The owner has learnt the way back.
    let back = network.binding(b, tunnel(2).into()).expect("a binding to the requester");
    assert_eq!((back.nbma, back.kind), (a, BindingKind::Shortcut));
}

#[test]
fn rfc2332_5_2_1_tunnel_address_resolves_to_the_address_alone() {
    let mut network = Network::with_spokes(2);
    network.resolve(2, tunnel(3));
    let binding = network.binding(underlay(2), tunnel(3).into()).expect("a shortcut");
    assert_eq!(binding.nbma, underlay(3));
}

#[test]
fn rfc2332_5_2_1_source_is_cached_only_with_s_bit_and_holding_time() {
    for (spoil, cached) in [
        ((|_| {}) as fn(&mut Packet), true),
        (|packet| query_mut(packet).flags &= !flags::SOURCE_STABLE, false),
        (|packet| query_mut(packet).entries[0].holding_time = 0, false),
    ] {
        let mut network = Network::with_spokes(2);
        let mut request = resolution_of(2, host(3));
        spoil(&mut request);
        network.inject(underlay(1), underlay(3), &request);
        assert_eq!(network.binding(underlay(3), tunnel(2).into()).is_some(), cached);
    }
}

#[test]
fn newest_word_of_where_a_peer_is_holds_for_all_that_was_learnt_of_it() {
    let mut network = Network::with_spokes(2);
    network.resolve(2, host(3));
    let lan_of_3 = |network: &Network| network.binding(underlay(2), lan(3)).expect("a shortcut");
    assert_eq!(lan_of_3(&network).nbma, underlay(3));
    // It restarted elsewhere, knows nobody whom it should tell, and resolves us.
    let mut request = resolution_of(3, host(2));
    query_mut(&mut request).source_nbma = underlay(9).address.into();
    network.inject(underlay(1), underlay(2), &request);
    let binding = lan_of_3(&network);
    assert_eq!((binding.nbma, binding.claimed), (underlay(9), None));
}

#[test]
fn rfc2332_5_2_1_same_request_id_on_retry_and_negative_when_nobody_answers() {
    let mut network = Network::with_spokes(1);
    network.node(underlay(1)).reachable = false;
    network.take_sent();
    network.at(underlay(2), |engine, now| engine.resolve(now, host(3)));
    network.run(seconds(40));
    let sent = network.take_sent();
    let requests = of(&sent, Operation::ResolutionRequest);
    let times: Vec<u64> = requests.iter().map(|s| (s.at - requests[0].at).as_secs()).collect();
    assert_eq!(times, [0, 1, 3, 7, 15]);
    let id = query(&requests[0].packet).request_id;
    assert!(requests.iter().all(|s| query(&s.packet).request_id == id));
    assert!(network.take_events(underlay(2)).contains(&Event::ResolutionFailed {
        destination: host(3),
        reason: "no reply".to_owned()
    }));
}

#[test]
fn rfc2332_5_2_2_no_binding_makes_a_negative_entry_that_is_forgotten() {
    let mut network = Network::with_spokes(1);
    network.take_sent();
    network.resolve(2, host(9));
    let sent = network.take_sent();
    let replies = of(&sent, Operation::ResolutionReply);
    assert_eq!(query(&replies[0].packet).entries[0].code, code::NO_BINDING);
    assert!(network.take_events(underlay(2)).contains(&Event::ResolutionFailed {
        destination: host(9),
        reason: "no binding exists (code 12)".to_owned()
    }));
    // Asking again at once asks nobody; after a while it does.
    for _ in 0..10 {
        network.resolve(2, host(9));
    }
    assert_eq!(of(&network.take_sent(), Operation::ResolutionRequest).len(), 0);
    network.run(seconds(10));
    network.resolve(2, host(9));
    assert_eq!(of(&network.take_sent(), Operation::ResolutionRequest).len(), 1);
}

#[test]
fn rfc2332_5_2_2_every_entry_of_a_reply_is_read() {
    let (mut network, mut reply) = waiting_for_reply();
    let entries = &mut query_mut(&mut reply).entries;
    let good = entries[0].clone();
    let refused = Cie { code: code::PROHIBITED, ..good.clone() };
    let preferred = Cie {
        preference: 9,
        protocol: Some(tunnel(4)),
        nbma: underlay(4).address.into(),
        ..good.clone()
    };
    *entries = vec![refused, good, preferred];
    network.inject(underlay(1), underlay(2), &reply);
    let binding = network.binding(underlay(2), lan(3)).expect("a shortcut");
    assert_eq!((binding.next_hop, binding.nbma), (tunnel(4), underlay(4)));
}

#[test]
fn rfc2332_5_2_0_1_shortcut_dies_with_its_holding_time_when_unused() {
    let mut network = Network::with_spokes(2);
    network.resolve(2, host(3));
    network.take_sent();
    network.run(seconds(HOLDING - 2));
    assert!(network.binding(underlay(2), lan(3)).is_some());
    network.run(seconds(2));
    assert_eq!(network.binding(underlay(2), lan(3)), None);
    assert_eq!(of(&network.take_sent(), Operation::ResolutionRequest).len(), 0);
}

#[test]
fn rfc2332_5_2_0_1_shortcut_is_renewed_while_used() {
    let mut network = Network::with_spokes(2);
    network.resolve(2, host(3));
    network.traffic(underlay(2), lan(3), true);
    network.take_sent();
    network.take_events(underlay(2));
    network.run(seconds(3 * HOLDING));
    assert!(network.binding(underlay(2), lan(3)).is_some());
    let renewals = of(&network.take_sent(), Operation::ResolutionRequest).len();
    // Each request is sent twice, by the spoke and by the hub; one per 400 s.
    assert_eq!(renewals, 2 * 4);
    let changed =
        |event: &Event| matches!(event, Event::BindingChanged { prefix, .. } if *prefix == lan(3));
    assert!(!network.take_events(underlay(2)).iter().any(changed), "make before break");
    // The traffic ends, and so does the shortcut.
    network.traffic(underlay(2), lan(3), false);
    network.run(seconds(HOLDING + 1));
    assert_eq!(network.binding(underlay(2), lan(3)), None);
}

#[test]
fn shortcut_outlives_the_hub_until_its_holding_time() {
    let mut network = Network::with_spokes(2);
    network.resolve(2, host(3));
    network.traffic(underlay(2), lan(3), true);
    network.node(underlay(1)).reachable = false;
    network.run(seconds(HOLDING - 10));
    assert!(network.binding(underlay(2), tunnel(1).into()).is_none());
    assert!(network.binding(underlay(2), lan(3)).is_some());
    network.run(seconds(10));
    assert!(network.binding(underlay(2), lan(3)).is_none());
}

#[test]
fn rfc2332_5_2_0_1_reply_prefix_is_cut_down_to_what_it_may_cover() {
    // (prefix length of the reply, what becomes of it)
    for (length, prefix) in [
        (24, "192.168.3.0/24"),
        // 192.168.2.0/24 is ours.
        (16, "192.168.3.0/24"),
        (25, "192.168.3.0/25"),
        (Cie::HOST, "192.168.3.1/32"),
        (8, "192.168.3.0/24"),
    ] {
        let (mut network, mut reply) = waiting_for_reply();
        query_mut(&mut reply).entries[0].prefix_length = length;
        network.inject(underlay(1), underlay(2), &reply);
        assert!(network.binding(underlay(2), net(prefix)).is_some(), "/{length}");
    }
}

#[test]
fn rfc2332_5_2_0_1_reply_prefix_of_half_the_world_is_refused() {
    for length in 1..=7 {
        let (mut network, mut reply) = waiting_for_reply();
        query_mut(&mut reply).entries[0].prefix_length = length;
        network.take_events(underlay(2));
        network.inject(underlay(1), underlay(2), &reply);
        assert_eq!(network.refused(underlay(2), Refusal::ReplyPrefix), 1);
        let bound = |event: &Event| matches!(event, Event::BindingChanged { .. });
        assert!(!network.take_events(underlay(2)).iter().any(bound));
    }
}

#[test]
fn rfc2332_5_2_0_1_reply_prefix_above_the_address_length_is_refused() {
    for length in [33, 64, 128, 254] {
        let (mut network, mut reply) = waiting_for_reply();
        query_mut(&mut reply).entries[0].prefix_length = length;
        network.inject(underlay(1), underlay(2), &reply);
        assert_eq!(network.refused(underlay(2), Refusal::ReplyPrefix), 1);
    }
}

#[test]
fn rfc2332_5_2_0_1_reply_within_the_tunnel_network_covers_one_address() {
    let mut network = Network::with_spokes(2);
    network.take_sent();
    network.at(underlay(2), |engine, now| engine.resolve(now, tunnel(3)));
    network.run(DELAY * 3);
    let sent = network.take_sent();
    let mut reply = of(&sent, Operation::ResolutionReply)[1].packet.clone();
    query_mut(&mut reply).entries[0].prefix_length = 24;
    network.inject(underlay(1), underlay(2), &reply);
    assert!(network.binding(underlay(2), tunnel(3).into()).is_some());
    assert!(network.binding(underlay(2), net("172.16.0.0/24")).is_none());
}

#[test]
fn rfc2332_5_2_0_1_owner_answers_with_no_more_than_it_covers() {
    let mut network = Network::new();
    network.add(underlay(1), Config { advertise: vec![net("192.168.0.0/16")], ..hub() });
    for n in [2, 8] {
        network.add(underlay(n), spoke(n));
        network.authorize(underlay(1), underlay(n), &[tunnel(n).into(), lan(n)]);
    }
    network.run(seconds(1));
    // Behind the hub, next to the LAN of spoke 8; spoke 2 alone would cut it at its own, at /21.
    network.resolve(2, ip("192.168.9.1"));
    let binding = network.binding(underlay(2), net("192.168.9.0/24")).expect("a shortcut");
    assert_eq!(binding.next_hop, tunnel(1));
    // What a spoke registered is the spoke's, although the hub's own route covers it.
    network.resolve(2, host(8));
    assert_eq!(network.binding(underlay(2), lan(8)).expect("a shortcut").next_hop, tunnel(8));
}

#[test]
fn rfc2332_5_2_1_hub_answers_for_a_client_that_cannot_be_reached() {
    let mut network = Network::with_spokes(2);
    network.run(seconds(100));
    network.node(underlay(3)).reachable = false;
    network.engine(underlay(1)).set_authorization(underlay(3), None);
    network.take_sent();
    network.resolve(2, host(3));
    let sent = network.take_sent();
    let replies = of(&sent, Operation::ResolutionReply);
    let answer = query(&replies[0].packet);
    assert_eq!(responder(&replies[0].packet), Some(tunnel(1)));
    assert_ne!(answer.flags & flags::AUTHORITATIVE, 0, "the hub is its serving station");
    assert_eq!(answer.entries[0].protocol, Some(tunnel(3)));
    // No longer than the registration holds.
    assert!(u64::from(answer.entries[0].holding_time) <= HOLDING - 100);
    assert_eq!(network.binding(underlay(2), lan(3)).expect("a shortcut").nbma, underlay(3));
}

#[test]
fn rfc2332_5_2_1_unique_binding_wanted_and_not_there() {
    let mut network = Network::new();
    network.add(underlay(1), hub());
    network.add(underlay(2), spoke(2));
    network.add(underlay(3), Config { unique: false, ..spoke(3) });
    for n in [2, 3] {
        network.authorize(underlay(1), underlay(n), &[tunnel(n).into(), lan(n)]);
    }
    network.run(seconds(1));
    network.engine(underlay(1)).set_authorization(underlay(3), None);
    let mut request = resolution_of(2, tunnel(3));
    query_mut(&mut request).flags |= flags::RESOLUTION_UNIQUE;
    network.take_sent();
    network.inject(underlay(2), underlay(1), &request);
    assert_eq!(query(&network.sent[0].packet).entries[0].code, code::NOT_UNIQUE);
}

#[test]
fn request_for_ones_own_prefix_does_not_come_back() {
    let mut network = Network::with_spokes(1);
    let request = resolution_of(2, host(3));
    let mut request = request;
    query_mut(&mut request).destination_protocol = Some(host(2));
    network.take_sent();
    network.inject(underlay(2), underlay(1), &request);
    assert_eq!(query(&network.sent[0].packet).entries[0].code, code::NO_BINDING);
}

#[test]
fn request_in_the_name_of_another_is_denied() {
    let mut network = Network::with_spokes(2);
    let request = resolution_of(3, host(2));
    network.take_sent();
    network.inject(underlay(2), underlay(1), &request);
    assert_eq!(network.sent.len(), 1);
    assert_eq!(query(&network.sent[0].packet).entries[0].code, code::PROHIBITED);
}

#[test]
fn direct_reply_is_judged_by_what_its_sender_may_claim() {
    for (allowed, believed) in [
        (vec![tunnel(3).into(), lan(3)], true),
        (vec![tunnel(3).into()], false),
        (vec![lan(3)], false),
    ] {
        let (mut network, reply) = waiting_for_reply();
        network.authorize(underlay(2), underlay(3), &allowed);
        network.inject(underlay(3), underlay(2), &reply);
        assert_eq!(network.binding(underlay(2), lan(3)).is_some(), believed, "{allowed:?}");
    }
    // Without any, nothing; and the true answer is still waited for.
    let (mut network, reply) = waiting_for_reply();
    network.inject(underlay(9), underlay(2), &reply);
    assert_eq!(network.binding(underlay(2), lan(3)), None);
    let refused = |event: &Event| matches!(event, Event::ClaimRefused { claim: Claim::Reply, .. });
    assert!(network.take_events(underlay(2)).iter().any(refused));
    network.run(seconds(1));
    assert!(network.binding(underlay(2), lan(3)).is_some());
}

#[test]
fn negative_reply_of_a_stranger_does_not_count() {
    let (mut network, mut reply) = waiting_for_reply();
    query_mut(&mut reply).entries[0].code = code::NO_BINDING;
    network.engine(underlay(2)).set_authorization(underlay(9), Some(Authorization::Any));
    network.inject(underlay(9), underlay(2), &reply);
    network.run(seconds(1));
    assert!(network.binding(underlay(2), lan(3)).is_some());
}

#[test]
fn nothing_is_asked_for_what_is_known_or_ours() {
    let mut network = Network::with_spokes(2);
    network.resolve(2, host(3));
    network.take_sent();
    for destination in [host(3), ip("192.168.3.77"), host(2), tunnel(2), tunnel(1)] {
        network.resolve(2, destination);
    }
    assert_eq!(network.take_sent().len(), 0);
    network.at(underlay(2), |engine, now| engine.resolve(now, ip("2001:db8::1")));
    assert_eq!(network.refused(underlay(2), Refusal::Unreachable), 1);
}

#[test]
fn one_request_at_a_time_for_one_destination() {
    let mut network = Network::with_spokes(2);
    network.take_sent();
    for _ in 0..5 {
        network.at(underlay(2), |engine, now| engine.resolve(now, host(3)));
    }
    assert_eq!(network.take_sent().len(), 1);
    let cache = network.nodes[&underlay(2)].engine.cache();
    let incomplete: Vec<_> =
        cache.iter().filter(|e| e.kind == EntryKind::Incomplete).map(|e| e.prefix).collect();
    assert_eq!(incomplete, [host(3).into()]);
}

#[test]
fn renewal_that_is_denied_ends_the_shortcut() {
    let mut network = Network::with_spokes(2);
    network.resolve(2, host(3));
    network.traffic(underlay(2), lan(3), true);
    // Spoke 3 leaves; the hub forgets it.
    network.nodes.remove(&underlay(3));
    network.at(underlay(1), |engine, now| engine.clear_peer(now, tunnel(3)));
    network.run(seconds(399));
    assert!(network.binding(underlay(2), lan(3)).is_some());
    network.run(seconds(2));
    assert!(network.binding(underlay(2), lan(3)).is_none());
}

#[test]
fn dead_path_drops_its_shortcuts() {
    let mut network = Network::with_spokes(2);
    network.resolve(2, host(3));
    network.at(underlay(2), |e, now| e.path_down(now, underlay(3), "no answer"));
    assert_eq!(network.binding(underlay(2), lan(3)), None);
    assert!(network.binding(underlay(2), tunnel(1).into()).is_some());
}

#[test]
fn rfc2332_5_3_1_responder_extension_names_the_owner() {
    let (_, reply) = waiting_for_reply();
    assert_eq!(responder(&reply), Some(tunnel(3)));
    assert_eq!(listed(&reply, extension_type::FORWARD_TRANSIT_NHS), [tunnel(1)]);
    assert_eq!(listed(&reply, extension_type::REVERSE_TRANSIT_NHS), [tunnel(1)]);
}

#[test]
fn hubs_in_a_row_forward_to_the_owner_and_back() {
    // Spoke 2 registers with hub 8, which is a client of hub 1, where spoke 3 is.
    let mut network = Network::new();
    network.add(underlay(1), hub());
    let regional =
        Config { address: net("172.16.0.8/24"), nbma: Some(underlay(8).address), ..hub() };
    network.add(underlay(8), Config { servers: vec![server(1)], ..regional });
    network.add(underlay(2), Config { servers: vec![server(8)], ..spoke(2) });
    network.add(underlay(3), spoke(3));
    network.authorize(underlay(8), underlay(2), &[tunnel(2).into(), lan(2)]);
    // Hub 1 lets hub 8 speak for its clients.
    network.authorize(underlay(1), underlay(8), &[tunnel(8).into(), tunnel(2).into(), lan(2)]);
    network.authorize(underlay(1), underlay(3), &[tunnel(3).into(), lan(3)]);
    network.run(seconds(5));
    network.resolve(2, host(3));
    assert!(network.binding(underlay(2), lan(3)).is_none(), "hub 1 knows no way back to spoke 2");
    // It does once hub 8 has registered spoke 2's address there.
    let mut announce = registration_of(8);
    let query = query_mut(&mut announce);
    query.flags = 0;
    query.entries[0].protocol = Some(tunnel(2));
    network.inject(underlay(8), underlay(1), &announce);
    network.run(seconds(20));
    network.resolve(2, ip("192.168.3.9"));
    assert_eq!(network.binding(underlay(2), lan(3)).expect("a shortcut").nbma, underlay(3));
}

#[test]
fn ipv6_prefix_behind_a_spoke_is_resolved_and_cut() {
    let mut network = Network::new();
    let address = |n: u8| net(&format!("fd00::{n}/64"));
    let behind = |n: u8| net(&format!("2001:db8:{n}::/48"));
    network.add(underlay(1), Config { address: address(1), ..hub() });
    for n in [2, 3] {
        let servers = vec![nhrp::engine::Server { address: ip("fd00::1"), ..server(1) }];
        let advertise = vec![behind(n)];
        network.add(underlay(n), Config { address: address(n), servers, advertise, ..spoke(n) });
        network.authorize(underlay(1), underlay(n), &[address(n).addr().into(), behind(n)]);
    }
    network.run(seconds(1));
    network.take_sent();
    network.at(underlay(2), |engine, now| engine.resolve(now, ip("2001:db8:3::1")));
    network.run(DELAY * 3);
    let mut reply = of(&network.take_sent(), Operation::ResolutionReply)[1].packet.clone();
    assert_eq!(query(&reply).entries[0].prefix_length, 48);
    // 2001:db8:2::/48 is ours.
    query_mut(&mut reply).entries[0].prefix_length = 32;
    network.inject(underlay(1), underlay(2), &reply);
    let binding = network.binding(underlay(2), behind(3)).expect("a shortcut");
    assert_eq!((binding.next_hop, binding.nbma), (ip("fd00::3"), underlay(3)));
}
