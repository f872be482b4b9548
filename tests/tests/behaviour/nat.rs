//! Nodes behind address translation.

use std::net::Ipv4Addr;

use overlay::Notice;
use overlay_tests::sim::{INTERNET, NodeId, Nodes, RealmId, Sim};

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
