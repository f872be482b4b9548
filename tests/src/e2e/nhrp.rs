//! NHRP in what was recorded of an underlay.

use std::net::Ipv4Addr;
use std::path::Path;

use lab::Recorded;
use lab::capture::{write_header, write_packet};
use nhrp::wire::{Body, Packet};

use super::good;

/// An NHRP packet and who sent it to whom.
pub struct Seen<'a> {
    /// Outer source address.
    pub from: Ipv4Addr,
    /// Outer destination address.
    pub to: Ipv4Addr,
    /// The packet.
    pub packet: Packet,
    frame: &'a Recorded,
}

/// All NHRP packets; every one must decode, and encode to the same bytes again.
pub fn packets(recorded: &[Recorded]) -> Vec<Seen<'_>> {
    recorded.iter().filter_map(seen).collect()
}

fn seen(frame: &Recorded) -> Option<Seen<'_>> {
    let ip = frame.bytes.get(14..)?;
    // IPv4 without options, protocol 47.
    if *ip.first()? != 0x45 || *ip.get(9)? != 47 {
        return None;
    }
    let address = |at: usize| {
        ip.get(at..at + 4).and_then(|octets| <[u8; 4]>::try_from(octets).ok()).map(Ipv4Addr::from)
    };
    let length = usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?]));
    let gre = ip.get(20..length)?;
    // RFC 2890 §2: a key and nothing else. 0x2001 is NHRP.
    let bytes = gre.strip_prefix(&[0x20, 0x00, 0x20, 0x01])?.get(4..)?;
    let packet = good("decode an NHRP packet", Packet::decode(bytes));
    assert_eq!(packet.encode(), bytes, "{packet:#?}");
    Some(Seen { from: address(12)?, to: address(16)?, packet, frame })
}

impl Seen<'_> {
    /// Is it of this type (RFC 2332 §5.2; 8 is Cisco's Traffic Indication), from here to there?
    pub fn is(&self, from: Ipv4Addr, to: Ipv4Addr, kind: u8) -> bool {
        (self.from, self.to, self.packet.packet_type()) == (from, to, kind)
    }

    /// Codes of the CIEs.
    pub fn codes(&self) -> Vec<u8> {
        match &self.packet.body {
            Body::Query(query) => query.entries.iter().map(|cie| cie.code).collect(),
            Body::Error(_) | Body::Traffic(_) => Vec::new(),
        }
    }
}

/// Keeps the packets as NAME.pcap in the folder that GOLDEN names, if it is set.
pub fn keep(name: &str, seen: &[Seen<'_>]) {
    let Some(folder) = std::env::var_os("GOLDEN") else { return };
    let mut file = Vec::new();
    good("write a capture", write_header(&mut file));
    for seen in seen {
        good("write a capture", write_packet(&mut file, seen.frame.time, &seen.frame.bytes));
    }
    good("keep it", std::fs::write(Path::new(&folder).join(format!("{name}.pcap")), file));
}
