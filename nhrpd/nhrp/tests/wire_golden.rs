//! Packets captured from other implementations: fields, and the same bytes when encoded again.

use nhrp::wire::Packet;

mod support;

use support::golden;

#[test]
fn every_golden_packet_comes_back_byte_for_byte() {
    let packets = golden::all();
    assert_eq!(packets.len(), 18);
    for (name, bytes) in packets {
        let packet = Packet::decode(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(packet.encode(), bytes, "{name}");
    }
}
