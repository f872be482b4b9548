//! IKE SAs whose IKE_AUTH made no CHILD_SA (RFC 7296 §1.2, §2.21.2; RFC 6023).

use super::{drop_notify, only_sa, rewrite_auth};
use crate::child;
use crate::limits::HALF_OPEN_LIFETIME;
use crate::support::{A, Authority, B, Net, Node, ms, secs};
use crate::tunnel::child_payloads;
use crate::wire::{self, Encrypted, Exchange, Header, Notify, NotifyType, Payload};
use crate::{Config, EspCipher, EspProposal, Event, SaState, TunnelKind};

/// A node that takes only this cipher of ESP, and whether it is one of ours.
fn with(cipher: EspCipher, extensions: bool) -> Config {
    let known = |esp: EspProposal| esp.with_ciphers(&[cipher]);
    let esp = EspProposal::defaults().into_iter().filter_map(known).collect();
    Config { esp, extensions, tunnels: vec![TunnelKind::Esp], ..Config::default() }
}

/// Two nodes without a common proposal for ESP.
fn strangers(extensions: bool) -> Net {
    let (a, b) = (EspCipher::Aes256Gcm16, EspCipher::Aes256CbcSha256);
    Net::pair_as(1, &Authority::new(), with(a, extensions), with(b, extensions))
}

/// What B answered to A's IKE_AUTH, decrypted with A's keys.
fn auth_response(net: &mut Net) -> Vec<Payload> {
    let sent = net.record.as_ref().unwrap();
    let answer = |flight: &&crate::support::Flight| {
        flight.datagram[18] == Exchange::IKE_AUTH.0 && flight.datagram[19] & 0x20 != 0
    };
    let response = sent.iter().find(answer).unwrap().datagram.clone();
    let header = Header::decode(&response).unwrap();
    let encrypted = Encrypted::decode(&header, &response).unwrap();
    let plain = only_sa(net, A).channel.as_ref().unwrap().open(&encrypted).unwrap();
    wire::decode_chain(encrypted.first, &plain).unwrap()
}

fn states(node: &Node) -> Vec<SaState> {
    node.engine.sas().map(|sa| sa.state).collect()
}

#[test]
fn rfc7296_1_2_a_refused_child_leaves_the_ike_sa_and_the_response_proves_the_responder() {
    let mut net = strangers(false);
    net.record = Some(Vec::new());
    net.initiate(A, B);
    while states(&net.nodes[B]) != [SaState::Childless] {
        net.run(ms(1));
    }
    let response = auth_response(&mut net);
    let has = |kind: fn(&Payload) -> bool| response.iter().any(kind);
    assert!(has(|p| matches!(p, Payload::IdResponder(_))), "{response:?}");
    assert!(has(|p| matches!(p, Payload::Authentication { .. })), "{response:?}");
    assert!(!has(|p| matches!(p, Payload::SecurityAssociation(_))), "{response:?}");
    let errors = response.iter().filter_map(|payload| match payload {
        Payload::Notify(notify) if notify.kind.is_error() => Some(notify.kind),
        _ => None,
    });
    assert_eq!(errors.collect::<Vec<_>>(), [NotifyType::NO_PROPOSAL_CHOSEN]);
    let told = crate::private::notify(&response, NotifyType::REASON);
    assert_eq!(told, None, "no word of ours to a foreign peer");
}

#[test]
fn rfc7296_2_21_2_both_sides_say_what_failed_and_the_initiator_ends_the_sa_in_order() {
    for ours in [true, false] {
        let mut net = strangers(ours);
        net.initiate(A, B);
        net.settle();
        net.assert_no_sa();
        let [a, b] = [A, B].map(|node| net.nodes[node].failures());
        let ([a], [b]) = (&a[..], &b[..]) else { panic!("one failure each: {a:?} {b:?}") };
        assert!(b.starts_with("we refused the peer's tunnel: no common ESP proposal: "), "{b}");
        assert!(a.starts_with("peer refused our tunnel: "), "{a}");
        assert!(a.ends_with(if ours { "(NO_PROPOSAL_CHOSEN)" } else { "saying why" }), "{a}");
        assert_eq!(ours, a.contains("responder has aes256-sha256"), "{a}");
        for (node, peer) in [(A, "b.example"), (B, "a.example")] {
            let named = |event: &Event| match event {
                Event::Failed { identity, .. } => identity.as_ref().map(ToString::to_string),
                _ => None,
            };
            let named = net.nodes[node].events.iter().find_map(named);
            assert_eq!(named.as_deref(), Some(peer));
            assert!(net.nodes[node].engine.sas().next().is_none(), "deleted on both sides");
            assert!(net.nodes[node].engine.tables_are_empty());
        }
    }
}

#[test]
fn rfc7296_2_21_2_a_grant_that_the_initiator_cannot_take_is_deleted_in_words() {
    let mut net = Net::pair_with(1, &[TunnelKind::Esp], &[TunnelKind::Esp]);
    net.initiate(A, B);
    while states(&net.nodes[A]) != [SaState::AuthSent] {
        net.run(ms(1));
    }
    net.nodes[A].engine.config.esp.truncate(1);
    net.nodes[A].engine.config.esp[0].ciphers = vec![EspCipher::Aes128Gcm16];
    net.settle();
    net.assert_no_sa();
    let told = net.nodes[A].failures();
    assert!(told[0].starts_with("we refused the peer's tunnel: responder chose"), "{told:?}");
    let told = net.nodes[B].closings();
    assert!(told[0].starts_with("peer refused our tunnel: responder chose"), "{told:?}");
    assert!(told[0].ends_with("(NO_PROPOSAL_CHOSEN)"), "{told:?}");
    assert!(net.nodes.iter().all(|node| node.engine.tables_are_empty()));
}

