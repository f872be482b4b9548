//! What the values mean and show: prefixes, ports, offsets, and secrets kept out of Debug.

use std::net::IpAddr;

use nhrp::wire::{
    Body, Cie, ErrorIndication, Extension, ExtensionBody, Family, NbmaAddress, Operation, Packet,
    Query, extension_type,
};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn query(nbma: &str, protocol: &str) -> Body {
    Body::Query(Query {
        operation: Operation::RegistrationRequest,
        flags: 0,
        request_id: 7,
        source_nbma: ip(nbma).into(),
        source_protocol: Some(ip(protocol)),
        destination_protocol: Some(ip(protocol)),
        entries: vec![Cie::host(ip(protocol), ip(nbma).into(), 600)],
    })
}

#[test]
fn addresses_of_either_family_in_every_field() {
    let sizes = [
        (Family::V4, "198.51.100.2", Family::V4, "172.16.0.2", 20 + 8 + 12 + 12 + 8),
        (Family::V4, "198.51.100.2", Family::V6, "fd00::2", 20 + 8 + 36 + 12 + 20),
        (Family::V6, "2001:db8::2", Family::V4, "172.16.0.2", 20 + 8 + 24 + 12 + 20),
        (Family::V6, "2001:db8::2", Family::V6, "fd00::2", 20 + 8 + 48 + 12 + 32),
    ];
    for (nbma_family, nbma, protocol_family, protocol, size) in sizes {
        let packet = Packet::new(nbma_family, protocol_family, 255, query(nbma, protocol), vec![]);
        let bytes = packet.encode();
        assert_eq!(bytes.len(), size);
        assert_eq!(Packet::decode(&bytes), Ok(packet));
    }
}

#[test]
fn rfc2332_5_2_0_1_prefix_length_zero_is_the_address_alone() {
    let address = ip("192.168.2.77");
    let cie = |prefix_length| Cie { prefix_length, ..Cie::default() };
    assert_eq!(cie(0x00).prefix_of(address), "192.168.2.77/32".parse().ok());
    assert_eq!(cie(0xff).prefix_of(address), "192.168.2.77/32".parse().ok());
    assert_eq!(cie(24).prefix_of(address), "192.168.2.0/24".parse().ok());
    assert_eq!(cie(32).prefix_of(address), "192.168.2.77/32".parse().ok());
    assert_eq!(cie(64).prefix_of(ip("fd00:0:0:1::2")), "fd00:0:0:1::/64".parse().ok());
    assert_eq!(cie(24).prefix(), None);
}

#[test]
fn prefix_length_zero_and_255_stay_what_they_were() {
    for prefix_length in [0x00, 0xff] {
        let Body::Query(mut query) = query("198.51.100.2", "172.16.0.2") else { unreachable!() };
        query.entries[0].prefix_length = prefix_length;
        let packet = Packet::new(Family::V4, Family::V4, 1, Body::Query(query), vec![]);
        let Ok(Body::Query(query)) = Packet::decode(&packet.encode()).map(|packet| packet.body)
        else {
            panic!("a query")
        };
        assert_eq!(query.entries[0].prefix_length, prefix_length);
    }
}

#[test]
fn port_is_a_two_byte_subaddress() {
    let address = NbmaAddress::with_port(ip("203.0.113.9"), 4501);
    assert_eq!((address.subaddress.as_slice(), address.port()), (&[0x11, 0x95][..], 4501));
    assert_eq!(NbmaAddress::with_port(ip("203.0.113.9"), 0), ip("203.0.113.9").into());
    assert_eq!(NbmaAddress { address: None, subaddress: vec![1, 2, 3] }.port(), 0);
}

#[test]
fn extension_offset_points_at_the_extension() {
    let extensions = vec![
        Extension::compulsory(ExtensionBody::ForwardTransitNhs(vec![Cie::default()])),
        Extension::compulsory(ExtensionBody::Unknown { kind: 0x123, value: vec![1, 2, 3] }),
        Extension::optional(ExtensionBody::Unknown { kind: 0x124, value: vec![] }),
    ];
    let body = query("198.51.100.2", "172.16.0.2");
    let packet = Packet::new(Family::V4, Family::V4, 1, body, extensions);
    let bytes = packet.encode();
    let at = |index| usize::from(packet.extension_offset(index));
    assert_eq!(at(0), usize::from(u16::from_be_bytes([bytes[14], bytes[15]])));
    assert_eq!(bytes[at(1)..][..2], [0x81, 0x23]);
    assert_eq!(bytes[at(2)..][..2], [0x01, 0x24]);
}

#[test]
fn debug_never_shows_the_password() {
    let password = b"sesame17";
    let printed = format!("{password:?}");
    let secret = printed.trim_matches(['[', ']']);
    let authentication = ExtensionBody::Authentication { kind: 1, data: password.to_vec() };
    let disguised = ExtensionBody::Unknown {
        kind: 0x4000 | extension_type::AUTHENTICATION,
        value: password.to_vec(),
    };
    let extensions = vec![Extension::compulsory(authentication), Extension::optional(disguised)];
    let body = query("198.51.100.2", "172.16.0.2");
    let packet = Packet::new(Family::V4, Family::V4, 1, body, extensions);
    let error = ErrorIndication { packet: packet.encode(), ..ErrorIndication::default() };

    let shown = format!("{packet:?} {:?}", Body::Error(error));
    assert!(shown.contains("Authentication { kind: 1, .. }"), "{shown}");
    assert!(!shown.contains(secret) && !shown.contains("sesame"), "{shown}");

    // The same search finds bytes that are no secret.
    let vendor = ExtensionBody::VendorPrivate { oui: [0, 0, 0x0c], data: password.to_vec() };
    assert!(format!("{vendor:?}").contains(secret));
}

#[test]
fn a_value_that_does_not_fit_is_cut_and_never_panics() {
    let Body::Query(mut query) = query("198.51.100.2", "172.16.0.2") else { unreachable!() };
    query.source_nbma.subaddress = vec![7; 300];
    let extensions =
        vec![Extension::optional(ExtensionBody::Unknown { kind: 99, value: vec![0; 70_000] })];
    let packet = Packet::new(Family::V4, Family::V4, 1, Body::Query(query), extensions);
    assert!(Packet::decode(&packet.encode()).is_err());
}
