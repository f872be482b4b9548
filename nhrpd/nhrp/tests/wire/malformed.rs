//! Bad input, one test for each kind: what is refused with which error, and what is let through
//! for the engine to judge.

use std::net::IpAddr;

use nhrp::wire::{
    Body, Cie, DecodeError, End, Extension, ExtensionBody, Family, Operation, Packet, Query,
    error_code, extension_type,
};

use crate::bodies::sealed;

/// Where the parts of [`request`] lie.
const SOURCE_LENGTH: usize = 20;
const CIE: usize = 40;
const EXTENSIONS: usize = 60;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn transit(protocol: &str) -> Cie {
    Cie::host(ip(protocol), ip("198.51.100.1").into(), 60)
}

/// A registration request of 88 bytes: one entry of 20, one transit record of 24, End of 4.
fn request() -> Packet {
    let query = Query {
        operation: Operation::RegistrationRequest,
        flags: 0,
        request_id: 1,
        source_nbma: ip("198.51.100.2").into(),
        source_protocol: Some(ip("172.16.0.2")),
        destination_protocol: Some(ip("172.16.0.1")),
        entries: vec![Cie::host(ip("172.16.0.2"), ip("198.51.100.2").into(), 600)],
    };
    let record = ExtensionBody::ForwardTransitNhs(vec![transit("172.16.0.1")]);
    let extensions = vec![Extension::compulsory(record)];
    Packet::new(Family::V4, Family::V4, 255, Body::Query(query), extensions)
}

fn with_extensions(extensions: Vec<Extension>) -> Packet {
    Packet { extensions, ..request() }
}

/// [`request`] with some bytes changed, and a right checksum and size.
fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Result<Packet, DecodeError> {
    let mut bytes = request().encode();
    change(&mut bytes);
    Packet::decode(&sealed(bytes))
}

#[track_caller]
fn refused(result: Result<Packet, DecodeError>, error: DecodeError, code: u16, offset: u16) {
    assert_eq!(error.indication(), Some((code, offset)));
    assert_eq!(result.err(), Some(error));
}

#[track_caller]
fn same_bytes(packet: &Packet) {
    let bytes = packet.encode();
    let decoded = Packet::decode(&bytes);
    assert_eq!(decoded.as_ref(), Ok(packet));
    assert_eq!(decoded.map(|packet| packet.encode()), Ok(bytes));
}

#[test]
fn the_request_itself_is_good() {
    assert_eq!(request().encode().len(), 88);
    assert_eq!(changed(|_| {}), Ok(request()));
}

#[test]
fn truncated_header() {
    let bytes = request().encode();
    for length in 0..20 {
        let error = Packet::decode(&bytes[..length]).expect_err("too short");
        assert_eq!(error, DecodeError::TooShort { length });
        assert_eq!(error.indication(), None);
    }
}

#[test]
fn truncated_mandatory_part() {
    let error = DecodeError::Truncated { offset: 24, field: "request id" };
    let result = changed(|bytes| {
        bytes.truncate(27);
        bytes[14..16].fill(0);
    });
    refused(result, error, error_code::PROTOCOL_ERROR, 24);
}

#[test]
fn truncated_cie() {
    let cut = |length: usize| {
        changed(|bytes| {
            bytes.truncate(length);
            bytes[14..16].fill(0);
        })
    };
    let error = DecodeError::Truncated { offset: CIE, field: "client information entry" };
    refused(cut(CIE + 11), error, error_code::PROTOCOL_ERROR, 40);
    let error = DecodeError::Truncated { offset: CIE + 12, field: "NBMA address" };
    refused(cut(CIE + 15), error, error_code::PROTOCOL_ERROR, 52);
    let error = DecodeError::Truncated { offset: CIE + 16, field: "client protocol address" };
    refused(cut(CIE + 19), error, error_code::PROTOCOL_ERROR, 56);
}

#[test]
fn cie_may_not_reach_into_the_extensions() {
    let result = changed(|bytes| bytes[14..16].copy_from_slice(&58u16.to_be_bytes()));
    let error = DecodeError::Truncated { offset: CIE + 16, field: "client protocol address" };
    refused(result, error, error_code::PROTOCOL_ERROR, 56);
}

#[test]
fn truncated_extension_header() {
    let error = DecodeError::Truncated { offset: EXTENSIONS + 2, field: "extension length" };
    let result = changed(|bytes| bytes.truncate(EXTENSIONS + 3));
    refused(result, error, error_code::PROTOCOL_ERROR, 62);
}

#[test]
fn truncated_cie_in_an_extension() {
    let result = changed(|bytes| bytes[EXTENSIONS + 3] = 19);
    let offset = EXTENSIONS + 4 + 16;
    let fault = DecodeError::Truncated { offset, field: "client protocol address" };
    let error = DecodeError::Extension { kind: 4, fault: Box::new(fault) };
    refused(result, error, error_code::INVALID_EXTENSION, 80);
}

