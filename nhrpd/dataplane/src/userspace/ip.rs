//! What the data plane needs to know of an IP packet, and the Internet checksum.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Protocol numbers.
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const GRE: u8 = 47;
pub(crate) const ICMPV6: u8 = 58;

/// The fields of an IPv4 or IPv6 header that forwarding looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// Length of the IP header (IPv6: of the fixed header).
    pub header_len: usize,
    /// Length of the packet with its header.
    pub total_len: usize,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Protocol, or the first next header.
    pub protocol: u8,
    /// May be cut into fragments on its way (IPv4 without DF).
    pub fragmentable: bool,
    /// A fragment, be it the first.
    pub fragment: bool,
    /// A fragment other than the first.
    pub later_fragment: bool,
}

impl Header {
    /// Reads the header; `None` where it is not that of a whole IP packet. Bytes after the
    /// packet's own length are padding.
    pub(crate) fn parse(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::parse_v4(packet),
            6 => Self::parse_v6(packet),
            _ => None,
        }
    }

    // RFC 791 §3.1
    fn parse_v4(packet: &[u8]) -> Option<Self> {
        let fixed: &[u8; 20] = packet.first_chunk()?;
        let header_len = usize::from(fixed[0] & 0x0f) * 4;
        let total_len = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        if header_len < 20 || total_len < header_len || total_len > packet.len() {
            return None;
        }
        let fragment = u16::from_be_bytes([fixed[6], fixed[7]]);
        Some(Self {
            source: Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]).into(),
            destination: Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]).into(),
            header_len,
            total_len,
            ttl: fixed[8],
            protocol: fixed[9],
            fragmentable: fragment & 0x4000 == 0,
            fragment: fragment & 0x3fff != 0,
            later_fragment: fragment & 0x1fff != 0,
        })
    }

    // RFC 8200 §3
    fn parse_v6(packet: &[u8]) -> Option<Self> {
        let fixed: &[u8; 40] = packet.first_chunk()?;
        let total_len = 40 + usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
        if total_len > packet.len() {
            return None;
        }
        let address = |at: usize| {
            let mut octets = [0; 16];
            octets.copy_from_slice(&fixed[at..at + 16]);
            IpAddr::V6(Ipv6Addr::from(octets))
        };
        let fragment = (fixed[6] == 44).then(|| packet.get(42..44)).flatten();
        let offset = fragment.map_or(0, |f| u16::from_be_bytes([f[0], f[1]]));
        Some(Self {
            source: address(8),
            destination: address(24),
            header_len: 40,
            total_len,
            ttl: fixed[7],
            protocol: fixed[6],
            fragmentable: false,
            fragment: fixed[6] == 44,
            later_fragment: offset & 0xfff8 != 0,
        })
    }
}

/// Decrements TTL or hop limit of a packet whose header was parsed; the IPv4 checksum is
/// adjusted (RFC 1624 §3). `false` when it would reach 0.
pub(crate) fn decrement_ttl(packet: &mut [u8]) -> bool {
    let (ttl, v4) = match packet.first().map(|b| b >> 4) {
        Some(4) => (8, true),
        Some(6) => (7, false),
        _ => return false,
    };
    if packet.len() < 20 || packet[ttl] <= 1 {
        return false;
    }
    packet[ttl] -= 1;
    if v4 {
        let old = u16::from_be_bytes([packet[10], packet[11]]);
        // m' - m = -0x0100, so HC' = ~(~HC + ~m + m') = HC + 0x0100 with end-around carry.
        let (sum, carry) = old.overflowing_add(0x0100);
        let sum = sum + u16::from(carry);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    true
}

/// The Internet checksum (RFC 1071), summed in the machine's byte order.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Checksum(u64);

impl Checksum {
    /// Adds bytes that begin at an even offset of the summed data.
    pub(crate) fn bytes(mut self, data: &[u8]) -> Self {
        let mut blocks = data.chunks_exact(32);
        let mut lanes = [0u64; 8];
        for block in &mut blocks {
            for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
                *lane += u64::from(u32::from_ne_bytes(*word));
            }
        }
        self.0 += lanes.iter().sum::<u64>();
        let (words, tail) = blocks.remainder().as_chunks::<2>();
        for word in words {
            self.0 += u64::from(u16::from_ne_bytes(*word));
        }
        if let [last] = tail {
            self.0 += u64::from(u16::from_ne_bytes([*last, 0]));
        }
        self
    }

    /// Adds one 16-bit number.
    pub(crate) fn number(mut self, value: u16) -> Self {
        self.0 += u64::from(u16::from_ne_bytes(value.to_be_bytes()));
        self
    }

    /// Adds the addresses of an IP packet, and the protocol: the pseudo-header of RFC 9293 §3.1
    /// and RFC 8200 §8.1 without the length.
    pub(crate) fn pseudo_header(self, packet: &[u8], protocol: u8) -> Self {
        let addresses = if packet[0] >> 4 == 4 { &packet[12..20] } else { &packet[8..40] };
        self.bytes(addresses).number(u16::from(protocol))
    }

    /// The sum, folded to 16 bits, as it stands in the packet.
    pub(crate) fn folded(self) -> [u8; 2] {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        // After the loop the sum fits.
        (sum as u16).to_ne_bytes()
    }

    /// The complement of the sum, as it stands in the packet.
    pub(crate) fn finish(self) -> [u8; 2] {
        self.folded().map(|byte| !byte)
    }
}

