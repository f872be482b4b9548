//! Several next-hop servers, and many spokes.

use nhrp::engine::Server;
use overlay_tests::scale::registrations;
use overlay_tests::sim::{Blueprint, Domain, NodeId, Sim, address_of, lan_of, tunnel_address_of};

use crate::common::*;

const SECOND: usize = 1;

/// Node n with two servers: nodes 0 and 1.
fn node(domain: &Domain, n: usize) -> Blueprint {
    domain.node(n).configured(|config| {
        let server = |n: usize| Server {
            address: tunnel_address_of(n),
            nbma: Some(address_of(n).into()),
            priority: n as u8,
            cluster: 0,
        };
        let nhrp = &mut config.nhrp;
        let hub = n <= SECOND;
        nhrp.servers = if hub { Vec::new() } else { vec![server(0), server(SECOND)] };
        (nhrp.accept_registrations, nhrp.redirect, nhrp.shortcut) = (hub, hub, !hub);
        if hub {
            config.routes = Vec::new();
        }
    })
}

fn two_hubs() -> (Sim, [NodeId; 2], [NodeId; 3]) {
    let domain = domain();
    let mut sim = Sim::new(1, fair());
    let hubs = [0, SECOND].map(|n| sim.add(node(&domain, n)));
    let spokes = [2, 3, 4].map(|n| sim.add(node(&domain, n)));
    sim.run_for(secs(5));
    for hub in hubs {
        assert_eq!(sim.registrations(hub), 6);
    }
    (sim, hubs, spokes)
}

#[test]
fn the_preferred_server_carries_the_traffic() {
    let (mut sim, [first, second], [a, b, _]) = two_hubs();
    pings(&mut sim, a, b, 100);
    sim.run_for(secs(2));
    assert_nothing_lost(&sim);
    assert!(sim.counters(first).forwarded > 0);
    assert_eq!(sim.counters(second).forwarded, 0);
}

#[test]
fn the_second_server_takes_over_and_gives_back() {
    let (mut sim, [first, second], [a, b, c]) = two_hubs();
    sim.kill(first);
    let took = reaches(&mut sim, a, c, minutes(2));
    println!("# the second server carries traffic {took:?} after the first one's death");
    assert!(took.expect("it takes over") <= secs(50));
    sim.run_for(secs(20));
    assert!(sim.counters(second).forwarded > 0);
    pings(&mut sim, a, c, 100);
    sim.run_for(secs(2));
    assert!(is_direct(&sim, a, c), "shortcuts are found through the second server too");

    sim.start(first);
    let back = sim.run_until(minutes(2), |sim| sim.registrations(first) == 6);
    println!("# the first one is back after {:?}", back.expect("all register again"));
    sim.run_for(secs(1));
    let forwarded = sim.counters(second).forwarded;
    let (source, destination) = hosts(b, a);
    let number = sim.send(b, source, destination);
    sim.run_for(secs(1));
    assert_eq!(sim.fate(number).arrival.map(|arrival| arrival.hops), Some(1));
    assert_eq!(sim.counters(second).forwarded, forwarded);
}

#[test]
fn a_hundred_spokes_come_back_to_a_hub_that_was_killed() {
    let (mut sim, nodes) = settled(1, 100);
    sim.run_for(secs(30));
    sim.kill(nodes.hub);
    sim.run_for(secs(5));
    sim.start(nodes.hub);
    let took = registered(&mut sim, &nodes);
    println!("# all registered again after {took:?}");
    // The hub calls back ten strangers a second; the others notice its silence by themselves.
    assert!(took <= secs(50), "{took:?}");
    let lan = sim.overlay(nodes.hub).bindings().find(|binding| binding.prefix == lan_of(77));
    assert_eq!(lan.map(|binding| binding.next_hop), Some(tunnel_address_of(77)));
}

#[test]
fn ten_thousand_spokes_register_and_renew() {
    for count in [1_000, 10_000] {
        let rates = registrations(count);
        assert_eq!(rates.bindings, 2 * count as usize, "an address and a LAN each");
        println!(
            "# {count} spokes: {:.0} new and {:.0} renewed a second",
            rates.new, rates.renewed
        );
    }
}