/// A peer that keeps an IKE SA without a CHILD_SA, as strongSwan does: A's Delete never leaves.
fn kept() -> Net {
    let mut net = strangers(false);
    net.record = Some(Vec::new());
    net.initiate(A, B);
    while states(&net.nodes[A]) != [SaState::Closing] {
        net.run(ms(1));
    }
    net.drop_in_flight(|_| true);
    let now = net.now;
    let sa = only_sa(&mut net, A);
    sa.outstanding = None;
    sa.next_request -= 1;
    sa.delete_at = Some(now + secs(3600));
    net
}

/// A asks for a CHILD_SA with this cipher.
fn ask(net: &mut Net, cipher: EspCipher) -> Vec<Payload> {
    let spi = 0x1234_5678;
    let esp: Vec<_> = with(cipher, false)
        .esp
        .into_iter()
        .map(|e| EspProposal { groups: vec![None], ..e })
        .collect();
    let [a, b] = [A, B].map(|node| child::gre(net.nodes[node].address.ip()));
    let mut payloads = child_payloads(child::proposals(&esp, spi), a, b);
    payloads.push(Payload::Nonce(vec![7; 32]));
    let (first, chain) = wire::encode_chain(&payloads);
    super::ask(net, Exchange::CREATE_CHILD_SA, first, &chain)
}

#[test]
fn rfc7296_1_3_1_a_childless_sa_takes_its_first_child_by_create_child_sa() {
    let mut net = kept();
    assert_eq!(states(&net.nodes[B]), [SaState::Childless]);
    assert_eq!(net.nodes[B].engine.half_open(), 1);
    let refused = ask(&mut net, EspCipher::Aes256Gcm16);
    assert_eq!(refused, [Payload::Notify(Notify::new(NotifyType::NO_PROPOSAL_CHOSEN, []))]);
    assert_eq!(states(&net.nodes[B]), [SaState::Childless]);
    assert!(net.nodes[B].up.is_empty());
    let granted = ask(&mut net, EspCipher::Aes256CbcSha256);
    assert!(granted.iter().any(|p| matches!(p, Payload::SecurityAssociation(_))), "{granted:?}");
    assert_eq!(states(&net.nodes[B]), [SaState::Established]);
    assert_eq!(net.nodes[B].engine.half_open(), 0);
    assert_eq!(net.nodes[B].tunnel().kind(), TunnelKind::Esp);
    net.run(secs(1));
    assert_eq!(net.nodes[B].confirmed.len(), 1);
    assert_eq!(net.nodes[B].established()[0].children.len(), 1);
}

#[test]
fn a_childless_sa_counts_as_half_open_and_is_deleted_when_its_time_is_over() {
    let mut net = kept();
    net.nodes[A].address.set_port(4501);
    net.record = Some(Vec::new());
    net.run(HALF_OPEN_LIFETIME);
    assert_eq!(states(&net.nodes[B]), [SaState::Closing]);
    assert_eq!(net.nodes[B].engine.half_open(), 0);
    assert_eq!(net.record.as_ref().unwrap().last().unwrap().datagram[18], 37, "INFORMATIONAL");
    net.run(secs(30));
    assert!(net.nodes[B].engine.sas().next().is_none());
    assert!(net.nodes[B].closings().is_empty(), "nobody above has heard of it");
    assert!(net.nodes[B].engine.tables_are_empty());
}

#[test]
fn a_node_without_esp_takes_no_child_on_a_childless_sa_either() {
    let mut net = kept();
    let engine = &mut net.nodes[B].engine;
    engine.config.tunnels = vec![TunnelKind::WireGuard];
    let refused = ask(&mut net, EspCipher::Aes256CbcSha256);
    assert_eq!(refused, [Payload::Notify(Notify::new(NotifyType::NO_PROPOSAL_CHOSEN, []))]);
    assert_eq!(states(&net.nodes[B]), [SaState::Childless]);
}

#[test]
fn rfc6023_a_peer_that_asks_for_no_tunnel_is_told_no_error() {
    let net = rewrite_auth(drop_notify(NotifyType::WIREGUARD));
    assert!(net.nodes[B].failures().is_empty(), "{:?}", net.nodes[B].failures());
    assert!(net.nodes[B].closings().is_empty(), "it was never up");
    let told = net.nodes[A].failures();
    assert!(told[0].ends_with("responder grants no tunnel that we asked for"), "{told:?}");
    assert!(net.nodes.iter().all(|node| node.engine.tables_are_empty()));
}

#[test]
fn a_childless_sa_disturbs_no_other_of_its_peer() {
    let mut net = Net::pair_with(1, &[TunnelKind::Esp], &[TunnelKind::Esp]);
    net.initiate(A, B);
    net.settle();
    net.assert_one_sa();
    let spi = net.nodes[B].established()[0].responder_spi;
    net.nodes[A].engine.config.esp.truncate(1);
    net.nodes[A].engine.config.esp[0].ciphers = vec![EspCipher::Aes128CbcSha256];
    net.nodes[B].engine.config.esp.truncate(1);
    net.initiate(A, B);
    net.run(secs(5));
    assert_eq!(net.nodes[B].established()[0].responder_spi, spi);
    net.assert_one_sa();
}
