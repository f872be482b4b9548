//! ICMP errors about packets that cannot go on (RFC 792, RFC 1191, RFC 4443).

use std::net::IpAddr;

use super::ip::{self, Checksum, Header};

/// Why a packet cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Error {
    /// No path for the destination.
    Unreachable,
    /// TTL or hop limit used up.
    TimeExceeded,
    /// Larger than this.
    TooBig(u16),
}

/// The longest error that [`error`] writes.
pub(crate) const MAX: usize = 1280;

/// Writes to `out` (of [`MAX`] bytes) the error about `packet`, from `from`, which must be of
/// the same family. `None` where no error may be sent: about another error, a fragment other
/// than the first, a multicast, or to a source that is no single node (RFC 1122 §3.2.2,
/// RFC 4443 §2.4 e).
pub(crate) fn error(
    error: Error,
    packet: &[u8],
    from: IpAddr,
    out: &mut [u8; MAX],
) -> Option<usize> {
    let header = Header::parse(packet)?;
    let packet = &packet[..header.total_len];
    let single = |address: IpAddr| !address.is_multicast() && !address.is_unspecified();
    let broadcast = |address: IpAddr| matches!(address, IpAddr::V4(a) if a.is_broadcast());
    // RFC 4443 §2.4 (e.3): a packet too big message about a multicast may be sent.
    let multicast_allowed = matches!((error, header.source), (Error::TooBig(_), IpAddr::V6(_)));
    if header.later_fragment
        || !single(header.source)
        || broadcast(header.source)
        || broadcast(header.destination)
        || (header.destination.is_multicast() && !multicast_allowed)
        || about_an_error(&header, packet)
    {
        return None;
    }
    match (from, header.source) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let (kind, code, mtu) = match error {
                Error::Unreachable => (3, 0, 0),
                Error::TimeExceeded => (11, 0, 0),
                Error::TooBig(mtu) => (3, 4, mtu),
            };
            // RFC 1812 §4.3.2.3: as much as fits in 576 bytes.
            let quoted = packet.len().min(576 - 28);
            let total = 28 + quoted;
            out[..28].fill(0);
            out[0] = 0x45;
            // RFC 1812 §4.3.2.5: internetwork control.
            out[1] = 0xc0;
            out[8] = 64;
            out[9] = ip::ICMP;
            out[12..16].copy_from_slice(&from.octets());
            out[16..20].copy_from_slice(&to.octets());
            ip::set_length(out, 20, total);
            out[20] = kind;
            out[21] = code;
            // RFC 1191 §4: next-hop MTU.
            out[26..28].copy_from_slice(&mtu.to_be_bytes());
            out[28..total].copy_from_slice(&packet[..quoted]);
            let checksum = Checksum::default().bytes(&out[20..total]).finish();
            out[22..24].copy_from_slice(&checksum);
            Some(total)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let (kind, number) = match error {
                Error::Unreachable => (1, 0),
                Error::TimeExceeded => (3, 0),
                Error::TooBig(mtu) => (2, u32::from(mtu)),
            };
            let quoted = packet.len().min(MAX - 48);
            let total = 48 + quoted;
            out[..48].fill(0);
            out[0] = 0x60;
            out[6] = ip::ICMPV6;
            out[7] = 64;
            out[8..24].copy_from_slice(&from.octets());
            out[24..40].copy_from_slice(&to.octets());
            ip::set_length(out, 40, total);
            out[40] = kind;
            out[44..48].copy_from_slice(&number.to_be_bytes());
            out[48..total].copy_from_slice(&packet[..quoted]);
            let checksum = Checksum::default()
                .pseudo_header(out, ip::ICMPV6)
                .number((total - 40) as u16)
                .bytes(&out[40..total])
                .finish();
            out[42..44].copy_from_slice(&checksum);
            Some(total)
        }
        _ => None,
    }
}

