//! Another configuration while traffic flows.

use std::collections::BTreeSet;

use overlay::desired::PeerId;
use overlay::{Accept, Notice, Trust};
use overlay_tests::sim::{Domain, NodeId, Sim, address_of, lan_of, tunnel_address_of};

use crate::common::*;

fn sessions(sim: &Sim, node: NodeId) -> BTreeSet<PeerId> {
    sim.overlay(node).sessions().map(|session| session.peer).collect()
}

/// Two spokes that talk directly.
fn talking(seed: u64) -> (Sim, overlay_tests::sim::Nodes) {
    let (mut sim, nodes) = settled(seed, 2);
    pings(&mut sim, nodes.spokes[0], nodes.spokes[1], 3000);
    sim.run_for(secs(2));
    assert!(is_direct(&sim, nodes.spokes[0], nodes.spokes[1]));
    (sim, nodes)
}

#[test]
fn the_same_once_more_is_not_noticed() {
    let (mut sim, nodes) = talking(1);
    let all = [nodes.hub, nodes.spokes[0], nodes.spokes[1]];
    let before = all.map(|node| (sessions(&sim, node), sim.notices(node).len()));
    for node in all {
        sim.reconfigure(node, |_| {});
    }
    sim.run_for(secs(40));
    assert_eq!(all.map(|node| (sessions(&sim, node), sim.notices(node).len())), before);
    assert_nothing_lost(&sim);
}

#[test]
fn a_second_server_comes_and_goes_under_traffic() {
    let (mut sim, nodes) = settled(1, 1);
    let spoke = nodes.spokes[0];
    let domain = Domain::default();
    let other = sim.add(domain.node(2).configured(|config| {
        config.nhrp.servers.clear();
        config.nhrp.accept_registrations = true;
    }));
    let flow = sim.flow(spoke, hosts(spoke, nodes.hub), ms(1), u32::MAX);
    sim.run_for(secs(1));
    let kept = sessions(&sim, spoke);
    let first = sim.blueprint(spoke).config.nhrp.servers[0].clone();
    let second = nhrp::engine::Server {
        address: tunnel_address_of(other.0),
        nbma: Some(address_of(other.0).into()),
        ..first.clone()
    };
    sim.reconfigure(spoke, |blueprint| {
        blueprint.config.nhrp.servers = vec![first.clone(), second.clone()];
    });
    sim.run_for(secs(2));
    assert_eq!(sim.registrations(other), 2, "its address and its LAN");
    assert!(sessions(&sim, spoke).is_superset(&kept));
    assert_eq!(count(&sim, spoke, |n| matches!(n, Notice::PeerDown { .. })), 0);

    sim.reconfigure(spoke, |blueprint| blueprint.config.nhrp.servers = vec![first]);
    sim.run_for(secs(2));
    assert_eq!(sim.registrations(other), 0, "told, not left to run out");
    sim.run_for(minutes(2));
    assert_eq!(sessions(&sim, spoke), kept, "and its session was idle");
    sim.end_flow(flow);
    sim.run_for(secs(1));
    assert_nothing_lost(&sim);
    assert_eq!(count(&sim, spoke, |n| matches!(n, Notice::ServerUp { .. })), 2);
}

#[test]
fn prefixes_and_routes_change_where_they_are_known() {
    let (mut sim, nodes) = talking(1);
    let (a, b) = (nodes.spokes[0], nodes.spokes[1]);
    sim.reconfigure(b, |blueprint| blueprint.config.nhrp.advertise.clear());
    sim.run_for(secs(1));
    assert_eq!(sim.registrations(nodes.hub), 3);
    assert!(!shortcuts(&sim, a).contains(&lan_of(b.0)));
    assert_eq!(
        count(&sim, a, |n| matches!(n, Notice::Indirect { prefix } if *prefix == lan_of(b.0))),
        1
    );

    let route = "10.77.0.0/16".parse().unwrap();
    sim.reconfigure(a, |blueprint| blueprint.config.routes = vec![route]);
    sim.run_for(secs(1));
    let desired = sim.overlay(a).desired();
    assert!(desired.routes.contains(&route) && desired.forwarding.contains_key(&route));
    assert!(!desired.routes.contains(&"10.0.0.0/8".parse().unwrap()));
}

