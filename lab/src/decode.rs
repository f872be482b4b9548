//! What an underlay packet is, as far as an onlooker without keys can tell.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

/// One packet, seen from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Addresses of the outermost IP header; none for ARP and what is no IP.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// What it carries.
    pub kind: Kind,
    /// Bytes of the whole frame.
    pub length: usize,
}

/// What a packet carries.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Address resolution of IPv4.
    Arp,
    /// Neighbour and router discovery, multicast group reports.
    NeighbourDiscovery,
    /// IKEv2 (RFC 7296 §2.23: on UDP 500, or behind the non-ESP marker).
    Ike(Exchange),
    /// WireGuard.
    WireGuard(Message),
    /// ESP, as protocol 50 or in UDP.
    Esp,
    /// The one-byte keepalive of RFC 3948 §2.3.
    Keepalive,
    /// GRE in clear text, with its protocol type (0x2001 is NHRP).
    Gre(u16),
    /// ICMP or ICMPv6 in clear text: type.
    Icmp(u8),
    /// A later fragment, whose content cannot be told.
    Fragment,
    /// Anything else, in words.
    Other(String),
}

/// IKEv2 exchange type (RFC 7296 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exchange(pub u8);

/// WireGuard message type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Message {
    /// 1
    Initiation,
    /// 2
    Response,
    /// 3
    CookieReply,
    /// 4 with a payload.
    Data,
    /// 4 without.
    Keepalive,
}

impl Kind {
    /// Is what is inside hidden from an onlooker?
    pub fn encrypted(&self) -> bool {
        matches!(self, Self::Ike(_) | Self::WireGuard(_) | Self::Esp)
    }

    /// Does it carry packets of the tunnel, encrypted?
    pub fn data(&self) -> bool {
        matches!(self, Self::WireGuard(Message::Data) | Self::Esp)
    }

    /// Does every network carry it, tunnel or not?
    pub fn housekeeping(&self) -> bool {
        matches!(self, Self::Arp | Self::NeighbourDiscovery)
    }
}

impl Packet {
    /// Decodes an Ethernet frame; whatever it holds, it is something.
    pub fn of(frame: &[u8]) -> Self {
        let other =
            |what: String| Self { addresses: None, kind: Kind::Other(what), length: frame.len() };
        let packet = match SlicedPacket::from_ethernet(frame) {
            Ok(packet) => packet,
            Err(error) => return other(format!("undecodable: {error}")),
        };
        let addresses = match &packet.net {
            Some(NetSlice::Ipv4(ip)) => Some((
                IpAddr::V4(ip.header().source_addr()),
                IpAddr::V4(ip.header().destination_addr()),
            )),
            Some(NetSlice::Ipv6(ip)) => Some((
                IpAddr::V6(ip.header().source_addr()),
                IpAddr::V6(ip.header().destination_addr()),
            )),
            Some(NetSlice::Arp(_)) => None,
            None => return other("no IP".into()),
        };
        Self { addresses, kind: kind(&packet), length: frame.len() }
    }
}

fn kind(packet: &SlicedPacket<'_>) -> Kind {
    let Some(payload) = packet.ip_payload() else { return Kind::Arp };
    match &packet.transport {
        Some(TransportSlice::Udp(udp)) => {
            return datagram(udp.source_port(), udp.destination_port(), udp.payload());
        }
        Some(TransportSlice::Tcp(tcp)) => {
            return Kind::Other(format!("TCP port {}", tcp.destination_port()));
        }
        Some(TransportSlice::Icmpv4(icmp)) => return Kind::Icmp(icmp.type_u8()),
        Some(TransportSlice::Icmpv6(icmp)) => {
            return match icmp.type_u8() {
                // RFC 4861 §4, RFC 2710, RFC 3810
                130..=137 | 143 => Kind::NeighbourDiscovery,
                other => Kind::Icmp(other),
            };
        }
        Some(TransportSlice::Igmp(_)) => return Kind::NeighbourDiscovery,
        None => {}
    }
    match (payload.ip_number.0, payload.payload) {
        (47, [_, _, high, low, ..]) => Kind::Gre(u16::from_be_bytes([*high, *low])),
        (50, _) => Kind::Esp,
        _ if payload.fragmented => Kind::Fragment,
        (number, _) => Kind::Other(format!("IP protocol {number}")),
    }
}

