//! Nodes that die and come back, links that break, clocks that jump.

use std::time::{Duration, SystemTime};

use overlay::Notice;
use overlay_tests::sim::{Domain, FlowId, NodeId, Nodes, Sim, WALL};

use crate::common::*;

/// Two spokes that talk to each other directly, ten packets a second in both directions.
fn talking(domain: &Domain) -> (Sim, Nodes, [FlowId; 2]) {
    let (mut sim, nodes) = settled_in(domain, 1, fair(), 3);
    let (a, b) = (nodes.spokes[0], nodes.spokes[1]);
    let flows = [(a, b), (b, a)].map(|(x, y)| sim.flow(x, hosts(x, y), ms(100), u32::MAX));
    sim.run_for(secs(10));
    assert!(is_direct(&sim, a, b) && is_direct(&sim, b, a));
    (sim, nodes, flows)
}

/// Kills a node, starts it again, and gives the time from then until `back` holds.
fn revive(
    sim: &mut Sim,
    node: NodeId,
    dead_for: Duration,
    back: impl FnMut(&Sim) -> bool,
) -> Duration {
    sim.kill(node);
    sim.run_for(dead_for);
    sim.start(node);
    sim.run_until(minutes(5), back).expect("it is back by itself")
}

/// Packets of all flows that were sent after this moment have begun to arrive.
fn flowing(sim: &Sim, flows: [FlowId; 2], since: Duration) -> bool {
    flows
        .iter()
        .all(|&flow| sim.flow_fates(flow).any(|fate| fate.sent >= since && fate.arrival.is_some()))
}

#[test]
fn a_killed_spoke_is_back_when_it_is_started_again() {
    for which in [0, 1] {
        for dead_for in [ms(100), secs(1), secs(20), secs(50), minutes(3)] {
            let (mut sim, nodes, flows) = talking(&domain());
            let back_at = sim.elapsed() + dead_for;
            let spoke = nodes.spokes[which];
            let took = revive(&mut sim, spoke, dead_for, |sim| flowing(sim, flows, back_at));
            println!(
                "# {spoke}, dead for {dead_for:?}: traffic flows again {took:?} after the start"
            );
            assert!(took <= secs(2), "{took:?}");
            let (a, b) = (nodes.spokes[0], nodes.spokes[1]);
            let direct =
                sim.run_until(minutes(1), |sim| is_direct(sim, a, b) && is_direct(sim, b, a));
            println!("#     and directly {:?} later", direct.expect("it becomes direct again"));
            let since = sim.elapsed();
            sim.run_for(secs(30));
            for flow in flows {
                let lost = sim.flow_fates(flow).filter(|f| f.sent >= since && f.arrival.is_none());
                assert!(lost.count() <= 1, "it stays so; the last packet may be on its way");
            }
        }
    }
}

#[test]
fn a_killed_hub_is_back_and_direct_traffic_does_not_notice() {
    for dead_for in [ms(100), secs(1), secs(20), secs(50), minutes(3)] {
        let (mut sim, nodes, flows) = talking(&domain());
        let hub = nodes.hub;
        let all = |sim: &Sim| sim.registrations(hub) == 6;
        let took = revive(&mut sim, hub, dead_for, all);
        println!("# hub dead for {dead_for:?}: all registered again {took:?} after its start");
        // A spoke that has not noticed is found by its next keepalive, or with ESP by its next
        // sign of life; one that has, backs off.
        let (unnoticed, by) = match crate::KIND {
            ike::TunnelKind::WireGuard => (30, 21),
            ike::TunnelKind::Esp => (15, 32),
        };
        assert!(took <= secs(if dead_for < secs(unnoticed) { by } else { 70 }), "{took:?}");
        for flow in flows {
            assert_eq!(outage(&sim, flow), Duration::ZERO);
            let late = sim.flow_fates(flow).filter(|f| f.sent > secs(5) && !f.direct());
            assert!(late.count() <= 1, "direct all the time; the last may be on its way");
        }
        // Who was not talking finds the others again.
        let took = reaches(&mut sim, nodes.spokes[2], nodes.spokes[0], secs(10));
        assert!(took.expect("the path through the hub is back") <= secs(2));
    }
}

