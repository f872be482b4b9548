//! Who refuses whom is said on both sides, in words (RFC 7296 §2.21).

mod support;

use ike::{Algorithms, Config, Event};
use support::*;

const KEY_USAGE: &str = "certificate has key usage 0x40 (nonRepudiation); needs all of 0xa0";

/// The only failure of a node.
fn failure(node: &Node) -> (String, bool, Option<String>) {
    let mut failures = node.events.iter().filter_map(|event| match event {
        Event::Failed { reason, initiator, identity, .. } => {
            Some((reason.0.clone(), *initiator, identity.as_ref().map(ToString::to_string)))
        }
        _ => None,
    });
    let failure = failures.next().expect("a failure");
    assert!(failures.next().is_none(), "one failure");
    failure
}

#[test]
fn rfc7296_2_21_2_responder_refuses_and_both_sides_know_why() {
    let authority = Authority::new();
    let mut net = Net::new(1);
    net.add(authority.issue("a.example", KeyKind::P256));
    net.add(authority.issue("b.example", KeyKind::P256).refusing(KEY_USAGE));
    net.initiate(A, B);
    net.settle();
    let (reason, initiator, identity) = failure(&net.nodes[B]);
    assert_eq!(reason, format!("we refused the peer: {KEY_USAGE}"));
    assert_eq!((initiator, identity.as_deref()), (false, Some("a.example")));
    let (reason, initiator, _) = failure(&net.nodes[A]);
    assert_eq!(reason, format!("peer refused us: {KEY_USAGE} (AUTHENTICATION_FAILED)"));
    assert!(initiator);
    net.assert_no_sa();
    net.run(secs(30));
    assert!(net.nodes.iter().all(|node| node.engine.sas().count() == 0));
    assert_eq!(net.nodes[B].engine.half_open(), 0);
}

#[test]
fn rfc7296_2_21_2_initiator_refuses_and_tells_by_informational() {
    let authority = Authority::new();
    let mut net = Net::new(1);
    net.add(authority.issue("a.example", KeyKind::P256).refusing(KEY_USAGE));
    net.add(authority.issue("b.example", KeyKind::P256));
    net.initiate(A, B);
    net.settle();
    let (reason, _, identity) = failure(&net.nodes[A]);
    assert_eq!(reason, format!("we refused the peer: {KEY_USAGE}"));
    assert_eq!(identity.as_deref(), Some("b.example"));
    assert_eq!(
        net.nodes[B].closings(),
        [format!("peer refused us: {KEY_USAGE} (AUTHENTICATION_FAILED)")]
    );
    net.assert_no_sa();
    assert!(net.nodes.iter().all(|node| node.engine.sas().count() == 0));
}

#[test]
fn a_refusal_is_heard_also_through_loss() {
    let authority = Authority::new();
    let mut unheard = 0;
    for seed in 0..40 {
        for (a, b) in [(true, false), (false, true)] {
            let mut net = Net::new(seed);
            (net.loss, net.duplication, net.delay) = (25, 20, (ms(1), ms(300)));
            let issue = |name, refuses| {
                let credentials = authority.issue(name, KeyKind::Ed25519);
                if refuses { credentials.refusing(KEY_USAGE) } else { credentials }
            };
            net.add(issue("a.example", a));
            net.add(issue("b.example", b));
            net.initiate(A, B);
            net.run(secs(60));
            net.assert_no_sa();
            let told = |node: &Node| {
                node.failures()
                    .iter()
                    .chain(&node.closings())
                    .any(|words| words.contains(KEY_USAGE))
            };
            if !net.nodes.iter().all(told) {
                unheard += 1;
            }
        }
    }
    assert!(unheard <= 4, "{unheard} of 80");
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let authority = Authority::new();
    let mut net = Net::new(1);
    net.add(authority.issue("a.example", KeyKind::P256));
    let mut impostor = authority.issue("b.example", KeyKind::P256);
    impostor.identity.data = b"hub.example".to_vec();
    net.add(impostor);
    net.initiate(A, B);
    net.settle();
    assert!(failure(&net.nodes[A]).0.contains("certificate is for another name"));
    assert!(net.nodes[B].closings()[0].contains("certificate is for another name"));
}

