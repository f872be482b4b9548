//! Nodes behind address translation.

use std::net::Ipv4Addr;
use std::time::Duration;

use overlay::Notice;
use overlay::desired::Event;
use overlay_tests::sim::{Domain, INTERNET, NodeId, Nodes, RealmId, Sim, host_of};

use crate::common::*;

const PUBLIC: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const ALSO_PUBLIC: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// The address of node n behind a translator: the same behind each, as with most home routers.
fn private(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 1, u8::try_from(n).expect("there are few"))
}

/// A hub on the Internet, and spokes behind these translators (`None` = on the Internet).
fn behind(sim: &mut Sim, realms: &[Option<RealmId>]) -> Nodes {
    let domain = domain();
    let hub = sim.add(domain.node(0));
    let mut spokes = Vec::new();
    for (n, realm) in (1..).zip(realms) {
        let node = domain.node(n);
        spokes.push(match realm {
            Some(realm) => {
                let place = realms[..n].iter().filter(|other| *other == &Some(*realm)).count();
                sim.add(node.behind(*realm, private(1 + place)))
            }
            None => sim.add(node),
        });
    }
    let nodes = Nodes { hub, spokes };
    registered(sim, &nodes);
    nodes
}

fn all_reach_all(sim: &mut Sim, nodes: &Nodes) {
    for &a in &nodes.spokes {
        for &b in nodes.spokes.iter().filter(|&&b| b != a) {
            pings(sim, a, b, 300);
        }
    }
    sim.run_for(secs(5));
    assert_nothing_lost(sim);
}

fn assert_direct(sim: &Sim, a: NodeId, b: NodeId) {
    assert!(is_direct(sim, a, b) && is_direct(sim, b, a), "{a} and {b} talk directly");
}

#[test]
fn both_sides_know_where_a_spoke_behind_a_translator_is_seen() {
    let mut sim = Sim::new(1, fair());
    let home = sim.network.add_nat(INTERNET, PUBLIC.into());
    let nodes = behind(&mut sim, &[Some(home)]);
    sim.run_for(secs(1));
    let seen = sim.notices(nodes.spokes[0]).iter().any(|(_, notice)| {
        matches!(notice, Notice::SeenAs { nbma, .. } if nbma.address == PUBLIC && nbma.port != 0)
    });
    assert!(seen, "{:?}", sim.notices(nodes.spokes[0]));
    let binding = sim.overlay(nodes.hub).bindings().next().expect("it is registered");
    assert_eq!((binding.nbma.address, binding.claimed), (PUBLIC.into(), Some(private(2).into())));
}

#[test]
fn a_spoke_behind_a_translator_and_one_on_the_internet_talk_directly() {
    let mut sim = Sim::new(1, fair());
    let home = sim.network.add_nat(INTERNET, PUBLIC.into());
    let nodes = behind(&mut sim, &[Some(home), None]);
    all_reach_all(&mut sim, &nodes);
    assert_direct(&sim, nodes.spokes[0], nodes.spokes[1]);
}

/// Each of the two translators lets the other's packets in only after it has sent there itself.
/// Both have the same private address, which is no name for either.
#[test]
fn two_spokes_behind_two_translators_talk_directly() {
    for seed in 0..10 {
        let mut sim = Sim::new(seed, fair());
        let one = sim.network.add_nat(INTERNET, PUBLIC.into());
        let two = sim.network.add_nat(INTERNET, ALSO_PUBLIC.into());
        let nodes = behind(&mut sim, &[Some(one), Some(two)]);
        let (a, b) = (nodes.spokes[0], nodes.spokes[1]);
        assert_eq!(sim.blueprint(a).address, sim.blueprint(b).address);
        let flow = pings(&mut sim, a, b, 300);
        sim.run_for(secs(5));
        assert_nothing_lost(&sim);
        assert_direct(&sim, a, b);
        let took = until_direct(&sim, flow).expect("it becomes direct");
        println!("# direct after {took:?}");
        assert!(took <= secs(1), "{took:?}");
    }
}