/// What the hub's configuration had allowed beyond a certificate, it takes back.
#[test]
fn who_may_claim_less_keeps_his_session_and_loses_his_claim() {
    let mut sim = Sim::new(1, fair());
    let domain = Domain::default();
    let extra = lan_of(50);
    let accept = Accept { identity: "spoke1".into(), prefixes: [extra].into() };
    let hub = sim.add(domain.node(0).configured(|config| config.accept = vec![accept]));
    let spoke = sim.add(domain.node(1).configured(|config| config.nhrp.advertise.push(extra)));
    let told = sim.run_until(minutes(1), |sim| sim.registrations(hub) == 3);
    told.expect("all of it is registered");
    let before = sessions(&sim, hub);
    sim.reconfigure(hub, |blueprint| blueprint.config.accept.clear());
    assert_eq!(sim.registrations(hub), 2);
    assert!(!sim.overlay(hub).desired().routes.contains(&extra));
    sim.run_for(minutes(10));
    assert_eq!((sim.registrations(hub), sessions(&sim, hub)), (2, before));

    sim.reconfigure(hub, |blueprint| blueprint.config.trust = Trust::Any);
    sim.run_for(minutes(10));
    assert_eq!(sim.registrations(hub), 3, "with its next renewal");
    assert_eq!(count(&sim, spoke, |n| matches!(n, Notice::PeerDown { .. })), 0);
}

#[test]
fn who_is_not_trusted_any_more_is_sent_away_with_the_reason() {
    let (mut sim, nodes) = settled(1, 2);
    let elsewhere = Domain { ca: "Another CA", ..Domain::default() };
    sim.reconfigure(nodes.hub, |blueprint| {
        blueprint.credentials = elsewhere.credentials(elsewhere.request(0));
    });
    assert_eq!(sessions(&sim, nodes.hub), [].into());
    assert_eq!(sim.registrations(nodes.hub), 0);
    let reasons: Vec<&str> = sim
        .notices(nodes.hub)
        .iter()
        .filter_map(|(_, notice)| match notice {
            Notice::PeerDown { reason, .. } => Some(&reason[..]),
            _ => None,
        })
        .collect();
    assert_eq!(reasons.len(), 2);
    assert!(reasons.iter().all(|reason| reason.contains("issued by another CA")), "{reasons:?}");
    sim.run_for(minutes(5));
    assert_eq!(sim.registrations(nodes.hub), 0);
}

/// Renewed before it expires: every peer sees the new one, and no packet is lost for it.
#[test]
fn a_new_certificate_is_shown_to_all_under_traffic() {
    let (mut sim, nodes) = talking(1);
    let (a, b) = (nodes.spokes[0], nodes.spokes[1]);
    let domain = Domain::default();
    let shown = |sim: &Sim, at: NodeId| {
        let overlay = sim.overlay(at);
        let name = format!("CN=spoke{}", a.0);
        let session = overlay.sessions().find(|s| s.identity.as_deref() == Some(&name));
        overlay.ike().peer(session.unwrap().sa.unwrap()).unwrap().1[0].clone()
    };
    let before = [shown(&sim, nodes.hub), shown(&sim, b)];
    assert_eq!(before[0], before[1]);
    sim.reconfigure(a, |blueprint| {
        let mut request = domain.request(a.0);
        request.dns.push("renewed.example.net".into());
        blueprint.credentials = domain.credentials(request);
    });
    sim.run_for(secs(3));
    let after = [shown(&sim, nodes.hub), shown(&sim, b)];
    assert_eq!(after[0], after[1]);
    assert_ne!(before[0], after[0]);
    sim.run_for(secs(60));
    assert_nothing_lost(&sim);
    assert!(is_direct(&sim, a, b) && is_direct(&sim, b, a));
    for node in [nodes.hub, a, b] {
        assert_eq!(count(&sim, node, |n| matches!(n, Notice::PeerDown { .. })), 0);
        assert_eq!(count(&sim, node, |n| matches!(n, Notice::Refused(_))), 0);
    }
    assert_eq!(count(&sim, a, |n| matches!(n, Notice::PeerRekeyed { .. })), 2);
}

#[test]
fn shorter_intervals_hold_for_sessions_that_are_there() {
    let (mut sim, nodes) = talking(1);
    let (a, b) = (nodes.spokes[0], nodes.spokes[1]);
    sim.reconfigure(a, |blueprint| blueprint.config.ike.rekey_interval = secs(10));
    sim.run_for(secs(40));
    let rekeyed = count(&sim, a, |n| matches!(n, Notice::PeerRekeyed { .. }));
    assert!(rekeyed >= 6, "two peers, thrice: {rekeyed}");
    assert_nothing_lost(&sim);
    assert!(is_direct(&sim, a, b));
}
