//! New keys for CHILD_SAs, also where both sides make some, beside new keys for the IKE SA. The
//! rules stand in `ike::child_rekey`.

mod support;

use ike::{Config, EspCipher, EspProposal, Event, Group, TunnelKeys, TunnelKind};
use rand_core::Rng;
use support::*;

fn esp() -> Config {
    Config { tunnels: vec![TunnelKind::Esp], ..Config::default() }
}

fn up(seed: u64, authority: &Authority, a: Config, b: Config) -> Net {
    let mut net = Net::pair_as(seed, authority, a, b);
    net.initiate(A, B);
    net.settle();
    net.run(secs(2));
    net.assert_one_sa();
    net
}

fn spis(node: &Node) -> (u32, u32) {
    match node.tunnel() {
        TunnelKeys::Esp(esp) => (esp.inbound.spi, esp.outbound.spi),
        TunnelKeys::WireGuard(_) => panic!("WireGuard"),
    }
}

#[test]
fn rfc7296_1_3_3_either_side_rekeys_with_and_without_perfect_forward_secrecy() {
    let authority = Authority::new();
    let groups: [&[Option<&'static Group>]; 5] = [
        &[],
        &[None],
        &[Some(&ike::ECP_256)],
        &[Some(&ike::X25519), Some(&ike::ECP_256)],
        &[None, Some(&ike::ECP_256)],
    ];
    for a in groups {
        for b in groups {
            for first in [A, B] {
                let with = |pfs: &[Option<&'static Group>]| {
                    let mut config = esp();
                    for proposal in config.esp.iter_mut().filter(|_| !pfs.is_empty()) {
                        proposal.groups = pfs.to_vec();
                    }
                    config
                };
                let mut net = up(1, &authority, with(a), with(b));
                net.record = Some(Vec::new());
                let before = spis(&net.nodes[A]);
                net.rekey_child(first);
                net.run(secs(5));
                let common = |group: &Option<&'static Group>| {
                    let id = |group: &Option<&'static Group>| group.map(|group| group.id);
                    let all = |side: &[Option<&'static Group>]| {
                        let any = [Some(31), Some(19), None];
                        let own: Vec<_> = side.iter().map(id).collect();
                        if own.is_empty() { any.to_vec() } else { own }
                    };
                    all(a).contains(&id(group)) && all(b).contains(&id(group))
                };
                let any = [Some(&ike::X25519), Some(&ike::ECP_256), None];
                net.assert_one_sa();
                if any.iter().any(common) {
                    assert_ne!(spis(&net.nodes[A]), before, "{a:?} {b:?} {first}");
                } else {
                    assert_eq!(spis(&net.nodes[A]), before, "{a:?} {b:?} {first}");
                }
            }
        }
    }
}

#[test]
fn each_proposal_is_taken_as_a_whole() {
    let authority = Authority::new();
    let with = |proposals: &[&str]| {
        let parse = |text: &&str| EspProposal::parse(text).unwrap();
        Config { esp: proposals.iter().map(parse).collect(), ..esp() }
    };
    let ours = ["aes256gcm16-x25519-none", "aes128gcm16-ecp384-none"];
    for (theirs, cipher, group) in [
        ("aes128gcm16-x25519-ecp384", EspCipher::Aes128Gcm16, Some("ecp384")),
        ("aes256gcm16-ecp384-x25519", EspCipher::Aes256Gcm16, Some("x25519")),
        ("aes256gcm16-aes128gcm16-ecp384", EspCipher::Aes128Gcm16, Some("ecp384")),
        ("aes128gcm16-noesn", EspCipher::Aes128Gcm16, None),
    ] {
        for first in [A, B] {
            let mut net = up(1, &authority, with(&ours), with(&[theirs]));
            net.rekey_child(first);
            net.run(secs(5));
            net.assert_one_sa();
            let info = net.nodes[B].engine.sas().flat_map(|sa| sa.children).next().unwrap();
            assert_eq!((info.cipher, info.group), (cipher, group), "{theirs} {first}");
            assert_eq!(info.esn, !theirs.ends_with("noesn"));
        }
    }
}

