//! The packet: fixed header, mandatory part, extensions.

use std::fmt;
use std::net::IpAddr;

use super::cie::{Cie, Families, NbmaAddress};
use super::constants::packet_type;
use super::error::DecodeError;
use super::extension::{End, Extension, ExtensionBody};
use super::io::{Length, Reader, address_length, checksum, put_address, put_u16, put_u32};

/// ar$op.version (RFC 2332 §5.1).
const VERSION: u8 = 1;
/// Length of the fixed header in bytes.
const FIXED_HEADER: usize = 20;

/// One NHRP packet (RFC 2332 §5.1).
///
/// ```text
///   0               1               2               3
///  +---------------+---------------+---------------+---------------+
///  | ar$afn                        | ar$pro.type                   |
///  +---------------+---------------+---------------+---------------+
///  | ar$pro.snap                                                   |
///  +---------------+---------------+---------------+---------------+
///  | ar$pro.snap   | ar$hopcnt     | ar$pktsz                      |
///  +---------------+---------------+---------------+---------------+
///  | ar$chksum                     | ar$extoff                     |
///  +---------------+---------------+---------------+---------------+
///  | ar$op.version | ar$op.type    | ar$shtl       | ar$sstl       |
///  +---------------+---------------+---------------+---------------+
///  | mandatory part …                                              |
///  +---------------------------------------------------------------+
///  | extensions, from ar$extoff …                                  |
///  +---------------------------------------------------------------+
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// ar$afn: 1 IPv4, 2 IPv6.
    pub nbma_family: Family,
    /// ar$pro.type: 0x0800 IPv4, 0x86DD IPv6.
    pub protocol_family: Family,
    /// ar$hopcnt. 0 is decoded; what it means is the engine's to judge.
    pub hop_count: u8,
    /// Mandatory part.
    pub body: Body,
    /// Extensions in the order of the wire, without the End extension.
    pub extensions: Vec<Extension>,
    /// How the extensions end.
    pub end: End,
}

/// Address family of the NBMA or the protocol addresses of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Length of an address, in bytes.
    pub fn address_length(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }

    /// ar$afn.
    fn afn(self) -> u16 {
        match self {
            Self::V4 => 1,
            Self::V6 => 2,
        }
    }

    /// ar$pro.type.
    fn protocol_type(self) -> u16 {
        match self {
            Self::V4 => 0x0800,
            Self::V6 => 0x86dd,
        }
    }
}

impl From<IpAddr> for Family {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
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

/// Requests and replies: resolution, registration, purge (RFC 2332 §5.2.0.1).
///
/// ```text
///   0               1               2               3
///  +---------------+---------------+---------------+---------------+
///  | src proto len | dst proto len | flags                         |
///  +---------------+---------------+---------------+---------------+
///  | request id                                                    |
///  +---------------+---------------+---------------+---------------+
///  | source NBMA address, source NBMA sub-address,                 |
///  | source protocol address, destination protocol address,        |
///  | client information entries …                                  |
///  +---------------------------------------------------------------+
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Which of the six.
    pub operation: Operation,
    /// Flags as on the wire; see [`super::flags`].
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

/// Error Indication (RFC 2332 §5.2.7).
///
/// ```text
///   0               1               2               3
///  +---------------+---------------+---------------+---------------+
///  | src proto len | dst proto len | unused                        |
///  +---------------+---------------+---------------+---------------+
///  | error code                    | error offset                  |
///  +---------------+---------------+---------------+---------------+
///  | addresses as in a request, then the packet in error …         |
///  +---------------------------------------------------------------+
/// ```
#[derive(Clone, PartialEq, Eq, Default)]
pub struct ErrorIndication {
    /// Unused; 0 when sent.
    pub unused: u16,
    /// Error code; see [`super::error_code`].
    pub error_code: u16,
    /// Offset in bytes of the fault in the packet in error.
    pub error_offset: u16,
    /// NBMA address of the observing station.
    pub source_nbma: NbmaAddress,
    /// Protocol address of the observing station.
    pub source_protocol: Option<IpAddr>,
    /// Source of the packet in error.
    pub destination_protocol: Option<IpAddr>,
    /// As much of the packet in error as fits. Not in the Debug output: it may hold a password.
    pub packet: Vec<u8>,
}

/// Traffic Indication (draft-detienne-dmvpn): "there is a better path for this packet".
///
/// ```text
///   0               1               2               3
///  +---------------+---------------+---------------+---------------+
///  | src proto len | dst proto len | unused                        |
///  +---------------+---------------+---------------+---------------+
///  | traffic code                  | unused                        |
///  +---------------+---------------+---------------+---------------+
///  | addresses as in a request, then the packet that caused it …   |
///  +---------------------------------------------------------------+
/// ```
#[derive(Clone, PartialEq, Eq, Default)]
pub struct TrafficIndication {
    /// The two unused fields; 0 when sent.
    pub unused: [u16; 2],
    /// Traffic code; see [`super::traffic_code`].
    pub code: u16,
    /// NBMA address of the issuer.
    pub source_nbma: NbmaAddress,
    /// Protocol address of the issuer.
    pub source_protocol: Option<IpAddr>,
    /// Source of the packet that caused it.
    pub destination_protocol: Option<IpAddr>,
    /// That packet: IP header and the bytes that fit. Not in the Debug output: users' data.
    pub packet: Vec<u8>,
}

/// Who sent a packet and to whom, as far as the bytes tell; for the Error Indication about a
/// packet that does not decode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// ar$afn.
    pub nbma_family: Family,
    /// ar$pro.type.
    pub protocol_family: Family,
    /// ar$op.type. No error is ever sent about type 7 (RFC 2332 §5.2.7).
    pub packet_type: u8,
    /// Source NBMA address.
    pub source_nbma: NbmaAddress,
    /// Source protocol address.
    pub source_protocol: Option<IpAddr>,
    /// Destination protocol address.
    pub destination_protocol: Option<IpAddr>,
}