fn about_an_error(header: &Header, packet: &[u8]) -> bool {
    let kind = packet.get(header.header_len).copied();
    match header.protocol {
        // An error without its type byte is an error still.
        ip::ICMP => !kind.is_some_and(|kind| !matches!(kind, 3 | 4 | 5 | 11 | 12)),
        // RFC 4443 §2.1: errors have a clear high bit; 137 is a redirect.
        ip::ICMPV6 => !kind.is_some_and(|kind| kind >= 128 && kind != 137),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::ip::tests::{udp, udp6};
    use super::*;
    use etherparse::{
        IcmpEchoHeader, Icmpv4Type, Icmpv6Type, PacketBuilder, SlicedPacket, TransportSlice,
    };
    use proptest::prelude::*;

    fn make(kind: Error, packet: &[u8], from: &str) -> Option<Vec<u8>> {
        let mut out = [0xaa; MAX];
        error(kind, packet, from.parse().unwrap(), &mut out).map(|len| out[..len].to_vec())
    }

    #[test]
    fn too_big_of_ipv4_names_the_mtu_and_quotes_the_packet() {
        let packet = udp([192, 168, 1, 1], [192, 168, 2, 1], 64, &[7; 1500]);
        let reply = make(Error::TooBig(1412), &packet, "172.16.0.1").unwrap();
        assert_eq!(reply.len(), 576);
        assert_eq!(Checksum::default().bytes(&reply[20..]).folded(), [0xff, 0xff]);
        let sliced = SlicedPacket::from_ip(&reply).unwrap();
        let Some(TransportSlice::Icmpv4(icmp)) = sliced.transport else { panic!() };
        let Icmpv4Type::DestinationUnreachable(
            etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu },
        ) = icmp.icmp_type()
        else {
            panic!("{:?}", icmp.icmp_type())
        };
        assert_eq!(next_hop_mtu, 1412);
        assert_eq!(icmp.payload(), &packet[..548]);
        let header = Header::parse(&reply).unwrap();
        assert_eq!(header.destination, IpAddr::from([192, 168, 1, 1]));
        assert_eq!(header.source, IpAddr::from([172, 16, 0, 1]));
    }

    #[test]
    fn errors_of_ipv6_have_a_right_checksum() {
        let packet = udp6("fd00:1::1", "fd00:2::1", 64, &[7; 1500]);
        for kind in [Error::TooBig(1392), Error::TimeExceeded, Error::Unreachable] {
            let reply = make(kind, &packet, "fd00::1").unwrap();
            let sliced = SlicedPacket::from_ip(&reply).unwrap();
            let Some(TransportSlice::Icmpv6(icmp)) = sliced.transport else { panic!() };
            let address = |s: &str| s.parse::<std::net::Ipv6Addr>().unwrap().octets();
            assert!(icmp.is_checksum_valid(address("fd00::1"), address("fd00:1::1")));
            if let Error::TooBig(_) = kind {
                assert_eq!(icmp.icmp_type(), Icmpv6Type::PacketTooBig { mtu: 1392 });
            }
        }
    }

    #[test]
    fn no_error_about_an_error_a_later_fragment_or_a_multicast() {
        let packet = udp([192, 168, 1, 1], [192, 168, 2, 1], 1, b"x");
        let first = make(Error::TimeExceeded, &packet, "172.16.0.1").unwrap();
        assert_eq!(make(Error::TimeExceeded, &first, "172.16.0.2"), None);

        let mut fragment = packet.clone();
        fragment[7] = 1;
        assert_eq!(make(Error::TimeExceeded, &fragment, "172.16.0.1"), None);

        let multicast = udp([192, 168, 1, 1], [224, 0, 0, 5], 1, b"x");
        assert_eq!(make(Error::TimeExceeded, &multicast, "172.16.0.1"), None);
        let nobody = udp([0, 0, 0, 0], [192, 168, 1, 1], 1, b"x");
        assert_eq!(make(Error::TimeExceeded, &nobody, "172.16.0.1"), None);

        let mut echo = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 1)
            .icmpv4(Icmpv4Type::EchoRequest(IcmpEchoHeader { id: 1, seq: 1 }))
            .write(&mut echo, b"x")
            .unwrap();
        assert!(make(Error::TimeExceeded, &echo, "172.16.0.1").is_some());
    }

    #[test]
    fn the_families_do_not_mix() {
        let packet = udp([192, 168, 1, 1], [192, 168, 2, 1], 1, b"x");
        assert_eq!(make(Error::TimeExceeded, &packet, "fd00::1"), None);
    }

    proptest! {
        #[test]
        fn building_is_total(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = make(Error::TooBig(1400), &bytes, "172.16.0.1");
            let _ = make(Error::TooBig(1400), &bytes, "fd00::1");
        }
    }
}
