//! The codec: layouts byte by byte, round trips of arbitrary values, bad input.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ike::Identity;
use ike::wire::{
    Attribute, Delete, Error, Notify, NotifyType, Payload, Proposal, TrafficSelector, Transform,
    TransformKind, decode_chain, encode_chain,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn encoded(payload: Payload) -> Vec<u8> {
    let (first, bytes) = encode_chain(std::slice::from_ref(&payload));
    assert_eq!(decode_chain(first, &bytes), Ok(vec![payload]));
    bytes
}

#[test]
fn rfc7296_3_3_sa_payload_layout() {
    let proposal = Proposal {
        number: 1,
        protocol: 1,
        spi: Vec::new(),
        transforms: vec![
            Transform::new(TransformKind::ENCRYPTION, 20, Some(256)),
            Transform::new(TransformKind::KEY_EXCHANGE, 31, None),
        ],
    };
    #[rustfmt::skip]
    assert_eq!(encoded(Payload::SecurityAssociation(vec![proposal])), [
        0, 0, 0, 32,
        0, 0, 0, 28, 1, 1, 0, 2,
        3, 0, 0, 12, 1, 0, 0, 20, 0x80, 14, 1, 0,
        0, 0, 0, 8, 4, 0, 0, 31,
    ]);
}

#[test]
fn rfc7296_3_4_to_3_12_payload_layouts() {
    let identity = Identity { kind: 2, data: b"ab".to_vec() };
    let notify = Notify { protocol: 3, spi: vec![1, 2, 3, 4], kind: NotifyType(11), data: vec![5] };
    #[rustfmt::skip]
    let cases: Vec<(Payload, Vec<u8>)> = vec![
        (Payload::KeyExchange { group: 31, data: vec![7; 2] }, vec![0, 0, 0, 10, 0, 31, 0, 0, 7, 7]),
        (Payload::IdInitiator(identity.clone()), vec![0, 0, 0, 10, 2, 0, 0, 0, b'a', b'b']),
        (Payload::IdResponder(identity), vec![0, 0, 0, 10, 2, 0, 0, 0, b'a', b'b']),
        (Payload::Certificate { encoding: 4, data: vec![9] }, vec![0, 0, 0, 6, 4, 9]),
        (Payload::CertificateRequest { encoding: 4, authorities: vec![] }, vec![0, 0, 0, 5, 4]),
        (Payload::Authentication { method: 14, data: vec![9] }, vec![0, 0, 0, 9, 14, 0, 0, 0, 9]),
        (Payload::Notify(notify), vec![0, 0, 0, 13, 3, 4, 0, 11, 1, 2, 3, 4, 5]),
        (Payload::Delete(Delete::ike_sa()), vec![0, 0, 0, 8, 1, 0, 0, 0]),
        (Payload::VendorId(vec![1, 2]), vec![0, 0, 0, 6, 1, 2]),
    ];
    for (payload, bytes) in cases {
        assert_eq!(encoded(payload), bytes);
    }
}

#[test]
fn rfc7296_3_13_traffic_selector_layout() {
    let selector = TrafficSelector {
        protocol: 47,
        ports: (0, 65535),
        addresses: (Ipv4Addr::new(10, 0, 0, 1).into(), Ipv4Addr::new(10, 0, 0, 9).into()),
    };
    #[rustfmt::skip]
    assert_eq!(encoded(Payload::SelectorsInitiator(vec![selector])), [
        0, 0, 0, 24, 1, 0, 0, 0,
        7, 47, 0, 16, 0, 0, 255, 255, 10, 0, 0, 1, 10, 0, 0, 9,
    ]);
}

#[test]
fn bad_input_gives_typed_errors() {
    let cases: Vec<(u8, Vec<u8>, Error)> = vec![
        (41, vec![0, 0, 0], Error::Truncated("payload")),
        (41, vec![0, 0, 0, 3], Error::Invalid("payload length")),
        (41, vec![0, 0, 0, 9, 0, 0, 0, 1], Error::Truncated("payload")),
        (41, vec![0, 0, 0, 8, 0, 9, 0, 1], Error::Truncated("notify payload")),
        (0, vec![0], Error::Invalid("payload")),
        (40, [vec![0, 0, 0, 19], vec![1; 15]].concat(), Error::Invalid("nonce length")),
        (40, [vec![0, 0, 1, 5], vec![1; 257]].concat(), Error::Invalid("nonce length")),
        (42, vec![0, 0, 0, 8, 1, 0, 0, 1], Error::Invalid("delete payload")),
        (42, vec![0, 0, 0, 9, 3, 4, 0, 1, 9], Error::Invalid("delete payload")),
        (33, vec![0, 0, 0, 4], Error::Truncated("proposal")),
        (33, vec![0, 0, 0, 12, 2, 0, 0, 8, 1, 1, 0, 0], Error::Truncated("proposal")),
        (33, vec![0, 0, 0, 12, 0, 0, 0, 8, 1, 1, 0, 1], Error::Truncated("proposal")),
        (33, vec![0, 0, 0, 12, 1, 0, 0, 8, 1, 1, 0, 0], Error::Invalid("proposal")),
        (33, vec![0, 0, 0, 12, 0, 0, 0, 8, 1, 1, 0, 200], Error::TooMany("transforms")),
        (44, vec![0, 0, 0, 8, 1, 0, 0, 0], Error::Truncated("traffic selector payload")),
        (46, vec![0, 0, 0, 4], Error::Invalid("place of encrypted payload")),
        (99, vec![0, 0x80, 0, 4], Error::UnsupportedCritical(99)),
        (99, [43, 0, 0, 4].repeat(200), Error::TooMany("payloads")),
    ];
    for (first, bytes, error) in cases {
        assert_eq!(decode_chain(first, &bytes), Err(error), "{first} {bytes:?}");
    }
}

#[test]
fn rfc7296_3_2_the_critical_bit_of_a_known_payload_is_ignored() {
    let bytes = [0, 0x80, 0, 5, 1];
    assert_eq!(decode_chain(43, &bytes), Ok(vec![Payload::VendorId(vec![1])]));
}

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..max)
}

