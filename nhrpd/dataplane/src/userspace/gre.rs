//! The GRE packet that travels inside the encryption, or alone with `security: none`.
//!
//! ```text
//! |C| |K|S| Reserved0       | Ver |         Protocol Type         |   RFC 2784 §2, RFC 2890 §2
//! |      Checksum (optional)      |       Reserved1 (Optional)    |
//! |                         Key (optional)                        |
//! |                 Sequence Number (Optional)                    |
//! ```

use std::net::IpAddr;

use super::counters::Reason;
use super::ip::{self, Checksum};

const CHECKSUM: u16 = 0x8000;
const ROUTING: u16 = 0x4000;
const KEY: u16 = 0x2000;
const SEQUENCE: u16 = 0x1000;
/// Bits 4 and 5: a receiver must discard a packet with them (RFC 2784 §2.3).
const MUST_BE_ZERO: u16 = 0x0c00;
const VERSION: u16 = 0x0007;

/// What a GRE packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Ipv4,
    Ipv6,
    Nhrp,
}

impl Protocol {
    /// Protocol type of an IP packet.
    pub(crate) fn of(packet: &[u8]) -> Self {
        if packet.first().is_some_and(|b| b >> 4 == 6) { Self::Ipv6 } else { Self::Ipv4 }
    }

    fn number(self) -> u16 {
        match self {
            Self::Ipv4 => 0x0800,
            Self::Ipv6 => 0x86dd,
            Self::Nhrp => 0x2001,
        }
    }
}

/// Reads the GRE header: what it carries and where that begins.
pub(crate) fn decode(packet: &[u8], key: Option<u32>) -> Result<(Protocol, usize), Reason> {
    let (flags, rest) = packet.split_first_chunk().ok_or(Reason::Malformed)?;
    let flags = u16::from_be_bytes(*flags);
    let (kind, mut rest) = rest.split_first_chunk().ok_or(Reason::Malformed)?;
    if flags & (ROUTING | MUST_BE_ZERO | VERSION) != 0 {
        return Err(Reason::Malformed);
    }
    let mut word = |present: u16| -> Result<Option<u32>, Reason> {
        if flags & present == 0 {
            return Ok(None);
        }
        let (word, after) = rest.split_first_chunk().ok_or(Reason::Malformed)?;
        rest = after;
        Ok(Some(u32::from_be_bytes(*word)))
    };
    let checksum = word(CHECKSUM)?;
    let found = word(KEY)?;
    word(SEQUENCE)?;
    if found != key {
        return Err(Reason::WrongKey);
    }
    if checksum.is_some() && Checksum::default().bytes(packet).folded() != [0xff, 0xff] {
        return Err(Reason::Malformed);
    }
    let protocol = match u16::from_be_bytes(*kind) {
        0x0800 => Protocol::Ipv4,
        0x86dd => Protocol::Ipv6,
        0x2001 => Protocol::Nhrp,
        _ => return Err(Reason::UnknownProtocol),
    };
    Ok((protocol, packet.len() - rest.len()))
}

/// The key of a packet that [`decode`] refused because of it.
pub(crate) fn key(packet: &[u8]) -> Option<u32> {
    let flags = u16::from_be_bytes(*packet.first_chunk()?);
    let at = if flags & CHECKSUM == 0 { 4 } else { 8 };
    let bytes = packet.get(at..at + 4).filter(|_| flags & KEY != 0)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// Where the GRE packet lies in the IP packet that carries it (protocol 47, no fragment).
pub(crate) fn inside(packet: &[u8]) -> Result<std::ops::Range<usize>, Reason> {
    let outer = ip::Header::parse(packet).ok_or(Reason::Malformed)?;
    if outer.protocol != ip::GRE || outer.fragment {
        return Err(Reason::Malformed);
    }
    Ok(outer.header_len..outer.total_len)
}

/// The headers that one path puts before each packet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Headers {
    bytes: [u8; Self::MAX],
    ip: usize,
    len: usize,
}

impl Headers {
    /// The longest: IPv6, and GRE with a key.
    pub(crate) const MAX: usize = 48;

    /// The headers between two NBMA addresses. Without `outer` the kernel writes the IP header.
    pub(crate) fn new(outer: Option<(IpAddr, IpAddr)>, key: Option<u32>) -> Self {
        let mut bytes = [0; Self::MAX];
        let ip = match outer {
            None => 0,
            Some((IpAddr::V4(source), IpAddr::V4(destination))) => {
                bytes[0] = 0x45;
                // DF: an atomic datagram needs no identification (RFC 6864 §4.1).
                bytes[6] = 0x40;
                bytes[8] = 64;
                bytes[9] = ip::GRE;
                bytes[12..16].copy_from_slice(&source.octets());
                bytes[16..20].copy_from_slice(&destination.octets());
                20
            }
            Some((source, destination)) => {
                let octets = |address| match address {
                    IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
                    IpAddr::V6(a) => a.octets(),
                };
                bytes[0] = 0x60;
                bytes[6] = ip::GRE;
                bytes[7] = 64;
                bytes[8..24].copy_from_slice(&octets(source));
                bytes[24..40].copy_from_slice(&octets(destination));
                40
            }
        };
        let mut len = ip + 4;
        if let Some(key) = key {
            bytes[ip] = (KEY >> 8) as u8;
            bytes[len..len + 4].copy_from_slice(&key.to_be_bytes());
            len += 4;
        }
        Self { bytes, ip, len }
    }

