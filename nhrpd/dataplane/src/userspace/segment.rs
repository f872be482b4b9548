//! What the kernel left to us: checksums, and TCP or UDP packets larger than the path carries,
//! which it hands over whole (TSO, USO) with a virtio header before them.

use super::ip::{self, Checksum, Header};

const NEEDS_CHECKSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
const GSO_UDP: u8 = 5;
const GSO_ECN: u8 = 0x80;

const TCP_FLAGS: usize = 13;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// `struct virtio_net_hdr` (linux/virtio_net.h), in the machine's byte order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Vnet {
    flags: u8,
    gso_type: u8,
    header_len: u16,
    gso_size: u16,
    checksum_start: u16,
    checksum_offset: u16,
}

impl Vnet {
    /// Its length in bytes.
    pub(crate) const LEN: usize = 10;

    pub(crate) fn decode(bytes: &[u8; Self::LEN]) -> Self {
        let number = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            header_len: number(2),
            gso_size: number(4),
            checksum_start: number(6),
            checksum_offset: number(8),
        }
    }

    pub(crate) fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0] = self.flags;
        bytes[1] = self.gso_type;
        let numbers = [self.header_len, self.gso_size, self.checksum_start, self.checksum_offset];
        for (out, number) in bytes[2..].as_chunks_mut::<2>().0.iter_mut().zip(numbers) {
            *out = number.to_ne_bytes();
        }
        bytes
    }

    /// A packet that the kernel may cut into segments of `gso_size` payload bytes; its checksum
    /// field holds the sum of the pseudo-header.
    pub(crate) fn large(
        transport: Transport,
        v6: bool,
        ip_len: usize,
        header_len: usize,
        gso_size: usize,
    ) -> Self {
        // All below 64 KiB: they are offsets in one packet.
        Self {
            flags: NEEDS_CHECKSUM,
            gso_type: match (transport, v6) {
                (Transport::Tcp, false) => GSO_TCP4,
                (Transport::Tcp, true) => GSO_TCP6,
                (Transport::Udp, _) => GSO_UDP,
            },
            header_len: header_len as u16,
            gso_size: gso_size as u16,
            checksum_start: ip_len as u16,
            checksum_offset: transport.checksum_offset() as u16,
        }
    }
}

/// What large packets are made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Transport {
    #[default]
    Tcp,
    Udp,
}

impl Transport {
    pub(crate) fn protocol(self) -> u8 {
        match self {
            Self::Tcp => ip::TCP,
            Self::Udp => ip::UDP,
        }
    }

    /// Where the checksum lies in its header.
    pub(crate) fn checksum_offset(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }
}

/// The packets that one read from the tunnel device stands for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segments {
    /// Length of the packet that was read.
    len: usize,
    cut: Option<Cut>,
}

#[derive(Debug, Clone, Copy)]
struct Cut {
    ip_len: usize,
    header_len: usize,
    size: usize,
    transport: Transport,
    ecn: bool,
    /// Sum of the pseudo-header without the length.
    pseudo: Checksum,
}

impl Segments {
    /// Looks at a packet as read from the device, and completes its checksum where it stays
    /// whole. `None` where header and packet do not fit together.
    pub(crate) fn new(vnet: Vnet, packet: &mut [u8]) -> Option<Self> {
        let header = Header::parse(packet)?;
        if header.total_len != packet.len() {
            return None;
        }
        let start = usize::from(vnet.checksum_start);
        let field = start + usize::from(vnet.checksum_offset);
        let transport = match vnet.gso_type & !GSO_ECN {
            GSO_NONE => {
                if vnet.flags & NEEDS_CHECKSUM != 0 {
                    if start < header.header_len || field + 2 > packet.len() {
                        return None;
                    }
                    // The field holds the sum of the pseudo-header.
                    let mut sum = Checksum::default().bytes(&packet[start..]).finish();
                    if header.protocol == ip::UDP && sum == [0, 0] {
                        sum = [0xff, 0xff];
                    }
                    packet[field..field + 2].copy_from_slice(&sum);
                }
                return Some(Self { len: packet.len(), cut: None });
            }
            GSO_TCP4 | GSO_TCP6 => Transport::Tcp,
            GSO_UDP => Transport::Udp,
            _ => return None,
        };
        // The kernel's hdr_len may be that of the whole first segment when it forwards.
        let (least, transport_len) = match transport {
            Transport::Tcp => (20, usize::from(*packet.get(start + 12)? >> 4) * 4),
            Transport::Udp => (8, 8),
        };
        let header_len = start + transport_len;
        if start < header.header_len
            || transport_len < least
            || usize::from(vnet.checksum_offset) != transport.checksum_offset()
            || header_len > packet.len()
            || vnet.gso_size == 0
        {
            return None;
        }
        let cut = Cut {
            ip_len: start,
            header_len,
            size: usize::from(vnet.gso_size),
            transport,
            ecn: vnet.gso_type & GSO_ECN != 0,
            pseudo: Checksum::default().pseudo_header(packet, transport.protocol()),
        };
        Some(Self { len: packet.len(), cut: Some(cut) })
    }

