//! The mandatory part.

use std::fmt;
use std::net::IpAddr;

use super::address::{Families, NbmaAddress};
use super::cie::Cie;
use super::constants::packet_type;
use super::error::DecodeError;
use super::io::{Reader, address_length, put_address, put_u16, put_u32};

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

impl Body {
    /// ar$op.type.
    pub(super) fn packet_type(&self) -> u8 {
        match self {
            Self::Query(query) => query.operation as u8,
            Self::Error(_) => packet_type::ERROR_INDICATION,
            Self::Traffic(_) => packet_type::TRAFFIC_INDICATION,
        }
    }

    /// Reads what follows the addresses.
    pub(super) fn read(
        kind: Kind,
        front: Front,
        rest: &mut Reader<'_>,
        families: Families,
    ) -> Result<Self, DecodeError> {
        let Front { half, word, source_nbma, source_protocol, destination_protocol } = front;
        Ok(match kind {
            Kind::Query(operation) => Self::Query(Query {
                operation,
                flags: half,
                request_id: word,
                source_nbma,
                source_protocol,
                destination_protocol,
                entries: Cie::read_all(rest, families)?,
            }),
            Kind::Error => Self::Error(ErrorIndication {
                unused: half,
                error_code: high(word),
                error_offset: low(word),
                source_nbma,
                source_protocol,
                destination_protocol,
                packet: rest.rest().to_vec(),
            }),
            Kind::Traffic => Self::Traffic(TrafficIndication {
                unused: [half, low(word)],
                code: high(word),
                source_nbma,
                source_protocol,
                destination_protocol,
                packet: rest.rest().to_vec(),
            }),
        })
    }

    /// Writes ar$shtl, ar$sstl and the mandatory part.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let (half, word, source_nbma, source_protocol, destination_protocol) = match self {
            Self::Query(query) => (
                query.flags,
                query.request_id,
                &query.source_nbma,
                query.source_protocol,
                query.destination_protocol,
            ),
            Self::Error(error) => (
                error.unused,
                join(error.error_code, error.error_offset),
                &error.source_nbma,
                error.source_protocol,
                error.destination_protocol,
            ),
            Self::Traffic(traffic) => (
                traffic.unused[0],
                join(traffic.code, traffic.unused[1]),
                &traffic.source_nbma,
                traffic.source_protocol,
                traffic.destination_protocol,
            ),
        };
        out.extend_from_slice(&source_nbma.lengths());
        out.push(address_length(source_protocol));
        out.push(address_length(destination_protocol));
        put_u16(out, half);
        put_u32(out, word);
        source_nbma.write(out);
        put_address(out, source_protocol);
        put_address(out, destination_protocol);
        match self {
            Self::Query(query) => query.entries.iter().for_each(|entry| entry.write(out)),
            Self::Error(error) => out.extend_from_slice(&error.packet),
            Self::Traffic(traffic) => out.extend_from_slice(&traffic.packet),
        }
    }
}

/// Which of the three mandatory parts a packet type has.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Query(Operation),
    Error,
    Traffic,
}

impl Kind {
    pub(super) fn of(packet_type: u8) -> Result<Self, DecodeError> {
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

/// ar$shtl, ar$sstl and what the mandatory parts of all types begin with.
pub(super) struct Front {
    /// Flags, or unused.
    half: u16,
    /// Request id, or two fields of the type.
    word: u32,
    pub(super) source_nbma: NbmaAddress,
    pub(super) source_protocol: Option<IpAddr>,
    pub(super) destination_protocol: Option<IpAddr>,
}

impl Front {
    pub(super) fn read(reader: &mut Reader<'_>, families: Families) -> Result<Self, DecodeError> {
        let nbma_length = reader.nbma_length()?;
        let subaddress_length = reader.nbma_length()?;
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