#[test]
fn a_private_key_that_does_not_fit_is_said_to_be_our_own_fault() {
    let authority = Authority::new();
    for kind in [KeyKind::P256, KeyKind::P384, KeyKind::Ed25519, KeyKind::Rsa] {
        for broken in [A, B] {
            let mut net = Net::new(1);
            for (index, name) in ["a.example", "b.example"].into_iter().enumerate() {
                let mut credentials = authority.issue(name, kind);
                if index == broken {
                    credentials.private_key = authority.issue(name, kind).private_key;
                }
                net.add(credentials);
            }
            net.initiate(A, B);
            net.settle();
            let words = "own private key does not belong to own certificate";
            assert!(failure(&net.nodes[broken]).0.contains(words), "{kind:?}");
            if broken == B {
                let told = failure(&net.nodes[A]).0;
                assert!(told.contains("trouble of its own"), "{told}");
            }
            net.assert_no_sa();
        }
    }
}

#[test]
fn rfc7296_2_7_no_proposal_chosen_says_what_both_have() {
    let authority = Authority::new();
    let mut net = Net::new(1);
    net.add_with(
        authority.issue("a.example", KeyKind::P256),
        Config::default(),
        Algorithms::parse(&["aes256gcm16-sha256-x25519"]).unwrap(),
    );
    net.add_with(
        authority.issue("b.example", KeyKind::P256),
        Config::default(),
        Algorithms::parse(&["chacha20poly1305-sha256-x25519"]).unwrap(),
    );
    net.record = Some(Vec::new());
    net.initiate(A, B);
    net.settle();
    let sides = [failure(&net.nodes[A]).0, failure(&net.nodes[B]).0];
    for side in sides {
        assert!(side.contains("NO_PROPOSAL_CHOSEN") || side.contains("no common proposal"));
        assert!(side.contains("initiator has aes256gcm16-prfsha256-x25519"), "{side}");
        assert!(side.contains("responder has chacha20poly1305"), "{side}");
    }
    let sent = net.record.unwrap();
    assert!(sent[1].datagram.len() <= sent[0].datagram.len(), "no amplification");
    assert_eq!(net.nodes[B].engine.sas().count(), 0);
}

#[test]
fn no_answer_names_the_peer_and_what_was_tried() {
    let mut net = Net::pair(1);
    net.loss = 100;
    let begun = net.now;
    net.initiate(A, B);
    net.run(secs(60));
    let words = failure(&net.nodes[A]).0;
    assert!(
        words.starts_with("no answer from 192.0.2.2:4500 to IKE_SA_INIT, sent 6 times"),
        "{words}"
    );
    assert!(net.now - begun >= secs(15));
    assert_eq!(net.nodes[A].engine.sas().count(), 0);
    assert_eq!(net.nodes[A].engine.poll_timeout(), None);
}

#[test]
fn a_full_table_is_said_and_a_known_peer_may_still_come_back() {
    let authority = Authority::new();
    let mut net = Net::new(1);
    let config = Config { established: 1, ..Config::default() };
    net.add_with(authority.issue("a.example", KeyKind::P256), config, Algorithms::default());
    net.add(authority.issue("b.example", KeyKind::P256));
    net.add(authority.issue("c.example", KeyKind::P256));
    net.initiate(1, A);
    net.settle();
    net.initiate(2, A);
    net.settle();
    assert!(failure(&net.nodes[2]).0.contains("table of 1 SAs is full"));
    assert!(failure(&net.nodes[A]).0.contains("table of 1 SAs is full"));
    net.restart(1);
    net.initiate(1, A);
    net.settle();
    net.assert_one_sa();
}
