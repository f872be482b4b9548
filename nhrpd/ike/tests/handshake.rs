//! IKE_SA_INIT and IKE_AUTH, both roles, every algorithm and certificate (RFC 7296 §1.2).

mod support;

use ike::{Algorithms, Config, Event, TunnelKeys, TunnelKind};
use support::*;

fn established(node: &Node) -> (&Event, &ike::Identity, &[Vec<u8>], bool, bool) {
    node.events
        .iter()
        .find_map(|event| match event {
            Event::Established { identity, certificates, initiator, initial_contact, .. } => {
                Some((event, identity, &certificates[..], *initiator, *initial_contact))
            }
            _ => None,
        })
        .expect("an established SA")
}

fn proposals(list: &[&str]) -> Algorithms {
    Algorithms::parse(list).expect("good proposals")
}

/// Two nodes with these proposals.
fn pair_with(a: &[&str], b: &[&str]) -> Net {
    let authority = Authority::new();
    let mut net = Net::new(1);
    for (name, list) in [("a.example", a), ("b.example", b)] {
        let credentials = authority.issue(name, KeyKind::Ed25519);
        net.add_with(credentials, Config::default(), proposals(list));
    }
    net
}

const HYBRID: &str = "aes256gcm16-prfsha256-x25519-ke1_mlkem768";
const PLAIN: &str = "aes256gcm16-prfsha256-x25519";

#[test]
fn rfc9370_ml_kem_takes_a_round_trip_more_and_a_peer_without_it_is_served_without() {
    let both = &[HYBRID, PLAIN][..];
    for (a, b, suite, messages) in
        [(both, both, HYBRID, 7), (both, &[PLAIN][..], PLAIN, 4), (&[PLAIN][..], both, PLAIN, 4)]
    {
        let mut net = pair_with(a, b);
        net.record = Some(Vec::new());
        net.initiate(A, B);
        net.settle();
        net.assert_one_sa();
        assert_eq!(net.nodes[A].established()[0].suite.as_deref(), Some(suite));
        let sent = net.record.take().unwrap();
        assert_eq!(sent.len(), messages);
        net.rekey(A);
        net.settle();
        net.assert_one_sa();
        assert_eq!(net.nodes[A].established()[0].suite.as_deref(), Some(suite));
    }
}

#[test]
fn a_repeated_intermediate_is_answered_though_the_keys_have_changed() {
    let mut net = Net::pair(1);
    net.record = Some(Vec::new());
    net.initiate(A, B);
    net.run(ms(35));
    let sent = net.record.clone().unwrap();
    let [_, _, first, second, answer] = &sent[..] else { panic!("{}", sent.len()) };
    for fragment in [first, second] {
        assert_eq!((fragment.datagram[16], fragment.datagram[18]), (53, 43));
        net.inject(B, fragment.from, &fragment.datagram);
    }
    let again = &net.record.as_ref().unwrap()[sent.len()..];
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].datagram, answer.datagram);
    net.settle();
    net.assert_one_sa();
}

#[test]
fn rfc7296_1_2_two_round_trips_bring_up_an_sa() {
    let mut net = pair_with(&[PLAIN], &[PLAIN]);
    net.record = Some(Vec::new());
    net.initiate(A, B);
    let begun = net.now;
    net.settle();
    assert_eq!(net.now - begun, ms(40), "two round trips");
    assert_eq!(net.record.as_ref().unwrap().len(), 4);
    net.assert_one_sa();
    let (_, identity, chain, initiator, initial_contact) = established(&net.nodes[A]);
    assert_eq!(identity.to_string(), "b.example");
    assert_eq!(chain, net.nodes[B].credentials.chain);
    assert!(initiator && initial_contact);
    let (_, identity, chain, initiator, initial_contact) = established(&net.nodes[B]);
    assert_eq!(identity.to_string(), "a.example");
    assert_eq!(chain, net.nodes[A].credentials.chain);
    assert!(!initiator && initial_contact);
}

#[test]
fn every_encryption_integrity_hash_and_group() {
    for suite in [
        "aes256gcm16-prfsha256-x25519",
        "aes256gcm16-prfsha384-ecp384",
        "aes128gcm16-prfsha256-ecp256",
        "chacha20poly1305-prfsha512-x25519",
        "aes256-sha256-modp2048",
        "aes128-sha384-ecp256",
        "aes256-sha512-prfsha256-ecp384",
        "aes128-sha256-x25519-ke1_mlkem768",
    ] {
        let mut net = pair_with(&[suite], &[suite]);
        net.initiate(A, B);
        net.settle();
        net.assert_one_sa();
        net.run(secs(1));
        net.rekey(B);
        net.settle();
        net.assert_one_sa();
        assert_eq!(net.nodes[A].established()[0].suite.as_deref(), Some(suite));
    }
}

#[test]
fn rfc7427_every_kind_of_key_signs_and_is_verified() {
    let authority = Authority::new();
    let kinds = [KeyKind::P256, KeyKind::P384, KeyKind::Ed25519, KeyKind::Rsa];
    for (a, b) in kinds.into_iter().zip(kinds.into_iter().cycle().skip(1)) {
        let mut net = Net::new(1);
        net.add(authority.issue("a.example", a));
        net.add(authority.issue("b.example", b));
        net.initiate(A, B);
        net.settle();
        assert_eq!(net.nodes[A].failures(), Vec::<String>::new(), "{a:?} and {b:?}");
        net.assert_one_sa();
    }
}

