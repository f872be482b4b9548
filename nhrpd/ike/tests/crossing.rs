//! Both sides begin at once, or anew, and end with one SA. The rule stands in `ike::crossing`.

mod support;

use ike::{Config, DropReason, Event, TunnelKind};
use rand_core::Rng;
use support::*;

#[derive(Clone, Copy, Debug)]
struct Weather {
    loss: u32,
    duplication: u32,
    longest_delay: u64,
    /// How long the second side may begin after the first.
    spread: u64,
    nat: bool,
}

/// Both sides begin. Gives false if all transmissions of every attempt were lost.
fn cross(authority: &Authority, seed: u64, weather: Weather) -> bool {
    let mut net = Net::pair_of(seed, authority);
    if weather.nat {
        net.nodes[B].mapped = Some(address("198.51.100.9:40000"));
    }
    (net.loss, net.duplication) = (weather.loss, weather.duplication);
    net.delay = (ms(1), ms(weather.longest_delay));
    let (first, second) = if net.rng.next_u32() & 1 == 0 { (A, B) } else { (B, A) };
    net.initiate(first, second);
    let later = net.rng.next_u64() % (weather.spread + 1);
    net.run(ms(later));
    // As an overlay does: nobody begins an SA that is up already.
    if net.nodes[second].established().is_empty() {
        net.initiate(second, first);
    }
    net.run(secs(20));
    (net.loss, net.duplication) = (0, 0);
    net.run(secs(60));
    let unanswered = |node: &Node| {
        node.failures().iter().chain(&node.closings()).any(|words| words.contains("no answer"))
    };
    if net.nodes.iter().all(|node| node.up.is_empty()) && net.nodes.iter().any(unanswered) {
        return false;
    }
    let context = format!("seed {seed}, {weather:?}");
    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| net.assert_one_sa()));
    assert!(checked.is_ok(), "{context}");
    for node in &net.nodes {
        assert_eq!(node.engine.sas().count(), 1, "leftovers: {context}");
        if weather.loss == 0 {
            let trouble = |event: &Event| matches!(event, Event::Failed { superseded: false, .. });
            assert!(!node.events.iter().any(trouble), "{context}: {:?}", node.failures());
        }
    }
    true
}

fn cross_often(seeds: std::ops::Range<u64>, weather: Weather) {
    let authority = Authority::new();
    let total = seeds.end - seeds.start;
    let unlucky = seeds.filter(|seed| !cross(&authority, *seed, weather)).count() as u64;
    assert!(unlucky * 50 <= total, "{unlucky} of {total} did not come up at all");
    if weather.loss == 0 {
        assert_eq!(unlucky, 0);
    }
}

const CALM: Weather = Weather { loss: 0, duplication: 0, longest_delay: 50, spread: 0, nat: false };

#[test]
fn crossing_at_the_same_moment() {
    cross_often(0..100, CALM);
}

#[test]
fn crossing_at_any_moment_of_the_handshake() {
    cross_often(0..200, Weather { spread: 250, longest_delay: 100, ..CALM });
}

#[test]
fn crossing_with_reordering_and_duplication() {
    let weather = Weather { spread: 300, longest_delay: 900, duplication: 30, ..CALM };
    cross_often(0..150, weather);
}

#[test]
fn crossing_with_loss() {
    let weather = Weather { spread: 600, longest_delay: 300, duplication: 10, loss: 25, ..CALM };
    cross_often(0..200, weather);
}

#[test]
fn crossing_behind_nat_that_hides_which_addresses_belong_together() {
    cross_often(0..100, Weather { nat: true, ..CALM });
    cross_often(100..250, Weather { nat: true, spread: 250, longest_delay: 100, ..CALM });
    let weather = Weather { nat: true, spread: 600, longest_delay: 500, duplication: 20, loss: 20 };
    cross_often(250..400, weather);
}

#[test]
fn crossing_without_delay_variation_leaves_one_handshake_to_finish() {
    for seed in 0..20 {
        let mut net = Net::pair(seed);
        net.record = Some(Vec::new());
        net.initiate(A, B);
        net.initiate(B, A);
        net.settle();
        net.assert_one_sa();
        // Two IKE_SA_INIT requests, and of one SA the rest; ML-KEM's key takes two fragments.
        assert_eq!(net.record.as_ref().unwrap().len(), 8);
        let crossing: u64 = net.nodes.iter().map(|node| node.drops(DropReason::Crossing)).sum();
        assert_eq!(crossing, 1);
        let failures: Vec<_> = net.nodes.iter().flat_map(|node| &node.events).collect();
        let superseded = |event: &&&Event| matches!(event, Event::Failed { superseded: true, .. });
        assert_eq!(failures.iter().filter(superseded).count(), 1);
    }
}

#[test]
fn the_survivor_is_announced_before_the_other_is_closed() {
    let authority = Authority::new();
    let mut both_up = 0;
    for seed in 0..60 {
        let mut net = Net::pair_of(seed, &authority);
        net.nodes[B].mapped = Some(address("198.51.100.9:40000"));
        net.initiate(A, B);
        net.initiate(B, A);
        net.run(secs(30));
        net.assert_one_sa();
        for node in &net.nodes {
            let mut up = 0;
            for event in &node.events {
                match event {
                    Event::Established { .. } => up += 1,
                    Event::Closed { .. } => {
                        assert_eq!(up, 2, "closed while nothing else was up: seed {seed}");
                        both_up += 1;
                        up -= 1;
                    }
                    _ => {}
                }
            }
        }
    }
    assert!(both_up > 10, "the case that this is about: {both_up}");
}

