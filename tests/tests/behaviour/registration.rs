//! Spokes and their next-hop server.

use overlay::Notice;
use overlay_tests::sim::{Domain, Sim, Weather};

use crate::common::*;

#[test]
fn spokes_register_their_address_and_their_lan() {
    let mut sim = Sim::new(1, fair());
    let nodes = domain().build(&mut sim, 3);
    let took = registered(&mut sim, &nodes);
    sim.run_for(secs(1));
    println!("registered after {took:?}, {:.1} round trips", took.as_secs_f64() / 0.02);
    // IKE_SA_INIT, ML-KEM, IKE_AUTH, WireGuard, address, LAN; the last needs no answer for this.
    assert!(took <= ms(20) * 6, "{took:?}");
    for &spoke in &nodes.spokes {
        assert_eq!(count(&sim, spoke, |n| matches!(n, Notice::ServerUp { .. })), 1);
        assert_eq!(count(&sim, spoke, |n| matches!(n, Notice::Refused(_))), 0);
    }
    assert_eq!(count(&sim, nodes.hub, |n| matches!(n, Notice::Registered { .. })), 6);
}

#[test]
fn registration_goes_through_a_bad_network() {
    for seed in 0..10 {
        let bad = Weather { jitter: ms(50), loss: 200, duplication: 100, ..fair() };
        let (mut sim, nodes) = settled_in(&domain(), seed, bad, 3);
        sim.run_for(minutes(30));
        assert_eq!(sim.registrations(nodes.hub), 6, "renewed all the time");
    }
}

/// A quiet overlay stays as it is: no session is made anew, nothing expires.
#[test]
fn nothing_changes_in_three_quiet_hours() {
    let (mut sim, nodes) = settled(1, 3);
    sim.run_for(secs(5));
    let before: Vec<usize> = sim.nodes().map(|id| sim.notices(id).len()).collect();
    sim.run_for(minutes(180));
    assert_eq!(sim.registrations(nodes.hub), 6);
    let after: Vec<usize> = sim.nodes().map(|id| sim.notices(id).len()).collect();
    assert_eq!(before, after);
}

#[test]
fn spokes_that_start_before_their_hub_register_when_it_comes() {
    let domain = domain();
    let mut sim = Sim::new(1, fair());
    let hub = sim.install(domain.node(0));
    let spokes: Vec<_> = (1..=3).map(|n| sim.add(domain.node(n))).collect();
    sim.run_for(minutes(10));
    sim.start(hub);
    let nodes = overlay_tests::sim::Nodes { hub, spokes };
    let took = registered(&mut sim, &nodes);
    println!("registered {took:?} after the hub's start");
    // RFC 2332 says nothing of it; our back-off ends at 64 s.
    assert!(took <= secs(70), "{took:?}");
}

#[test]
fn a_clean_stop_is_known_at_once_by_the_hub_and_by_those_who_resolved_the_spoke() {
    let (mut sim, nodes) = settled(1, 2);
    let (a, b) = (nodes.spokes[0], nodes.spokes[1]);
    pings(&mut sim, a, b, 100);
    sim.run_for(secs(2));
    assert!(is_direct(&sim, a, b));
    sim.stop(b);
    sim.run_for(ms(100));
    assert_eq!(sim.registrations(nodes.hub), 2);
    assert!(!is_direct(&sim, a, b));
    let shortcuts = sim.overlay(a).bindings().filter(|b| b.kind == SHORTCUT).count();
    assert_eq!(shortcuts, 0);
    assert_eq!(sim.overlay(a).sessions().count(), 1, "only the hub's is left");
}

#[test]
fn the_hub_forgets_a_dead_spoke_when_its_holding_time_is_over() {
    let domain = Domain { holding_time: secs(60), ..domain() };
    let (mut sim, nodes) = settled_in(&domain, 1, fair(), 2);
    sim.run_for(secs(120));
    sim.kill(nodes.spokes[0]);
    sim.run_for(secs(38));
    assert_eq!(sim.registrations(nodes.hub), 4, "renewed every 20 s, so it holds 40 s at least");
    sim.run_for(secs(24));
    assert_eq!(sim.registrations(nodes.hub), 2);
}

/// What a node was refused, and by whom.
fn refusals(sim: &Sim) -> Vec<String> {
    let refused = |(_, notice): &(_, Notice)| match notice {
        Notice::Refused(refused) => Some(refused.reason.clone()),
        _ => None,
    };
    sim.nodes().flat_map(|node| sim.notices(node).iter().filter_map(refused)).collect()
}

/// The LAN's registration was on its way when the hub forgot the address: it waits for the
/// address's, which the new path brings.
#[test]
fn a_hub_that_dies_during_a_renewal_refuses_nobody_when_it_is_back() {
    let domain = Domain { holding_time: secs(30), ..domain() };
    for died_at in (0..80).step_by(5) {
        for dead_for in [ms(1), secs(1)] {
            let (mut sim, nodes) = settled_in(&domain, 1, fair(), 2);
            sim.run_for(domain.holding_time / 3 - ms(10) + ms(died_at));
            sim.kill(nodes.hub);
            sim.run_for(dead_for);
            sim.start(nodes.hub);
            registered(&mut sim, &nodes);
            assert_eq!(refusals(&sim), [""; 0], "died at {died_at} ms, for {dead_for:?}");
        }
    }
}

/// What was to purge the former address is not meant for it any more when it is the present one.
#[test]
fn a_spoke_that_returns_to_its_former_address_stays_registered() {
    for away in [ms(50), ms(500), secs(4)] {
        let (mut sim, nodes) = settled(1, 2);
        let spoke = nodes.spokes[0];
        let home = sim.blueprint(spoke).address;
        sim.network.cut(spoke, nodes.hub);
        sim.move_node(spoke, std::net::Ipv4Addr::new(198, 51, 100, 7));
        sim.run_for(away);
        sim.network.heal();
        sim.move_node(spoke, home);
        let lost = sim.run_until(secs(60), |sim| sim.registrations(nodes.hub) < 4);
        assert_eq!(lost, None, "away for {away:?}");
        assert_eq!(refusals(&sim), [""; 0], "away for {away:?}");
    }
}
