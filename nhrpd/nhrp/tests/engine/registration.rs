//! Registration as the client does it.

use std::time::Duration;

use nhrp::engine::{Config, Event, NhsState, Refusal};
use nhrp::wire::{Cie, Operation, code, flags};

use super::network::*;

/// Times, in whole seconds since the start, at which spoke 2 sent Registration Requests for its
/// address.
fn registrations(sent: &[Sent]) -> Vec<u64> {
    of(sent, Operation::RegistrationRequest)
        .iter()
        .filter(|s| query(&s.packet).entries[0].protocol == Some(tunnel(2)))
        .map(|s| s.at.as_secs())
        .collect()
}

#[test]
fn rfc2332_5_2_3_registers_address_alone_and_prefixes_apart() {
    let mut network = Network::with_spokes(1);
    let sent = network.take_sent();
    let requests = of(&sent, Operation::RegistrationRequest);
    assert_eq!(requests.len(), 2);

    let address = query(&requests[0].packet);
    assert_eq!(address.flags & flags::REGISTRATION_UNIQUE, flags::REGISTRATION_UNIQUE);
    assert_eq!(address.destination_protocol, Some(tunnel(1)));
    assert_eq!(address.entries.len(), 1);
    assert_eq!(address.entries[0].prefix_length, Cie::HOST);
    assert_eq!(u64::from(address.entries[0].holding_time), HOLDING);

    let prefixes = query(&requests[1].packet);
    assert_eq!(prefixes.flags & flags::REGISTRATION_UNIQUE, 0);
    assert_eq!(prefixes.entries.len(), 1);
    assert_eq!(prefixes.entries[0].prefix(), Some(lan(2)));

    let binding = network.binding(underlay(1), lan(2)).expect("registered");
    assert_eq!((binding.next_hop, binding.nbma), (tunnel(2), underlay(2)));
    assert!(network.take_events(underlay(2)).contains(&Event::NhsUp { server: tunnel(1) }));
    assert_eq!(network.nhs(underlay(2)), NhsState::Responding);
    assert!(network.binding(underlay(2), tunnel(1).into()).is_some(), "the server is a binding");
}