impl Packet {
    /// A packet as it is sent: with the End extension where there are extensions.
    pub fn new(
        nbma_family: Family,
        protocol_family: Family,
        hop_count: u8,
        body: Body,
        extensions: Vec<Extension>,
    ) -> Self {
        let end = if extensions.is_empty() { End::Missing } else { End::Compulsory };
        Self { nbma_family, protocol_family, hop_count, body, extensions, end }
    }

    /// Decodes one packet; `bytes` begins with ar$afn and ends with the last byte received.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes, 0);
        let header = FixedHeader::read(&mut reader)?;
        if header.version != VERSION {
            return Err(DecodeError::Version { version: header.version });
        }
        if usize::from(header.size) != bytes.len() {
            return Err(DecodeError::PacketSize { claimed: header.size, received: bytes.len() });
        }
        // RFC 2332 §5.1: over the entire packet, and no value means "not computed".
        if checksum(bytes) != 0 {
            let expected = checksum_without_own_field(bytes);
            return Err(DecodeError::Checksum { found: header.checksum, expected });
        }
        let families = header.families()?;
        let layout = Layout::of(header.packet_type)?;
        let front = Front::read(&mut reader, &header, families)?;

        let mandatory_end = match usize::from(header.extension_offset) {
            0 => bytes.len(),
            offset if (reader.position()..bytes.len()).contains(&offset) => offset,
            _ => {
                return Err(DecodeError::ExtensionOffset {
                    extension_offset: header.extension_offset,
                    lowest: reader.position(),
                    highest: bytes.len() - 1,
                });
            }
        };
        let mut rest = Reader::new(&bytes[..mandatory_end], reader.position());
        let body = match layout {
            Layout::Query(operation) => Body::Query(Query {
                operation,
                flags: front.half,
                request_id: front.word,
                source_nbma: front.source_nbma,
                source_protocol: front.source_protocol,
                destination_protocol: front.destination_protocol,
                entries: Cie::read_all(&mut rest, families)?,
            }),
            Layout::Error => Body::Error(ErrorIndication {
                unused: front.half,
                error_code: high(front.word),
                error_offset: low(front.word),
                source_nbma: front.source_nbma,
                source_protocol: front.source_protocol,
                destination_protocol: front.destination_protocol,
                packet: rest.rest().to_vec(),
            }),
            Layout::Traffic => Body::Traffic(TrafficIndication {
                unused: [front.half, low(front.word)],
                code: high(front.word),
                source_nbma: front.source_nbma,
                source_protocol: front.source_protocol,
                destination_protocol: front.destination_protocol,
                packet: rest.rest().to_vec(),
            }),
        };
        let (extensions, end) =
            Extension::read_all(&mut Reader::new(bytes, mandatory_end), families)?;
        Ok(Self {
            nbma_family: families.nbma,
            protocol_family: families.protocol,
            hop_count: header.hop_count,
            body,
            extensions,
            end,
        })
    }

    /// Who sent `bytes`, where fixed header and addresses can be read even though the packet as a
    /// whole may not decode.
    pub fn origin(bytes: &[u8]) -> Option<Origin> {
        let mut reader = Reader::new(bytes, 0);
        let header = FixedHeader::read(&mut reader).ok()?;
        if header.version != VERSION {
            return None;
        }
        let families = header.families().ok()?;
        let front = Front::read(&mut reader, &header, families).ok()?;
        Some(Origin {
            nbma_family: families.nbma,
            protocol_family: families.protocol,
            packet_type: header.packet_type,
            source_nbma: front.source_nbma,
            source_protocol: front.source_protocol,
            destination_protocol: front.destination_protocol,
        })
    }

    /// Encodes the packet, with its length, offsets and checksum.
    ///
    /// Addresses must be of the packet's families; anything else is written with its own length,
    /// which every receiver refuses. A sub-address is cut at 63 bytes, the value of an extension
    /// at 65,535. A packet of more than 65,535 bytes has no valid form: ar$pktsz saturates.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.encode_mandatory();
        if !self.extensions.is_empty() || self.end != End::Missing {
            let offset = saturate(out.len());
            out[14..16].copy_from_slice(&offset.to_be_bytes());
        }
        for extension in &self.extensions {
            extension.write(&mut out);
        }
        self.end.write(&mut out);
        let size = saturate(out.len());
        out[10..12].copy_from_slice(&size.to_be_bytes());
        let checksum = checksum(&out);
        out[12..14].copy_from_slice(&checksum.to_be_bytes());
        out
    }

    /// ar$op.type.
    pub fn packet_type(&self) -> u8 {
        match &self.body {
            Body::Query(query) => query.operation as u8,
            Body::Error(_) => packet_type::ERROR_INDICATION,
            Body::Traffic(_) => packet_type::TRAFFIC_INDICATION,
        }
    }

    /// The first extension of a type; see [`super::extension_type`].
    pub fn extension(&self, kind: u16) -> Option<&ExtensionBody> {
        self.extensions.iter().map(|extension| &extension.body).find(|body| body.kind() == kind)
    }

    /// Byte of the encoded packet at which the extension with this index begins, for the error
    /// offset of an Error Indication.
    pub fn extension_offset(&self, index: usize) -> u16 {
        let mut out = self.encode_mandatory();
        for extension in self.extensions.iter().take(index) {
            extension.write(&mut out);
        }
        saturate(out.len())
    }

    /// Fixed header and mandatory part, the former without extension offset, size and checksum.
    fn encode_mandatory(&self) -> Vec<u8> {
        let (half, word, source_nbma, source_protocol, destination_protocol) = match &self.body {
            Body::Query(query) => (
                query.flags,
                query.request_id,
                &query.source_nbma,
                query.source_protocol,
                query.destination_protocol,
            ),
            Body::Error(error) => (
                error.unused,
                join(error.error_code, error.error_offset),
                &error.source_nbma,
                error.source_protocol,
                error.destination_protocol,
            ),
            Body::Traffic(traffic) => (
                traffic.unused[0],
                join(traffic.code, traffic.unused[1]),
                &traffic.source_nbma,
                traffic.source_protocol,
                traffic.destination_protocol,
            ),
        };
        let mut out = Vec::with_capacity(128);
        put_u16(&mut out, self.nbma_family.afn());
        put_u16(&mut out, self.protocol_family.protocol_type());
        out.extend_from_slice(&[0; 5]);
        out.push(self.hop_count);
        // Size, checksum and extension offset follow when they are known.
        out.extend_from_slice(&[0; 6]);
        out.extend_from_slice(&[VERSION, self.packet_type()]);
        out.extend_from_slice(&source_nbma.lengths());
        out.push(address_length(source_protocol));
        out.push(address_length(destination_protocol));
        put_u16(&mut out, half);
        put_u32(&mut out, word);
        source_nbma.write(&mut out);
        put_address(&mut out, source_protocol);
        put_address(&mut out, destination_protocol);
        match &self.body {
            Body::Query(query) => query.entries.iter().for_each(|entry| entry.write(&mut out)),
            Body::Error(error) => out.extend_from_slice(&error.packet),
            Body::Traffic(traffic) => out.extend_from_slice(&traffic.packet),
        }
        out
    }
}

