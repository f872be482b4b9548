//! Authentication, and extensions that are wrong.

use nhrp::engine::{Config, Event, NhsState, Refusal};
use nhrp::wire::{End, Extension, ExtensionBody, Packet, extension_type};

use super::network::*;

const SECRET: &str = "s3cret";

fn secured(spokes: u8) -> Network {
    let mut network = Network::new();
    network.add(underlay(1), Config { authentication: password(SECRET), ..hub() });
    for n in 2..2 + spokes {
        network.add(underlay(n), Config { authentication: password(SECRET), ..spoke(n) });
        network.authorize(underlay(1), underlay(n), &[tunnel(n).into(), lan(n)]);
    }
    network.run(seconds(1));
    network
}

fn authentication(data: &[u8]) -> Extension {
    Extension::compulsory(ExtensionBody::Authentication { kind: 1, data: data.to_vec() })
}

fn passwords(packet: &Packet) -> Vec<&[u8]> {
    fn password(body: &ExtensionBody) -> Option<&[u8]> {
        match body {
            ExtensionBody::Authentication { data, .. } => Some(data),
            _ => None,
        }
    }
    packet.extensions.iter().filter_map(|e| password(&e.body)).collect()
}

#[test]
fn rfc2332_5_3_4_every_packet_is_authenticated_anew_at_each_hop() {
    let mut network = secured(2);
    assert_eq!(network.nhs(underlay(2)), NhsState::Responding);
    network.resolve(2, host(3));
    assert!(network.binding(underlay(2), lan(3)).is_some());
    assert!(network.sent.len() >= 12);
    for sent in &network.sent {
        assert_eq!(passwords(&sent.packet), [SECRET.as_bytes()], "{sent:?}");
    }
}

#[test]
fn rfc2332_5_3_4_password_of_one_hop_is_not_carried_to_the_next() {
    // The hub has none: what a spoke sends is not passed on.
    let mut network = Network::with_spokes(2);
    let mut request = resolution_of(2, host(3));
    request.extensions.push(authentication(b"private"));
    network.take_sent();
    network.inject(underlay(2), underlay(1), &request);
    let sent = network.take_sent();
    assert_eq!(sent[0].to, underlay(3));
    assert!(passwords(&sent[0].packet).is_empty());
}

#[test]
fn rfc2332_5_3_4_wrong_missing_doubled_and_over_long_authentication_is_error_11() {
    let cases: [(&str, Vec<Extension>); 6] = [
        ("missing", vec![]),
        ("wrong", vec![authentication(b"guess")]),
        ("empty", vec![authentication(b"")]),
        ("over-long", vec![authentication(b"s3cret-and-more-than-eight")]),
        ("doubled", vec![authentication(b"s3cret"), authentication(b"s3cret")]),
        (
            "of another type",
            vec![Extension::compulsory(ExtensionBody::Authentication {
                kind: 2,
                data: SECRET.into(),
            })],
        ),
    ];
    for (case, extensions) in cases {
        let mut network = secured(0);
        network.authorize(underlay(1), underlay(2), &[tunnel(2).into()]);
        let mut request = registration_of(2);
        request.extensions.extend(extensions);
        network.inject(underlay(2), underlay(1), &request);
        let sent = network.take_sent();
        assert_eq!(sent.len(), 1, "{case}");
        assert_eq!(error_code(&sent[0].packet), Some(11), "{case}");
        assert_eq!(network.refused(underlay(1), Refusal::Authentication), 1, "{case}");
        assert_eq!(network.nodes[&underlay(1)].bindings.len(), 0, "{case}");
    }
}

#[test]
fn authentication_failures_are_told_once_a_second() {
    let mut network = secured(0);
    let request = registration_of(2);
    for _ in 0..50 {
        network.inject(underlay(2), underlay(1), &request);
    }
    let told = network.take_events(underlay(1));
    assert_eq!(told, [Event::AuthenticationFailed { peer: underlay(2) }]);
    assert_eq!(network.refused(underlay(1), Refusal::Authentication), 50);
}

#[test]
fn password_is_in_no_debug_output() {
    let mut network = secured(1);
    network.resolve(2, host(9));
    let text = format!("{network:?}");
    assert!(!text.contains(SECRET));
    let digits: Vec<String> = SECRET.bytes().map(|byte| byte.to_string()).collect();
    for sent in &network.sent {
        assert!(!format!("{:?}", sent.packet).contains(&digits.join(", ")));
    }
}

#[test]
fn rfc2332_5_3_duplicate_extension_is_error_9() {
    let mut network = Network::with_spokes(1);
    let mut request = registration_of(2);
    let twice = request
        .extensions
        .iter()
        .find(|e| e.body.kind() == extension_type::FORWARD_TRANSIT_NHS)
        .cloned()
        .expect("requests have it");
    request.extensions.push(twice);
    network.take_sent();
    network.inject(underlay(2), underlay(1), &request);
    assert_eq!(error_code(&network.sent[0].packet), Some(9));
    assert_eq!(network.refused(underlay(1), Refusal::InvalidExtension), 1);
}

#[test]
fn rfc2332_5_3_error_offset_is_where_the_extension_begins() {
    let mut network = Network::with_spokes(1);
    let mut request = registration_of(2);
    let unknown = ExtensionBody::Unknown { kind: 0x77, value: vec![0xaa; 5] };
    request.extensions.insert(2, Extension::compulsory(unknown));
    network.take_sent();
    network.inject(underlay(2), underlay(1), &request);
    let nhrp::wire::Body::Error(error) = &network.sent[0].packet.body else { panic!("no error") };
    let at = usize::from(error.error_offset);
    assert_eq!(request.encode()[at..at + 4], [0x80, 0x77, 0x00, 0x05]);
}

#[test]
fn rfc2332_5_3_missing_end_is_tolerated() {
    let mut network = Network::with_spokes(0);
    network.authorize(underlay(1), underlay(2), &[tunnel(2).into()]);
    let mut request = registration_of(2);
    request.end = End::Missing;
    network.inject(underlay(2), underlay(1), &request);
    assert!(network.binding(underlay(1), tunnel(2).into()).is_some());
    assert_eq!(network.sent[0].packet.end, End::Compulsory);
}