#[test]
fn rfc2332_5_2_3_same_request_id_on_retry() {
    let mut network = Network::new();
    network.add(underlay(2), spoke(2));
    network.run(seconds(100));
    let ids: Vec<u32> = of(&network.sent, Operation::RegistrationRequest)
        .iter()
        .map(|s| query(&s.packet).request_id)
        .collect();
    assert!(ids.len() > 5);
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[test]
fn rfc2332_5_2_0_1_renewal_has_a_new_request_id() {
    let mut network = Network::with_spokes(1);
    network.run(seconds(HOLDING));
    let sent = network.take_sent();
    let mut ids: Vec<u32> = of(&sent, Operation::RegistrationRequest)
        .iter()
        .map(|s| query(&s.packet).request_id)
        .collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert!(all > 3);
    assert_eq!(ids.len(), all);
}

#[test]
fn rfc2332_5_2_0_1_request_ids_do_not_start_over_after_a_restart() {
    use nhrp::engine::Engine;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;
    let first_id = |seed| {
        let mut network = Network::new();
        network.add(underlay(2), spoke(2));
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        network.node(underlay(2)).engine = Engine::new(spoke(2), network.now, &mut rng);
        network.run(Duration::ZERO);
        query(&network.sent[0].packet).request_id
    };
    assert_ne!(first_id(1), first_id(2));
}

#[test]
fn rfc2332_6_2_back_off_doubles_to_64_seconds_and_never_ends() {
    let mut network = Network::new();
    network.add(underlay(2), spoke(2));
    network.run(seconds(260));
    assert_eq!(registrations(&network.sent), [0, 1, 3, 7, 15, 31, 63, 127, 191, 255]);
}

#[test]
fn rfc2332_6_2_renewed_at_a_third_of_the_holding_time() {
    let mut network = Network::with_spokes(1);
    network.run(seconds(HOLDING));
    assert_eq!(registrations(&network.sent), [0, 200, 400, 600]);
}

#[test]
fn rfc2332_6_2_holding_time_granted_by_the_server_counts() {
    let mut network = Network::with_spokes(1);
    let answer = {
        let sent = network.take_sent();
        let mut answer = of(&sent, Operation::RegistrationReply)[0].packet.clone();
        query_mut(&mut answer).entries[0].holding_time = 30;
        answer
    };
    network.nodes.remove(&underlay(1));
    network.run(seconds(200));
    let request = network.take_sent().pop().expect("the renewal");
    let mut answer = answer;
    query_mut(&mut answer).request_id = query(&request.packet).request_id;
    network.inject(underlay(1), underlay(2), &answer);
    let renewed = network.now - network.start;
    network.run(seconds(15));
    let sent = network.take_sent();
    let next = of(&sent, Operation::RegistrationRequest)
        .iter()
        .find(|s| query(&s.packet).entries[0].protocol == Some(tunnel(2)))
        .map(|s| s.at - renewed);
    assert_eq!(next, Some(seconds(10)));
}

#[test]
fn rfc2332_6_2_lost_server_is_noticed_and_left() {
    let mut network = Network::with_spokes(1);
    network.node(underlay(1)).reachable = false;
    network.take_events(underlay(2));
    // Renewal at 200 s; unanswered at 201, 203, 207, and given up at 215.
    network.run(seconds(213));
    assert_eq!(network.nhs(underlay(2)), NhsState::Responding);
    network.run(seconds(3));
    assert_eq!(network.nhs(underlay(2)), NhsState::ExpectingReplies);
    let events = network.take_events(underlay(2));
    assert!(
        matches!(&events[..], [Event::BindingChanged { binding: None, .. }, Event::NhsDown { server, reason }]
            if *server == tunnel(1) && reason == "no reply to 4 registration requests"),
        "{events:?}"
    );
    assert_eq!(network.binding(underlay(2), tunnel(1).into()), None);

    network.node(underlay(1)).reachable = true;
    network.run(seconds(64));
    assert_eq!(network.nhs(underlay(2)), NhsState::Responding);
}

#[test]
fn rfc2332_6_2_server_is_left_when_the_holding_time_runs_out_first() {
    let mut network = Network::new();
    network.add(underlay(1), hub());
    network.add(underlay(2), Config { holding_time: seconds(12), ..spoke(2) });
    network.authorize(underlay(1), underlay(2), &[tunnel(2).into(), lan(2)]);
    network.run(seconds(1));
    network.node(underlay(1)).reachable = false;
    network.run(seconds(10));
    assert_eq!(network.nhs(underlay(2)), NhsState::Responding);
    network.run(seconds(3));
    assert_eq!(network.nhs(underlay(2)), NhsState::ExpectingReplies);
}

#[test]
fn rfc2332_5_2_4_refused_client_does_not_use_the_server() {
    let mut network = Network::new();
    network.add(underlay(1), hub());
    network.add(underlay(2), spoke(2));
    network.run(seconds(10));
    assert_eq!(network.nhs(underlay(2)), NhsState::Waiting);
    assert_eq!(network.binding(underlay(2), tunnel(1).into()), None);
    let status = &network.nodes[&underlay(2)].engine.servers()[0];
    assert_eq!(status.why, "registration refused: administratively prohibited (code 4)");
    assert!(network.take_events(underlay(2)).iter().any(|event| matches!(
        event,
        Event::RegistrationRefused { code: Some(code::PROHIBITED), prefix, .. }
            if *prefix == tunnel(2).into()
    )));
    // It backs off as if there had been no reply, and takes the server when that agrees.
    assert_eq!(registrations(&network.sent), [0, 1, 3, 7]);
    network.authorize(underlay(1), underlay(2), &[tunnel(2).into()]);
    network.run(seconds(10));
    assert_eq!(network.nhs(underlay(2)), NhsState::Responding);
}

#[test]
fn rfc2332_5_2_4_refusal_of_a_renewal_takes_the_server_down() {
    let mut network = Network::with_spokes(1);
    network.engine(underlay(1)).set_authorization(underlay(2), None);
    network.run(seconds(205));
    assert_eq!(network.nhs(underlay(2)), NhsState::Waiting);
    assert_eq!(network.binding(underlay(2), tunnel(1).into()), None);
}

#[test]
fn rfc2332_5_2_4_refused_prefix_leaves_the_server_up() {
    let mut network = Network::new();
    network.add(underlay(1), hub());
    network.add(underlay(2), spoke(2));
    network.authorize(underlay(1), underlay(2), &[tunnel(2).into()]);
    network.run(seconds(1));
    assert_eq!(network.nhs(underlay(2)), NhsState::Responding);
    assert_eq!(network.binding(underlay(1), lan(2)), None);
    assert!(network.take_events(underlay(2)).iter().any(|event| matches!(
        event,
        Event::RegistrationRefused { prefix, .. } if *prefix == lan(2)
    )));
}

#[test]
fn rfc2332_5_2_7_authentication_error_is_the_reason_shown() {
    let mut network = Network::new();
    network.add(underlay(1), Config { authentication: password("secret"), ..hub() });
    network.add(underlay(2), Config { authentication: password("wrong"), ..spoke(2) });
    network.run(seconds(1));
    assert_eq!(network.nhs(underlay(2)), NhsState::Waiting);
    let status = &network.nodes[&underlay(2)].engine.servers()[0];
    assert_eq!(
        status.why,
        "registration refused: authentication failure: another password than there"
    );
    // It goes on trying, with back-off.
    network.run(seconds(9));
    assert_eq!(registrations(&network.sent), [0, 1, 3, 7]);
}

#[test]
fn reply_from_elsewhere_does_not_register() {
    let mut network = Network::with_spokes(1);
    let sent = network.take_sent();
    let reply = of(&sent, Operation::RegistrationReply)[0].packet.clone();
    let mut other = Network::new();
    other.add(underlay(2), spoke(2));
    other.run(Duration::ZERO);
    let mut reply = reply;
    query_mut(&mut reply).request_id = query(&other.sent[0].packet).request_id;
    other.inject(underlay(9), underlay(2), &reply);
    assert_eq!(other.nhs(underlay(2)), NhsState::ExpectingReplies);
    assert_eq!(other.refused(underlay(2), Refusal::UnknownReply), 1);
    other.inject(underlay(1), underlay(2), &reply);
    assert_eq!(other.nhs(underlay(2)), NhsState::Responding);
    other.inject(underlay(1), underlay(2), &reply);
    assert_eq!(other.refused(underlay(2), Refusal::DuplicateReply), 1);
}

#[test]
fn several_servers_each_have_their_own_state() {
    let mut network = Network::new();
    network.add(underlay(1), hub());
    let second = super::network::server(9);
    let servers = vec![server(1), second];
    network.add(underlay(2), Config { servers, ..spoke(2) });
    network.authorize(underlay(1), underlay(2), &[tunnel(2).into(), lan(2)]);
    network.run(seconds(5));
    let state = |network: &Network| {
        let servers = network.nodes[&underlay(2)].engine.servers();
        (servers[0].state, servers[1].state)
    };
    assert_eq!(state(&network), (NhsState::Responding, NhsState::ExpectingReplies));
    let nine = Config { address: net("172.16.0.9/24"), nbma: Some(underlay(9).address), ..hub() };
    network.add(underlay(9), nine);
    network.authorize(underlay(9), underlay(2), &[tunnel(2).into(), lan(2)]);
    network.node(underlay(1)).reachable = false;
    network.run(seconds(300));
    assert_eq!(state(&network), (NhsState::ExpectingReplies, NhsState::Responding));
}

#[test]
fn server_without_an_address_waits_and_keeps_it_once_known() {
    let mut network = Network::new();
    network.add(underlay(1), hub());
    let unnamed = nhrp::engine::Server { nbma: None, ..server(1) };
    network.add(underlay(2), Config { servers: vec![unnamed], ..spoke(2) });
    network.authorize(underlay(1), underlay(2), &[tunnel(2).into(), lan(2)]);
    network.run(seconds(5));
    assert_eq!(network.nhs(underlay(2)), NhsState::Waiting);
    assert_eq!(
        network.nodes[&underlay(2)].engine.servers()[0].why,
        "its NBMA address is not known"
    );
    network.at(underlay(2), |e, now| e.set_server_nbma(now, tunnel(1), Some(underlay(1))));
    network.run(seconds(1));
    assert_eq!(network.nhs(underlay(2)), NhsState::Responding);
    // The name stops resolving: nothing changes.
    network.at(underlay(2), |e, now| e.set_server_nbma(now, tunnel(1), None));
    network.run(seconds(300));
    assert_eq!(network.nhs(underlay(2)), NhsState::Responding);
}

#[test]
fn server_that_moves_is_followed_without_a_gap() {
    let mut network = Network::with_spokes(1);
    let hub = network.nodes.remove(&underlay(1)).expect("the hub");
    network.nodes.insert(underlay(8), hub);
    network.take_events(underlay(2));
    network.at(underlay(2), |e, now| e.set_server_nbma(now, tunnel(1), Some(underlay(8))));
    let bound = |network: &Network| network.binding(underlay(2), tunnel(1).into()).map(|b| b.nbma);
    assert_eq!(bound(&network), Some(underlay(1)));
    network.run(seconds(1));
    assert_eq!(bound(&network), Some(underlay(8)));
    let down = |event: &Event| matches!(event, Event::NhsDown { .. });
    assert!(!network.take_events(underlay(2)).iter().any(down));
}

#[test]
fn path_up_repeats_the_registration_at_once() {
    let mut network = Network::with_spokes(0);
    network.node(underlay(1)).reachable = false;
    network.add(underlay(2), spoke(2));
    network.authorize(underlay(1), underlay(2), &[tunnel(2).into(), lan(2)]);
    network.run(seconds(40));
    network.node(underlay(1)).reachable = true;
    network.at(underlay(2), |engine, now| engine.path_up(now, underlay(1)));
    network.run(DELAY * 2);
    assert_eq!(network.nhs(underlay(2)), NhsState::Responding);
}

#[test]
fn new_path_to_a_server_that_forgot_us_brings_the_registration_back() {
    let mut network = Network::with_spokes(1);
    network.add(underlay(1), hub());
    network.authorize(underlay(1), underlay(2), &[tunnel(2).into(), lan(2)]);
    network.at(underlay(2), |engine, now| engine.path_up(now, underlay(1)));
    assert_eq!(network.nhs(underlay(2)), NhsState::Responding, "not taken for down");
    network.run(DELAY * 4);
    assert!(network.binding(underlay(1), lan(2)).is_some());
}

#[test]
fn path_down_takes_the_server_down_at_once() {
    let mut network = Network::with_spokes(1);
    network.node(underlay(1)).reachable = false;
    network.at(underlay(2), |e, now| e.path_down(now, underlay(1), "the session is dead"));
    assert_eq!(network.nhs(underlay(2)), NhsState::ExpectingReplies);
    network.node(underlay(1)).reachable = true;
    network.run(seconds(2));
    assert_eq!(network.nhs(underlay(2)), NhsState::Responding);
}

#[test]
fn many_prefixes_travel_in_several_requests() {
    let mut network = Network::new();
    network.add(underlay(1), hub());
    let advertise: Vec<_> = (0..60).map(|i| net(&format!("10.0.{i}.0/24"))).collect();
    network.add(underlay(2), Config { advertise, ..spoke(2) });
    network.authorize(underlay(1), underlay(2), &[tunnel(2).into(), net("10.0.0.0/16")]);
    network.run(seconds(1));
    assert_eq!(of(&network.sent, Operation::RegistrationRequest).len(), 4);
    assert!(network.sent.iter().all(|s| s.packet.encode().len() < 1280));
    assert_eq!(network.nodes[&underlay(1)].bindings.len(), 61);
}

#[test]
fn all_spokes_at_once_after_a_hub_restart() {
    let mut network = Network::with_spokes(100);
    network.nodes.remove(&underlay(1));
    network.run(seconds(1000));
    network.add(underlay(1), hub());
    for n in 2..102 {
        network.authorize(underlay(1), underlay(n), &[tunnel(n).into(), lan(n)]);
    }
    network.run(seconds(65));
    for n in 2..102 {
        assert_eq!(network.nhs(underlay(n)), NhsState::Responding, "spoke {n}");
    }
    assert_eq!(network.nodes[&underlay(1)].bindings.len(), 200);
}

#[test]
fn ipv6_over_ipv4_and_ipv4_over_ipv6() {
    for (tunnel_prefix, hub_tunnel, spoke_tunnel, hub_nbma, spoke_nbma, behind) in [
        ("64", "fd00::1", "fd00::2", "198.51.100.1", "198.51.100.2", "2001:db8:2::/48"),
        ("24", "172.16.0.1", "172.16.0.2", "2001:db8::1", "2001:db8::2", "192.168.2.0/24"),
    ] {
        let (hub_at, spoke_at) = (nbma(hub_nbma), nbma(spoke_nbma));
        let mut network = Network::new();
        let address = net(&format!("{hub_tunnel}/{tunnel_prefix}"));
        network.add(hub_at, Config { address, nbma: Some(hub_at.address), ..hub() });
        let servers =
            vec![nhrp::engine::Server { address: ip(hub_tunnel), nbma: Some(hub_at), ..server(1) }];
        let address = net(&format!("{spoke_tunnel}/{tunnel_prefix}"));
        let advertise = vec![net(behind)];
        let nbma = Some(spoke_at.address);
        network.add(spoke_at, Config { address, nbma, servers, advertise, ..spoke(2) });
        network.authorize(hub_at, spoke_at, &[ip(spoke_tunnel).into(), net(behind)]);
        network.run(seconds(1));
        assert_eq!(network.nhs(spoke_at), NhsState::Responding);
        assert!(network.binding(hub_at, net(behind)).is_some());
    }
}

#[test]
fn clock_that_jumps_far_ahead_ends_everything_and_it_begins_anew() {
    let mut network = Network::with_spokes(2);
    network.resolve(2, host(3));
    network.now += seconds(36_000);
    network.take_events(underlay(2));
    network.run(seconds(2));
    let events = network.take_events(underlay(2));
    assert!(events.iter().any(|event| matches!(event, Event::NhsDown { .. })), "{events:?}");
    assert_eq!(network.nhs(underlay(2)), NhsState::Responding);
    assert_eq!(network.binding(underlay(2), lan(3)), None);
    network.resolve(2, host(3));
    assert!(network.binding(underlay(2), lan(3)).is_some());
}