/// UDP of a node: RFC 3948 §2.2 and §3, and WireGuard on the same port.
fn datagram(source: u16, destination: u16, payload: &[u8]) -> Kind {
    let ike = |message: &[u8]| match message.get(17..19) {
        Some([0x20, exchange]) => Kind::Ike(Exchange(*exchange)),
        _ => Kind::Other("UDP, no IKEv2 behind the marker".into()),
    };
    if source == 500 || destination == 500 {
        return ike(payload);
    }
    match payload {
        [0xff] => Kind::Keepalive,
        [0, 0, 0, 0, message @ ..] => ike(message),
        [1, 0, 0, 0, ..] => Kind::WireGuard(Message::Initiation),
        [2, 0, 0, 0, ..] => Kind::WireGuard(Message::Response),
        [3, 0, 0, 0, ..] => Kind::WireGuard(Message::CookieReply),
        // Header and authentication tag are all of it.
        [4, 0, 0, 0, ..] if payload.len() == 32 => Kind::WireGuard(Message::Keepalive),
        [4, 0, 0, 0, ..] => Kind::WireGuard(Message::Data),
        _ if source == 4500 || destination == 4500 => Kind::Esp,
        _ => Kind::Other(format!("UDP port {destination}")),
    }
}

/// Which of the addresses inside a tunnel this frame shows to an onlooker.
///
/// Encrypted bytes are random, and four random bytes are a given IPv4 address now and then; so in a
/// packet that looks encrypted an IPv4 address counts only together with another of the list, as a
/// forgotten inner header would show them.
pub fn leaks(frame: &[u8], inner: &[IpAddr]) -> Vec<IpAddr> {
    let shows = |address: &&IpAddr| match address {
        IpAddr::V4(address) => frame.windows(4).any(|window| window == address.octets()),
        IpAddr::V6(address) => frame.windows(16).any(|window| window == address.octets()),
    };
    let found: Vec<_> = inner.iter().filter(shows).copied().collect();
    match found.as_slice() {
        [IpAddr::V4(_)] if Packet::of(frame).kind.encrypted() => Vec::new(),
        _ => found,
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unknown = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let (source, destination) = self.addresses.unwrap_or((unknown, unknown));
        match self.addresses {
            Some(_) => write!(f, "{source:>15} → {destination:<15} ")?,
            None => write!(f, "{:33} ", "")?,
        }
        write!(f, "{:28} {:5} bytes", self.kind.to_string(), self.length)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arp => f.write_str("ARP"),
            Self::NeighbourDiscovery => f.write_str("neighbour discovery"),
            Self::Ike(exchange) => write!(f, "IKEv2 {exchange}"),
            Self::WireGuard(message) => write!(f, "WireGuard {message}"),
            Self::Esp => f.write_str("ESP"),
            Self::Keepalive => f.write_str("NAT keepalive"),
            Self::Gre(0x2001) => f.write_str("GRE in clear: NHRP"),
            Self::Gre(0x0800) => f.write_str("GRE in clear: IPv4"),
            Self::Gre(0x86dd) => f.write_str("GRE in clear: IPv6"),
            Self::Gre(protocol) => write!(f, "GRE in clear: {protocol:#06x}"),
            Self::Icmp(kind) => write!(f, "ICMP type {kind}"),
            Self::Fragment => f.write_str("fragment"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

impl fmt::Display for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            34 => f.write_str("IKE_SA_INIT"),
            35 => f.write_str("IKE_AUTH"),
            36 => f.write_str("CREATE_CHILD_SA"),
            37 => f.write_str("INFORMATIONAL"),
            43 => f.write_str("IKE_INTERMEDIATE"),
            other => write!(f, "exchange {other}"),
        }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Initiation => "handshake initiation",
            Self::Response => "handshake response",
            Self::CookieReply => "cookie reply",
            Self::Data => "data",
            Self::Keepalive => "keepalive",
        })
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{IpNumber, PacketBuilder};

    use super::*;

    const HUB: [u8; 4] = [198, 51, 100, 1];
    const SPOKE: [u8; 4] = [203, 0, 113, 10];
    const INNER: [IpAddr; 2] =
        [IpAddr::V4(Ipv4Addr::new(192, 168, 1, 10)), IpAddr::V4(Ipv4Addr::new(192, 168, 2, 10))];

    fn udp(ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
        let builder =
            PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(SPOKE, HUB, 64).udp(ports.0, ports.1);
        let mut frame = Vec::new();
        builder.write(&mut frame, payload).unwrap();
        frame
    }

    fn ip(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(SPOKE, HUB, 64);
        let mut frame = Vec::new();
        builder.write(&mut frame, IpNumber(protocol), payload).unwrap();
        frame
    }

    fn kind_of(frame: &[u8]) -> Kind {
        Packet::of(frame).kind
    }

    #[test]
    fn ike_by_port_and_by_marker() {
        let mut message = [7; 28];
        message[17] = 0x20;
        message[18] = 34;
        assert_eq!(kind_of(&udp((500, 500), &message)), Kind::Ike(Exchange(34)));
        let marked = [&[0; 4][..], &message].concat();
        assert_eq!(kind_of(&udp((4500, 4500), &marked)), Kind::Ike(Exchange(34)));
        assert_eq!(kind_of(&udp((61000, 7000), &marked)), Kind::Ike(Exchange(34)));
        message[17] = 0x10;
        assert!(matches!(kind_of(&udp((500, 500), &message)), Kind::Other(_)));
        assert!(matches!(kind_of(&udp((500, 500), &[])), Kind::Other(_)));
    }

    #[test]
    fn wireguard_by_type() {
        for (byte, length, message) in [
            (1, 148, Message::Initiation),
            (2, 92, Message::Response),
            (3, 64, Message::CookieReply),
            (4, 32, Message::Keepalive),
            (4, 96, Message::Data),
        ] {
            let mut payload = vec![0; length];
            payload[0] = byte;
            assert_eq!(kind_of(&udp((4500, 4500), &payload)), Kind::WireGuard(message));
        }
    }

    #[test]
    fn esp_keepalive_gre_icmp() {
        assert_eq!(kind_of(&udp((4500, 4500), &[9, 9, 9, 9, 0, 0])), Kind::Esp);
        assert_eq!(kind_of(&udp((4500, 4500), &[0xff])), Kind::Keepalive);
        assert_eq!(kind_of(&ip(50, &[9; 20])), Kind::Esp);
        assert_eq!(kind_of(&ip(47, &[0x20, 0, 0x20, 0x01, 0, 0, 0, 42])), Kind::Gre(0x2001));
        assert_eq!(kind_of(&ip(1, &[8, 0, 0, 0, 0, 0, 0, 0])), Kind::Icmp(8));
        assert_eq!(kind_of(&ip(89, &[0; 8])), Kind::Other("IP protocol 89".into()));
    }

    #[test]
    fn arp_and_rubbish() {
        let mut arp = vec![0xff; 12];
        arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        arp.extend([0; 20]);
        assert_eq!(kind_of(&arp), Kind::Arp);
        assert!(matches!(kind_of(&[]), Kind::Other(_)));
        assert!(matches!(kind_of(&arp[..20]), Kind::Other(_)));
    }

    #[test]
    fn an_inner_packet_in_clear_is_found_wherever_it_hides() {
        let mut inner = Vec::new();
        PacketBuilder::ipv4([192, 168, 1, 10], [192, 168, 2, 10], 64)
            .icmpv4_echo_request(1, 1)
            .write(&mut inner, &[0; 56])
            .unwrap();
        let gre = ip(47, &[&[0, 0, 8, 0][..], &inner].concat());
        assert_eq!(leaks(&gre, &INNER), INNER);
        let disguised = udp((4500, 4500), &[&[4, 0, 0, 0][..], &inner].concat());
        assert!(Packet::of(&disguised).kind.encrypted());
        assert_eq!(leaks(&disguised, &INNER), INNER);
    }

    #[test]
    fn one_address_counts_in_clear_only() {
        let clear = udp((7, 7), &[192, 168, 1, 10]);
        assert_eq!(leaks(&clear, &INNER), INNER[..1]);
        let chance = udp((4500, 4500), &[4, 0, 0, 0, 192, 168, 1, 10]);
        assert!(leaks(&chance, &INNER).is_empty());
    }
}