    /// How many packets.
    pub(crate) fn count(&self) -> usize {
        let Some(cut) = self.cut else { return 1 };
        (self.len - cut.header_len).div_ceil(cut.size).max(1)
    }

    /// Length of the longest.
    pub(crate) fn longest(&self) -> usize {
        self.cut.map_or(self.len, |cut| self.len.min(cut.header_len + cut.size))
    }

    /// Writes packet `index` to `out`, which must hold [`Self::longest`] bytes; its length.
    pub(crate) fn write(&self, index: usize, packet: &[u8], out: &mut [u8]) -> usize {
        let Some(cut) = self.cut else {
            out[..self.len].copy_from_slice(packet);
            return self.len;
        };
        let begin = cut.header_len + index * cut.size;
        let end = self.len.min(begin + cut.size);
        let payload = &packet[begin..end];
        let len = cut.header_len + payload.len();
        let out = &mut out[..len];
        out[..cut.header_len].copy_from_slice(&packet[..cut.header_len]);
        out[cut.header_len..].copy_from_slice(payload);

        if out[0] >> 4 == 4 {
            let id = u16::from_be_bytes([out[4], out[5]]).wrapping_add(index as u16);
            out[4..6].copy_from_slice(&id.to_be_bytes());
        }
        ip::set_length(out, cut.ip_len, len);

        let transport = &mut out[cut.ip_len..];
        let transport_len = transport.len() as u16;
        match cut.transport {
            Transport::Udp => transport[4..6].copy_from_slice(&transport_len.to_be_bytes()),
            Transport::Tcp => {
                let sequence = [transport[4], transport[5], transport[6], transport[7]];
                let sequence = u32::from_be_bytes(sequence).wrapping_add((index * cut.size) as u32);
                transport[4..8].copy_from_slice(&sequence.to_be_bytes());
                if end != self.len {
                    transport[TCP_FLAGS] &= !(FIN | PSH);
                }
                // RFC 3168 §6.1.2: CWR is said once.
                if index > 0 && cut.ecn {
                    transport[TCP_FLAGS] &= !CWR;
                }
            }
        }
        let field = cut.transport.checksum_offset();
        transport[field..field + 2].fill(0);
        let mut sum = cut.pseudo.number(transport_len).bytes(transport).finish();
        if cut.transport == Transport::Udp && sum == [0, 0] {
            sum = [0xff, 0xff];
        }
        transport[field..field + 2].copy_from_slice(&sum);
        len
    }
}

