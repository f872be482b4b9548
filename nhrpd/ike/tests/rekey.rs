//! New keys for an SA, also where both sides make some. The rule stands in `ike::rekey`.

mod support;

use ike::{Algorithms, Config, Event};
use rand_core::Rng;
use support::*;

fn up(seed: u64, authority: &Authority) -> Net {
    let mut net = Net::pair_of(seed, authority);
    net.initiate(A, B);
    net.settle();
    net.run(secs(1));
    net.assert_one_sa();
    net
}

fn spis(net: &Net) -> (u64, u64) {
    let sa = &net.nodes[A].established()[0];
    (sa.initiator_spi, sa.responder_spi)
}

fn assert_nothing_left(net: &Net) {
    for node in &net.nodes {
        assert_eq!(node.engine.sas().count(), 1, "{:?}", node.engine);
    }
}

#[test]
fn rfc7296_1_3_2_either_side_rekeys_and_both_use_the_successor() {
    let authority = Authority::new();
    for first in [A, B] {
        let mut net = up(1, &authority);
        net.record = Some(Vec::new());
        let (old, keys) = (spis(&net), net.nodes[A].up.values().next().unwrap().clone());
        net.rekey(first);
        net.settle();
        net.assert_one_sa();
        assert_nothing_left(&net);
        let sa = &net.nodes[first].established()[0];
        assert!(sa.initiator, "who rekeys is the initiator of the successor");
        assert_eq!(sa.identity.as_ref().unwrap().data.len(), 9);
        assert!(old.0 != spis(&net).0 && old.1 != spis(&net).1);
        assert_ne!(&keys, net.nodes[A].up.values().next().unwrap());
        assert_eq!(net.record.as_ref().unwrap().len(), 4, "one exchange, and the deletion");
        for node in &net.nodes {
            let [
                ..,
                Event::Established { certificates, initial_contact, .. },
                Event::Closed { .. },
            ] = &node.events[..]
            else {
                panic!("{:?}", node.events)
            };
            assert_eq!((certificates.len(), *initial_contact), (1, false));
        }
        // And that one lives like any other.
        net.run(secs(60));
        net.rekey(1 - first);
        net.settle();
        net.assert_one_sa();
        let id = net.nodes[A].established()[0].id;
        net.close(A, id);
        net.run(secs(1));
        net.assert_no_sa();
    }
}

#[test]
fn rekeying_by_age_does_not_end_and_seldom_crosses() {
    let authority = Authority::new();
    let mut net = Net::new(1);
    let config = Config { rekey_interval: secs(3600), ..Config::default() };
    for name in ["a.example", "b.example"] {
        let credentials = authority.issue(name, KeyKind::Ed25519);
        net.add_with(credentials, config.clone(), Algorithms::default());
    }
    net.initiate(A, B);
    net.settle();
    net.run(secs(2879));
    assert_eq!(net.nodes[A].events.len(), 1, "not before four fifths");
    net.run(secs(24 * 3600 - 2879));
    net.assert_one_sa();
    let closings = net.nodes[A].closings();
    assert!((24..=30).contains(&closings.len()), "{}", closings.len());
    assert!(closings.iter().all(|words| words.starts_with("rekeyed")));
    let sa = &net.nodes[A].established()[0];
    assert!(sa.rekey_at.unwrap() <= sa.begun + secs(3600));
}

#[derive(Clone, Copy, Debug)]
struct Weather {
    loss: u32,
    duplication: u32,
    longest_delay: u64,
    spread: u64,
}

