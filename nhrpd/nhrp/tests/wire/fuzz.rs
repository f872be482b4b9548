//! The fuzz targets on seeds, noise and mutated packets, bounded.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::{bodies, captured};

/// Values at the edges of lengths, types and flag bits.
const EDGES: [u8; 10] = [0x00, 0x01, 0x03, 0x05, 0x10, 0x3f, 0x40, 0x7f, 0x80, 0xff];

#[test]
fn every_byte_of_every_captured_packet_at_its_edges() {
    for (_, packet) in captured::all() {
        for index in 0..packet.len() {
            for value in EDGES {
                let mut packet = packet.clone();
                packet[index] = value;
                bodies::packet(&packet);
            }
        }
    }
}

#[test]
fn every_truncation_of_every_captured_packet() {
    for (_, packet) in captured::all() {
        for length in 0..packet.len() {
            bodies::packet(&packet[..length]);
        }
    }
}

#[test]
fn seeds_of_the_inner_decoders() {
    for (_, packet) in captured::all() {
        let extension_offset = usize::from(u16::from_be_bytes([packet[14], packet[15]]));
        for families in 0..4 {
            let with_choice = |bytes: &[u8]| [&[families], bytes].concat();
            bodies::extensions(&with_choice(&packet[extension_offset..]));
            bodies::entries(&with_choice(&packet[40..]));
            bodies::indications(&with_choice(&packet[18..]));
            bodies::indications(&[&[families | 4], &packet[18..]].concat());
        }
    }
}

fn captured_packet() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(captured::all().into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn mutated_packets(
        mut packet in captured_packet(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        for (index, value) in changes {
            let index = index.index(packet.len());
            packet[index] = value;
        }
        if let Some(cut) = cut {
            packet.truncate(cut.index(packet.len()));
        }
        bodies::packet(&packet);
        bodies::extensions(&packet);
        bodies::entries(&packet);
        bodies::indications(&packet);
    }

    #[test]
    fn noise(bytes in vec(any::<u8>(), 0..200)) {
        bodies::packet(&bytes);
        bodies::extensions(&bytes);
        bodies::entries(&bytes);
        bodies::indications(&bytes);
    }

    #[test]
    fn small_noise(bytes in vec(prop_oneof![0u8..20, Just(0x80)], 0..80)) {
        bodies::packet(&bytes);
        bodies::extensions(&bytes);
        bodies::entries(&bytes);
        bodies::indications(&bytes);
    }
}
