//! Why bytes are not an NHRP packet.

use super::constants::error_code;

/// Why bytes are not an NHRP packet. The fault is always the sender's; [`DecodeError::offset`]
/// says at which byte of the packet it lies.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than the fixed header has.
    #[error("packet of {length} bytes is shorter than the fixed header of 20")]
    TooShort {
        /// Bytes received.
        length: usize,
    },
    /// ar$op.version is not 1.
    #[error("version {version} is not NHRP's 1")]
    Version {
        /// ar$op.version.
        version: u8,
    },
    /// ar$pktsz is not the number of bytes received.
    #[error("ar$pktsz says {claimed} bytes, {received} were received")]
    PacketSize {
        /// ar$pktsz.
        claimed: u16,
        /// Bytes received.
        received: usize,
    },
    /// ar$chksum does not match. There is no value for "not computed".
    #[error("checksum is {found:#06x}, should be {expected:#06x}")]
    Checksum {
        /// ar$chksum.
        found: u16,
        /// What the bytes sum up to.
        expected: u16,
    },
    /// ar$afn is neither IPv4 (1) nor IPv6 (2).
    #[error("address family {afn} is neither IPv4 (1) nor IPv6 (2)")]
    AddressFamily {
        /// ar$afn.
        afn: u16,
    },
    /// ar$pro.type is neither IPv4 (0x0800) nor IPv6 (0x86DD).
    #[error("protocol type {protocol:#06x} is neither IPv4 (0x0800) nor IPv6 (0x86dd)")]
    ProtocolType {
        /// ar$pro.type.
        protocol: u16,
    },
    /// ar$op.type is not one of 1–8.
    #[error("packet type {packet_type} is not one of 1 to 8")]
    PacketType {
        /// ar$op.type.
        packet_type: u8,
    },
    /// ar$extoff points into the fields before the extensions, or past the packet.
    #[error("ar$extoff {extension_offset} is not between {lowest} and {highest}")]
    ExtensionOffset {
        /// ar$extoff.
        extension_offset: u16,
        /// End of the addresses, the first place where extensions may start.
        lowest: usize,
        /// The packet's last byte.
        highest: usize,
    },
    /// A type/length byte has its reserved bit or its E.164 bit set, which no IP address has
    /// (RFC 2332 §5.1).
    #[error("type/length {value:#04x} at byte {offset} is not one of an IP address")]
    AddressType {
        /// Where the type/length byte stands.
        offset: usize,
        /// The byte.
        value: u8,
    },
    /// An address length is neither 0 nor that of the address family.
    #[error("address length {length} at byte {offset} should be {expected} or 0")]
    AddressLength {
        /// Where the length stands.
        offset: usize,
        /// The length.
        length: u8,
        /// Length of an address of the packet's family.
        expected: u8,
    },
    /// A field runs past the end of the part that contains it.
    #[error("{field} at byte {offset} is truncated")]
    Truncated {
        /// Where the field begins.
        offset: usize,
        /// What it is.
        field: &'static str,
    },
    /// More bytes than the format has a place for.
    #[error("{length} bytes too many at byte {offset}")]
    Surplus {
        /// Where they begin.
        offset: usize,
        /// How many.
        length: usize,
    },
    /// An extension of a known type whose value does not have the form of that type.
    #[error("extension {kind}: {fault}")]
    Extension {
        /// Extension type.
        kind: u16,
        /// What is wrong with its value.
        #[source]
        fault: Box<DecodeError>,
    },
}

impl DecodeError {
    /// Byte of the packet at which the fault lies.
    pub fn offset(&self) -> usize {
        match self {
            Self::TooShort { length } => *length,
            Self::AddressFamily { .. } => 0,
            Self::ProtocolType { .. } => 2,
            Self::PacketSize { .. } => 10,
            Self::Checksum { .. } => 12,
            Self::ExtensionOffset { .. } => 14,
            Self::Version { .. } => 16,
            Self::PacketType { .. } => 17,
            Self::AddressType { offset, .. }
            | Self::AddressLength { offset, .. }
            | Self::Truncated { offset, .. }
            | Self::Surplus { offset, .. } => *offset,
            Self::Extension { fault, .. } => fault.offset(),
        }
    }

    /// Error code and error offset of the Error Indication that tells the sender (RFC 2332
    /// §5.2.7); `None` where there was not even a header to answer. To whom it goes says
    /// [`super::Packet::origin`].
    pub fn indication(&self) -> Option<(u16, u16)> {
        let code = match self {
            Self::TooShort { .. } => return None,
            Self::Extension { .. } => error_code::INVALID_EXTENSION,
            _ => error_code::PROTOCOL_ERROR,
        };
        Some((code, u16::try_from(self.offset()).unwrap_or(u16::MAX)))
    }
}
