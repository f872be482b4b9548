//! Captured packets: their fields, and the same bytes when encoded again.

use std::net::IpAddr;

use nhrp::wire::{
    Body, Cie, End, Extension, ExtensionBody, Family, NbmaAddress, Operation, Packet, Query,
    TrafficIndication, extension_type, flags,
};

use crate::captured;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn nbma(text: &str) -> NbmaAddress {
    ip(text).into()
}

fn decoded(name: &str) -> Packet {
    Packet::decode(&captured::one(name)).expect("a captured packet is valid")
}

/// The entry that FRR's hub puts into transit and responder lists.
fn hub() -> Cie {
    Cie { prefix_length: 0, ..Cie::host(ip("172.16.0.1"), nbma("198.51.100.1"), 60) }
}

#[test]
fn every_captured_packet_comes_back_byte_for_byte() {
    let packets = captured::all();
    assert_eq!(packets.len(), 18);
    for (name, bytes) in packets {
        let packet = Packet::decode(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(packet.encode(), bytes, "{name}");
    }
}

#[test]
fn registration_request() {
    let nat = Cie {
        prefix_length: 32,
        nbma: nbma("198.51.100.1"),
        protocol: Some(ip("0.0.0.0")),
        ..Cie::default()
    };
    let expected = Packet::new(
        Family::V4,
        Family::V4,
        1,
        Body::Query(Query {
            operation: Operation::RegistrationRequest,
            flags: flags::REGISTRATION_UNIQUE | flags::NAT,
            request_id: 1,
            source_nbma: nbma("198.51.100.2"),
            source_protocol: Some(ip("172.16.0.2")),
            destination_protocol: Some(ip("172.16.0.2")),
            entries: vec![Cie { prefix_length: Cie::HOST, holding_time: 60, ..Cie::default() }],
        }),
        vec![
            Extension::compulsory(ExtensionBody::ForwardTransitNhs(vec![])),
            Extension::compulsory(ExtensionBody::ReverseTransitNhs(vec![])),
            Extension::compulsory(ExtensionBody::ResponderAddress(None)),
            Extension::optional(ExtensionBody::NatAddress(vec![nat])),
        ],
    );
    assert_eq!(decoded("frr-01-registration-request-spoke2-to-hub"), expected);
}

#[test]
fn registration_reply() {
    let packet = decoded("frr-02-registration-reply-hub-to-spoke2");
    assert_eq!(packet.hop_count, 64);
    let Body::Query(query) = &packet.body else { panic!("{packet:?}") };
    assert_eq!(query.operation, Operation::RegistrationReply);
    assert_eq!(query.request_id, 1);
    assert_eq!(query.destination_protocol, Some(ip("172.16.0.1")));
    assert_eq!(query.entries.len(), 1);
    assert_eq!(query.entries[0].code, 0);
    assert_eq!(
        packet.extension(extension_type::RESPONDER_ADDRESS),
        Some(&ExtensionBody::ResponderAddress(Some(hub())))
    );
}

#[test]
fn traffic_indication_without_extensions() {
    let packet = decoded("frr-09-traffic-indication-hub-to-spoke2");
    assert_eq!((packet.hop_count, packet.end), (1, End::Missing));
    assert!(packet.extensions.is_empty());
    let Body::Traffic(traffic) = packet.body else { panic!("{packet:?}") };
    let inner = traffic.packet.clone();
    assert_eq!(
        traffic,
        TrafficIndication {
            source_nbma: nbma("198.51.100.1"),
            source_protocol: Some(ip("172.16.0.1")),
            destination_protocol: Some(ip("192.168.2.1")),
            packet: inner.clone(),
            ..TrafficIndication::default()
        }
    );
    assert_eq!((inner.len(), inner[0], &inner[12..16]), (84, 0x45, &[192, 168, 2, 1][..]));
}

#[test]
fn resolution_request_forwarded_by_the_hub() {
    let before = decoded("frr-11-resolution-request-spoke3-to-hub");
    let after = decoded("frr-13-resolution-request-hub-to-spoke2");
    let Body::Query(query) = &before.body else { panic!("{before:?}") };
    assert_eq!(query.operation, Operation::ResolutionRequest);
    assert_eq!(
        query.flags,
        flags::ROUTER | flags::AUTHORITATIVE | flags::SOURCE_STABLE | flags::NAT
    );
    assert_eq!(query.destination_protocol, Some(ip("192.168.2.1")));

    let mut forwarded = before;
    forwarded.hop_count -= 1;
    forwarded.extensions[0].body = ExtensionBody::ForwardTransitNhs(vec![hub()]);
    assert_eq!(forwarded, after);
}

#[test]
fn resolution_reply_with_a_prefix_behind_the_spoke() {
    let packet = decoded("frr-17-resolution-reply-hub-to-spoke3");
    let Body::Query(query) = &packet.body else { panic!("{packet:?}") };
    assert_eq!(query.operation, Operation::ResolutionReply);
    let [entry] = query.entries.as_slice() else { panic!("{query:?}") };
    assert_eq!((entry.code, entry.holding_time), (0, 60));
    assert_eq!(entry.protocol, Some(ip("172.16.0.2")));
    assert_eq!(entry.nbma, nbma("198.51.100.2"));
    let destination = query.destination_protocol.expect("a destination");
    assert_eq!(entry.prefix_of(destination), "192.168.2.0/24".parse().ok());
    assert_eq!(packet.extensions[0].body, ExtensionBody::ForwardTransitNhs(vec![hub()]));
    assert_eq!(packet.extensions[1].body, ExtensionBody::ReverseTransitNhs(vec![hub()]));
    assert_eq!(
        packet.extensions.iter().map(|e| (e.compulsory, e.body.kind())).collect::<Vec<_>>(),
        [(true, 4), (true, 5), (true, 3), (false, 9)]
    );
}