/// RFC 2332 §5.2.0.1: what was learnt holds for its holding time, and no longer.
#[test]
fn direct_traffic_survives_the_hub_until_its_holding_time() {
    let domain = Domain { holding_time: secs(120), ..domain() };
    let (mut sim, nodes, flows) = talking(&domain);
    sim.kill(nodes.hub);
    let killed = sim.elapsed();
    sim.run_for(minutes(5));
    let last = flows.map(|flow| {
        let arrived = sim.flow_fates(flow).filter(|fate| fate.arrival.is_some());
        arrived.map(|fate| fate.sent).max().expect("something arrived")
    });
    println!("# hub killed at {killed:?}, last direct packets at {last:?}");
    let resolved = ms(300);
    for last in last {
        assert!(last >= secs(120), "the holding time of the shortcuts");
        assert!(last <= killed + secs(120) + resolved);
    }
    let down = sim
        .notices(nodes.spokes[0])
        .iter()
        .find_map(|(at, notice)| matches!(notice, Notice::ServerDown { .. }).then_some(*at));
    let noticed = down.expect("the spoke notices") - killed;
    println!("# noticed after {noticed:?}");
    assert!(noticed <= secs(50), "probe after 30 s of silence, and its repetitions: {noticed:?}");

    sim.start(nodes.hub);
    let since = sim.elapsed();
    let took = sim.run_until(minutes(3), |sim| flowing(sim, flows, since));
    println!("# traffic flows {:?} after the hub's return", took.expect("it flows again"));
}

/// The spokes cannot reach each other any more, but the hub can reach both.
#[test]
fn traffic_returns_to_the_hub_when_the_link_between_two_spokes_breaks() {
    let (mut sim, nodes, flows) = talking(&domain());
    let (a, b) = (nodes.spokes[0], nodes.spokes[1]);
    sim.network.cut(a, b);
    let cut = sim.elapsed();
    let took = sim.run_until(minutes(3), |sim| flowing(sim, flows, cut + ms(100)));
    println!("# through the hub again after {:?}", took.expect("it flows again"));
    assert!(took <= Some(secs(50)));
    let since = sim.elapsed();
    sim.run_for(minutes(5));
    for flow in flows {
        let late = sim.flow_fates(flow).filter(|fate| fate.sent >= since + secs(1));
        let lost = late.filter(|fate| fate.arrival.is_none()).count();
        assert!(lost <= 2, "{lost} lost though the hub is there; the last may be on its way");
    }
    sim.network.heal();
    let took = sim.run_until(minutes(5), |sim| is_direct(sim, a, b) && is_direct(sim, b, a));
    println!("# direct again {:?} after the link is whole", took.expect("it becomes direct"));
}

#[test]
fn nobody_asks_again_and_again_for_a_spoke_that_is_dead() {
    let (mut sim, nodes) = settled(1, 2);
    let (a, b) = (nodes.spokes[0], nodes.spokes[1]);
    sim.kill(b);
    let (requests, ike) = (sim.overlay(a).nhrp().counters().sent[1], sim.seen("ike"));
    pings(&mut sim, a, b, 6000);
    sim.run_for(minutes(1));
    let requests = sim.overlay(a).nhrp().counters().sent[1] - requests;
    let ike = sim.seen("ike") - ike;
    println!("# {requests} Resolution Requests, {ike} IKE messages in a minute");
    assert!(requests <= 15 && ike <= 60);
}

/// Deadlines do not follow the time of day.
#[test]
fn the_time_of_day_jumps_and_nothing_happens() {
    for jump in [-12i64 * 3600, -60, 60, 3600, 100 * 86_400] {
        let (mut sim, nodes, flows) = talking(&domain());
        let before: Vec<usize> = sim.nodes().map(|id| sim.notices(id).len()).collect();
        for node in [nodes.hub, nodes.spokes[0]] {
            let wall = SystemTime::UNIX_EPOCH + WALL;
            let wall = if jump < 0 {
                wall - Duration::from_secs(jump.unsigned_abs())
            } else {
                wall + Duration::from_secs(jump.unsigned_abs())
            };
            sim.set_clock(node, wall);
        }
        sim.run_for(minutes(20));
        let after: Vec<usize> = sim.nodes().map(|id| sim.notices(id).len()).collect();
        assert_eq!(before, after);
        for flow in flows {
            assert_eq!(outage(&sim, flow), Duration::ZERO);
        }
    }
}

/// A key exchange that waits for its next try has no address to begin from.
#[test]
fn a_spoke_without_an_underlay_sleeps_and_tries_again_when_there_is_one() {
    let (mut sim, nodes, _) = talking(&domain());
    let (a, b) = (nodes.spokes[0], nodes.spokes[1]);
    sim.network.cut(a, b);
    let tried = sim.run_until(minutes(3), |sim| sim.overlay(a).attempts().next().is_some());
    assert!(tried.is_some(), "the direct path is tried in vain");
    sim.run_for(secs(70));
    sim.with(a, |overlay, now, rng| overlay.set_nbma(now, None, rng));
    sim.run_for(minutes(2));
    sim.network.heal();
    let home = sim.blueprint(a).address;
    sim.move_node(a, home);
    let took = sim.run_until(minutes(5), |sim| is_direct(sim, a, b) && is_direct(sim, b, a));
    println!("# direct again after {:?}", took.expect("it becomes direct"));
}