/// libreswan 4.10 answers INVALID_SYNTAX where INVALID_KE_PAYLOAD would be due.
#[test]
fn the_first_key_exchange_is_that_of_the_ike_sa() {
    let authority = Authority::new();
    let mut b = esp();
    b.esp.iter_mut().for_each(|proposal| proposal.groups = vec![Some(&ike::ECP_256)]);
    let mut net = Net::new(1);
    for (name, config) in [("a.example", esp()), ("b.example", b)] {
        let algorithms = ike::Algorithms::parse(&["aes256gcm16-prfsha256-ecp256"]).unwrap();
        net.add_with(authority.issue(name, KeyKind::Ed25519), config, algorithms);
    }
    net.initiate(A, B);
    net.settle();
    net.assert_one_sa();
    let requests = |net: &Net| net.nodes[A].engine.sas().map(|sa| sa.counters.requests_sent).sum();
    let before: u64 = requests(&net);
    net.rekey_child(A);
    net.run(secs(5));
    assert_eq!(requests(&net) - before, 2, "new keys, and the end of the former");
}

#[test]
fn make_before_break() {
    let mut net = up(1, &Authority::new(), esp(), esp());
    let old = [A, B].map(|node| net.nodes[node].newest.unwrap());
    let told = |node: &Node| -> Vec<&'static str> {
        let name = |event: &Event| match event {
            Event::Keyed { .. } => "keyed",
            Event::Confirmed { .. } => "confirmed",
            Event::Unkeyed { .. } => "unkeyed",
            _ => "other",
        };
        node.events.iter().skip(2).map(name).collect()
    };
    net.rekey_child(A);
    net.run(ms(15));
    assert_eq!(told(&net.nodes[B]), ["keyed"], "it is there, and not used");
    assert!(told(&net.nodes[A]).is_empty());
    net.run(ms(10));
    assert_eq!(told(&net.nodes[A]), ["keyed", "confirmed"]);
    net.run(ms(10));
    assert_eq!(told(&net.nodes[B]), ["keyed", "unkeyed", "confirmed"]);
    net.run(secs(5));
    assert_eq!(told(&net.nodes[A]), ["keyed", "confirmed", "unkeyed"]);
    net.assert_one_sa();
    assert!([A, B].iter().all(|&node| net.nodes[node].newest != Some(old[node])));
}

#[test]
fn who_answered_waits_for_the_deletion_of_the_old_one() {
    let foreign = || Config { extensions: false, ..esp() };
    for config in [esp, foreign] {
        let mut net = up(1, &Authority::new(), config(), esp());
        let old = [A, B].map(|node| net.nodes[node].newest);
        net.rekey_child(A);
        while net.nodes[A].newest == old[A] {
            net.run(ms(5));
        }
        net.drop_in_flight(|_| true);
        net.loss = 100;
        net.run(secs(2));
        assert_eq!(net.nodes[B].newest, old[B]);
        net.loss = 0;
        net.run(secs(2));
        assert_ne!(net.nodes[B].newest, old[B]);
        net.assert_one_sa();
    }
}

#[test]
fn rekeying_by_age_does_not_end() {
    let config = || Config { rekey_interval: secs(3600), ..esp() };
    let mut net = up(1, &Authority::new(), config(), config());
    net.run(secs(24 * 3600));
    net.assert_one_sa();
    for node in &net.nodes {
        let count = |fits: fn(&Event) -> bool| node.events.iter().filter(|e| fits(e)).count();
        let keyed = count(|event| matches!(event, Event::Keyed { .. }));
        let succeeded = count(|event| matches!(event, Event::Succeeded { .. }));
        assert!((24..=32).contains(&keyed), "{keyed}");
        assert!((24..=32).contains(&succeeded), "{succeeded}");
        assert!(node.closings().is_empty());
    }
}

