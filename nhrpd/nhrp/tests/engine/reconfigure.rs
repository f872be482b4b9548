//! Another configuration while it runs.

use nhrp::engine::{Authorization, Config, Event, NhsState, Server};
use nhrp::wire::Operation;

use super::network::*;

/// Hubs 1 and 9, spokes 2 and 3 registered with hub 1.
fn two_hubs() -> Network {
    let mut network = Network::with_spokes(2);
    network.add(underlay(9), Config { address: spoke(9).address, ..hub() });
    for n in [2, 3] {
        network.authorize(underlay(9), underlay(n), &[tunnel(n).into(), lan(n)]);
    }
    network.take_sent();
    for n in [1, 2, 3, 9] {
        network.take_events(underlay(n));
    }
    network
}

fn reconfigure(network: &mut Network, n: u8, config: Config) {
    network.at(underlay(n), |engine, now| engine.reconfigure(now, config));
}

fn states(network: &mut Network, n: u8) -> Vec<(std::net::IpAddr, NhsState)> {
    let servers = network.engine(underlay(n)).servers();
    servers.into_iter().map(|server| (server.address, server.state)).collect()
}

#[test]
fn the_same_configuration_changes_nothing() {
    let mut network = two_hubs();
    reconfigure(&mut network, 2, spoke(2));
    network.run(seconds(1));
    assert_eq!(network.take_sent().len(), 0);
    assert_eq!(network.take_events(underlay(2)), []);
}

/// Servers are known by their place: the new one stands first.
#[test]
fn a_new_server_is_registered_with_and_the_old_one_does_not_notice() {
    let mut network = two_hubs();
    reconfigure(&mut network, 2, Config { servers: vec![server(9), server(1)], ..spoke(2) });
    network.run(seconds(1));
    let both = [(tunnel(9), NhsState::Responding), (tunnel(1), NhsState::Responding)];
    assert_eq!(states(&mut network, 2), both);
    assert!(network.take_sent().iter().all(|sent| sent.from != underlay(1)));
    assert!(network.binding(underlay(9), lan(2)).is_some());
    let down = |event: &Event| matches!(event, Event::NhsDown { .. });
    assert!(!network.take_events(underlay(2)).iter().any(down));
    // Both are renewed for ever.
    network.run(seconds(3 * HOLDING));
    assert_eq!(states(&mut network, 2), both);
    for hub in [1, 9] {
        assert!(network.binding(underlay(hub), lan(2)).is_some(), "{hub}");
    }
}

#[test]
fn a_server_that_goes_is_told_and_the_other_one_stays() {
    let mut network = two_hubs();
    let both = vec![server(1), server(9)];
    reconfigure(&mut network, 2, Config { servers: both, ..spoke(2) });
    network.run(seconds(1));
    reconfigure(&mut network, 2, Config { servers: vec![server(9)], ..spoke(2) });
    network.run(seconds(1));
    assert_eq!(network.binding(underlay(1), lan(2)), None);
    assert_eq!(network.binding(underlay(2), tunnel(1).into()), None);
    let events = network.take_events(underlay(2));
    let reason = "not configured any more".to_owned();
    assert!(events.contains(&Event::NhsDown { server: tunnel(1), reason }), "{events:?}");
    network.take_sent();
    network.run(seconds(3 * HOLDING));
    let sent = network.take_sent();
    let told = |sent: &Sent| sent.from == underlay(2) && sent.to == underlay(1);
    assert!(!sent.iter().any(told), "it is left alone");
    assert_eq!(states(&mut network, 2), [(tunnel(9), NhsState::Responding)]);
    assert!(network.binding(underlay(9), lan(2)).is_some());
}

/// Requests that are under way when their server goes or gets another place.
#[test]
fn servers_change_while_none_answers() {
    let mut network = Network::new();
    network.add(underlay(2), Config { servers: vec![server(1), server(9)], ..spoke(2) });
    network.run(seconds(5));
    reconfigure(&mut network, 2, Config { servers: vec![server(9)], ..spoke(2) });
    network.take_sent();
    network.run(seconds(100));
    let sent = network.take_sent();
    assert!(sent.len() > 1 && sent.iter().all(|sent| sent.to == underlay(9)), "{sent:?}");
    reconfigure(&mut network, 2, Config { servers: Vec::new(), ..spoke(2) });
    network.take_sent();
    network.run(seconds(100));
    assert_eq!(network.take_sent().len(), 0);
}