    /// Their length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Writes them to the front of `out`, before `payload_len` bytes of `protocol`.
    pub(crate) fn write(&self, out: &mut [u8], protocol: Protocol, payload_len: usize) {
        out[..self.len].copy_from_slice(&self.bytes[..self.len]);
        out[self.ip + 2..self.ip + 4].copy_from_slice(&protocol.number().to_be_bytes());
        if self.ip != 0 {
            ip::set_length(out, self.ip, self.len + payload_len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(key: Option<u32>, protocol: Protocol, payload: &[u8]) -> Vec<u8> {
        let headers = Headers::new(None, key);
        let mut packet = vec![0; headers.len()];
        headers.write(&mut packet, protocol, payload.len());
        packet.extend_from_slice(payload);
        packet
    }

    #[test]
    fn key_must_match_exactly() {
        let packet = encode(Some(42), Protocol::Nhrp, b"nhrp");
        assert_eq!(packet[..8], [0x20, 0, 0x20, 0x01, 0, 0, 0, 42]);
        assert_eq!(decode(&packet, Some(42)), Ok((Protocol::Nhrp, 8)));
        assert_eq!(decode(&packet, Some(43)), Err(Reason::WrongKey));
        assert_eq!(decode(&packet, None), Err(Reason::WrongKey));
        assert_eq!(key(&packet), Some(42));
        let packet = encode(None, Protocol::Ipv4, b"ip");
        assert_eq!(decode(&packet, None), Ok((Protocol::Ipv4, 4)));
        assert_eq!(decode(&packet, Some(0)), Err(Reason::WrongKey));
        assert_eq!(key(&packet), None);
    }

    #[test]
    fn checksum_and_sequence_are_read_over() {
        // RFC 2784 §2.5, RFC 2890 §2.2
        let mut packet = vec![0xb0, 0, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 9, 1, 2, 3];
        let checksum = Checksum::default().bytes(&packet).finish();
        packet[4..6].copy_from_slice(&checksum);
        assert_eq!(decode(&packet, Some(7)), Ok((Protocol::Ipv4, 16)));
        assert_eq!(key(&packet), Some(7));
        packet[18] ^= 1;
        assert_eq!(decode(&packet, Some(7)), Err(Reason::Malformed));
    }

    #[test]
    fn routing_other_versions_and_reserved_bits_are_refused() {
        for (byte, bit) in [(0, 0x40), (0, 0x08), (0, 0x04), (1, 0x01), (1, 0x04)] {
            let mut packet = encode(None, Protocol::Ipv4, b"ip");
            packet[byte] |= bit;
            assert_eq!(decode(&packet, None), Err(Reason::Malformed), "{byte} {bit:#x}");
        }
        let mut packet = encode(None, Protocol::Ipv4, b"ip");
        packet[3] = 0x06;
        assert_eq!(decode(&packet, None), Err(Reason::UnknownProtocol));
    }

    #[test]
    fn headers_are_those_of_a_gre_packet_in_ip() {
        for (source, destination, ip) in
            [("192.0.2.1", "198.51.100.9", 20), ("2001:db8::1", "2001:db8::9", 40)]
        {
            let outer = (source.parse().unwrap(), destination.parse().unwrap());
            let headers = Headers::new(Some(outer), Some(42));
            let mut packet = vec![0; headers.len() + 6];
            headers.write(&mut packet, Protocol::Ipv6, 6);
            packet.extend([0; 7]);
            let header = ip::Header::parse(&packet).unwrap();
            assert_eq!((header.source, header.destination), outer);
            let range = inside(&packet).unwrap();
            assert_eq!(range, ip..headers.len() + 6);
            assert_eq!(decode(&packet[range], Some(42)), Ok((Protocol::Ipv6, 8)));
            if ip == 20 {
                assert_eq!(Checksum::default().bytes(&packet[..20]).folded(), [0xff, 0xff]);
            }
        }
    }

    #[test]
    fn only_a_whole_gre_packet_is_taken_out() {
        let headers = Headers::new(Some(([192, 0, 2, 1].into(), [192, 0, 2, 2].into())), None);
        let mut packet = vec![0; headers.len()];
        headers.write(&mut packet, Protocol::Ipv4, 0);
        assert!(inside(&packet).is_ok());
        let mut udp = packet.clone();
        udp[9] = ip::UDP;
        assert_eq!(inside(&udp), Err(Reason::Malformed));
        let mut fragment = packet.clone();
        fragment[6] = 0x20;
        assert_eq!(inside(&fragment), Err(Reason::Malformed));
        assert_eq!(inside(&packet[..10]), Err(Reason::Malformed));
    }

    proptest! {
        #[test]
        fn decoding_is_total(bytes in proptest::collection::vec(any::<u8>(), 0..64), key: Option<u32>) {
            if let Ok((_, offset)) = decode(&bytes, key) {
                prop_assert!(offset <= bytes.len());
            }
            let _ = super::key(&bytes);
            if let Ok(range) = inside(&bytes) {
                prop_assert!(range.end <= bytes.len());
            }
        }
    }
}
