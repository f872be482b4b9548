//! From the path through the hub to the direct one, and back.

use overlay::Notice;
use overlay_tests::sim::{Domain, Fate, Nodes, Sim, Weather, lan_of, tunnel_address_of};

use crate::common::*;

/// Cisco's own example loses one packet in five here.
#[test]
fn two_hundred_pings_from_a_cold_start_lose_nothing_and_become_direct() {
    let (mut sim, nodes) = settled(1, 2);
    let (a, b) = (nodes.spokes[0], nodes.spokes[1]);
    let flow = pings(&mut sim, a, b, 200);
    sim.run_for(secs(1));
    let forwarded = sim.counters(nodes.hub).forwarded;
    assert!(forwarded > 0);
    sim.run_for(secs(2));
    assert_nothing_lost(&sim);
    assert_eq!(sim.fates().len(), 400);
    assert_eq!(sim.counters(nodes.hub).forwarded, forwarded, "the hub forwards no more");
    let hops: Vec<u8> = sim.flow_fates(flow).filter_map(|f| Some(f.arrival?.hops)).collect();
    assert!(hops.is_sorted_by(|a, b| a >= b), "once direct, always direct: {hops:?}");
    assert!(hops.iter().filter(|&&hops| hops == 0).count() >= 180, "{hops:?}");
}

/// The path is direct no more than six round trips of the underlay after the first packet.
#[test]
fn the_direct_path_is_there_within_six_round_trips() {
    for delay in [1, 5, 10, 50, 100, 300] {
        let (mut sim, nodes) = settled_in(&domain(), 1, Weather::fair(ms(delay)), 2);
        let (a, b) = (nodes.spokes[0], nodes.spokes[1]);
        sim.run_for(secs(5));
        let flow = sim.flow(a, hosts(a, b), ms(1), 5000);
        sim.run_for(secs(10));
        assert_nothing_lost(&sim);
        let took = until_direct(&sim, flow).expect("it becomes direct");
        let round_trips = took.as_secs_f64() / ms(2 * delay).as_secs_f64();
        println!("one way {delay} ms: direct after {took:?}, {round_trips:.2} round trips");
        assert!(took <= ms(2 * delay) * 6, "{round_trips}");
    }
}

/// As where a routing protocol of one's own has put the route into the tunnel: no route of ours
/// leads to the server, so nobody redirects.
#[test]
fn what_has_no_way_is_resolved_unless_shortcuts_are_off() {
    for shortcut in [true, false] {
        let mut sim = Sim::new(1, fair());
        let domain = domain();
        let hub = sim.add(domain.node(0));
        let spokes = [1, 2].map(|n| {
            sim.add(domain.node(n).configured(|config| {
                config.routes.clear();
                config.nhrp.shortcut = shortcut;
            }))
        });
        registered(&mut sim, &Nodes { hub, spokes: spokes.to_vec() });
        let (source, destination) = hosts(spokes[0], spokes[1]);
        let first = sim.send(spokes[0], source, destination);
        sim.run_for(secs(1));
        let second = sim.send(spokes[0], source, destination);
        sim.run_for(secs(1));
        assert!(sim.fate(first).arrival.is_none());
        assert_eq!(sim.fate(second).arrival.is_some(), shortcut);
        assert!(!shortcut || sim.fate(second).direct());
    }
}

#[test]
fn one_side_sends_and_the_other_is_silent() {
    let (mut sim, nodes) = settled(1, 2);
    let (a, b) = (nodes.spokes[0], nodes.spokes[1]);
    let mut numbers = Vec::new();
    for _ in 0..200 {
        let (source, destination) = hosts(a, b);
        numbers.push(sim.send(a, source, destination));
        sim.run_for(ms(10));
    }
    sim.run_for(secs(1));
    assert_nothing_lost(&sim);
    let last = *numbers.last().expect("200 were sent");
    assert!(sim.fate(last).direct());
}

/// The receiver answers nothing for half an hour: what it knows of the sender is kept fresh by the
/// sender's own requests.
#[test]
fn a_direct_path_stays_though_only_one_side_uses_it() {
    let domain = Domain { holding_time: secs(120), ..domain() };
    let (mut sim, nodes) = settled_in(&domain, 1, fair(), 2);
    let (a, b) = (nodes.spokes[0], nodes.spokes[1]);
    let (source, destination) = hosts(a, b);
    for _ in 0..30 * 60 * 2 {
        sim.send(a, source, destination);
        sim.run_for(ms(500));
    }
    assert_nothing_lost(&sim);
    let detours = sim.fates().iter().filter(|fate| !fate.direct()).count();
    assert!(detours <= 1, "{detours}");
}

#[test]
fn both_sides_begin_at_the_same_moment() {
    for seed in 0..20 {
        let (mut sim, nodes) = settled(seed, 2);
        let (a, b) = (nodes.spokes[0], nodes.spokes[1]);
        let flows = [pings(&mut sim, a, b, 200), pings(&mut sim, b, a, 200)];
        sim.run_for(secs(4));
        assert_nothing_lost(&sim);
        for flow in flows {
            assert!(until_direct(&sim, flow).expect("it becomes direct") <= ms(120));
        }
        sim.run_for(secs(30));
        for node in [a, b] {
            assert_eq!(sim.overlay(node).sessions().count(), 2, "one to the hub, one to the other");
            assert_eq!(sim.overlay(node).attempts().count(), 0);
            assert_eq!(count(&sim, node, |n| matches!(n, Notice::Refused(_))), 0);
        }
    }
}