fn transform() -> impl Strategy<Value = Transform> {
    let attribute = prop_oneof![
        (0..0x8000u16, any::<u16>()).prop_map(|(kind, value)| Attribute::Short(kind, value)),
        (0..0x8000u16, bytes(9)).prop_map(|(kind, value)| Attribute::Long(kind, value)),
    ];
    (any::<u8>(), any::<u16>(), vec(attribute, 0..3)).prop_map(|(kind, id, attributes)| Transform {
        kind: TransformKind(kind),
        id,
        attributes,
    })
}

fn proposal() -> impl Strategy<Value = Proposal> {
    (any::<u8>(), any::<u8>(), bytes(9), vec(transform(), 0..6)).prop_map(
        |(number, protocol, spi, transforms)| Proposal { number, protocol, spi, transforms },
    )
}

fn selector() -> impl Strategy<Value = TrafficSelector> {
    let v4 = any::<[u32; 2]>().prop_map(|[a, b]| -> (IpAddr, IpAddr) {
        (Ipv4Addr::from_bits(a).into(), Ipv4Addr::from_bits(b).into())
    });
    let v6 = any::<[u128; 2]>().prop_map(|[a, b]| -> (IpAddr, IpAddr) {
        (Ipv6Addr::from_bits(a).into(), Ipv6Addr::from_bits(b).into())
    });
    (any::<u8>(), any::<(u16, u16)>(), prop_oneof![v4, v6])
        .prop_map(|(protocol, ports, addresses)| TrafficSelector { protocol, ports, addresses })
}

fn payload() -> impl Strategy<Value = Payload> {
    let identity = || (any::<u8>(), bytes(40)).prop_map(|(kind, data)| Identity { kind, data });
    let notify =
        (any::<u8>(), bytes(9), any::<u16>(), bytes(40)).prop_map(|(protocol, spi, kind, data)| {
            Notify { protocol, spi, kind: NotifyType(kind), data }
        });
    let delete = (any::<u8>(), 1..9usize, 0..5usize)
        .prop_map(|(protocol, len, count)| Delete { protocol, spis: vec![vec![7; len]; count] });
    prop_oneof![
        vec(proposal(), 1..4).prop_map(Payload::SecurityAssociation),
        (any::<u16>(), bytes(80)).prop_map(|(group, data)| Payload::KeyExchange { group, data }),
        identity().prop_map(Payload::IdInitiator),
        identity().prop_map(Payload::IdResponder),
        (any::<u8>(), bytes(80))
            .prop_map(|(encoding, data)| Payload::Certificate { encoding, data }),
        (any::<u8>(), bytes(80)).prop_map(|(encoding, authorities)| {
            Payload::CertificateRequest { encoding, authorities }
        }),
        (any::<u8>(), bytes(80))
            .prop_map(|(method, data)| Payload::Authentication { method, data }),
        vec(any::<u8>(), 16..257).prop_map(Payload::Nonce),
        notify.prop_map(Payload::Notify),
        delete.prop_map(Payload::Delete),
        bytes(40).prop_map(Payload::VendorId),
        vec(selector(), 0..4).prop_map(Payload::SelectorsInitiator),
        vec(selector(), 0..4).prop_map(Payload::SelectorsResponder),
    ]
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(payloads in vec(payload(), 0..8)) {
        let (first, bytes) = encode_chain(&payloads);
        prop_assert_eq!(decode_chain(first, &bytes), Ok(payloads));
    }

    #[test]
    fn no_prefix_of_a_chain_is_a_chain(payloads in vec(payload(), 1..4), cut in any::<prop::sample::Index>()) {
        let (first, bytes) = encode_chain(&payloads);
        prop_assert!(decode_chain(first, &bytes[..cut.index(bytes.len())]).is_err());
    }
}