#[test]
fn a_server_that_is_configured_elsewhere_is_registered_with_there() {
    let mut network = two_hubs();
    // Names are resolved: the configuration says nothing, and what is known stays.
    let unresolved = Server { nbma: None, ..server(1) };
    reconfigure(&mut network, 2, Config { servers: vec![unresolved], ..spoke(2) });
    network.run(seconds(1));
    assert_eq!(network.engine(underlay(2)).servers()[0].nbma, Some(underlay(1)));
    assert_eq!(network.take_sent().len(), 0);
    let elsewhere = Server { nbma: Some(underlay(8)), ..server(1) };
    reconfigure(&mut network, 2, Config { servers: vec![elsewhere], ..spoke(2) });
    let sent = network.take_sent();
    assert!(!sent.is_empty() && sent.iter().all(|sent| sent.to == underlay(8)), "{sent:?}");
}

#[test]
fn prefixes_come_and_go() {
    let mut network = two_hubs();
    network.resolve(3, host(2));
    assert!(network.binding(underlay(3), lan(2)).is_some());
    network.authorize(underlay(1), underlay(2), &[tunnel(2).into(), lan(2), lan(20)]);
    network.take_sent();
    reconfigure(&mut network, 2, Config { advertise: vec![lan(20)], ..spoke(2) });
    network.run(seconds(1));
    for node in [1, 3] {
        assert_eq!(network.binding(underlay(node), lan(2)), None, "{node}");
    }
    assert!(network.binding(underlay(1), lan(20)).is_some());
    assert!(network.binding(underlay(1), tunnel(2).into()).is_some(), "its address stays");
    let sent = network.take_sent();
    assert_eq!(
        of(&sent, Operation::PurgeRequest).iter().filter(|s| s.from == underlay(2)).count(),
        2
    );
    assert_eq!(network.nhs(underlay(2)), NhsState::Responding);
}

#[test]
fn a_shorter_holding_time_is_announced_at_once() {
    let mut network = two_hubs();
    reconfigure(&mut network, 2, Config { holding_time: seconds(30), ..spoke(2) });
    network.take_sent();
    network.run(seconds(60));
    let sent = network.take_sent();
    let requests = of(&sent, Operation::RegistrationRequest);
    assert!(requests.len() >= 6, "every ten seconds: {}", requests.len());
    assert!(requests.iter().all(|s| query(&s.packet).entries[0].holding_time == 30));
}

#[test]
fn static_bindings_come_and_go() {
    let mut network = two_hubs();
    let map = |n: u8| (tunnel(n), underlay(n));
    reconfigure(&mut network, 2, Config { maps: vec![map(7), map(8)], ..spoke(2) });
    assert!(network.binding(underlay(2), tunnel(7).into()).is_some());
    reconfigure(
        &mut network,
        2,
        Config { maps: vec![map(8), (tunnel(6), underlay(7))], ..spoke(2) },
    );
    assert_eq!(network.binding(underlay(2), tunnel(7).into()), None);
    assert!(network.binding(underlay(2), tunnel(8).into()).is_some());
    assert_eq!(network.binding(underlay(2), tunnel(6).into()).map(|b| b.nbma), Some(underlay(7)));
}

#[test]
fn shortcuts_go_where_they_are_not_wanted_any_more() {
    let mut network = two_hubs();
    network.resolve(3, host(2));
    reconfigure(&mut network, 3, Config { shortcut: false, ..spoke(3) });
    assert_eq!(network.binding(underlay(3), lan(2)), None);
}

#[test]
fn what_an_identity_may_not_claim_any_more_is_forgotten() {
    let mut network = two_hubs();
    let less = Authorization::Within([tunnel(2).into()].into());
    network.at(underlay(1), |engine, _| engine.reauthorize(underlay(2), less));
    assert_eq!(network.binding(underlay(1), lan(2)), None);
    assert!(network.binding(underlay(1), tunnel(2).into()).is_some());
    assert!(network.binding(underlay(1), lan(3)).is_some());
    let events = network.take_events(underlay(1));
    assert!(events.iter().any(|event| matches!(event,
        Event::Unregistered { prefix, reason, .. }
            if *prefix == lan(2) && reason.contains("may not claim"))));
    network.run(seconds(HOLDING));
    assert_eq!(network.binding(underlay(1), lan(2)), None, "nor does it come back");
}
