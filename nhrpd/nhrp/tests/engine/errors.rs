//! Error Indications.

use nhrp::engine::{Event, Refusal};
use nhrp::wire::{Body, ErrorIndication, Operation, Packet};

use super::network::*;

fn error(packet: &Packet) -> &ErrorIndication {
    match &packet.body {
        Body::Error(error) => error,
        other => panic!("not an error: {other:?}"),
    }
}

/// An Error Indication from the hub about `about`.
fn indication(code: u16, about: &Packet) -> Packet {
    let error = ErrorIndication {
        error_code: code,
        source_nbma: underlay(1).address.into(),
        source_protocol: Some(tunnel(1)),
        destination_protocol: query(about).source_protocol,
        packet: about.encode(),
        ..ErrorIndication::default()
    };
    let body = Body::Error(error);
    Packet::new(about.nbma_family, about.protocol_family, 64, body, Vec::new())
}

#[test]
fn rfc2332_5_2_7_form_of_an_error_indication() {
    let mut network = Network::with_spokes(2);
    let mut request = resolution_of(2, host(3));
    request.hop_count = 1;
    network.take_sent();
    network.inject(underlay(2), underlay(1), &request);
    let sent = network.take_sent();
    let packet = &sent[0].packet;
    assert!(packet.extensions.is_empty());
    assert!(packet.hop_count > 0);
    let error = error(packet);
    assert_eq!(error.source_nbma.address, Some(underlay(1).address));
    assert_eq!(error.source_protocol, Some(tunnel(1)));
    assert_eq!(error.destination_protocol, Some(tunnel(2)));
    assert_eq!(error.error_offset, 9);
    assert_eq!(error.packet, request.encode());
}

#[test]
fn rfc2332_5_2_7_long_packet_in_error_is_cut() {
    let mut network = Network::with_spokes(1);
    let mut request = registration_of(2);
    request.hop_count = 0;
    let cie = query(&request).entries[0].clone();
    query_mut(&mut request).entries = vec![cie; 60];
    network.take_sent();
    network.inject(underlay(2), underlay(1), &request);
    let packet = &network.sent[0].packet;
    assert!(packet.encode().len() <= 576);
    assert!(request.encode().starts_with(&error(packet).packet));
    assert!(error(packet).packet.len() > 400);
}

#[test]
fn rfc2332_5_2_7_never_an_error_about_an_error() {
    let mut network = Network::with_spokes(1);
    let about = registration_of(2);
    network.take_sent();
    // With hop count 0; to nobody known; garbled.
    let mut exhausted = indication(7, &about);
    exhausted.hop_count = 0;
    let mut lost = indication(7, &about);
    match &mut lost.body {
        Body::Error(error) => error.destination_protocol = Some(tunnel(99)),
        _ => unreachable!(),
    }
    for packet in [exhausted, lost] {
        network.inject(underlay(2), underlay(1), &packet);
    }
    let mut garbled = indication(7, &about).encode();
    garbled[12] ^= 0xff;
    network.at(underlay(1), |engine, now| engine.handle_packet(now, underlay(2), &garbled));
    assert_eq!(network.take_sent().len(), 0);
    assert_eq!(network.refused(underlay(1), Refusal::Malformed), 1);
}

#[test]
fn rfc2332_5_2_7_at_most_one_error_for_a_packet() {
    let mut network = Network::with_spokes(1);
    let mut request = registration_of(2);
    request.hop_count = 0;
    query_mut(&mut request).entries[0].prefix_length = 33;
    network.take_sent();
    network.inject(underlay(2), underlay(1), &request);
    assert_eq!(network.take_sent().len(), 1);
}

#[test]
fn rfc2332_5_2_7_malformed_packet_is_told_to_its_sender() {
    let mut network = Network::with_spokes(1);
    let mut bytes = registration_of(2).encode();
    bytes[12] ^= 0xff;
    network.take_sent();
    network.at(underlay(1), |engine, now| engine.handle_packet(now, underlay(2), &bytes));
    let sent = network.take_sent();
    assert_eq!((error(&sent[0].packet).error_code, error(&sent[0].packet).error_offset), (7, 12));
    // Where there is not even a header, nobody is told.
    network.at(underlay(1), |engine, now| engine.handle_packet(now, underlay(2), &bytes[..19]));
    assert_eq!(network.take_sent().len(), 0);
    assert_eq!(network.refused(underlay(1), Refusal::Malformed), 2);
}