/// The fixed header, read but not judged.
struct FixedHeader {
    afn: u16,
    protocol_type: u16,
    hop_count: u8,
    size: u16,
    checksum: u16,
    extension_offset: u16,
    version: u8,
    packet_type: u8,
    /// ar$shtl and ar$sstl.
    source_nbma: [u8; 2],
}

impl FixedHeader {
    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let length = reader.remaining();
        if length < FIXED_HEADER {
            return Err(DecodeError::TooShort { length });
        }
        let afn = reader.u16("ar$afn")?;
        let protocol_type = reader.u16("ar$pro.type")?;
        // RFC 2332 §5.1: zero on transmit and ignored on receive, unless ar$pro.type is 0x0080.
        reader.take(5, "ar$pro.snap")?;
        Ok(Self {
            afn,
            protocol_type,
            hop_count: reader.u8("ar$hopcnt")?,
            size: reader.u16("ar$pktsz")?,
            checksum: reader.u16("ar$chksum")?,
            extension_offset: reader.u16("ar$extoff")?,
            version: reader.u8("ar$op.version")?,
            packet_type: reader.u8("ar$op.type")?,
            source_nbma: reader.array("ar$shtl")?,
        })
    }

    fn families(&self) -> Result<Families, DecodeError> {
        let family = [Family::V4, Family::V6];
        let nbma = family.into_iter().find(|family| family.afn() == self.afn);
        let protocol = family.into_iter().find(|f| f.protocol_type() == self.protocol_type);
        Ok(Families {
            nbma: nbma.ok_or(DecodeError::AddressFamily { afn: self.afn })?,
            protocol: protocol.ok_or(DecodeError::ProtocolType { protocol: self.protocol_type })?,
        })
    }
}

