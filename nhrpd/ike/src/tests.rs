//! Messages that no honest node sends, which need the keys of an SA to make.

mod childless;
mod garbled;
mod notifies;

use std::net::SocketAddr;

use crate::sa::{Sa, State};
use crate::support::{A, B, Net, address, ms, secs};
use crate::wire::{self, Encrypted, Exchange, Header, Notify, NotifyType, Payload};
use crate::{DropReason, Event, SaId};

fn up() -> Net {
    let mut net = Net::pair(1);
    net.initiate(A, B);
    net.settle();
    net.assert_one_sa();
    net.record = Some(Vec::new());
    net
}

fn only_sa(net: &mut Net, node: usize) -> &mut Sa {
    net.nodes[node].engine.sas.values_mut().next().unwrap()
}

/// Sends a request with a hand-made chain from A, and gives B's answer.
fn ask(net: &mut Net, exchange: Exchange, first: u8, chain: &[u8]) -> Vec<Payload> {
    let sa = only_sa(net, A);
    let header = sa.header(exchange, false, sa.next_request);
    sa.next_request += 1;
    let datagram = sa.channel.as_mut().unwrap().seal_chain(header, first, chain.to_vec());
    let from = net.nodes[A].address;
    let already = net.record.as_ref().unwrap().len();
    net.inject(B, from, &datagram);
    let answer = net.record.as_ref().unwrap()[already].datagram.clone();
    let header = Header::decode(&answer).unwrap();
    let encrypted = Encrypted::decode(&header, &answer).unwrap();
    let plain = only_sa(net, A).channel.as_ref().unwrap().open(&encrypted).unwrap();
    wire::decode_chain(encrypted.first, &plain).unwrap()
}

fn notify(kind: NotifyType, data: &[u8]) -> Vec<Payload> {
    vec![Payload::Notify(Notify::new(kind, data))]
}

#[test]
fn rfc7296_2_5_unknown_critical_payload_in_an_sa_is_refused_by_type_and_the_sa_stays() {
    let mut net = up();
    let answer = ask(&mut net, Exchange::INFORMATIONAL, 201, &[0, 0x80, 0, 5, 1]);
    assert_eq!(answer, notify(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, &[201]));
    assert_eq!(ask(&mut net, Exchange::INFORMATIONAL, 201, &[0, 0, 0, 5, 1]), []);
    net.assert_one_sa();
}

#[test]
fn rfc7296_2_21_3_invalid_syntax_ends_the_sa() {
    let mut net = up();
    let answer = ask(&mut net, Exchange::INFORMATIONAL, 41, &[0, 0, 0, 200, 1]);
    assert_eq!(answer, notify(NotifyType::INVALID_SYNTAX, &[]));
    net.run(secs(20));
    net.assert_no_sa();
    assert!(net.nodes[B].closings()[0].contains("cannot read"));
    assert_eq!(net.nodes[A].closings(), ["deleted by the peer"]);
}

#[test]
fn rfc7296_1_3_create_child_sa_is_refused() {
    let mut net = up();
    let answer = ask(&mut net, Exchange::CREATE_CHILD_SA, 0, &[]);
    assert_eq!(answer, notify(NotifyType::NO_ADDITIONAL_SAS, &[]));
    net.assert_one_sa();
}

#[test]
fn rfc7296_1_4_1_delete_of_another_protocol_does_not_end_the_ike_sa() {
    let mut net = up();
    // Delete: ESP, one SPI of four bytes.
    let chain = [0, 0, 0, 12, 3, 4, 0, 1, 9, 9, 9, 9];
    assert_eq!(ask(&mut net, Exchange::INFORMATIONAL, 42, &chain), []);
    net.assert_one_sa();
}

#[test]
fn rfc7296_2_3_message_ids_beyond_the_window_are_dropped() {
    let mut net = up();
    let sa = only_sa(&mut net, A);
    let header = sa.header(Exchange::INFORMATIONAL, false, sa.next_request + 1);
    let datagram = sa.channel.as_mut().unwrap().seal(header, &[]);
    let from = net.nodes[A].address;
    net.inject(B, from, &datagram);
    assert_eq!(net.nodes[B].drops(DropReason::OutOfWindow), 1);
    assert!(net.record.as_ref().unwrap().is_empty());
}

