//! The packet: fixed header and how its parts follow each other.

use std::net::IpAddr;

use super::address::{Families, Family, NbmaAddress};
use super::body::{Body, Front, Kind};
use super::error::DecodeError;
use super::extension::{End, Extension, ExtensionBody};
use super::io::{Reader, checksum, put_u16};

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
        let kind = Kind::of(header.packet_type)?;
        let front = Front::read(&mut reader, families)?;

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
        let body = Body::read(kind, front, &mut rest, families)?;
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
        let front = Front::read(&mut reader, families).ok()?;
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
        self.body.packet_type()
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
        let mut out = Vec::with_capacity(128);
        put_u16(&mut out, self.nbma_family.afn());
        put_u16(&mut out, self.protocol_family.protocol_type());
        out.extend_from_slice(&[0; 5]);
        out.push(self.hop_count);
        // Size, checksum and extension offset follow when they are known.
        out.extend_from_slice(&[0; 6]);
        out.extend_from_slice(&[VERSION, self.packet_type()]);
        self.body.write(&mut out);
        out
    }
}

/// The fixed header up to ar$op.type, read but not judged.
struct FixedHeader {
    afn: u16,
    protocol_type: u16,
    hop_count: u8,
    size: u16,
    checksum: u16,
    extension_offset: u16,
    version: u8,
    packet_type: u8,
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

fn checksum_without_own_field(bytes: &[u8]) -> u16 {
    let mut bytes = bytes.to_vec();
    bytes[12..14].fill(0);
    checksum(&bytes)
}

fn saturate(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}
