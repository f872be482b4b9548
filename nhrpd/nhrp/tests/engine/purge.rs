//! Purge: at shutdown, when the address changes, and what is not anybody's to purge.

use nhrp::engine::{Authorization, Config, Engine, Event, NhsState, Refusal};
use nhrp::wire::{Cie, NbmaAddress, Operation, code, flags};

use super::network::*;

fn entry(prefix: ipnet::IpNet) -> Cie {
    let mut cie = Cie::host(prefix.addr(), NbmaAddress::default(), 0);
    if prefix.prefix_len() < 32 {
        cie.prefix_length = prefix.prefix_len();
    }
    cie
}

#[test]
fn rfc2332_5_2_5_shutdown_purges_at_the_server_and_at_requesters() {
    let mut network = Network::with_spokes(2);
    network.resolve(2, host(3));
    assert!(network.binding(underlay(2), lan(3)).is_some());
    network.take_events(underlay(3));
    network.at(underlay(3), Engine::shutdown);
    assert!(!network.take_events(underlay(3)).contains(&Event::ShutdownComplete));
    network.run(seconds(1));
    assert_eq!(network.binding(underlay(1), tunnel(3).into()), None);
    assert_eq!(network.binding(underlay(1), lan(3)), None);
    assert_eq!(network.binding(underlay(2), lan(3)), None, "the shortcut goes at once");
    assert!(network.take_events(underlay(3)).contains(&Event::ShutdownComplete));
    // Spoke 2 is untouched, and spoke 3 stays silent.
    assert!(network.binding(underlay(1), lan(2)).is_some());
    network.take_sent();
    network.at(underlay(3), |engine, now| engine.resolve(now, host(2)));
    network.run(seconds(100));
    assert!(network.take_sent().iter().all(|s| s.from != underlay(3)));
}

#[test]
fn rfc2332_5_2_5_purge_is_repeated_until_answered_or_given_up() {
    let mut network = Network::with_spokes(1);
    network.node(underlay(1)).reachable = false;
    network.take_sent();
    network.at(underlay(2), Engine::shutdown);
    network.run(seconds(100));
    let sent = network.take_sent();
    let purges = of(&sent, Operation::PurgeRequest);
    assert_eq!(purges.len(), 5);
    let id = query(&purges[0].packet).request_id;
    assert!(purges.iter().all(|s| query(&s.packet).request_id == id));
    assert!(network.take_events(underlay(2)).contains(&Event::ShutdownComplete));
}

#[test]
fn shutdown_with_nothing_to_purge_is_complete_at_once() {
    let mut network = Network::new();
    network.add(underlay(2), spoke(2));
    network.run(seconds(1));
    network.at(underlay(2), Engine::shutdown);
    assert!(network.take_events(underlay(2)).contains(&Event::ShutdownComplete));
    assert_eq!(network.nodes[&underlay(2)].engine.poll_timeout(), None);
}

#[test]
fn rfc2332_5_2_5_new_nbma_address_purges_the_old_one() {
    let mut network = Network::with_spokes(2);
    network.resolve(2, host(3));
    network.authorize(underlay(1), underlay(9), &[tunnel(3).into(), lan(3)]);
    network.take_sent();
    network.renumber(underlay(3), underlay(9));
    network.run(DELAY * 3);
    let sent = network.take_sent();
    let purges = of(&sent, Operation::PurgeRequest);
    assert!(purges.iter().all(|s| {
        query(&s.packet).entries.iter().all(|cie| cie.nbma == underlay(3).address.into())
    }));
    network.run(seconds(2));
    assert_eq!(network.binding(underlay(1), tunnel(3).into()).expect("bound").nbma, underlay(9));
    assert_eq!(network.binding(underlay(1), lan(3)).expect("bound").nbma, underlay(9));
    assert_eq!(network.binding(underlay(2), lan(3)), None);
    assert_eq!(network.nhs(underlay(9)), NhsState::Responding);
    // The next packet finds the new way.
    network.resolve(2, host(3));
    assert_eq!(network.binding(underlay(2), lan(3)).expect("a shortcut").nbma, underlay(9));
}

#[test]
fn rfc2332_5_2_5_binding_that_moved_along_is_not_the_old_one() {
    let mut network = Network::with_spokes(2);
    network.resolve(2, host(3));
    let others = [underlay(1), underlay(2)];
    for at in others {
        network.authorize(at, underlay(9), &[tunnel(3).into(), lan(3)]);
        let who = Authorization::Within([tunnel(3).into(), lan(3)].into());
        network.at(at, |engine, now| engine.peer_moved(now, underlay(3), underlay(9), &who));
        network.take_events(at);
    }
    network.renumber(underlay(3), underlay(9));
    network.run(seconds(2));
    assert_eq!(network.nhs(underlay(9)), NhsState::Responding);
    for at in others {
        assert_eq!(network.binding(at, lan(3)).expect("bound").nbma, underlay(9));
        let events = network.take_events(at);
        let gone = |event: &Event| {
            matches!(
                event,
                Event::Unregistered { .. } | Event::BindingChanged { binding: None, .. }
            )
        };
        assert!(!events.iter().any(gone), "make before break: {events:?}");
    }
}