#[test]
fn a_response_nobody_asked_for_is_dropped() {
    let mut net = up();
    let sa = only_sa(&mut net, A);
    let header = sa.header(Exchange::INFORMATIONAL, true, 7);
    let datagram = sa.channel.as_mut().unwrap().seal(header, &[]);
    let from = net.nodes[A].address;
    net.inject(B, from, &datagram);
    assert_eq!(net.nodes[B].drops(DropReason::Replayed), 1);
}

/// Runs until the responder is half-open and changes what it remembers.
fn tamper(change: impl Fn(&mut crate::sa::Handshake)) -> Net {
    let mut net = Net::pair(1);
    net.initiate(A, B);
    net.run(ms(35));
    let State::HalfOpen(handshake) = &mut only_sa(&mut net, B).state else { panic!() };
    change(handshake);
    net.settle();
    net
}

#[test]
fn rfc7296_2_15_auth_covers_init_message_nonce_identity_and_intermediate() {
    let changes: [fn(&mut crate::sa::Handshake); 5] = [
        |handshake| handshake.int_auth.as_mut().unwrap().initiator[0] ^= 1,
        |handshake| handshake.int_auth.as_mut().unwrap().responder[0] ^= 1,
        |handshake| *handshake.init_request.last_mut().unwrap() ^= 1,
        |handshake| handshake.responder_nonce[0] ^= 1,
        |handshake| handshake.sk_pi[0] ^= 1,
    ];
    for change in changes {
        let net = tamper(change);
        net.assert_no_sa();
        let words = "signature was not made with the certificate's key";
        assert!(net.nodes[A].failures()[0].contains(words));
        assert!(net.nodes[B].failures()[0].contains(words));
    }
    tamper(|_| {}).assert_one_sa();
}

#[test]
fn rfc7296_2_15_auth_of_the_responder_is_checked_too() {
    let net = tamper(|handshake| *handshake.init_response.last_mut().unwrap() ^= 1);
    net.assert_no_sa();
    assert!(net.nodes[A].failures()[0].starts_with("we refused the peer: signature"));
    assert!(net.nodes[B].closings()[0].starts_with("peer refused us: signature"));
}

/// Replaces A's IKE_AUTH by one with `change` applied to its payloads, and gives the net after.
fn rewrite_auth(change: impl Fn(&mut Vec<Payload>)) -> Net {
    let mut net = Net::pair(1);
    net.record = Some(Vec::new());
    net.initiate(A, B);
    net.run(ms(45));
    let sent = net.record.as_ref().unwrap();
    let request = sent.iter().find(|flight| flight.datagram[18] == Exchange::IKE_AUTH.0);
    let request = request.unwrap().datagram.clone();
    let header = Header::decode(&request).unwrap();
    assert_eq!(header.exchange, Exchange::IKE_AUTH);
    let encrypted = Encrypted::decode(&header, &request).unwrap();
    let plain = only_sa(&mut net, B).channel.as_ref().unwrap().open(&encrypted).unwrap();
    let mut payloads = wire::decode_chain(encrypted.first, &plain).unwrap();
    change(&mut payloads);
    let sa = only_sa(&mut net, A);
    let datagram = sa.channel.as_mut().unwrap().seal(header, &payloads);
    let from = net.nodes[A].address;
    net.inject(B, from, &datagram);
    net.settle();
    net
}

fn drop_notify(kind: NotifyType) -> impl Fn(&mut Vec<Payload>) {
    move |payloads| {
        payloads.retain(|payload| !matches!(payload, Payload::Notify(n) if n.kind == kind));
    }
}

#[test]
fn a_wireguard_key_of_low_order_is_refused() {
    let net = rewrite_auth(|payloads| {
        for payload in payloads {
            if let Payload::Notify(notify) = payload
                && notify.kind == NotifyType::WIREGUARD
            {
                notify.data[1..].fill(0);
            }
        }
    });
    assert!(net.nodes[B].failures()[0].contains("WireGuard key is not valid"));
}