#[test]
fn three_spokes_behind_one_translator_and_one_elsewhere() {
    let mut sim = Sim::new(1, fair());
    let home = sim.network.add_nat(INTERNET, PUBLIC.into());
    let nodes = behind(&mut sim, &[Some(home), Some(home), Some(home), None]);
    all_reach_all(&mut sim, &nodes);
    for (i, &a) in nodes.spokes.iter().enumerate() {
        for &b in &nodes.spokes[..i] {
            assert_direct(&sim, a, b);
        }
    }
}

/// A translator that does not lead packets back inside: they go on through the hub.
#[test]
fn spokes_behind_one_translator_without_hairpin_reach_each_other_through_the_hub() {
    let mut sim = Sim::new(1, fair());
    let home = sim.network.add_nat(INTERNET, PUBLIC.into());
    sim.network.nat(home).hairpin = false;
    let nodes = behind(&mut sim, &[Some(home), Some(home), None]);
    all_reach_all(&mut sim, &nodes);
    let [a, b, c] = [nodes.spokes[0], nodes.spokes[1], nodes.spokes[2]];
    assert_direct(&sim, a, c);
    assert_direct(&sim, b, c);
    pings(&mut sim, a, b, 6000);
    sim.run_for(secs(65));
    assert_nothing_lost(&sim);
}

/// Two spokes behind one translator that does not lead packets back inside. Gives the run, the spokes and the translator.
fn without_hairpin(
    holding_time: Duration,
    configure: impl Fn(&mut overlay::Config) + Copy,
) -> (Sim, [NodeId; 2], RealmId) {
    let mut sim = Sim::new(1, fair());
    let home = sim.network.add_nat(INTERNET, PUBLIC.into());
    sim.network.nat(home).hairpin = false;
    let domain = Domain { holding_time, ..domain() };
    let hub = sim.add(domain.node(0));
    let [a, b] =
        [1, 2].map(|n| sim.add(domain.node(n).behind(home, private(1 + n)).configured(configure)));
    registered(&mut sim, &Nodes { hub, spokes: vec![a, b] });
    (sim, [a, b], home)
}

/// Runs for some time, in which the kernel asks for the way to the other's LAN every second; gives
/// when the nodes began a key exchange, in seconds from now.
fn tries(sim: &mut Sim, nodes: [NodeId; 2], time: Duration) -> [Vec<u64>; 2] {
    let began = sim.elapsed();
    let mut busy = [false; 2];
    let mut tries = [Vec::new(), Vec::new()];
    while sim.elapsed() < began + time {
        for (i, &node) in nodes.iter().enumerate() {
            if (sim.elapsed() - began).subsec_millis() == 0 {
                let destination = host_of(nodes[1 - i].0);
                sim.with(node, |overlay, now, rng| {
                    overlay.handle_event(now, Event::Unroutable { destination }, rng);
                });
            }
            let now = sim.overlay(node).attempts().any(|attempt| attempt.under_way);
            if now && !std::mem::replace(&mut busy[i], now) {
                tries[i].push((sim.elapsed() - began).as_secs());
            }
            busy[i] = now;
        }
        sim.run_for(ms(100));
    }
    tries
}

/// Each is told of once. Short holding times bring a new shortcut again and again, which is no
/// reason to try at once.
#[test]
fn what_never_comes_up_is_tried_more_and_more_rarely_and_told_once() {
    for holding_time in [15, 60, 600] {
        let (mut sim, nodes, _) = without_hairpin(secs(holding_time), |_| ());
        let flow = sim.flow(nodes[0], hosts(nodes[0], nodes[1]), ms(200), u32::MAX);
        for (node, tries) in nodes.into_iter().zip(tries(&mut sim, nodes, minutes(60))) {
            println!("# holding time {holding_time} s, {node} tries after {tries:?} s");
            let pauses: Vec<u64> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
            assert!(pauses[0] <= 19 && tries.len() <= 30, "{pauses:?}");
            assert!(pauses.iter().skip(8).all(|pause| *pause >= 165), "{pauses:?}");
            let refused = count(&sim, node, |n| matches!(n, Notice::Refused(_)));
            assert_eq!(refused, 1, "{:?}", sim.notices(node));
        }
        sim.end_flow(flow);
        sim.run_for(secs(1));
        assert_nothing_lost(&sim);
    }
}