#[cfg(test)]
mod tests {
    use super::super::ip::tests::{udp, udp6};
    use super::*;
    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    fn tcp(v6: bool, payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        let step = if v6 {
            PacketBuilder::ipv6([0xfd; 16], [0xfe; 16], 64)
        } else {
            PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        };
        step.tcp(1000, 2000, 0xffff_fff0, 4096)
            .ack(77)
            .psh()
            .options_raw(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2])
            .unwrap()
            .write(&mut packet, payload)
            .unwrap();
        packet
    }

    /// Asks etherparse whether header checksum and transport checksum are right.
    fn valid(packet: &[u8]) -> bool {
        let sliced = SlicedPacket::from_ip(packet).unwrap();
        let ip = sliced.net.as_ref().unwrap();
        let (v4, addresses) = match ip {
            etherparse::NetSlice::Ipv4(s) => {
                let header = s.header().to_header();
                assert_eq!(header.calc_header_checksum(), header.header_checksum);
                (true, (s.header().source().to_vec(), s.header().destination().to_vec()))
            }
            etherparse::NetSlice::Ipv6(s) => {
                (false, (s.header().source().to_vec(), s.header().destination().to_vec()))
            }
            _ => panic!(),
        };
        let four = |a: &[u8]| -> [u8; 4] { a.try_into().unwrap() };
        let sixteen = |a: &[u8]| -> [u8; 16] { a.try_into().unwrap() };
        let (source, destination) = (&addresses.0, &addresses.1);
        match sliced.transport.unwrap() {
            TransportSlice::Tcp(t) if v4 => {
                t.calc_checksum_ipv4(four(source), four(destination)).unwrap() == t.checksum()
            }
            TransportSlice::Tcp(t) => {
                t.calc_checksum_ipv6(sixteen(source), sixteen(destination)).unwrap() == t.checksum()
            }
            TransportSlice::Udp(u) => {
                let header = u.to_header();
                let sum = if v4 {
                    header.calc_checksum_ipv4_raw(four(source), four(destination), u.payload())
                } else {
                    header.calc_checksum_ipv6_raw(
                        sixteen(source),
                        sixteen(destination),
                        u.payload(),
                    )
                };
                sum.unwrap() == u.checksum()
            }
            _ => panic!(),
        }
    }

    fn cut(vnet: Vnet, packet: &[u8]) -> Vec<Vec<u8>> {
        let mut packet = packet.to_vec();
        let segments = Segments::new(vnet, &mut packet).unwrap();
        let mut out = vec![0; segments.longest()];
        (0..segments.count())
            .map(|i| {
                let len = segments.write(i, &packet, &mut out);
                out[..len].to_vec()
            })
            .collect()
    }

    #[test]
    fn vnet_header_round_trip() {
        let vnet = Vnet::large(Transport::Tcp, true, 40, 72, 1400);
        assert_eq!(Vnet::decode(&vnet.encode()), vnet);
    }

    #[test]
    fn a_large_tcp_packet_becomes_segments_that_say_the_same() {
        for v6 in [false, true] {
            let payload: Vec<u8> = (0..4000u32).map(|n| (n * 7) as u8).collect();
            let packet = tcp(v6, &payload);
            let ip_len = if v6 { 40 } else { 20 };
            let segments = cut(Vnet::large(Transport::Tcp, v6, ip_len, 0, 1400), &packet);
            assert_eq!(segments.len(), 3);
            let mut joined = Vec::new();
            for (i, segment) in segments.iter().enumerate() {
                assert!(valid(segment), "segment {i} of v6={v6}");
                let sliced = SlicedPacket::from_ip(segment).unwrap();
                let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!() };
                assert_eq!(tcp.sequence_number(), 0xffff_fff0u32.wrapping_add(1400 * i as u32));
                assert_eq!(tcp.psh(), i == 2);
                joined.extend_from_slice(tcp.payload());
            }
            assert_eq!(joined, payload);
        }
    }

    #[test]
    fn a_large_udp_packet_becomes_datagrams() {
        for packet in [
            udp([10, 0, 0, 1], [10, 0, 0, 2], 64, &[9; 2500]),
            udp6("fd00::1", "fd00::2", 64, &[9; 2500]),
        ] {
            let ip_len = if packet[0] >> 4 == 4 { 20 } else { 40 };
            let vnet = Vnet::large(Transport::Udp, false, ip_len, 0, 1000);
            let segments = cut(vnet, &packet);
            let lengths: Vec<_> = segments.iter().map(|s| s.len() - ip_len - 8).collect();
            assert_eq!(lengths, [1000, 1000, 500]);
            assert!(segments.iter().all(|s| valid(s)));
        }
    }

    #[test]
    fn a_partial_checksum_is_completed() {
        let mut packet = udp([10, 0, 0, 1], [10, 0, 0, 2], 64, b"payload");
        let whole = packet.clone();
        let pseudo = Checksum::default()
            .pseudo_header(&packet, ip::UDP)
            .number((packet.len() - 20) as u16)
            .folded();
        packet[26..28].copy_from_slice(&pseudo);
        let vnet = Vnet {
            flags: NEEDS_CHECKSUM,
            checksum_start: 20,
            checksum_offset: 6,
            ..Vnet::default()
        };
        assert_eq!(cut(vnet, &packet), [whole]);
    }

    proptest! {
        #[test]
        fn any_header_before_any_packet_is_safe(
            bytes: [u8; Vnet::LEN], len in 0usize..200, v6: bool, payload in 0usize..300,
        ) {
            let mut packet = tcp(v6, &vec![1; payload]);
            let mut vnet = Vnet::decode(&bytes);
            vnet.gso_type &= 0x87;
            for offset in [&mut vnet.checksum_start, &mut vnet.checksum_offset] {
                *offset %= 100;
            }
            if let Some(segments) = Segments::new(vnet, &mut packet) {
                let mut out = vec![0; segments.longest()];
                for i in 0..segments.count() {
                    segments.write(i, &packet, &mut out);
                }
            }
            let _ = Segments::new(vnet, &mut vec![0x45; len]);
        }
    }
}