#[derive(Clone, Copy, Debug)]
struct Weather {
    loss: u32,
    duplication: u32,
    longest_delay: u64,
    spread: u64,
    /// Of 100 rekeyings so many are of the IKE SA.
    ike: u64,
}

/// Both sides rekey, again and again. Gives how often a side lost its only tunnel.
fn cross(authority: &Authority, seed: u64, weather: Weather) -> usize {
    let mut net = up(seed, authority, esp(), esp());
    (net.loss, net.duplication) = (weather.loss, weather.duplication);
    net.delay = (ms(1), ms(weather.longest_delay));
    let rekey = |net: &mut Net, node| {
        if net.rng.next_u64() % 100 < weather.ike { net.rekey(node) } else { net.rekey_child(node) }
    };
    for _ in 0..8 {
        let (first, second) = if net.rng.next_u32() & 1 == 0 { (A, B) } else { (B, A) };
        rekey(&mut net, first);
        let later = net.rng.next_u64() % (weather.spread + 1);
        net.run(ms(later));
        rekey(&mut net, second);
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
        for node in &net.nodes {
            assert_eq!(node.engine.sas().count(), 1, "{:?}", node.engine);
            let only = node.up.values().flat_map(|tunnels| tunnels.keys()).next();
            assert_eq!(node.newest.as_ref(), only, "what is sent with is what is left");
        }
    }));
    assert!(checked.is_ok(), "seed {seed}, {weather:?}");
    net.nodes.iter().map(|node| node.closings().len()).sum()
}

fn cross_often(seeds: std::ops::Range<u64>, weather: Weather) -> usize {
    let authority = Authority::new();
    seeds.map(|seed| cross(&authority, seed, weather)).sum()
}

const CALM: Weather = Weather { loss: 0, duplication: 0, longest_delay: 50, spread: 0, ike: 0 };

#[test]
fn rfc7296_2_8_1_both_at_the_same_moment() {
    assert_eq!(cross_often(0..60, CALM), 0);
}

#[test]
fn rfc7296_2_8_1_both_at_about_the_same_moment() {
    assert_eq!(cross_often(0..100, Weather { longest_delay: 100, spread: 250, ..CALM }), 0);
}

#[test]
fn rfc7296_2_8_1_with_reordering_and_duplication() {
    let weather = Weather { duplication: 30, longest_delay: 900, spread: 1500, ..CALM };
    assert_eq!(cross_often(0..100, weather), 0);
}

#[test]
fn rfc7296_2_8_1_with_loss() {
    let weather = Weather { loss: 25, duplication: 10, longest_delay: 300, spread: 600, ..CALM };
    let gave_up = cross_often(0..100, weather);
    assert!(gave_up < 100, "{gave_up}");
}

#[test]
fn rfc7296_2_25_beside_new_keys_for_the_ike_sa() {
    let calm = Weather { longest_delay: 100, spread: 250, ike: 50, ..CALM };
    assert_eq!(cross_often(0..100, calm), 0);
    let weather = Weather { duplication: 30, longest_delay: 900, spread: 1500, ike: 50, ..CALM };
    assert_eq!(cross_often(0..60, weather), 0);
    let loss = Weather { loss: 25, duplication: 10, longest_delay: 300, spread: 600, ike: 50 };
    let gave_up = cross_often(0..60, loss);
    assert!(gave_up < 60, "{gave_up}");
}

#[test]
fn replaying_a_rekeying_changes_nothing() {
    let mut net = up(1, &Authority::new(), esp(), esp());
    net.record = Some(Vec::new());
    net.rekey_child(A);
    net.run(secs(2));
    net.rekey_child(B);
    net.run(secs(2));
    let before = spis(&net.nodes[A]);
    for flight in net.record.take().unwrap() {
        for node in [A, B] {
            net.inject(node, flight.from, &flight.datagram);
        }
    }
    net.run(secs(30));
    net.assert_one_sa();
    assert_eq!(spis(&net.nodes[A]), before);
}
