//! Who proves what, and how: pre-shared keys, and signatures for older peers.

mod support;

use ike::{Event, Identity};
use support::*;

const KEY: &str = "a text that nobody guesses, at least not soon";
const OTHER: &str = "another text that nobody guesses, either";

fn net(a: Credentials, b: Credentials) -> Net {
    let mut net = Net::new(1);
    net.add(a);
    net.add(b);
    net
}

fn shared(identity: &str, peer: &str, key: &str) -> Credentials {
    Credentials::shared(identity, &format!("{peer} {key}"))
}

fn methods(net: &Net) -> [(&'static str, &'static str); 2] {
    [A, B].map(|node| {
        let sa = &net.nodes[node].established()[0];
        (sa.own_auth.expect("we proved it"), sa.peer_auth.expect("it proved it"))
    })
}

#[test]
fn rfc7296_2_15_a_pre_shared_key_brings_up_an_sa_with_every_kind_of_identity() {
    for (a, b) in [
        ("a.example", "b.example"),
        ("192.0.2.1", "192.0.2.2"),
        ("2001:db8::1", "me@b.example"),
        ("keyid:spoke-7", "keyid:0x00ff"),
    ] {
        let mut net = net(shared(a, b, KEY), shared(b, a, KEY));
        net.initiate(A, B);
        net.settle();
        net.assert_one_sa();
        assert_eq!(methods(&net), [("pre-shared key", "pre-shared key"); 2]);
        let proven = |node: usize| net.nodes[node].established()[0].identity.clone().unwrap();
        assert!(proven(A).is(&b.parse::<Identity>().unwrap()));
        assert!(proven(B).is(&a.parse::<Identity>().unwrap()));
        let Some(Event::Established { certificates, .. }) = net.nodes[A].events.first() else {
            panic!()
        };
        assert!(certificates.is_empty());
        net.run(secs(1));
        net.rekey(B);
        net.settle();
        net.assert_one_sa();
        assert_eq!(methods(&net), [("pre-shared key", "pre-shared key"); 2], "inherited");
    }
}

#[test]
fn pre_shared_keys_under_loss_repetition_and_reordering() {
    for seed in 0..30 {
        let mut net = Net::new(seed);
        net.add(Credentials::shared("a.example", &format!("* {KEY}")));
        net.add(Credentials::shared("b.example", &format!("* {KEY}")));
        (net.loss, net.duplication, net.delay) = (20, 20, (ms(1), ms(400)));
        net.initiate(A, B);
        net.initiate(B, A);
        net.run(secs(30));
        (net.loss, net.duplication, net.delay) = (0, 0, (ms(10), ms(10)));
        if net.nodes.iter().all(|node| node.up.is_empty()) {
            net.initiate(A, B);
        }
        net.run(secs(60));
        net.assert_one_sa();
    }
}

#[test]
fn another_key_no_key_and_the_key_of_somebody_else_are_refused_with_the_same_words() {
    let words = "no pre-shared key is configured for a.example, or it is another there";
    for keys in [
        format!("a.example {OTHER}"),
        format!("c.example {KEY}"),
        // A name with a key of its own is not served by that for everybody.
        format!("a.example {OTHER}\n* {KEY}"),
    ] {
        let mut net = net(shared("a.example", "*", KEY), Credentials::shared("b.example", &keys));
        net.initiate(A, B);
        net.settle();
        net.assert_no_sa();
        assert!(net.nodes[A].failures()[0].contains(words), "{:?}", net.nodes[A].failures());
        assert!(net.nodes[B].failures()[0].contains(words));
    }
}

#[test]
fn the_responder_has_to_know_the_key_too() {
    // B takes A's key, but A knows B under another one.
    let keys = format!("192.0.2.9 {KEY}\nb.example {OTHER}\n* {KEY}");
    let mut net = net(Credentials::shared("a.example", &keys), shared("b.example", "*", KEY));
    net.initiate(A, B);
    net.settle();
    net.assert_no_sa();
    assert!(net.nodes[A].failures()[0].contains("configured for b.example"));
    assert!(net.nodes[B].closings()[0].contains("refused us"));
}

#[test]
fn who_has_both_is_reached_with_either() {
    let authority = Authority::new();
    let hub = || authority.issue("b.example", KeyKind::Ed25519).with_keys(&format!("* {KEY}"));
    let mut by_key = net(shared("a.example", "*", KEY), hub());
    by_key.initiate(A, B);
    by_key.settle();
    by_key.assert_one_sa();
    assert_eq!(methods(&by_key), [("pre-shared key", "pre-shared key"); 2]);
    let mut by_certificate = net(authority.issue("a.example", KeyKind::P256), hub());
    by_certificate.initiate(A, B);
    by_certificate.settle();
    by_certificate.assert_one_sa();
    let (a, b) = ("ECDSA P-256 with SHA2-256", "Ed25519");
    assert_eq!(methods(&by_certificate), [(a, b), (b, a)]);
}

#[test]
fn a_certificate_does_not_serve_a_node_that_has_keys_only() {
    let authority = Authority::new();
    let mut net =
        net(authority.issue("a.example", KeyKind::Ed25519), shared("b.example", "c.example", KEY));
    net.initiate(A, B);
    net.settle();
    net.assert_no_sa();
    let words = &net.nodes[B].failures()[0];
    assert!(words.contains("no certificate, and no key that we share"), "{words}");
}