#[test]
fn rfc7296_2_15_missing_or_foreign_proofs_are_named() {
    let without = |kind: fn(&Payload) -> bool| {
        move |payloads: &mut Vec<Payload>| payloads.retain(|payload| !kind(payload))
    };
    let cases = [
        (rewrite_auth(without(|p| matches!(p, Payload::IdInitiator(_)))), "names no identity"),
        (rewrite_auth(without(|p| matches!(p, Payload::Certificate { .. }))), "no certificate"),
        (rewrite_auth(without(|p| matches!(p, Payload::Authentication { .. }))), "sends no AUTH"),
        (
            rewrite_auth(|payloads| {
                for payload in payloads {
                    if let Payload::Authentication { method, .. } = payload {
                        *method = 3;
                    }
                }
            }),
            "authenticates with method 3",
        ),
    ];
    for (net, words) in cases {
        net.assert_no_sa();
        assert!(net.nodes[B].failures()[0].contains(words), "{:?}", net.nodes[B].failures());
        assert!(net.nodes[A].failures()[0].contains(words));
    }
}

#[test]
fn a_peer_without_lineage_is_taken_as_the_newest() {
    rewrite_auth(drop_notify(NotifyType::LINEAGE)).assert_one_sa();
}

#[test]
fn rfc7296_2_21_2_garbage_inside_ike_auth_is_answered_and_ends_it() {
    let mut net = Net::pair(1);
    net.initiate(A, B);
    net.run(ms(45));
    let sa = only_sa(&mut net, A);
    let header = sa.header(Exchange::IKE_AUTH, false, 2);
    let datagram = sa.channel.as_mut().unwrap().seal_chain(header, 35, vec![1, 2, 3]);
    let from = net.nodes[A].address;
    net.inject(B, from, &datagram);
    net.settle();
    assert!(net.nodes[A].failures()[0].contains("INVALID_SYNTAX"));
    assert!(net.nodes[B].failures()[0].contains("cut short"));
}

/// A responder's answer that is forged: `change` sees the bytes of B's IKE_SA_INIT response.
fn forge_init_response(change: impl Fn(&mut Vec<u8>) -> SocketAddr) -> Net {
    let mut net = Net::pair(1);
    net.record = Some(Vec::new());
    net.initiate(A, B);
    net.run(ms(15));
    let mut response = net.record.as_ref().unwrap()[1].datagram.clone();
    let from = change(&mut response);
    net.inject(A, from, &response);
    net.run(secs(20));
    net
}

#[test]
fn an_init_response_from_elsewhere_or_with_another_spi_is_ignored() {
    forge_init_response(|_| address("198.51.100.1:4500")).assert_one_sa();
    let net = forge_init_response(|response| {
        response[3] ^= 1;
        address("192.0.2.2:4500")
    });
    net.assert_one_sa();
    assert_eq!(net.nodes[A].drops(DropReason::UnknownSpi), 1);
}

#[test]
fn rfc7296_3_1_a_response_in_the_role_of_the_initiator_is_ignored() {
    let net = forge_init_response(|response| {
        let (initiator, responder) = response[..16].split_at_mut(8);
        initiator.swap_with_slice(responder);
        response[19] |= 0x08;
        // A refusal would end the attempt.
        response.truncate(28);
        response.extend([0, 0, 0, 8, 0, 0, 0, 14]);
        response[16] = 41;
        response[24..28].copy_from_slice(&36u32.to_be_bytes());
        address("192.0.2.2:4500")
    });
    net.assert_one_sa();
    assert_eq!(net.nodes[A].drops(DropReason::UnknownSpi), 1);
}

#[test]
fn a_responder_that_is_no_nhrpd_is_named_early() {
    let net = forge_init_response(|response| {
        let vendor = response.windows(5).position(|w| w == b"nhrpd").unwrap();
        response[vendor] ^= 1;
        address("192.0.2.2:4500")
    });
    assert!(net.nodes[A].failures()[0].contains("it can only do ESP"));
}

#[test]
fn tables_are_empty_when_everything_is_over() {
    let mut net = up();
    let id = net.nodes[A].established()[0].id;
    net.close(A, id);
    net.initiate(B, A);
    net.run(secs(5));
    let id = net.nodes[B].established()[0].id;
    net.close(B, id);
    net.run(secs(60));
    for node in &net.nodes {
        let text = format!("{:?}", node.engine);
        assert!(node.engine.sas.is_empty() && node.engine.established.is_empty(), "{text}");
        assert!(node.engine.tables_are_empty(), "{text}");
    }
    let ids = |event: &Event| match event {
        Event::Established { sa, .. } => Some(*sa),
        _ => None,
    };
    let seen: std::collections::BTreeSet<SaId> =
        net.nodes[A].events.iter().filter_map(ids).collect();
    assert_eq!(seen.len(), 2, "no id is used twice");
}
