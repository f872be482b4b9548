//! CHILD_SAs in IKE_AUTH: which kind of tunnel two nodes agree on, and ESP with its keys.

mod support;

use ike::TunnelKind::{Esp, WireGuard};
use ike::{Algorithms, Config, EspCipher, EspProposal, KeyLog, TunnelKeys, TunnelKind};
use support::*;

/// As any other implementation of IKEv2 is.
fn foreign(kinds: &[TunnelKind]) -> Config {
    Config { extensions: false, ..speaking(kinds) }
}

fn speaking(kinds: &[TunnelKind]) -> Config {
    Config { tunnels: kinds.to_vec(), ..Config::default() }
}

fn exchange(a: Config, b: Config) -> Net {
    let mut net = Net::pair_as(1, &Authority::new(), a, b);
    net.initiate(A, B);
    net.settle();
    net
}

fn esp(node: &Node) -> ike::Esp {
    match node.tunnel() {
        TunnelKeys::Esp(esp) => esp,
        TunnelKeys::WireGuard(_) => panic!("WireGuard"),
    }
}

#[test]
fn two_of_our_nodes_agree_on_what_the_responder_prefers_and_both_can() {
    let all: [&[TunnelKind]; 4] = [&[Esp], &[WireGuard], &[Esp, WireGuard], &[WireGuard, Esp]];
    for a in all {
        for b in all {
            let net = exchange(speaking(a), speaking(b));
            match b.iter().find(|kind| a.contains(kind)) {
                Some(&kind) => {
                    net.assert_one_sa();
                    assert_eq!(net.nodes[A].tunnel().kind(), kind, "{a:?} {b:?}");
                }
                None => {
                    net.assert_no_sa();
                    let words = format!("initiator can do {}; responder can do {}", a[0], b[0]);
                    for node in &net.nodes {
                        let [told] = &node.failures()[..] else { panic!("{:?}", node.events) };
                        assert!(told.contains(&words), "{told}");
                    }
                }
            }
        }
    }
}

#[test]
fn with_others_it_is_esp_and_who_cannot_says_so() {
    let both = [WireGuard, Esp];
    for net in [
        exchange(foreign(&[Esp]), speaking(&both)),
        exchange(speaking(&both), foreign(&[Esp])),
        exchange(foreign(&both), foreign(&both)),
    ] {
        net.assert_one_sa();
        assert_eq!(net.nodes[A].tunnel().kind(), Esp);
    }
    let net = exchange(speaking(&[WireGuard]), foreign(&[Esp]));
    net.assert_no_sa();
    let [told] = &net.nodes[A].failures()[..] else { panic!("one failure") };
    assert!(told.contains("it can only do ESP, and this node can only do WireGuard"), "{told}");
    let net = exchange(foreign(&[Esp]), speaking(&[WireGuard]));
    net.assert_no_sa();
    let [told] = &net.nodes[A].failures()[..] else { panic!("one failure") };
    assert!(told.contains("NO_PROPOSAL_CHOSEN"), "{told}");
    let [told] = &net.nodes[B].failures()[..] else { panic!("one failure") };
    assert!(told.contains("initiator can do ESP; responder can do WireGuard"), "{told}");
}

/// Who answered sends with the new SAs when the other is known to have them, however busy it is.
#[test]
fn our_own_nodes_say_when_traffic_may_come_and_others_have_a_second() {
    for (a, says) in [(speaking(&[Esp]), true), (foreign(&[Esp]), false)] {
        let mut net = Net::pair_as(1, &Authority::new(), a, speaking(&[Esp]));
        net.initiate(A, B);
        while net.nodes[A].up.is_empty() {
            net.run(ms(5));
        }
        net.drop_in_flight(|_| true);
        net.loss = 100;
        net.run(secs(2));
        assert_eq!(net.nodes[B].confirmed.is_empty(), says);
        net.loss = 0;
        net.run(secs(2));
        assert!(!net.nodes[B].confirmed.is_empty());
        net.assert_one_sa();
    }
}

#[test]
fn every_cipher_has_keys_of_its_length_and_the_first_common_one_is_taken() {
    let with = |ciphers: &[EspCipher]| {
        let known = |esp: EspProposal| esp.with_ciphers(ciphers);
        let esp = EspProposal::defaults().into_iter().filter_map(known).collect();
        Config { esp, ..speaking(&[Esp]) }
    };
    for cipher in EspCipher::ALL {
        for a in [with(&[cipher]), with(&EspCipher::ALL)] {
            let net = exchange(a, with(&[cipher]));
            net.assert_one_sa();
            assert_eq!(esp(&net.nodes[A]).cipher, cipher);
            assert!(esp(&net.nodes[A]).esn);
        }
    }
    let gcm = with(&[EspCipher::Aes256Gcm16]);
    let net = exchange(gcm, with(&[EspCipher::Aes256CbcSha256]));
    for node in &net.nodes {
        let told = node.failures().concat();
        assert!(told.contains("initiator has aes256gcm16-esn-noesn"), "{told}");
        assert!(told.contains("responder has aes256-sha256-esn-noesn"), "{told}");
    }
}