#[test]
fn extension_length_over_what_remains() {
    let result = changed(|bytes| bytes[EXTENSIONS + 3] = 200);
    let error = DecodeError::Truncated { offset: EXTENSIONS + 4, field: "extension value" };
    refused(result, error, error_code::PROTOCOL_ERROR, 64);
}

#[test]
fn bytes_behind_the_end_extension() {
    let error = DecodeError::Surplus { offset: 88, length: 3 };
    refused(
        changed(|bytes| bytes.extend_from_slice(&[0; 3])),
        error,
        error_code::PROTOCOL_ERROR,
        88,
    );
}

#[test]
fn end_extension_with_a_value() {
    let result = changed(|bytes| {
        bytes[87] = 2;
        bytes.extend_from_slice(&[0; 2]);
    });
    let fault = Box::new(DecodeError::Surplus { offset: 88, length: 2 });
    let error = DecodeError::Extension { kind: 0, fault };
    refused(result, error, error_code::INVALID_EXTENSION, 88);
}

#[test]
fn responder_address_with_two_entries() {
    let record = ExtensionBody::ForwardTransitNhs(vec![transit("172.16.0.1"); 2]);
    let mut bytes = with_extensions(vec![Extension::compulsory(record)]).encode();
    bytes[EXTENSIONS + 1] = extension_type::RESPONDER_ADDRESS as u8;
    let offset = EXTENSIONS + 4 + 20;
    let fault = Box::new(DecodeError::Surplus { offset, length: 20 });
    let error = DecodeError::Extension { kind: 3, fault };
    refused(Packet::decode(&sealed(bytes)), error, error_code::INVALID_EXTENSION, 84);
}

#[test]
fn extension_offset_below_the_end_of_the_header_or_past_the_packet() {
    for extension_offset in [1u16, 19, 20, 39, 88, 89, 0xffff] {
        let result =
            changed(|bytes| bytes[14..16].copy_from_slice(&extension_offset.to_be_bytes()));
        let error = DecodeError::ExtensionOffset { extension_offset, lowest: 40, highest: 87 };
        refused(result, error, error_code::PROTOCOL_ERROR, 14);
    }
}

#[test]
fn packet_size_is_not_the_real_size() {
    for claimed in [0u16, 20, 87, 89, 0xffff] {
        let mut bytes = request().encode();
        bytes[10..12].copy_from_slice(&claimed.to_be_bytes());
        let error = DecodeError::PacketSize { claimed, received: 88 };
        refused(Packet::decode(&bytes), error, error_code::PROTOCOL_ERROR, 10);
    }
}

#[test]
fn zero_address_lengths_leave_the_address_out() {
    let packet = changed(|bytes| {
        bytes[18] = 0;
        bytes[20..22].fill(0);
        bytes.drain(28..40);
        bytes[14..16].copy_from_slice(&48u16.to_be_bytes());
    });
    let Ok(Packet { body: Body::Query(query), .. }) = &packet else { panic!("{packet:?}") };
    assert_eq!((query.source_nbma.address, query.source_protocol), (None, None));
    assert_eq!(query.destination_protocol, None);
    assert_eq!(query.entries.len(), 1);
    same_bytes(packet.as_ref().expect("decoded above"));
}

#[test]
fn oversize_address_lengths() {
    let places =
        [(18, 63), (18, 16), (18, 3), (SOURCE_LENGTH, 255), (SOURCE_LENGTH + 1, 5), (CIE + 8, 16)];
    for (offset, length) in places.into_iter().chain([(CIE + 10, 16), (CIE + 10, 0xff)]) {
        let error = DecodeError::AddressLength { offset, length, expected: 4 };
        let result = changed(|bytes| bytes[offset] = length);
        refused(result, error, error_code::PROTOCOL_ERROR, offset as u16);
    }
}

#[test]
fn oversize_subaddress_length() {
    let error = DecodeError::Truncated { offset: CIE + 16, field: "NBMA sub-address" };
    let result = changed(|bytes| bytes[CIE + 9] = 63);
    refused(result, error, error_code::PROTOCOL_ERROR, 56);
}

#[test]
fn rfc2332_5_1_reserved_and_e164_bits_of_a_type_length() {
    for offset in [18, 19, CIE + 8, CIE + 9] {
        for value in [0x40, 0x44, 0x80, 0x84] {
            let error = DecodeError::AddressType { offset, value };
            let result = changed(|bytes| bytes[offset] = value);
            refused(result, error, error_code::PROTOCOL_ERROR, offset as u16);
        }
    }
}