#[test]
fn rfc2332_5_2_5_address_that_goes_and_comes_back_as_another_is_purged_too() {
    let mut network = Network::with_spokes(2);
    network.resolve(2, host(3));
    network.authorize(underlay(1), underlay(9), &[tunnel(3).into(), lan(3)]);
    network.at(underlay(3), |engine, now| engine.set_nbma(now, None));
    assert_eq!(network.nhs(underlay(3)), NhsState::Waiting);
    network.run(seconds(5));
    network.renumber(underlay(3), underlay(9));
    network.run(seconds(2));
    assert_eq!(network.nhs(underlay(9)), NhsState::Responding);
    assert_eq!(network.binding(underlay(1), lan(3)).expect("bound").nbma, underlay(9));
    assert_eq!(network.binding(underlay(2), lan(3)), None);
}

#[test]
fn rfc2332_5_2_5_registration_of_an_earlier_life_is_purged_by_its_owner() {
    // Spoke 2 crashes and comes back with another address; its unique binding is still there.
    let mut network = Network::with_spokes(1);
    network.nodes.remove(&underlay(2));
    network.authorize(underlay(1), underlay(9), &[tunnel(2).into(), lan(2)]);
    network.add(underlay(9), Config { nbma: Some(underlay(9).address), ..spoke(2) });
    network.run(seconds(1));
    assert_eq!(network.nhs(underlay(9)), NhsState::Responding);
    assert_eq!(network.binding(underlay(1), tunnel(2).into()).expect("bound").nbma, underlay(9));
    assert_eq!(network.binding(underlay(1), lan(2)).expect("bound").nbma, underlay(9));
}

#[test]
fn rfc2332_5_2_5_two_that_claim_one_address_do_not_throw_each_other_out_for_ever() {
    let mut network = Network::with_spokes(1);
    network.authorize(underlay(1), underlay(9), &[tunnel(2).into(), lan(2)]);
    network.add(underlay(9), Config { nbma: Some(underlay(9).address), ..spoke(2) });
    network.run(seconds(5 * HOLDING));
    assert_eq!(network.nhs(underlay(9)), NhsState::Responding);
    assert_eq!(network.nhs(underlay(2)), NhsState::Waiting);
    let why = &network.nodes[&underlay(2)].engine.servers()[0].why;
    assert_eq!(why, "registration refused: unique address already registered (code 14)");
    let moves = network
        .take_events(underlay(1))
        .iter()
        .filter(|event| matches!(event, Event::Registered { prefix, .. } if *prefix == tunnel(2).into()))
        .count();
    assert_eq!(moves, 2);
}

#[test]
fn rfc2332_5_2_5_only_the_owner_may_purge() {
    let mut network = Network::with_spokes(2);
    network.take_events(underlay(1));
    let all = vec![entry(tunnel(3).into()), entry(lan(3))];
    // In spoke 3's name, and in its own name for what is spoke 3's.
    for n in [3, 2] {
        let request = purge_of(n, 0, all.clone());
        network.take_sent();
        network.inject(underlay(2), underlay(1), &request);
        let sent = network.take_sent();
        let codes: Vec<u8> = query(&sent[0].packet).entries.iter().map(|cie| cie.code).collect();
        assert_eq!(codes, [code::PROHIBITED; 2]);
    }
    assert!(network.binding(underlay(1), tunnel(3).into()).is_some());
    assert!(network.binding(underlay(1), lan(3)).is_some());
    let events = network.take_events(underlay(1));
    assert!(events.iter().any(|event| matches!(event, Event::ClaimRefused { .. })), "{events:?}");

    network.inject(underlay(3), underlay(1), &purge_of(3, 0, all));
    assert_eq!(network.binding(underlay(1), tunnel(3).into()), None);
    assert_eq!(network.binding(underlay(1), lan(3)), None);
}

