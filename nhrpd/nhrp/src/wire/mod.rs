//! The NHRP packet on the wire (RFC 2332 §5), decoded totally and encoded exactly.

use std::net::IpAddr;

/// GRE protocol type that carries NHRP (RFC 2784 header, RFC 2332 §8.3 SNAP PID).
pub const GRE_PROTOCOL_TYPE: u16 = 0x2001;

/// One NHRP packet (RFC 2332 §5.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// ar$afn: 1 IPv4, 2 IPv6.
    pub nbma_family: Family,
    /// ar$pro.type: 0x0800 IPv4, 0x86DD IPv6.
    pub protocol_family: Family,
    /// ar$hopcnt.
    pub hop_count: u8,
    /// Mandatory part.
    pub body: Body,
    /// Extensions in the order of the wire, without the End extension.
    pub extensions: Vec<Extension>,
}

/// Address family of the NBMA or the protocol addresses of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Mandatory part, by packet type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Types 1–6 share one layout (RFC 2332 §5.2.1–§5.2.6).
    Query(Query),
    /// Type 7 (§5.2.7).
    Error(ErrorIndication),
    /// Type 8, Cisco's Traffic Indication (draft-detienne-dmvpn).
    Traffic(TrafficIndication),
}

/// Packet types 1–6 (ar$op.type).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Operation {
    /// 1
    ResolutionRequest = 1,
    /// 2
    ResolutionReply = 2,
    /// 3
    RegistrationRequest = 3,
    /// 4
    RegistrationReply = 4,
    /// 5
    PurgeRequest = 5,
    /// 6
    PurgeReply = 6,
}

/// Requests and replies: resolution, registration, purge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Which of the six.
    pub operation: Operation,
    /// Flags as on the wire; see [`flags`].
    pub flags: u16,
    /// Request id.
    pub request_id: u32,
    /// Source NBMA address.
    pub source_nbma: NbmaAddress,
    /// Source protocol address; `None` where its length is zero.
    pub source_protocol: Option<IpAddr>,
    /// Destination protocol address; `None` where its length is zero.
    pub destination_protocol: Option<IpAddr>,
    /// Client information entries.
    pub entries: Vec<Cie>,
}

/// NBMA address with its sub-address, as carried in a packet. Empty in a CIE that leaves it out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NbmaAddress {
    /// The address; `None` where its length is zero.
    pub address: Option<IpAddr>,
    /// Sub-address bytes; empty almost always.
    pub subaddress: Vec<u8>,
}

/// Client information entry (RFC 2332 §5.2.0.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cie {
    /// Reply code; 0 in requests. See [`code`].
    pub code: u8,
    /// Prefix length in bits. 0x00 on the wire means 0xFF: "not a prefix, the address alone".
    pub prefix_length: u8,
    /// Maximum transmission unit; 0 = default.
    pub mtu: u16,
    /// Holding time in seconds.
    pub holding_time: u16,
    /// Preference.
    pub preference: u8,
    /// Client NBMA address.
    pub nbma: NbmaAddress,
    /// Client protocol address; `None` where its length is zero.
    pub protocol: Option<IpAddr>,
}

/// Error Indication (§5.2.7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorIndication {
    /// Error code; see [`error_code`].
    pub error_code: u16,
    /// Offset in bytes of the fault in the packet in error.
    pub error_offset: u16,
    /// NBMA address of the observing station.
    pub source_nbma: NbmaAddress,
    /// Protocol address of the observing station.
    pub source_protocol: Option<IpAddr>,
    /// Source of the packet in error.
    pub destination_protocol: Option<IpAddr>,
    /// As much of the packet in error as fits.
    pub packet: Vec<u8>,
}

/// Traffic Indication (draft-detienne-dmvpn): "there is a better path for this packet".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrafficIndication {
    /// Traffic code; 0 = redirect.
    pub code: u16,
    /// NBMA address of the issuer.
    pub source_nbma: NbmaAddress,
    /// Protocol address of the issuer.
    pub source_protocol: Option<IpAddr>,
    /// Source of the packet that caused it.
    pub destination_protocol: Option<IpAddr>,
    /// That packet: IP header and the bytes that fit.
    pub packet: Vec<u8>,
}

/// One extension (§5.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// The Compulsory bit (§5.3: "C").
    pub compulsory: bool,
    /// Value by type.
    pub body: ExtensionBody,
}

/// Value of an extension.
#[derive(Clone, PartialEq, Eq)]
pub enum ExtensionBody {
    /// Type 3; `None` while it is empty (in a request).
    ResponderAddress(Option<Cie>),
    /// Type 4.
    ForwardTransitNhs(Vec<Cie>),
    /// Type 5.
    ReverseTransitNhs(Vec<Cie>),
    /// Type 7: the authentication type (Cisco: 1, plain text) and its data. Never printed.
    Authentication {
        /// 1 = plain text (Cisco).
        kind: u32,
        /// The password.
        data: Vec<u8>,
    },
    /// Type 8.
    VendorPrivate {
        /// Organisation, 3 bytes.
        oui: [u8; 3],
        /// Its data.
        data: Vec<u8>,
    },
    /// Type 9, Cisco NAT address extension.
    NatAddress(Vec<Cie>),
    /// Any other type, or one of the above whose value does not have the expected form.
    Unknown {
        /// 14-bit type.
        kind: u16,
        /// Value, unchanged.
        value: Vec<u8>,
    },
}

impl std::fmt::Debug for ExtensionBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ExtensionBody") // the codec's author replaces this: everything but the password
    }
}

/// Why bytes are not an NHRP packet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed NHRP packet")]
pub struct DecodeError;

impl Packet {
    /// Decodes one packet; `bytes` begins with ar$afn and ends with the last byte received.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let _ = bytes;
        Err(DecodeError)
    }

    /// Encodes the packet, with its length, offsets and checksum.
    pub fn encode(&self) -> Vec<u8> {
        Vec::new()
    }
}