#[test]
fn unknown_address_family() {
    for afn in [0u16, 3, 0x0100, 0xffff] {
        let result = changed(|bytes| bytes[0..2].copy_from_slice(&afn.to_be_bytes()));
        refused(result, DecodeError::AddressFamily { afn }, error_code::PROTOCOL_ERROR, 0);
    }
}

#[test]
fn unknown_protocol_type() {
    for protocol in [0x0000u16, 0x0080, 0x00cc, 0x0806, 0xffff] {
        let result = changed(|bytes| bytes[2..4].copy_from_slice(&protocol.to_be_bytes()));
        refused(result, DecodeError::ProtocolType { protocol }, error_code::PROTOCOL_ERROR, 2);
    }
}

#[test]
fn version_other_than_1() {
    for version in [0, 2, 0xff] {
        let result = changed(|bytes| bytes[16] = version);
        refused(result, DecodeError::Version { version }, error_code::PROTOCOL_ERROR, 16);
    }
}

#[test]
fn packet_type_0_or_above_8() {
    for packet_type in [0, 9, 128, 0xff] {
        let result = changed(|bytes| bytes[17] = packet_type);
        refused(result, DecodeError::PacketType { packet_type }, error_code::PROTOCOL_ERROR, 17);
    }
}

#[test]
fn wrong_checksum_and_checksum_zero() {
    let good = request().encode();
    let expected = u16::from_be_bytes([good[12], good[13]]);
    for found in [0x0000, expected ^ 1, expected.swap_bytes()] {
        let mut bytes = good.clone();
        bytes[12..14].copy_from_slice(&found.to_be_bytes());
        let error = DecodeError::Checksum { found, expected };
        refused(Packet::decode(&bytes), error, error_code::PROTOCOL_ERROR, 12);
    }
}

#[test]
fn checksum_covers_the_extensions() {
    let mut bytes = request().encode();
    bytes[EXTENSIONS + 10] ^= 0x20;
    assert!(matches!(Packet::decode(&bytes), Err(DecodeError::Checksum { .. })));
}

#[test]
fn checksum_in_both_forms_of_zero() {
    let mut packet = request();
    let Body::Query(query) = &mut packet.body else { unreachable!() };
    // The request id takes up the checksum, which is then 0x0000 or, as RFC 1624 warns, 0xffff.
    let bytes = Packet { body: Body::Query(Query { request_id: 0, ..query.clone() }), ..request() }
        .encode();
    query.request_id = u32::from(u16::from_be_bytes([bytes[12], bytes[13]]));
    let mut bytes = packet.encode();
    assert_eq!(bytes[12..14], [0, 0]);
    assert_eq!(Packet::decode(&bytes).as_ref(), Ok(&packet));
    bytes[12..14].fill(0xff);
    assert_eq!(Packet::decode(&bytes).as_ref(), Ok(&packet));
}

#[test]
fn odd_length_is_summed_as_if_a_zero_byte_followed() {
    let value = vec![0xab];
    let packet = Packet {
        end: End::Missing,
        ..with_extensions(vec![Extension::optional(ExtensionBody::Unknown { kind: 77, value })])
    };
    let bytes = packet.encode();
    assert_eq!(bytes.len() % 2, 1);
    same_bytes(&packet);

    // The checksum is that of the same bytes with the zero, size field aside.
    let sum = |bytes: &[u8]| {
        let pairs = bytes.chunks(2).map(|p| u64::from(p[0]) << 8 | u64::from(p[1]));
        pairs.sum::<u64>() % 0xffff
    };
    assert_eq!(sum(&[&bytes[..], &[0]].concat()), 0);
}

#[test]
fn hop_count_0_is_left_to_the_engine() {
    same_bytes(&Packet { hop_count: 0, ..request() });
}

#[test]
fn duplicate_extensions_keep_their_order() {
    let record = |protocol| ExtensionBody::ForwardTransitNhs(vec![transit(protocol)]);
    let nat = |value: u8| ExtensionBody::Unknown { kind: 99, value: vec![value] };
    same_bytes(&with_extensions(vec![
        Extension::compulsory(record("172.16.0.9")),
        Extension::optional(nat(2)),
        Extension::compulsory(record("172.16.0.1")),
        Extension::optional(nat(1)),
    ]));
}

#[test]
fn end_missing() {
    same_bytes(&Packet { end: End::Missing, ..request() });
    let result = changed(|bytes| bytes.truncate(84));
    assert_eq!(result, Ok(Packet { end: End::Missing, ..request() }));
}

#[test]
fn end_without_the_compulsory_bit_and_end_alone() {
    same_bytes(&Packet { end: End::NotCompulsory, ..request() });
    same_bytes(&Packet { end: End::Compulsory, ..with_extensions(vec![]) });
    same_bytes(&Packet { end: End::Missing, ..with_extensions(vec![]) });
}

