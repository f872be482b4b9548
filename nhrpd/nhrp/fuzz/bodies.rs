//! What the fuzz targets do with their input. The tests of the codec include this file as well and
//! run it, bounded, on seeds and mutated packets.
//!
//! In `nhrpd/nhrp`: `cargo fuzz run -s none TARGET`, with a target of `fuzz_targets/`.

use nhrp::wire::{Body, DecodeError, ExtensionBody, Packet, error_code};

const HEADER: usize = 20;

/// Whole packets: the bytes as they are, and with size and checksum made right, so that what lies
/// behind them is reached.
pub(crate) fn packet(bytes: &[u8]) {
    check(bytes);
    if bytes.len() >= HEADER {
        check(&sealed(bytes.to_vec()));
    }
}

/// A list of extensions. The first byte chooses the address families.
pub(crate) fn extensions(bytes: &[u8]) {
    let Some((&families, list)) = bytes.split_first() else { return };
    let mut packet = header(families, 3);
    packet.extend_from_slice(&[0; 8]);
    let offset = packet.len() as u16;
    packet[14..16].copy_from_slice(&offset.to_be_bytes());
    packet.extend_from_slice(list);
    check(&sealed(packet));
}

/// A list of client information entries. The first byte chooses the address families.
pub(crate) fn entries(bytes: &[u8]) {
    let Some((&families, list)) = bytes.split_first() else { return };
    let mut packet = header(families, 1);
    packet.extend_from_slice(&[0; 8]);
    packet.extend_from_slice(list);
    check(&sealed(packet));
}

/// The mandatory part of Error and Traffic Indications. The first byte chooses the address
/// families and the type, the next two are the lengths of the source NBMA address.
pub(crate) fn indications(bytes: &[u8]) {
    let [choice, address, subaddress, part @ ..] = bytes else { return };
    let mut packet = header(*choice, if choice & 4 == 0 { 7 } else { 8 });
    packet[18..20].copy_from_slice(&[*address, *subaddress]);
    packet.extend_from_slice(part);
    check(&sealed(packet));
}

/// `packet` with its true size and checksum.
pub(crate) fn sealed(mut packet: Vec<u8>) -> Vec<u8> {
    let size = u16::try_from(packet.len()).unwrap_or(u16::MAX);
    packet[10..12].copy_from_slice(&size.to_be_bytes());
    packet[12..14].fill(0);
    let sum: u64 = packet
        .chunks(2)
        .map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    // One's complement arithmetic is arithmetic modulo 0xffff; version 1 keeps the sum above 0.
    let sum = match sum % 0xffff {
        0 => 0xffff,
        sum => sum as u16,
    };
    packet[12..14].copy_from_slice(&(!sum).to_be_bytes());
    packet
}

fn header(families: u8, packet_type: u8) -> Vec<u8> {
    let mut header = vec![0; HEADER];
    header[1] = 1 + (families & 1);
    header[2..4].copy_from_slice(if families & 2 == 0 { &[0x08, 0x00] } else { &[0x86, 0xdd] });
    header[16..18].copy_from_slice(&[1, packet_type]);
    header
}

fn check(bytes: &[u8]) {
    match Packet::decode(bytes) {
        Ok(packet) => check_packet(bytes, &packet),
        Err(error) => check_error(bytes, &error),
    }
}

fn check_packet(bytes: &[u8], packet: &Packet) {
    let encoded = packet.encode();
    let mut canonical = bytes.to_vec();
    canonical[4..9].fill(0);
    assert_eq!(encoded, sealed(canonical), "decoding and encoding is not the identity");
    assert_eq!(Packet::decode(&encoded).as_ref(), Ok(packet));

    for (index, extension) in packet.extensions.iter().enumerate() {
        let offset = usize::from(packet.extension_offset(index));
        let head = u16::from_be_bytes([encoded[offset], encoded[offset + 1]]);
        assert_eq!(head & 0x7fff, extension.body.kind());
    }

    // No more values than bytes that they stand for.
    let lists = packet.extensions.iter().map(|extension| match &extension.body {
        ExtensionBody::ForwardTransitNhs(list)
        | ExtensionBody::ReverseTransitNhs(list)
        | ExtensionBody::NatAddress(list) => list.len(),
        _ => 0,
    });
    let entries = match &packet.body {
        Body::Query(query) => query.entries.len(),
        _ => 0,
    };
    assert!((lists.sum::<usize>() + entries) * 12 + packet.extensions.len() * 4 <= bytes.len());

    let origin = Packet::origin(bytes).expect("a packet that decodes has an origin");
    assert_eq!(origin.packet_type, packet.packet_type());
    let _ = format!("{packet:?}");
}

fn check_error(bytes: &[u8], error: &DecodeError) {
    assert!(error.offset() <= bytes.len(), "{error} lies outside");
    assert!(!error.to_string().is_empty());
    match error.indication() {
        None => assert!(bytes.len() < HEADER),
        Some((code, _)) => {
            assert!([error_code::PROTOCOL_ERROR, error_code::INVALID_EXTENSION].contains(&code));
        }
    }
    let _ = Packet::origin(bytes);
}
