//! What a next-hop server does with packets for others.

use nhrp::engine::{Claim, Event, Refusal};
use nhrp::wire::{Cie, Extension, ExtensionBody, Operation, Packet, extension_type};

use super::network::*;

fn forwarded(network: &mut Network, from: u8, packet: &Packet) -> Vec<Sent> {
    network.take_sent();
    network.inject(underlay(from), underlay(1), packet);
    network.take_sent()
}

#[test]
fn rfc2332_5_1_hop_count_is_decremented() {
    let mut network = Network::with_spokes(2);
    let request = resolution_of(2, host(3));
    let sent = forwarded(&mut network, 2, &request);
    assert_eq!(sent[0].packet.hop_count, request.hop_count - 1);
    assert_eq!(sent[0].to, underlay(3));
}

#[test]
fn rfc2332_5_1_hop_count_used_up_is_error_15() {
    for hop_count in [0, 1] {
        let mut network = Network::with_spokes(2);
        let mut request = resolution_of(2, host(3));
        request.hop_count = hop_count;
        let sent = forwarded(&mut network, 2, &request);
        assert_eq!(sent.len(), 1);
        assert_eq!((sent[0].to, error_code(&sent[0].packet)), (underlay(2), Some(15)));
        assert_eq!(network.refused(underlay(1), Refusal::HopCount), 1);
    }
}

#[test]
fn rfc2332_5_1_hop_count_0_is_refused_by_the_addressee_too() {
    let mut network = Network::with_spokes(1);
    let mut request = registration_of(2);
    request.hop_count = 0;
    let sent = forwarded(&mut network, 2, &request);
    assert_eq!(error_code(&sent[0].packet), Some(15));
}

#[test]
fn rfc2332_5_3_2_own_protocol_address_in_the_forward_list_is_a_loop() {
    let mut network = Network::with_spokes(2);
    let mut request = resolution_of(2, host(3));
    for extension in &mut request.extensions {
        if let ExtensionBody::ForwardTransitNhs(list) = &mut extension.body {
            // Another NBMA address: the protocol address alone tells.
            list.push(Cie::host(tunnel(1), ip("203.0.113.9").into(), 60));
        }
    }
    let sent = forwarded(&mut network, 2, &request);
    assert_eq!(sent.len(), 1);
    assert_eq!(error_code(&sent[0].packet), Some(3));
    assert_eq!(network.refused(underlay(1), Refusal::Loop), 1);
}

#[test]
fn rfc2332_5_3_2_own_nbma_address_in_the_forward_list_is_no_loop() {
    let mut network = Network::with_spokes(2);
    let mut request = resolution_of(2, host(3));
    for extension in &mut request.extensions {
        if let ExtensionBody::ForwardTransitNhs(list) = &mut extension.body {
            list.push(Cie::host(tunnel(8), underlay(1).address.into(), 60));
        }
    }
    let sent = forwarded(&mut network, 2, &request);
    assert_eq!(sent[0].to, underlay(3));
    assert_eq!(
        listed(&sent[0].packet, extension_type::FORWARD_TRANSIT_NHS),
        [tunnel(8), tunnel(1)]
    );
}

#[test]
fn rfc2332_5_3_1_own_address_as_the_responder_is_a_loop() {
    let mut network = Network::with_spokes(2);
    let mut request = resolution_of(2, host(3));
    for extension in &mut request.extensions {
        if let ExtensionBody::ResponderAddress(responder) = &mut extension.body {
            *responder = Some(Cie::host(tunnel(1), underlay(1).address.into(), 60));
        }
    }
    let sent = forwarded(&mut network, 2, &request);
    assert_eq!(error_code(&sent[0].packet), Some(3));
}

#[test]
fn rfc2332_5_3_3_looped_reverse_list_is_a_loop() {
    let mut network = Network::with_spokes(2);
    network.resolve(2, host(3));
    let sent = network.take_sent();
    // The reply as the hub sent it on lists the hub; it must not see it again.
    let reply = of(&sent, Operation::ResolutionReply)[1].packet.clone();
    let sent = forwarded(&mut network, 3, &reply);
    assert_eq!(error_code(&sent[0].packet), Some(3));
}

#[test]
fn rfc2332_5_3_unknown_compulsory_extension_passes_without_a_trace() {
    let mut network = Network::with_spokes(2);
    let mut request = resolution_of(2, host(3));
    let unknown = ExtensionBody::Unknown { kind: 0x123, value: vec![1, 2, 3] };
    request.extensions.push(Extension::compulsory(unknown.clone()));
    let sent = forwarded(&mut network, 2, &request);
    assert_eq!(sent[0].to, underlay(3));
    assert_eq!(sent[0].packet.extension(0x123), Some(&unknown));
    assert!(listed(&sent[0].packet, extension_type::FORWARD_TRANSIT_NHS).is_empty());
}