#[test]
fn rfc2332_5_2_7_reply_to_an_unknown_request_is_error_10_within_the_rate() {
    let mut network = Network::with_spokes(2);
    network.resolve(2, host(3));
    let sent = network.take_sent();
    let mut reply = of(&sent, Operation::ResolutionReply)[1].packet.clone();
    for i in 0..100 {
        query_mut(&mut reply).request_id = 0xdead_0000 + i;
        network.inject(underlay(1), underlay(2), &reply);
    }
    let sent = network.take_sent();
    let limit = nhrp::engine::Limits::default().errors as usize;
    assert_eq!(sent.len(), limit);
    assert!(sent.iter().all(|s| error_code(&s.packet) == Some(10)));
    // To the station that made the reply.
    assert_eq!(error(&sent[0].packet).destination_protocol, Some(tunnel(3)));
    assert_eq!(network.refused(underlay(2), Refusal::UnknownReply), 100);
    assert_eq!(network.refused(underlay(2), Refusal::ErrorRate), 100 - limit as u64);
    network.run(seconds(1));
    network.inject(underlay(1), underlay(2), &reply);
    let sent = network.take_sent();
    assert_eq!(sent.iter().filter(|s| s.from == underlay(2)).count(), 1);
}

#[test]
fn rfc2332_5_2_7_reply_for_another_destination_is_error_10() {
    let mut network = Network::with_spokes(2);
    network.take_sent();
    network.at(underlay(2), |engine, now| engine.resolve(now, host(3)));
    network.run(DELAY * 3);
    let sent = network.take_sent();
    let mut reply = of(&sent, Operation::ResolutionReply)[1].packet.clone();
    query_mut(&mut reply).destination_protocol = Some(host(77));
    network.inject(underlay(1), underlay(2), &reply);
    assert_eq!(error_code(&network.sent[0].packet), Some(10));
    assert!(network.nodes[&underlay(2)].bindings.keys().all(|p| !p.contains(&host(77))));
}

#[test]
fn second_copy_of_a_reply_is_no_error() {
    let mut network = Network::with_spokes(2);
    network.resolve(2, host(3));
    let sent = network.take_sent();
    let reply = of(&sent, Operation::ResolutionReply)[1].packet.clone();
    network.inject(underlay(1), underlay(2), &reply);
    assert_eq!(network.take_sent().len(), 0);
    assert_eq!(network.refused(underlay(2), Refusal::DuplicateReply), 1);
}

#[test]
fn rfc2332_5_2_7_error_about_a_resolution_ends_it() {
    let mut network = Network::with_spokes(1);
    network.node(underlay(1)).reachable = false;
    network.take_sent();
    network.at(underlay(2), |engine, now| engine.resolve(now, host(3)));
    let request = network.sent[0].packet.clone();
    // From elsewhere it counts for nothing.
    let error = indication(6, &request);
    network.inject(underlay(9), underlay(2), &error);
    let failed = |event: &Event| matches!(event, Event::ResolutionFailed { .. });
    assert!(!network.take_events(underlay(2)).iter().any(failed));
    network.inject(underlay(1), underlay(2), &error);
    let events = network.take_events(underlay(2));
    assert!(events.contains(&Event::ErrorReceived {
        peer: underlay(1),
        observer: Some(tunnel(1)),
        code: 6,
        reason: "protocol address unreachable"
    }));
    assert!(events.contains(&Event::ResolutionFailed {
        destination: host(3),
        reason: "protocol address unreachable, says 172.16.0.1".to_owned()
    }));
}

#[test]
fn rfc2332_5_2_7_errors_are_passed_on() {
    let mut network = Network::with_spokes(2);
    let about = registration_of(2);
    network.take_sent();
    network.inject(underlay(3), underlay(1), &indication(7, &about));
    let sent = network.take_sent();
    assert_eq!(sent[0].to, underlay(2));
    assert_eq!(error_code(&sent[0].packet), Some(7));
}

#[test]
fn request_without_source_or_destination_is_a_protocol_error() {
    for spoil in [
        (|q: &mut nhrp::wire::Query| q.source_protocol = None) as fn(&mut nhrp::wire::Query),
        |q| q.destination_protocol = None,
    ] {
        let mut network = Network::with_spokes(2);
        let mut request = resolution_of(2, host(3));
        spoil(query_mut(&mut request));
        network.take_sent();
        network.inject(underlay(2), underlay(1), &request);
        let sent = network.take_sent();
        assert_eq!(sent.iter().map(|s| error_code(&s.packet)).collect::<Vec<_>>(), [Some(7)]);
    }
}