/// By either of the two, or by the word of the operator; or by itself some minutes later.
#[test]
fn what_never_came_up_is_tried_at_once_when_something_changed() {
    for (what, limit) in [("a moves", 30), ("b moves", 30), ("cleared", 30), ("nothing", 330)] {
        let (mut sim, [a, b], home) = without_hairpin(secs(600), |_| ());
        sim.flow(a, hosts(a, b), ms(200), u32::MAX);
        // Just after a try.
        sim.run_for(secs(1550));
        assert!(!is_direct(&sim, a, b));
        let elsewhere = sim.network.add_nat(INTERNET, ALSO_PUBLIC.into());
        match what {
            "a moves" => sim.move_to(a, elsewhere, private(9)),
            "b moves" => sim.move_to(b, elsewhere, private(9)),
            _ => sim.network.nat(home).hairpin = true,
        }
        for node in [a, b].into_iter().filter(|_| what == "cleared") {
            sim.with(node, |overlay, now, rng| overlay.clear_shortcuts(now, rng));
        }
        let direct = |sim: &Sim| is_direct(sim, a, b) && is_direct(sim, b, a);
        let took = sim.run_until(minutes(10), direct).expect("it becomes direct");
        println!("# {what}: direct after {took:?}");
        assert!(took <= secs(limit), "{what}: {took:?}");
        assert!(what != "nothing" || took > secs(60), "the next try was far away: {took:?}");
    }
}

/// As where nothing leads through the hub but the tunnel's own addresses.
#[test]
fn what_has_no_other_way_is_tried_as_often_as_ever() {
    let (mut sim, nodes, _) = without_hairpin(secs(600), |config| config.routes.clear());
    let tries = tries(&mut sim, nodes, minutes(30));
    for tries in tries {
        let pauses: Vec<u64> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(pauses.len() > 50 && pauses.iter().all(|pause| *pause <= 40), "{pauses:?}");
    }
}

/// A path that came up before comes back as soon as it can, however long it was away.
#[test]
fn a_path_that_was_there_before_is_tried_as_often_as_ever() {
    for seconds in [1210, 1290, 1370, 1450, 1530] {
        let (mut sim, nodes) = settled(1, 2);
        let (a, b) = (nodes.spokes[0], nodes.spokes[1]);
        sim.flow(a, hosts(a, b), ms(200), u32::MAX);
        sim.run_for(secs(5));
        assert!(is_direct(&sim, a, b));
        sim.network.cut(a, b);
        sim.run_for(secs(seconds));
        assert!(!is_direct(&sim, a, b));
        sim.network.heal();
        let direct = |sim: &Sim| is_direct(sim, a, b) && is_direct(sim, b, a);
        let took = sim.run_until(minutes(10), direct).expect("it becomes direct");
        println!("# away for {seconds} s, direct {took:?} after it healed");
        assert!(took <= secs(80), "{took:?}");
    }
}

#[test]
fn a_translator_behind_a_translator() {
    let mut sim = Sim::new(1, fair());
    let carrier = sim.network.add_nat(INTERNET, PUBLIC.into());
    let home = sim.network.add_nat(carrier, Ipv4Addr::new(100, 64, 0, 9).into());
    let nodes = behind(&mut sim, &[Some(home), None]);
    all_reach_all(&mut sim, &nodes);
    assert_direct(&sim, nodes.spokes[0], nodes.spokes[1]);
}