#[test]
fn looped_transit_lists_are_left_to_the_engine() {
    let list = || ["172.16.0.1", "172.16.0.9", "172.16.0.1"].map(transit).to_vec();
    same_bytes(&with_extensions(vec![
        Extension::compulsory(ExtensionBody::ForwardTransitNhs(list())),
        Extension::compulsory(ExtensionBody::ReverseTransitNhs(list())),
    ]));
}

#[test]
fn authentication_wrong_doubled_and_over_long_is_left_to_the_engine() {
    let authentication = |kind, data: &[u8]| {
        Extension::compulsory(ExtensionBody::Authentication { kind, data: data.to_vec() })
    };
    same_bytes(&with_extensions(vec![
        authentication(1, b""),
        authentication(1, b"sesame17"),
        authentication(2, b"sesame17"),
        authentication(1, &[b'x'; 500]),
    ]));
}

#[test]
fn authentication_without_a_whole_type() {
    let unknown =
        ExtensionBody::Unknown { kind: extension_type::AUTHENTICATION, value: vec![0; 3] };
    let bytes = with_extensions(vec![Extension::compulsory(unknown)]).encode();
    let fault = DecodeError::Truncated { offset: 64, field: "authentication type" };
    let error = DecodeError::Extension { kind: 7, fault: Box::new(fault) };
    refused(Packet::decode(&bytes), error, error_code::INVALID_EXTENSION, 64);
}

#[test]
fn vendor_extension_without_a_whole_oui() {
    let unknown =
        ExtensionBody::Unknown { kind: extension_type::VENDOR_PRIVATE, value: vec![0; 2] };
    let bytes = with_extensions(vec![Extension::compulsory(unknown)]).encode();
    let fault = DecodeError::Truncated { offset: 64, field: "OUI" };
    let error = DecodeError::Extension { kind: 8, fault: Box::new(fault) };
    refused(Packet::decode(&bytes), error, error_code::INVALID_EXTENSION, 64);
}

#[test]
fn extension_type_9_that_is_no_cie_list_comes_through_unchanged() {
    let capabilities = vec![0, 0, 0, 1, 0, 0, 0, 2];
    let unknown = ExtensionBody::Unknown { kind: 9, value: capabilities };
    same_bytes(&with_extensions(vec![Extension::optional(unknown)]));
}

#[test]
fn rfc2332_5_3_extension_with_the_unused_bit_is_unknown() {
    let result = changed(|bytes| bytes[EXTENSIONS] |= 0x40).expect("only an unused bit");
    let ExtensionBody::Unknown { kind, value } = &result.extensions[0].body else {
        panic!("{result:?}")
    };
    assert_eq!((*kind, value.len(), result.extensions[0].compulsory), (0x4004, 20, true));
    same_bytes(&result);
}

#[test]
fn rfc2332_5_1_snap_is_ignored_on_receipt_and_zero_when_sent() {
    assert_eq!(changed(|bytes| bytes[4..9].fill(0xee)), Ok(request()));
}

#[test]
fn unused_field_of_a_cie_is_kept() {
    let packet = changed(|bytes| bytes[CIE + 2..CIE + 4].copy_from_slice(&[0xbe, 0xef]))
        .expect("only an unused field");
    let Body::Query(query) = &packet.body else { panic!("{packet:?}") };
    assert_eq!(query.entries[0].unused, 0xbeef);
    same_bytes(&packet);
}

#[test]
fn prefix_above_the_address_length_is_no_prefix() {
    let packet = changed(|bytes| bytes[CIE + 1] = 33).expect("the prefix is the engine's to judge");
    let Body::Query(query) = &packet.body else { panic!("{packet:?}") };
    assert_eq!(query.entries[0].prefix(), None);
    same_bytes(&packet);
}

#[test]
fn purge_with_a_wildcard_is_left_to_the_engine() {
    let mut packet = request();
    let Body::Query(query) = &mut packet.body else { unreachable!() };
    query.operation = Operation::PurgeRequest;
    query.entries = vec![Cie::default(), Cie { protocol: Some(ip("0.0.0.0")), ..Cie::default() }];
    same_bytes(&packet);
}

#[test]
fn origin_of_a_packet_that_does_not_decode() {
    let mut bytes = request().encode();
    bytes.truncate(70);
    assert!(Packet::decode(&bytes).is_err());
    let origin = Packet::origin(&bytes).expect("its addresses are whole");
    assert_eq!(origin.packet_type, 3);
    assert_eq!(origin.source_nbma, ip("198.51.100.2").into());
    assert_eq!(origin.source_protocol, Some(ip("172.16.0.2")));
    assert_eq!(origin.destination_protocol, Some(ip("172.16.0.1")));
    assert_eq!(Packet::origin(&bytes[..39]), None);
}