/// What follows the mandatory part's addresses.
enum Layout {
    Query(Operation),
    Error,
    Traffic,
}

impl Layout {
    fn of(packet_type: u8) -> Result<Self, DecodeError> {
        Ok(match packet_type {
            1 => Self::Query(Operation::ResolutionRequest),
            2 => Self::Query(Operation::ResolutionReply),
            3 => Self::Query(Operation::RegistrationRequest),
            4 => Self::Query(Operation::RegistrationReply),
            5 => Self::Query(Operation::PurgeRequest),
            6 => Self::Query(Operation::PurgeReply),
            packet_type::ERROR_INDICATION => Self::Error,
            packet_type::TRAFFIC_INDICATION => Self::Traffic,
            _ => return Err(DecodeError::PacketType { packet_type }),
        })
    }
}

/// What the mandatory parts of all types begin with.
struct Front {
    /// Flags, or unused.
    half: u16,
    /// Request id, or two fields of the type.
    word: u32,
    source_nbma: NbmaAddress,
    source_protocol: Option<IpAddr>,
    destination_protocol: Option<IpAddr>,
}

impl Front {
    fn read(
        reader: &mut Reader<'_>,
        header: &FixedHeader,
        families: Families,
    ) -> Result<Self, DecodeError> {
        let [nbma_length, subaddress_length] = [0, 1].map(|index: usize| Length {
            offset: FIXED_HEADER - 2 + index,
            value: header.source_nbma[index],
        });
        nbma_length.check_type()?;
        subaddress_length.check_type()?;
        let source_length = reader.protocol_length()?;
        let destination_length = reader.protocol_length()?;
        Ok(Self {
            half: reader.u16("flags")?,
            word: reader.u32("request id")?,
            source_nbma: NbmaAddress::read(reader, families.nbma, nbma_length, subaddress_length)?,
            source_protocol: reader.address(
                families.protocol,
                source_length,
                "source protocol address",
            )?,
            destination_protocol: reader.address(
                families.protocol,
                destination_length,
                "destination protocol address",
            )?,
        })
    }
}

fn checksum_without_own_field(bytes: &[u8]) -> u16 {
    let mut bytes = bytes.to_vec();
    bytes[12..14].fill(0);
    checksum(&bytes)
}

fn saturate(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

fn high(word: u32) -> u16 {
    (word >> 16) as u16
}

fn low(word: u32) -> u16 {
    word as u16
}

fn join(high: u16, low: u16) -> u32 {
    u32::from(high) << 16 | u32::from(low)
}

impl fmt::Debug for ErrorIndication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ErrorIndication")
            .field("error_code", &self.error_code)
            .field("error_offset", &self.error_offset)
            .field("source_nbma", &self.source_nbma)
            .field("source_protocol", &self.source_protocol)
            .field("destination_protocol", &self.destination_protocol)
            .field("packet_length", &self.packet.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for TrafficIndication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrafficIndication")
            .field("code", &self.code)
            .field("source_nbma", &self.source_nbma)
            .field("source_protocol", &self.source_protocol)
            .field("destination_protocol", &self.destination_protocol)
            .field("packet_length", &self.packet.len())
            .finish_non_exhaustive()
    }
}