#[test]
fn rfc7296_2_4_a_restarted_peer_replaces_what_it_forgot() {
    for initiator in [A, B] {
        let mut net = Net::pair(1);
        net.initiate(A, B);
        net.settle();
        let old = net.nodes[B].established()[0].id;
        net.restart(A);
        // The restarted node connects, or the other one does because its tunnel is silent.
        net.initiate(initiator, 1 - initiator);
        net.settle();
        net.assert_one_sa();
        assert!(!net.nodes[B].up.contains_key(&old));
        assert!(net.nodes[B].closings()[0].starts_with("replaced by"));
        net.run(secs(30));
        assert_eq!(net.nodes[B].engine.sas().count(), 1, "nothing lingers");
    }
}

#[test]
fn a_restart_in_the_middle_of_a_handshake_ends_in_one_sa() {
    let authority = Authority::new();
    for seed in 0..60 {
        let mut net = Net::pair_of(seed, &authority);
        net.delay = (ms(1), ms(60));
        net.initiate(A, B);
        let moment = net.rng.next_u64() % 150;
        net.run(ms(moment));
        net.restart(A);
        net.initiate(A, B);
        net.run(secs(40));
        net.assert_one_sa();
    }
}

#[test]
fn who_lost_an_sa_and_begins_anew_is_not_taken_for_a_crossing() {
    let authority = Authority::new();
    for seed in 0..40 {
        for (first, again) in [(A, A), (A, B), (B, A)] {
            let mut net = Net::pair_of(seed, &authority);
            net.initiate(first, 1 - first);
            net.settle();
            let old = net.nodes[again].established()[0].id;
            // The Delete is lost, and so the other side still believes in the old one.
            net.loss = 100;
            net.close(again, old);
            net.loss = 0;
            net.initiate(again, 1 - again);
            net.run(secs(2));
            net.assert_one_sa();
            net.run(secs(60));
            net.assert_one_sa();
            for node in &net.nodes {
                assert_eq!(node.engine.sas().count(), 1);
            }
        }
    }
}

#[test]
fn an_sa_begun_anew_replaces_the_old_one_before_it_goes() {
    let mut net = Net::pair(1);
    let old = net.initiate(A, B);
    net.settle();
    let new = net.initiate(A, B);
    net.settle();
    net.assert_one_sa();
    assert!(net.nodes[A].up.contains_key(&new) && !net.nodes[A].up.contains_key(&old));
    let last = net.nodes[B].events.last().unwrap();
    assert!(matches!(last, Event::Closed { reason, .. } if reason.starts_with("replaced")));
}

#[test]
fn three_nodes_cross_in_pairs_without_disturbing_each_other() {
    let authority = Authority::new();
    for seed in 0..20 {
        let mut net = Net::new(seed);
        net.delay = (ms(1), ms(80));
        for name in ["a.example", "b.example", "c.example"] {
            net.add(authority.issue(name, KeyKind::Ed25519));
        }
        for (from, to) in [(0, 1), (1, 0), (1, 2), (2, 1), (2, 0), (0, 2)] {
            net.initiate(from, to);
        }
        net.run(secs(30));
        for (index, node) in net.nodes.iter().enumerate() {
            let mut peers: Vec<_> = node
                .established()
                .iter()
                .map(|sa| sa.identity.as_ref().unwrap().to_string())
                .collect();
            peers.sort();
            let others: Vec<_> = ["a.example", "b.example", "c.example"]
                .into_iter()
                .enumerate()
                .filter(|(other, _)| *other != index)
                .map(|(_, name)| name)
                .collect();
            assert_eq!(peers, others, "node {index}, seed {seed}");
        }
    }
}

#[test]
fn a_node_that_meets_itself_says_so() {
    let mut net = Net::pair(1);
    let own = net.nodes[A].address;
    net.initiate_to(A, own);
    net.run(secs(30));
    net.assert_no_sa();
    assert!(net.nodes[A].failures().iter().all(|words| words.contains("this is ourselves")));
    assert_eq!(net.nodes[A].failures().len(), 2);
}

#[test]
fn who_answers_another_one_does_not_delete_the_old_sa_that_it_still_sends_with() {
    let esp = vec![TunnelKind::Esp];
    let foreign = || Config { extensions: false, tunnels: esp.clone(), ..Config::default() };
    let mut net = Net::pair_as(1, &Authority::new(), foreign(), foreign());
    net.initiate(A, B);
    net.run(secs(3));
    net.record = Some(Vec::new());
    net.initiate(B, A);
    net.run(ms(500));
    assert_eq!(net.nodes[A].up.len(), 1);
    assert_eq!(net.nodes[A].confirmed.len(), 1, "A sends with the old keys");
    let from = net.nodes[A].address;
    let informational = |flight: &&Flight| {
        flight.from == from && flight.datagram[18] == 37 && flight.datagram[19] & 0x20 == 0
    };
    assert_eq!(net.record.as_ref().unwrap().iter().filter(informational).count(), 0);
    net.run(secs(2));
    assert_eq!(net.nodes[A].confirmed.len(), 2);
    net.run(secs(2));
    net.assert_one_sa();
    assert!(net.nodes.iter().all(|node| node.engine.sas().count() == 1));
}