#[test]
fn rfc7296_3_6_intermediates_come_as_further_certificates() {
    let authority = Authority::new();
    let (below, far_below) = (authority.intermediate(), authority.intermediate().intermediate());
    let mut net = Net::new(1);
    net.add(below.issue("a.example", KeyKind::P256));
    net.add(far_below.issue("b.example", KeyKind::P256));
    net.initiate(A, B);
    net.settle();
    net.assert_one_sa();
    assert_eq!(established(&net.nodes[A]).2.len(), 3);
    assert_eq!(established(&net.nodes[B]).2.len(), 2);
}

#[test]
fn rfc7296_1_2_invalid_ke_payload_leads_to_the_other_group() {
    let authority = Authority::new();
    let mut net = Net::new(1);
    net.add(authority.issue("a.example", KeyKind::Ed25519));
    net.add_with(
        authority.issue("b.example", KeyKind::Ed25519),
        Config::default(),
        proposals(&["aes256gcm16-sha256-ecp256"]),
    );
    net.record = Some(Vec::new());
    net.initiate(A, B);
    net.settle();
    net.assert_one_sa();
    assert!(net.nodes[A].established()[0].suite.as_ref().unwrap().ends_with("ecp256"));
    let sent = net.record.unwrap();
    assert_eq!(sent.len(), 6);
    assert_eq!(sent[0].datagram[..8], sent[2].datagram[..8], "the same SPI again");
    assert!(sent[1].datagram.len() <= sent[0].datagram.len());
}

#[test]
fn rfc7296_1_2_invalid_ke_payload_cannot_send_us_in_circles() {
    let authority = Authority::new();
    let mut net = Net::new(1);
    net.add(authority.issue("a.example", KeyKind::Ed25519));
    let responder = net.add_with(
        authority.issue("b.example", KeyKind::Ed25519),
        Config::default(),
        proposals(&["aes256gcm16-sha256-ecp256"]),
    );
    net.record = Some(Vec::new());
    net.duplication = 100;
    net.initiate(A, B);
    net.settle();
    net.assert_one_sa();
    let begun = net
        .record
        .unwrap()
        .iter()
        .filter(|f| f.datagram[18] == 34 && f.to == net.nodes[responder].address)
        .count();
    assert_eq!(begun, 2, "one IKE_SA_INIT for each group, whatever was repeated");
}

#[test]
fn every_sa_has_keys_of_its_own() {
    let mut net = Net::pair(1);
    let wireguard = |net: &Net| match net.nodes[A].tunnel() {
        TunnelKeys::WireGuard(keys) => keys,
        TunnelKeys::Esp(_) => panic!("ESP"),
    };
    net.initiate(A, B);
    net.settle();
    let keys = wireguard(&net);
    net.initiate(A, B);
    net.settle();
    let other = wireguard(&net);
    assert_ne!(keys.private_key, other.private_key);
    assert_ne!(keys.peer_public_key, other.peer_public_key);
    assert_ne!(keys.preshared_key, other.preshared_key);
}

#[test]
fn secrets_are_not_in_debug_output() {
    for (kind, shown) in [(TunnelKind::WireGuard, "WireGuardKeys(…)"), (TunnelKind::Esp, "SPI")] {
        let mut net = Net::pair_with(1, &[kind], &[kind]);
        net.initiate(A, B);
        net.settle();
        let keys = net.nodes[A].tunnel();
        let text = format!("{:?} {:?} {:?}", net.nodes[A].engine, net.nodes[A].events, keys);
        for secret in secrets(&keys) {
            let secret: String = format!("{:?}", &secret[..4]);
            assert!(!text.contains(secret.trim_matches(['[', ']'])), "{text}");
        }
        assert!(text.contains(shown), "{text}");
    }
}

#[test]
fn handshake_survives_loss_duplication_and_reordering() {
    let authority = Authority::new();
    for seed in 0..100 {
        let mut net = Net::pair_of(seed, &authority);
        (net.loss, net.duplication, net.delay) = (20, 20, (ms(1), ms(700)));
        net.initiate(A, B);
        net.run(secs(25));
        net.loss = 0;
        let failed = net.nodes[A].failures();
        if failed.is_empty() {
            net.assert_one_sa();
        } else {
            // Six transmissions can all be lost; then it is said, and both sides end up clean.
            assert!(failed[0].contains("no answer"), "seed {seed}: {failed:?}");
            net.run(secs(60));
            net.assert_no_sa();
        }
    }
}

#[test]
fn rfc7296_2_4_initial_contact_is_said_by_who_knows_of_no_other_sa_and_by_nobody_else() {
    let said = |net: &Net| {
        let mut said = net.nodes[B].events.iter().filter_map(|event| match event {
            Event::Established { initial_contact, .. } => Some(*initial_contact),
            _ => None,
        });
        said.next_back().expect("an SA")
    };
    let mut net = Net::pair(1);
    net.initiate(A, B);
    net.settle();
    assert!(said(&net), "at first");
    net.initiate(A, B);
    net.settle();
    assert!(!said(&net), "beside another one");
    net.restart(A);
    net.initiate(A, B);
    net.settle();
    assert!(said(&net), "after a restart");
    net.assert_one_sa();
}