/// Sets the total length of an IPv4 packet, or the payload length of an IPv6 packet, and the
/// IPv4 header checksum.
pub(crate) fn set_length(packet: &mut [u8], header_len: usize, total_len: usize) {
    // Callers keep packets below 64 KiB.
    if packet[0] >> 4 == 4 {
        packet[2..4].copy_from_slice(&(total_len as u16).to_be_bytes());
        packet[10..12].fill(0);
        let checksum = Checksum::default().bytes(&packet[..header_len]).finish();
        packet[10..12].copy_from_slice(&checksum);
    } else {
        packet[4..6].copy_from_slice(&((total_len - 40) as u16).to_be_bytes());
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    pub(crate) fn udp(source: [u8; 4], destination: [u8; 4], ttl: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ipv4(source, destination, ttl)
            .udp(1000, 2000)
            .write(&mut packet, payload)
            .unwrap();
        packet
    }

    pub(crate) fn udp6(source: &str, destination: &str, ttl: u8, payload: &[u8]) -> Vec<u8> {
        let octets = |a: &str| a.parse::<Ipv6Addr>().unwrap().octets();
        let mut packet = Vec::new();
        PacketBuilder::ipv6(octets(source), octets(destination), ttl)
            .udp(1000, 2000)
            .write(&mut packet, payload)
            .unwrap();
        packet
    }

    #[test]
    fn header_fields_of_both_families() {
        let packet = udp([10, 0, 0, 1], [10, 0, 0, 2], 9, b"hello");
        let header = Header::parse(&packet).unwrap();
        assert_eq!(header.source, IpAddr::from([10, 0, 0, 1]));
        assert_eq!(header.destination, IpAddr::from([10, 0, 0, 2]));
        assert_eq!((header.ttl, header.protocol, header.total_len), (9, UDP, packet.len()));
        assert!(!header.fragmentable && !header.fragment);

        let packet = udp6("fd00::1", "fd00::2", 7, b"hello");
        let header = Header::parse(&packet).unwrap();
        assert_eq!(header.destination, "fd00::2".parse::<IpAddr>().unwrap());
        assert_eq!((header.ttl, header.protocol, header.total_len), (7, UDP, packet.len()));
    }

    #[test]
    fn a_header_that_claims_more_than_there_is_is_refused() {
        let packet = udp([10, 0, 0, 1], [10, 0, 0, 2], 9, b"hello");
        assert!(Header::parse(&packet[..packet.len() - 1]).is_none());
        let mut short = packet.clone();
        short[0] = 0x44;
        assert!(Header::parse(&short).is_none());
    }

    proptest! {
        #[test]
        fn parsing_is_total(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some(header) = Header::parse(&bytes) {
                prop_assert!(header.header_len <= header.total_len);
                prop_assert!(header.total_len <= bytes.len());
            }
        }

        /// RFC 1624: the adjusted checksum is that of a fresh sum.
        #[test]
        fn decremented_ttl_keeps_the_checksum_right(
            ttl in 2u8.., source: [u8; 4], destination: [u8; 4], id: u16,
        ) {
            let mut packet = udp(source, destination, ttl, b"x");
            packet[4..6].copy_from_slice(&id.to_be_bytes());
            let len = packet.len();
            set_length(&mut packet, 20, len);
            prop_assert!(decrement_ttl(&mut packet));
            prop_assert_eq!(packet[8], ttl - 1);
            // 0x0000 and 0xffff are the same number in one's complement.
            let sum = Checksum::default().bytes(&packet[..20]).folded();
            prop_assert_eq!(sum, [0xff, 0xff]);
        }

        #[test]
        fn checksum_is_that_of_the_definition(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut sum = 0u32;
            for pair in data.chunks(2) {
                sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            }
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            prop_assert_eq!(Checksum::default().bytes(&data).folded(), (sum as u16).to_be_bytes());
        }
    }

    #[test]
    fn ttl_of_one_is_not_forwarded() {
        let mut packet = udp([1, 1, 1, 1], [2, 2, 2, 2], 1, b"");
        assert!(!decrement_ttl(&mut packet));
        let mut packet = udp6("fd00::1", "fd00::2", 2, b"");
        assert!(decrement_ttl(&mut packet));
        assert!(!decrement_ttl(&mut packet));
    }
}
