//! Nodes whose underlay address changes under traffic.

use std::net::Ipv4Addr;

use overlay_tests::sim::INTERNET;

use crate::common::*;

#[test]
fn a_spoke_gets_another_address_under_traffic() {
    for which in [0, 1] {
        let (mut sim, nodes) = settled(1, 2);
        let (a, b) = (nodes.spokes[0], nodes.spokes[1]);
        let flows = [pings(&mut sim, a, b, 3000), pings(&mut sim, b, a, 3000)];
        sim.run_for(secs(5));
        let forwarded = sim.counters(nodes.hub).forwarded;
        sim.move_node(nodes.spokes[which], Ipv4Addr::new(198, 51, 100, 7));
        sim.run_for(secs(20));
        for flow in flows {
            let gap = outage(&sim, flow);
            println!("# {} moves: nothing arrives for {gap:?}", nodes.spokes[which]);
            assert!(gap <= ms(100), "two round trips, and what was on its way: {gap:?}");
        }
        assert!(is_direct(&sim, a, b) && is_direct(&sim, b, a));
        let detour = sim.counters(nodes.hub).forwarded - forwarded;
        println!("# {detour} packets took the way through the hub");
        assert_eq!(sim.registrations(nodes.hub), 4);
        for &spoke in &nodes.spokes {
            assert_eq!(sim.overlay(spoke).sessions().count(), 2);
        }
    }
}

#[test]
fn a_quiet_spoke_gets_another_address_and_is_reached_there() {
    let (mut sim, nodes) = settled(1, 2);
    let (a, b) = (nodes.spokes[0], nodes.spokes[1]);
    sim.run_for(secs(30));
    sim.move_node(b, Ipv4Addr::new(198, 51, 100, 7));
    sim.run_for(secs(1));
    pings(&mut sim, a, b, 200);
    sim.run_for(secs(5));
    assert_nothing_lost(&sim);
    assert!(is_direct(&sim, a, b));
}

/// The address is another's now: a spoke that took it over is not taken for the former one.
#[test]
fn two_spokes_exchange_their_addresses() {
    let (mut sim, nodes) = settled(1, 3);
    let [a, b, c] = [nodes.spokes[0], nodes.spokes[1], nodes.spokes[2]];
    let flows = [pings(&mut sim, a, b, 3000), pings(&mut sim, a, c, 3000)];
    sim.run_for(secs(5));
    let (of_b, of_c) = (sim.blueprint(b).address, sim.blueprint(c).address);
    sim.move_node(b, Ipv4Addr::new(198, 51, 100, 7));
    sim.move_node(c, of_b);
    sim.run_for(ms(500));
    sim.move_node(b, of_c);
    sim.run_for(secs(40));
    for flow in flows {
        println!("# nothing arrives for {:?}", outage(&sim, flow));
        assert!(outage(&sim, flow) <= secs(2));
    }
    assert!(is_direct(&sim, a, b) && is_direct(&sim, a, c));
}

#[test]
fn a_spoke_without_any_underlay_comes_back_with_another_address() {
    let (mut sim, nodes) = settled(1, 2);
    let (a, b) = (nodes.spokes[0], nodes.spokes[1]);
    pings(&mut sim, a, b, 12_000);
    sim.run_for(secs(5));
    sim.with(b, |overlay, now, rng| overlay.set_nbma(now, None, rng));
    for &other in &[nodes.hub, a] {
        sim.network.cut(b, other);
    }
    sim.run_for(secs(60));
    sim.network.heal();
    sim.move_node(b, Ipv4Addr::new(198, 51, 100, 7));
    let took = reaches(&mut sim, a, b, minutes(3));
    println!("# back after {:?}", took.expect("it is back"));
    assert!(took <= Some(secs(3)));
}

#[test]
fn a_spoke_moves_behind_a_translator_and_out_again() {
    let (mut sim, nodes) = settled_in(&domain(), 1, fair(), 2);
    let (a, b) = (nodes.spokes[0], nodes.spokes[1]);
    let home = sim.network.add_nat(INTERNET, Ipv4Addr::new(192, 0, 2, 1).into());
    let flow = pings(&mut sim, a, b, 4500);
    sim.run_for(secs(5));
    sim.move_to(b, home, Ipv4Addr::new(192, 168, 1, 2));
    sim.run_for(secs(20));
    println!("# inwards: nothing arrives for {:?}", outage(&sim, flow));
    assert!(outage(&sim, flow) <= secs(1));
    assert!(is_direct(&sim, a, b) && is_direct(&sim, b, a));
    sim.move_node(b, Ipv4Addr::new(198, 51, 100, 7));
    sim.run_for(secs(15));
    println!("# and out: nothing arrives for {:?}", outage(&sim, flow));
    assert!(outage(&sim, flow) <= secs(1));
    assert!(is_direct(&sim, a, b) && is_direct(&sim, b, a));
    assert_eq!(sim.registrations(nodes.hub), 4);
}