#[test]
fn rfc2332_5_3_unknown_compulsory_extension_is_error_1_at_the_responder() {
    let unknown = || ExtensionBody::Unknown { kind: 0x123, value: vec![1, 2, 3] };
    let vendor = || ExtensionBody::VendorPrivate { oui: [0, 0, 12], data: vec![7] };
    for body in [unknown(), vendor()] {
        let mut network = Network::with_spokes(2);
        let mut request = resolution_of(2, host(3));
        request.extensions.push(Extension::compulsory(body));
        network.take_sent();
        network.inject(underlay(1), underlay(3), &request);
        let sent = network.take_sent();
        assert_eq!(sent.iter().map(|s| error_code(&s.packet)).collect::<Vec<_>>(), [Some(1)]);
        assert_eq!(network.binding(underlay(3), tunnel(2).into()), None);
        assert_eq!(network.refused(underlay(3), Refusal::UnknownExtension), 1);
    }
}

#[test]
fn rfc2332_5_3_unknown_extension_that_is_not_compulsory_comes_back_unchanged() {
    let mut network = Network::with_spokes(1);
    let unknown = ExtensionBody::Unknown { kind: 0x123, value: vec![1, 2, 3] };
    let vendor = ExtensionBody::VendorPrivate { oui: [0, 0, 12], data: vec![7] };
    let mut request = registration_of(2);
    request.extensions.push(Extension::optional(unknown.clone()));
    request.extensions.push(Extension::optional(vendor.clone()));
    let sent = forwarded(&mut network, 2, &request);
    let reply = &sent[0].packet;
    assert_eq!(query(reply).operation, Operation::RegistrationReply);
    assert_eq!(reply.extension(0x123), Some(&unknown));
    assert_eq!(reply.extension(extension_type::VENDOR_PRIVATE), Some(&vendor));
}

#[test]
fn reply_for_what_is_not_its_senders_is_not_forwarded() {
    let mut network = Network::with_spokes(3);
    network.take_sent();
    network.at(underlay(2), |engine, now| engine.resolve(now, host(3)));
    network.run(DELAY * 2);
    let sent = network.take_sent();
    let reply = of(&sent, Operation::ResolutionReply)[0].packet.clone();
    network.take_events(underlay(1));

    // Spoke 4 answers in spoke 3's place, then for spoke 3's prefix with its own address.
    assert_eq!(forwarded(&mut network, 4, &reply).len(), 0);
    let mut own = reply.clone();
    let cie = &mut query_mut(&mut own).entries[0];
    (cie.protocol, cie.nbma) = (Some(tunnel(4)), underlay(4).address.into());
    assert_eq!(forwarded(&mut network, 4, &own).len(), 0);
    // Spoke 3 answers with more than is its own.
    let mut wide = reply.clone();
    query_mut(&mut wide).entries[0].prefix_length = 16;
    assert_eq!(forwarded(&mut network, 3, &wide).len(), 0);
    let refused = |event: &&Event| matches!(event, Event::ClaimRefused { claim: Claim::Reply, .. });
    assert_eq!(network.take_events(underlay(1)).iter().filter(refused).count(), 3);

    assert_eq!(forwarded(&mut network, 3, &reply).len(), 1);
}

#[test]
fn rfc2332_5_2_7_nobody_behind_the_address_is_error_6() {
    let mut network = Network::with_spokes(2);
    network.resolve(2, host(3));
    let sent = network.take_sent();
    let mut reply = of(&sent, Operation::ResolutionReply)[0].packet.clone();
    query_mut(&mut reply).source_protocol = Some(tunnel(77));
    let sent = forwarded(&mut network, 3, &reply);
    assert_eq!(error_code(&sent[0].packet), Some(6));
    assert_eq!(sent[0].to, underlay(3));
}

#[test]
fn spoke_forwards_nothing() {
    let mut network = Network::with_spokes(2);
    let request = resolution_of(2, ip("192.168.99.1"));
    network.take_sent();
    network.inject(underlay(1), underlay(3), &request);
    let sent = network.take_sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(query(&sent[0].packet).operation, Operation::ResolutionReply);
    assert_eq!(query(&sent[0].packet).entries[0].code, 12);
}

#[test]
fn forwarded_packets_are_counted() {
    let mut network = Network::with_spokes(2);
    network.resolve(2, host(3));
    assert_eq!(network.nodes[&underlay(1)].engine.counters().forwarded, 2);
}
