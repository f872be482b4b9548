//! FRR 8.4.4's own packets, fed to the engine.

use std::fs;
use std::path::Path;

use nhrp::wire::{Operation, Packet, extension_type, flags};

use super::network::*;

fn captured(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    fs::read_to_string(path)
        .expect("a captured packet")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(str::split_whitespace)
        .map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal bytes"))
        .collect()
}

fn inject(network: &mut Network, from: u8, to: u8, name: &str) -> Vec<Packet> {
    let bytes = captured(name);
    network.take_sent();
    network.at(underlay(to), |engine, now| engine.handle_packet(now, underlay(from), &bytes));
    network.take_sent().into_iter().map(|sent| sent.packet).collect()
}

#[test]
fn registration_of_an_frr_spoke_is_answered_as_frr_does() {
    let mut network = Network::with_spokes(0);
    network.authorize(underlay(1), underlay(2), &[tunnel(2).into()]);
    for (request, reply) in [
        (
            "frr-01-registration-request-spoke2-to-hub.hex",
            "frr-02-registration-reply-hub-to-spoke2.hex",
        ),
        (
            "frr-05-registration-request-spoke2-to-hub.hex",
            "frr-06-registration-reply-hub-to-spoke2.hex",
        ),
    ] {
        let ours = inject(&mut network, 2, 1, request).pop().expect("a reply");
        let frr = Packet::decode(&captured(reply)).expect("FRR's packets decode");
        let (mut ours, frr) = (ours, frr);
        // Ours may hold for as long as we like; all else is what FRR says.
        for packet in [&mut ours] {
            packet.hop_count = frr.hop_count;
            for extension in &mut packet.extensions {
                if let nhrp::wire::ExtensionBody::ResponderAddress(Some(cie)) = &mut extension.body
                {
                    cie.holding_time = 60;
                    cie.prefix_length = 0;
                }
            }
        }
        assert_eq!(query(&ours), query(&frr));
        assert_eq!(
            ours.extension(extension_type::RESPONDER_ADDRESS),
            frr.extension(extension_type::RESPONDER_ADDRESS)
        );
        let kinds = |p: &Packet| p.extensions.iter().map(|e| e.body.kind()).collect::<Vec<_>>();
        assert_eq!(kinds(&ours), kinds(&frr));
    }
    assert_eq!(network.binding(underlay(1), tunnel(2).into()).expect("bound").nbma, underlay(2));
}

#[test]
fn resolution_between_frr_spokes_passes_through_our_hub() {
    let mut network = Network::with_spokes(2);
    let request = inject(&mut network, 3, 1, "frr-11-resolution-request-spoke3-to-hub.hex");
    let as_frr = Packet::decode(&captured("frr-13-resolution-request-hub-to-spoke2.hex"));
    let as_frr = as_frr.expect("FRR's packets decode");
    assert_eq!(query(&request[0]), query(&as_frr));
    assert_eq!(request[0].hop_count, as_frr.hop_count);
    assert_eq!(listed(&request[0], extension_type::FORWARD_TRANSIT_NHS), [tunnel(1)]);

    let reply = inject(&mut network, 2, 1, "frr-15-resolution-reply-spoke2-to-hub.hex");
    let as_frr = Packet::decode(&captured("frr-17-resolution-reply-hub-to-spoke3.hex"));
    assert_eq!(query(&reply[0]), query(&as_frr.expect("FRR's packets decode")));
    assert_eq!(listed(&reply[0], extension_type::REVERSE_TRANSIT_NHS), [tunnel(1)]);
}

#[test]
fn resolution_request_of_an_frr_spoke_is_answered_as_frr_does() {
    // As the FRR hub forwarded it to spoke 2.
    let mut network = Network::with_spokes(1);
    let ours = inject(&mut network, 1, 2, "frr-13-resolution-request-hub-to-spoke2.hex");
    let frr = Packet::decode(&captured("frr-15-resolution-reply-spoke2-to-hub.hex"));
    let frr = frr.expect("FRR's packets decode");
    // FRR leaves Cisco's NAT bit out of its reply.
    assert_eq!(query(&ours[0]).flags & !flags::NAT, query(&frr).flags);
    assert_eq!(query(&ours[0]).entries[0].prefix_length, query(&frr).entries[0].prefix_length);
    assert_eq!(query(&ours[0]).entries[0].protocol, query(&frr).entries[0].protocol);
    assert_eq!(query(&ours[0]).request_id, query(&frr).request_id);
    assert_eq!(responder(&ours[0]), responder(&frr));
    let back = network.binding(underlay(2), tunnel(3).into()).expect("the way back");
    assert_eq!(back.nbma, underlay(3));
}

#[test]
fn traffic_indication_of_an_frr_hub_is_followed() {
    let mut network = Network::with_spokes(1);
    let sent = inject(&mut network, 1, 2, "frr-09-traffic-indication-hub-to-spoke2.hex");
    assert_eq!(query(&sent[0]).operation, Operation::ResolutionRequest);
    let frr = Packet::decode(&captured("frr-12-resolution-request-spoke2-to-hub.hex"));
    let frr = frr.expect("FRR's packets decode");
    assert_eq!(query(&sent[0]).destination_protocol, query(&frr).destination_protocol);
    assert_eq!(query(&sent[0]).flags, query(&frr).flags);
}