/// On a network whose delay varies, key exchanges of the two sides meet at every possible place.
#[test]
fn key_exchanges_that_cross_lose_nothing() {
    for seed in 0..12 {
        let weather = Weather { jitter: ms(15), ..fair() };
        let (mut sim, nodes) = settled_in(&domain(), seed, weather, 2);
        let (a, b) = (nodes.spokes[0], nodes.spokes[1]);
        for (from, to) in [(a, b), (b, a)] {
            sim.flow(from, hosts(from, to), ms(1), 1000);
            sim.run_for(ms(seed * 3));
        }
        sim.run_for(secs(4));
        let lost = sim.fates().iter().filter(|fate| fate.arrival.is_none()).count();
        assert_eq!(lost, 0, "seed {seed}");
    }
}

#[test]
fn ten_spokes_talk_each_to_each_at_the_same_moment() {
    let (mut sim, nodes) = settled(1, 10);
    for &a in &nodes.spokes {
        for &b in nodes.spokes.iter().filter(|&&b| b != a) {
            pings(&mut sim, a, b, 100);
        }
    }
    sim.run_for(secs(3));
    assert_nothing_lost(&sim);
    for &a in &nodes.spokes {
        for &b in nodes.spokes.iter().filter(|&&b| b != a) {
            assert!(is_direct(&sim, a, b), "{a} to {b}");
        }
        assert_eq!(sim.overlay(a).sessions().count(), 10);
    }
}

#[test]
fn tunnel_addresses_and_lans_are_resolved_each_for_itself() {
    let (mut sim, nodes) = settled(1, 2);
    let (a, b) = (nodes.spokes[0], nodes.spokes[1]);
    sim.flow(a, tunnel_pair(a, b), ms(10), 100);
    sim.run_for(secs(2));
    assert_nothing_lost(&sim);
    let prefixes = shortcuts(&sim, a);
    assert_eq!(prefixes, [tunnel_address_of(b.0).into()], "nobody asked for the LAN");
    pings(&mut sim, a, b, 100);
    sim.run_for(secs(2));
    assert_nothing_lost(&sim);
    assert_eq!(shortcuts(&sim, a), [lan_of(b.0), tunnel_address_of(b.0).into()]);
    assert!(is_direct(&sim, a, b));
}

#[test]
fn the_hub_talks_and_is_talked_to_without_any_shortcut() {
    let (mut sim, nodes) = settled(1, 1);
    let a = nodes.spokes[0];
    pings(&mut sim, a, nodes.hub, 50);
    pings(&mut sim, nodes.hub, a, 50);
    sim.flow(a, tunnel_pair(a, nodes.hub), ms(10), 50);
    sim.run_for(secs(2));
    assert_nothing_lost(&sim);
    assert!(sim.fates().iter().all(Fate::direct));
    assert_eq!(shortcuts(&sim, a), []);
}

#[test]
fn an_idle_shortcut_is_gone_after_its_holding_time_and_its_session_after_that() {
    let domain = Domain { holding_time: secs(60), ..domain() };
    let (mut sim, nodes) = settled_in(&domain, 1, fair(), 2);
    let (a, b) = (nodes.spokes[0], nodes.spokes[1]);
    pings(&mut sim, a, b, 100);
    sim.run_for(secs(2));
    assert_eq!(sim.overlay(a).sessions().count(), 2);
    // At two thirds of the holding time it counts as used, and is renewed; not a second time.
    sim.run_for(secs(95));
    assert!(!shortcuts(&sim, a).is_empty());
    sim.run_for(secs(5));
    assert_eq!(shortcuts(&sim, a), []);
    assert_eq!(shortcuts(&sim, b), []);
    assert_eq!(sim.overlay(a).sessions().count(), 2, "kept for the idle timeout");
    sim.run_for(secs(65));
    for node in [a, b] {
        let left = sim.overlay(node).sessions().count();
        assert_eq!(left, 1, "only the hub's session is left at {node}");
    }
    let quiet = sim.seen("ike");
    sim.run_for(minutes(10));
    let probes = sim.seen("ike") - quiet;
    println!("{probes} IKE messages in ten idle minutes");
    assert_eq!(sim.overlay(a).sessions().count(), 1, "and nobody brings it back");
}

#[test]
fn a_used_shortcut_is_renewed_without_a_packet_lost_or_a_detour() {
    let domain = Domain { holding_time: secs(60), ..domain() };
    let (mut sim, nodes) = settled_in(&domain, 1, fair(), 2);
    let (a, b) = (nodes.spokes[0], nodes.spokes[1]);
    sim.flow(a, hosts(a, b), ms(250), 4 * 600);
    sim.run_for(secs(5));
    let forwarded = sim.counters(nodes.hub).forwarded;
    sim.run_for(minutes(10));
    assert_nothing_lost(&sim);
    assert_eq!(sim.counters(nodes.hub).forwarded, forwarded);
    assert_eq!(count(&sim, a, |n| matches!(n, Notice::PeerUp { .. })), 2, "no session made anew");
}