#[test]
fn keys_are_told_where_that_is_asked_for_and_only_there() {
    let lines = |node: &Node| {
        let (mut ike, mut esp) = (Vec::new(), Vec::new());
        for line in &node.key_log {
            match line {
                KeyLog::Ike(line) => ike.push(line.to_string()),
                KeyLog::Esp(line) => esp.push(line.to_string()),
            }
        }
        esp.sort();
        (ike, esp)
    };
    let logging = || Config { key_log: true, ..speaking(&[Esp]) };
    let mut net = exchange(logging(), logging());
    net.rekey_child(A);
    net.run(secs(5));
    let (ike, told) = lines(&net.nodes[A]);
    assert_eq!((&ike, &told), (&lines(&net.nodes[B]).0, &lines(&net.nodes[B]).1));
    // IKE_SA_INIT, and IKE_INTERMEDIATE with ML-KEM; two pairs of ESP SAs.
    assert_eq!((ike.len(), told.len()), (2, 4));
    let fields: Vec<&str> = ike[1].trim_end().split(',').collect();
    assert_eq!(fields.iter().map(|field| field.len()).collect::<Vec<_>>()[..4], [16, 16, 72, 72]);
    assert_eq!(
        fields[4..],
        ["\"AES-GCM-256 with 16 octet ICV [RFC5282]\"", "", "", "\"NONE [RFC4306]\""]
    );
    let keys = esp(&net.nodes[A]);
    let hex = |key: &[u8]| key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    for keys in [&keys.inbound, &keys.outbound] {
        let line = format!(
            "\"IPv4\",\"*\",\"*\",\"0x{:08x}\",\"AES-GCM with 16 octet ICV [RFC4106]\",\"0x{}\",\
             \"NULL\",\"\"\n",
            keys.spi,
            hex(&keys.encryption)
        );
        assert!(told.contains(&line), "{line} in {told:?}");
    }
    let shown = format!("{:?}", net.nodes[A].key_log);
    assert!(!shown.contains(fields[2]), "{shown}");
    let net = exchange(logging(), speaking(&[Esp]));
    assert!(net.nodes[B].key_log.is_empty());
    let net = exchange(Config { key_log: true, ..speaking(&[WireGuard]) }, speaking(&[WireGuard]));
    assert!(lines(&net.nodes[A]).1.is_empty());
}

#[test]
fn the_responder_sends_when_it_knows_that_the_initiator_is_ready() {
    for (b, ready) in [(speaking(&[Esp]), 50), (foreign(&[Esp]), 1030)] {
        let (mut net, authority) = (Net::new(1), Authority::new());
        for (name, config) in [("a.example", speaking(&[Esp])), ("b.example", b)] {
            // No ML-KEM: two round trips until the initiator knows.
            let algorithms = Algorithms::parse(&["aes256gcm16-sha256-x25519"]).unwrap();
            net.add_with(authority.issue(name, KeyKind::Ed25519), config, algorithms);
        }
        net.initiate(A, B);
        net.run(ms(40));
        assert_eq!((net.nodes[A].confirmed.len(), net.nodes[B].confirmed.len()), (1, 0));
        net.run(ms(ready - 41));
        assert_eq!(net.nodes[B].confirmed.len(), 0);
        net.run(ms(1));
        assert_eq!(net.nodes[B].confirmed.len(), 1);
    }
}

#[test]
fn the_end_of_an_ike_sa_is_the_end_of_its_child() {
    for closer in [A, B] {
        let mut net = exchange(speaking(&[Esp]), speaking(&[Esp]));
        let sa = net.nodes[closer].established()[0].id;
        net.close(closer, sa);
        net.settle();
        net.assert_no_sa();
        assert!(net.nodes.iter().all(|node| node.engine.sas().count() == 0));
    }
}

#[test]
fn a_rekeyed_ike_sa_keeps_its_child() {
    for first in [A, B] {
        let mut net = exchange(speaking(&[Esp]), speaking(&[Esp]));
        net.run(secs(2));
        let (before, keys) = (net.nodes[A].established()[0].initiator_spi, esp(&net.nodes[A]));
        net.rekey(first);
        net.run(secs(2));
        net.assert_one_sa();
        assert_ne!(net.nodes[A].established()[0].initiator_spi, before);
        assert_eq!(esp(&net.nodes[A]), keys);
        assert!(net.nodes.iter().all(|node| node.closings().is_empty()));
        let sa = net.nodes[A].established()[0].id;
        net.close(A, sa);
        net.settle();
        net.assert_no_sa();
    }
}