/// Both sides rekey, again and again. Gives how often a side had to give up an SA.
fn cross(authority: &Authority, seed: u64, weather: Weather) -> usize {
    let mut net = up(seed, authority);
    (net.loss, net.duplication) = (weather.loss, weather.duplication);
    net.delay = (ms(1), ms(weather.longest_delay));
    for _ in 0..8 {
        let (first, second) = if net.rng.next_u32() & 1 == 0 { (A, B) } else { (B, A) };
        net.rekey(first);
        let later = net.rng.next_u64() % (weather.spread + 1);
        net.run(ms(later));
        net.rekey(second);
        let pause = net.rng.next_u64() % 4000;
        net.run(ms(pause));
        for node in [A, B] {
            // As an overlay does.
            if net.nodes[node].up.is_empty() {
                net.initiate(node, 1 - node);
            }
        }
    }
    net.run(secs(20));
    (net.loss, net.duplication) = (0, 0);
    net.run(secs(30));
    if net.nodes[A].up.is_empty() {
        net.initiate(A, B);
    }
    net.run(secs(60));
    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        net.assert_one_sa();
        assert_nothing_left(&net);
    }));
    assert!(checked.is_ok(), "seed {seed}, {weather:?}");
    let gave_up = |words: &String| !words.starts_with("rekeyed");
    let closings = net.nodes.iter().flat_map(Node::closings).filter(gave_up);
    closings.count()
}

fn cross_often(seeds: std::ops::Range<u64>, weather: Weather) -> usize {
    let authority = Authority::new();
    seeds.map(|seed| cross(&authority, seed, weather)).sum()
}

#[test]
fn rfc7296_2_8_2_both_at_the_same_moment() {
    let weather = Weather { loss: 0, duplication: 0, longest_delay: 50, spread: 0 };
    assert_eq!(cross_often(0..60, weather), 0);
}

#[test]
fn rfc7296_2_8_2_both_at_about_the_same_moment() {
    let weather = Weather { loss: 0, duplication: 0, longest_delay: 100, spread: 250 };
    assert_eq!(cross_often(0..100, weather), 0);
}

#[test]
fn rfc7296_2_8_2_with_reordering_and_duplication() {
    let weather = Weather { loss: 0, duplication: 30, longest_delay: 900, spread: 1500 };
    assert_eq!(cross_often(0..100, weather), 0);
}

#[test]
fn rfc7296_2_8_2_with_loss() {
    let weather = Weather { loss: 25, duplication: 10, longest_delay: 300, spread: 600 };
    let gave_up = cross_often(0..150, weather);
    assert!(gave_up < 150, "{gave_up}");
}

#[test]
fn closing_while_rekeying_leaves_nothing_on_either_side() {
    let authority = Authority::new();
    for seed in 0..100 {
        let mut net = up(seed, &authority);
        net.delay = (ms(1), ms(100));
        net.rekey(A);
        if seed % 2 == 0 {
            net.rekey(B);
        }
        let later = net.rng.next_u64() % 200;
        net.run(ms(later));
        let id = net.nodes[A].established()[0].id;
        net.close(A, id);
        net.run(secs(40));
        net.assert_no_sa();
        for node in &net.nodes {
            assert_eq!(node.engine.sas().count(), 0, "seed {seed}: {:?}", node.engine);
        }
    }
}

#[test]
fn a_move_while_rekeying_is_not_forgotten() {
    let authority = Authority::new();
    for seed in 0..50 {
        let mut net = up(seed, &authority);
        net.delay = (ms(1), ms(100));
        let first = if seed % 2 == 0 { A } else { B };
        net.rekey(first);
        let later = net.rng.next_u64() % 150;
        net.run(ms(later));
        net.nodes[A].address = address("203.0.113.7:4500");
        net.update_addresses(A);
        net.run(secs(40));
        net.assert_one_sa();
        assert_eq!(net.nodes[B].established()[0].remote, net.nodes[A].address, "seed {seed}");
    }
}

#[test]
fn replaying_a_rekeying_changes_nothing() {
    let mut net = up(1, &Authority::new());
    net.record = Some(Vec::new());
    net.rekey(A);
    net.run(secs(2));
    net.rekey(B);
    net.run(secs(2));
    let sent = net.record.take().unwrap();
    let before = spis(&net);
    for flight in sent {
        for node in [A, B] {
            net.inject(node, flight.from, &flight.datagram);
        }
    }
    net.run(secs(30));
    net.assert_one_sa();
    assert_eq!(spis(&net), before);
}