#[test]
fn rfc2332_5_2_5_wildcard_purge_takes_only_what_is_ones_own() {
    let wildcards = [
        vec![entry(net("0.0.0.0/1")), entry(net("128.0.0.0/1"))],
        vec![Cie { prefix_length: Cie::HOST, ..Cie::default() }],
    ];
    for entries in wildcards {
        let mut network = Network::with_spokes(3);
        // A proven identity, in another's name and in its own.
        network.inject(underlay(2), underlay(1), &purge_of(3, 0, entries.clone()));
        network.inject(underlay(2), underlay(1), &purge_of(2, 0, entries.clone()));
        assert_eq!(network.binding(underlay(1), lan(2)), None);
        for n in [3, 4] {
            assert!(network.binding(underlay(1), tunnel(n).into()).is_some());
            assert!(network.binding(underlay(1), lan(n)).is_some());
        }
        // Nobody proves anything: where it comes from does.
        let any = Some(Authorization::Any);
        network.engine(underlay(1)).set_authorization(underlay(4), any.clone());
        network.engine(underlay(1)).set_authorization(underlay(9), any);
        network.inject(underlay(9), underlay(1), &purge_of(3, 0, entries.clone()));
        assert!(network.binding(underlay(1), lan(3)).is_some());
        assert!(network.refused(underlay(1), Refusal::Purge) > 0);
        network.inject(underlay(4), underlay(1), &purge_of(4, 0, entries));
        assert_eq!(network.binding(underlay(1), lan(4)), None);
        assert!(network.binding(underlay(1), lan(3)).is_some());
    }
}

#[test]
fn rfc2332_5_2_5_answered_even_when_nothing_matched() {
    let mut network = Network::with_spokes(1);
    let request = purge_of(2, 0, vec![entry(net("192.168.2.128/25"))]);
    network.take_sent();
    network.inject(underlay(2), underlay(1), &request);
    let sent = network.take_sent();
    let replies = of(&sent, Operation::PurgeReply);
    assert_eq!(replies.len(), 1);
    let reply = query(&replies[0].packet);
    assert_eq!(reply.request_id, query(&request).request_id);
    assert_eq!(reply.entries[0].code, code::SUCCESS);
    assert!(network.binding(underlay(1), lan(2)).is_some());
}

#[test]
fn rfc2332_5_2_5_not_answered_with_the_n_bit() {
    let mut network = Network::with_spokes(1);
    let request = purge_of(2, flags::NO_REPLY, vec![entry(lan(2))]);
    network.take_sent();
    network.inject(underlay(2), underlay(1), &request);
    assert_eq!(network.take_sent().len(), 0);
    assert_eq!(network.binding(underlay(1), lan(2)), None);
}

#[test]
fn rfc2332_5_2_5_purge_names_the_nbma_address_that_it_means() {
    let mut network = Network::with_spokes(1);
    let other = Cie { nbma: underlay(77).address.into(), ..entry(lan(2)) };
    network.inject(underlay(2), underlay(1), &purge_of(2, 0, vec![other]));
    assert!(network.binding(underlay(1), lan(2)).is_some());
    let this = Cie { nbma: underlay(2).address.into(), ..entry(lan(2)) };
    network.inject(underlay(2), underlay(1), &purge_of(2, 0, vec![this]));
    assert_eq!(network.binding(underlay(1), lan(2)), None);
}

#[test]
fn rfc2332_5_2_5_hub_forwards_no_purge_of_what_is_anothers() {
    let mut network = Network::with_spokes(3);
    network.resolve(2, host(3));
    let mut request = purge_of(4, 0, vec![entry(lan(3))]);
    query_mut(&mut request).destination_protocol = Some(tunnel(2));
    network.take_sent();
    network.inject(underlay(4), underlay(1), &request);
    assert_eq!(network.take_sent().len(), 0);
    assert!(network.binding(underlay(2), lan(3)).is_some());
    // Spoke 3's own goes through.
    let mut request = purge_of(3, 0, vec![entry(lan(3))]);
    query_mut(&mut request).destination_protocol = Some(tunnel(2));
    network.inject(underlay(3), underlay(1), &request);
    network.run(seconds(1));
    assert_eq!(network.binding(underlay(2), lan(3)), None);
}

#[test]
fn server_may_not_purge_what_was_registered_with_us() {
    // Hub 8 is a server of hub 1, with which spoke 2 registers.
    let mut network = Network::new();
    network.add(underlay(1), Config { servers: vec![server(8)], ..hub() });
    network.add(underlay(2), spoke(2));
    network.authorize(underlay(1), underlay(2), &[tunnel(2).into(), lan(2)]);
    network.run(seconds(1));
    network.inject(underlay(8), underlay(1), &purge_of(2, 0, vec![entry(lan(2))]));
    assert!(network.binding(underlay(1), lan(2)).is_some());
}

#[test]
fn prefix_above_the_address_length_is_a_protocol_error() {
    let mut network = Network::with_spokes(1);
    let bad = Cie { prefix_length: 99, ..entry(lan(2)) };
    network.take_sent();
    network.inject(underlay(2), underlay(1), &purge_of(2, 0, vec![bad]));
    assert_eq!(error_code(&network.sent[0].packet), Some(7));
    assert!(network.binding(underlay(1), lan(2)).is_some());
}
