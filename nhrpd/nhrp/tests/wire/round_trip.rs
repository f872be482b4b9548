//! Any packet that the types can express comes back equal; what peers may send comes back as the
//! same bytes.

use std::net::IpAddr;

use nhrp::wire::{
    Body, Cie, End, ErrorIndication, Extension, ExtensionBody, Family, NbmaAddress, Operation,
    Packet, Query, TrafficIndication, extension_type,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::V4), Just(Family::V6)]
}

fn address(family: Family) -> BoxedStrategy<Option<IpAddr>> {
    match family {
        Family::V4 => option::of(any::<[u8; 4]>().prop_map(IpAddr::from)).boxed(),
        Family::V6 => option::of(any::<[u8; 16]>().prop_map(IpAddr::from)).boxed(),
    }
}

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..=most)
}

fn nbma(family: Family) -> impl Strategy<Value = NbmaAddress> {
    (address(family), prop_oneof![Just(Vec::new()), bytes(63)])
        .prop_map(|(address, subaddress)| NbmaAddress { address, subaddress })
}

fn cie(nbma_family: Family, protocol_family: Family) -> impl Strategy<Value = Cie> {
    let numbers = any::<(u8, u8, u16, u16, u16, u8)>();
    (numbers, nbma(nbma_family), address(protocol_family)).prop_map(|(numbers, nbma, protocol)| {
        let (code, prefix_length, unused, mtu, holding_time, preference) = numbers;
        Cie { code, prefix_length, unused, mtu, holding_time, preference, nbma, protocol }
    })
}

fn body(nbma_family: Family, protocol_family: Family) -> impl Strategy<Value = Body> {
    let operation = prop_oneof![
        Just(Operation::ResolutionRequest),
        Just(Operation::ResolutionReply),
        Just(Operation::RegistrationRequest),
        Just(Operation::RegistrationReply),
        Just(Operation::PurgeRequest),
        Just(Operation::PurgeReply),
    ];
    let addresses = move || (nbma(nbma_family), address(protocol_family), address(protocol_family));
    let entries = vec(cie(nbma_family, protocol_family), 0..4);
    let query = (operation, any::<(u16, u32)>(), addresses(), entries).prop_map(
        |(operation, (flags, request_id), addresses, entries)| {
            let (source_nbma, source_protocol, destination_protocol) = addresses;
            Body::Query(Query {
                operation,
                flags,
                request_id,
                source_nbma,
                source_protocol,
                destination_protocol,
                entries,
            })
        },
    );
    let error = (any::<(u16, u16, u16)>(), addresses(), bytes(80)).prop_map(
        |((unused, error_code, error_offset), addresses, packet)| {
            let (source_nbma, source_protocol, destination_protocol) = addresses;
            Body::Error(ErrorIndication {
                unused,
                error_code,
                error_offset,
                source_nbma,
                source_protocol,
                destination_protocol,
                packet,
            })
        },
    );
    let traffic = (any::<([u16; 2], u16)>(), addresses(), bytes(80)).prop_map(
        |((unused, code), addresses, packet)| {
            let (source_nbma, source_protocol, destination_protocol) = addresses;
            Body::Traffic(TrafficIndication {
                unused,
                code,
                source_nbma,
                source_protocol,
                destination_protocol,
                packet,
            })
        },
    );
    prop_oneof![6 => query, 1 => error, 1 => traffic]
}

fn extension(nbma_family: Family, protocol_family: Family) -> impl Strategy<Value = Extension> {
    let known = [0, 3, 4, 5, 7, 8, 9];
    let entries = move || vec(cie(nbma_family, protocol_family), 0..4);
    let body = prop_oneof![
        option::of(cie(nbma_family, protocol_family)).prop_map(ExtensionBody::ResponderAddress),
        entries().prop_map(ExtensionBody::ForwardTransitNhs),
        entries().prop_map(ExtensionBody::ReverseTransitNhs),
        entries().prop_map(ExtensionBody::NatAddress),
        (any::<u32>(), bytes(20))
            .prop_map(|(kind, data)| ExtensionBody::Authentication { kind, data }),
        (any::<[u8; 3]>(), bytes(40))
            .prop_map(|(oui, data)| ExtensionBody::VendorPrivate { oui, data }),
        (prop_oneof![0u16..16, 0x4000u16..0x4010, 0u16..0x8000], bytes(40))
            .prop_filter("unknown", move |(kind, _)| !known.contains(kind))
            .prop_map(|(kind, value)| ExtensionBody::Unknown { kind, value }),
        // RFC 2735's device capabilities: too short for a CIE.
        any::<[u8; 8]>().prop_map(|value| ExtensionBody::Unknown {
            kind: extension_type::NAT_ADDRESS,
            value: value.to_vec()
        }),
    ];
    (any::<bool>(), body).prop_map(|(compulsory, body)| Extension { compulsory, body })
}

fn packet() -> impl Strategy<Value = Packet> {
    let end = prop_oneof![
        4 => Just(End::Compulsory),
        1 => Just(End::NotCompulsory),
        1 => Just(End::Missing),
    ];
    (family(), family()).prop_flat_map(move |(nbma_family, protocol_family)| {
        let body = body(nbma_family, protocol_family);
        let extensions = vec(extension(nbma_family, protocol_family), 0..5);
        (any::<u8>(), body, extensions, end.clone()).prop_map(
            move |(hop_count, body, extensions, end)| Packet {
                nbma_family,
                protocol_family,
                hop_count,
                body,
                extensions,
                end,
            },
        )
    })
}

proptest! {
    #[test]
    fn any_packet_comes_back_equal(packet in packet()) {
        let encoded = packet.encode();
        prop_assert_eq!(Packet::decode(&encoded), Ok(packet));
        crate::bodies::packet(&encoded);
    }

    #[test]
    fn no_truncation_of_a_packet_panics(packet in packet(), cut in any::<prop::sample::Index>()) {
        let encoded = packet.encode();
        crate::bodies::packet(&encoded[..cut.index(encoded.len())]);
    }
}