/// The hub's word for where such a spoke is holds for the hub only; the spoke itself has to speak
/// first.
#[test]
fn a_spoke_behind_a_symmetric_translator_talks_directly_to_one_that_can_be_reached() {
    for seed in 0..5 {
        let mut sim = Sim::new(seed, fair());
        let home = sim.network.add_nat(INTERNET, PUBLIC.into());
        sim.network.nat(home).symmetric = true;
        let nodes = behind(&mut sim, &[Some(home), None]);
        let (inside, outside) = (nodes.spokes[0], nodes.spokes[1]);
        pings(&mut sim, outside, inside, 3000);
        sim.run_for(secs(40));
        assert_nothing_lost(&sim);
        assert_direct(&sim, inside, outside);
        let attempts = sim.overlay(outside).attempts().count();
        assert_eq!(attempts, 0, "nobody knocks where nobody can be");
        // Their path breaks, and is found again.
        sim.network.cut(inside, outside);
        sim.run_for(secs(60));
        sim.network.heal();
        pings(&mut sim, outside, inside, 3000);
        sim.run_for(secs(40));
        assert_direct(&sim, inside, outside);
    }
}

/// Two of them cannot reach each other, but through the hub they can.
#[test]
fn two_spokes_behind_symmetric_translators_talk_through_the_hub() {
    let mut sim = Sim::new(1, fair());
    let one = sim.network.add_nat(INTERNET, PUBLIC.into());
    let two = sim.network.add_nat(INTERNET, ALSO_PUBLIC.into());
    sim.network.nat(one).symmetric = true;
    sim.network.nat(two).symmetric = true;
    let nodes = behind(&mut sim, &[Some(one), Some(two)]);
    let (a, b) = (nodes.spokes[0], nodes.spokes[1]);
    pings(&mut sim, a, b, 12_000);
    sim.run_for(minutes(3));
    assert_nothing_lost(&sim);
}

/// Every mapping is another one from one moment to the next.
#[test]
fn a_translator_restarts_under_traffic() {
    let mut sim = Sim::new(1, fair());
    let one = sim.network.add_nat(INTERNET, PUBLIC.into());
    let two = sim.network.add_nat(INTERNET, ALSO_PUBLIC.into());
    let nodes = behind(&mut sim, &[Some(one), Some(one), Some(two), None]);
    let [a, b, c, d] = [0, 1, 2, 3].map(|i| nodes.spokes[i]);
    let pairs = [(a, c), (b, d), (c, b), (d, a)];
    let flows = pairs.map(|(x, y)| pings(&mut sim, x, y, 12_000));
    sim.run_for(secs(5));
    sim.network.nat(one).restart();
    sim.log("the translator restarts");
    sim.run_for(secs(100));
    for (flow, (x, y)) in flows.into_iter().zip(pairs) {
        println!("# {x} to {y}: nothing arrives for {:?}", outage(&sim, flow));
        // A peer that hears nothing new waits for the next keepalive.
        assert!(outage(&sim, flow) <= secs(21));
        let since = sim.elapsed() - secs(1);
        assert!(sim.flow_fates(flow).any(|fate| fate.sent >= since && fate.direct()));
    }
    assert_eq!(sim.registrations(nodes.hub), 8);
}

/// Mappings live 30 s here; the keepalives hold them.
#[test]
fn a_quiet_spoke_stays_reachable_through_a_translator_that_forgets_soon() {
    let mut sim = Sim::new(1, fair());
    let home = sim.network.add_nat(INTERNET, PUBLIC.into());
    sim.network.nat(home).timeout = secs(30);
    let nodes = behind(&mut sim, &[Some(home), None]);
    let (inside, outside) = (nodes.spokes[0], nodes.spokes[1]);
    sim.run_for(minutes(30));
    pings(&mut sim, outside, inside, 300);
    sim.run_for(secs(5));
    assert_nothing_lost(&sim);
    assert_direct(&sim, inside, outside);
}
