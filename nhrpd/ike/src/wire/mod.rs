//! IKEv2 messages on the wire (RFC 7296 §3).
//!
//! ```text
//!                      1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                       IKE SA Initiator's SPI                  |
//! |                                                               |
//! |                       IKE SA Responder's SPI                  |
//! |                                                               |
//! |  Next Payload | MjVer | MnVer | Exchange Type |     Flags     |
//! |                          Message ID                           |
//! |                            Length                             |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! Decoding is total: any bytes give a value or an [`Error`].

pub mod notify;
pub mod payload;
pub mod proposal;
pub mod selector;

mod reader;

pub use notify::{Delete, Notify, NotifyType};
pub use payload::{Payload, decode_chain, encode_chain};
pub use proposal::{Attribute, Proposal, Transform, TransformKind};
pub use selector::TrafficSelector;

use reader::Reader;

/// Length of the fixed header, bytes.
pub const HEADER_LEN: usize = 28;
/// Length of the generic payload header, bytes.
pub const PAYLOAD_HEADER_LEN: usize = 4;

/// Protocol ID of IKE in proposals, notifies and deletes (RFC 7296 §3.3.1).
pub const PROTOCOL_IKE: u8 = 1;
/// Protocol ID of ESP.
pub const PROTOCOL_ESP: u8 = 3;

/// Why bytes are no IKE message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Fewer bytes than the field needs.
    #[error("{0} is cut short")]
    Truncated(&'static str),
    /// A length, count or fixed value that the field cannot have.
    #[error("{0} is not valid")]
    Invalid(&'static str),
    /// A payload of unknown type with the critical bit (RFC 7296 §2.5).
    #[error("unknown critical payload of type {0}")]
    UnsupportedCritical(u8),
    /// More payloads, proposals or transforms than any sane message has.
    #[error("too many of {0}")]
    TooMany(&'static str),
}

/// Exchange type (RFC 7296 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exchange(pub u8);

impl Exchange {
    /// IKE_SA_INIT.
    pub const IKE_SA_INIT: Self = Self(34);
    /// IKE_AUTH.
    pub const IKE_AUTH: Self = Self(35);
    /// CREATE_CHILD_SA.
    pub const CREATE_CHILD_SA: Self = Self(36);
    /// IKE_INTERMEDIATE (RFC 9242).
    pub const IKE_INTERMEDIATE: Self = Self(43);
    /// INFORMATIONAL.
    pub const INFORMATIONAL: Self = Self(37);
}

impl std::fmt::Display for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::IKE_SA_INIT => f.write_str("IKE_SA_INIT"),
            Self::IKE_AUTH => f.write_str("IKE_AUTH"),
            Self::CREATE_CHILD_SA => f.write_str("CREATE_CHILD_SA"),
            Self::IKE_INTERMEDIATE => f.write_str("IKE_INTERMEDIATE"),
            Self::INFORMATIONAL => f.write_str("INFORMATIONAL"),
            Self(other) => write!(f, "exchange {other}"),
        }
    }
}

/// The fixed header without its length, which encoding computes and decoding checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// SPI that the original initiator chose.
    pub initiator_spi: u64,
    /// SPI that the original responder chose; 0 in the first message.
    pub responder_spi: u64,
    /// Type of the first payload, 0 for none.
    pub next_payload: u8,
    /// Major version in the upper four bits, minor in the lower.
    pub version: u8,
    /// Exchange type.
    pub exchange: Exchange,
    /// The sender is the original initiator of the SA (I bit).
    pub from_initiator: bool,
    /// The message answers one with the same id (R bit).
    pub response: bool,
    /// Message id (RFC 7296 §2.2).
    pub message_id: u32,
}

impl std::fmt::Display for Header {
    /// As in `IKE_AUTH request 1 of 0123456789abcdef:fedcba9876543210`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { exchange, message_id, initiator_spi, responder_spi, .. } = self;
        let kind = if self.response { "response" } else { "request" };
        write!(f, "{exchange} {kind} {message_id} of {initiator_spi:016x}:{responder_spi:016x}")
    }
}

const FLAG_INITIATOR: u8 = 0x08;
const FLAG_RESPONSE: u8 = 0x20;

impl Header {
    /// Version 2.0.
    pub const VERSION: u8 = 0x20;

    /// Decodes the header; the length field must be the length of `datagram`.
    pub fn decode(datagram: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(datagram, "IKE header");
        let initiator_spi = reader.u64()?;
        let responder_spi = reader.u64()?;
        let next_payload = reader.u8()?;
        let version = reader.u8()?;
        let exchange = Exchange(reader.u8()?);
        let flags = reader.u8()?;
        let message_id = reader.u32()?;
        if reader.u32()? as usize != datagram.len() {
            return Err(Error::Invalid("message length"));
        }
        if initiator_spi == 0 {
            return Err(Error::Invalid("initiator's SPI"));
        }
        Ok(Self {
            initiator_spi,
            responder_spi,
            next_payload,
            version,
            exchange,
            from_initiator: flags & FLAG_INITIATOR != 0,
            response: flags & FLAG_RESPONSE != 0,
            message_id,
        })
    }

    /// Major version.
    pub fn major_version(&self) -> u8 {
        self.version >> 4
    }

    /// Encodes the header of a message whose payloads take `body_len` bytes.
    pub fn encode(&self, body_len: usize) -> Vec<u8> {
        let len = HEADER_LEN + body_len;
        let mut out = Vec::with_capacity(len);
        out.extend_from_slice(&self.initiator_spi.to_be_bytes());
        out.extend_from_slice(&self.responder_spi.to_be_bytes());
        let flags = if self.from_initiator { FLAG_INITIATOR } else { 0 }
            | if self.response { FLAG_RESPONSE } else { 0 };
        out.extend_from_slice(&[self.next_payload, self.version, self.exchange.0, flags]);
        out.extend_from_slice(&self.message_id.to_be_bytes());
        out.extend_from_slice(&(len as u32).to_be_bytes());
        out
    }
}

/// Encodes a message without protection; `next_payload` of `header` is set from `payloads`.
pub fn encode_plain(mut header: Header, payloads: &[Payload]) -> Vec<u8> {
    let (first, body) = encode_chain(payloads);
    header.next_payload = first;
    let mut out = header.encode(body.len());
    out.extend_from_slice(&body);
    out
}

/// Decodes the payloads of a message without protection.
pub fn decode_plain(header: &Header, datagram: &[u8]) -> Result<Vec<Payload>, Error> {
    let body = datagram.get(HEADER_LEN..).ok_or(Error::Truncated("IKE header"))?;
    decode_chain(header.next_payload, body)
}

/// The Encrypted and Authenticated payload of a message (RFC 7296 §3.14, RFC 5282 §3), or a fragment
/// of one (RFC 7383 §2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encrypted<'a> {
    /// Type of the first payload inside; 0 in all fragments but the first.
    pub first: u8,
    /// Which part of the message this is, unless it is the whole.
    pub fragment: Option<Fragment>,
    /// What is authenticated but not encrypted: everything up to and with the payload's header.
    pub associated: &'a [u8],
    /// Initialisation vector, ciphertext and integrity check value.
    pub body: &'a [u8],
}

/// Place of a fragment in its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// From 1 to `total`.
    pub number: u16,
    /// So many there are.
    pub total: u16,
}

impl Fragment {
    /// Bytes of the two numbers behind the payload's header.
    pub const NUMBERS_LEN: usize = 4;
}

impl<'a> Encrypted<'a> {
    /// Finds the payload, which must be the only one outside: nobody sends others beside it, and
    /// they would not be encrypted.
    pub fn decode(header: &Header, datagram: &'a [u8]) -> Result<Self, Error> {
        let outer = datagram.get(HEADER_LEN..).ok_or(Error::Truncated("IKE header"))?;
        let mut reader = Reader::new(outer, "encrypted payload");
        let first = reader.u8()?;
        let _critical = reader.u8()?;
        if usize::from(reader.u16()?) != outer.len() {
            return Err(Error::Invalid("encrypted payload length"));
        }
        let (fragment, numbers_len) = match header.next_payload {
            payload::ENCRYPTED => (None, 0),
            payload::ENCRYPTED_FRAGMENT => {
                let (number, total) = (reader.u16()?, reader.u16()?);
                if number == 0 || number > total {
                    return Err(Error::Invalid("fragment number"));
                }
                (Some(Fragment { number, total }), Fragment::NUMBERS_LEN)
            }
            _ => return Err(Error::Invalid("message without encrypted payload")),
        };
        let (associated, body) = datagram.split_at(HEADER_LEN + PAYLOAD_HEADER_LEN + numbers_len);
        Ok(Self { first, fragment, associated, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            initiator_spi: 0x0102_0304_0506_0708,
            responder_spi: 0x1112_1314_1516_1718,
            next_payload: 0,
            version: Header::VERSION,
            exchange: Exchange::INFORMATIONAL,
            from_initiator: true,
            response: true,
            message_id: 7,
        }
    }

    #[test]
    fn rfc7296_3_1_header_layout() {
        let bytes = header().encode(0);
        assert_eq!(
            bytes,
            [
                1, 2, 3, 4, 5, 6, 7, 8, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0, 0x20,
                37, 0x28, 0, 0, 0, 7, 0, 0, 0, 28
            ]
        );
        assert_eq!(Header::decode(&bytes), Ok(header()));
        assert_eq!(
            header().to_string(),
            "INFORMATIONAL response 7 of 0102030405060708:1112131415161718"
        );
    }

    #[test]
    fn header_with_another_length_than_the_datagram_is_refused() {
        let mut bytes = header().encode(0);
        bytes.push(0);
        assert_eq!(Header::decode(&bytes), Err(Error::Invalid("message length")));
        for len in 0..HEADER_LEN {
            assert!(Header::decode(&bytes[..len]).is_err());
        }
    }

    #[test]
    fn rfc7296_3_1_reserved_flags_are_ignored() {
        let mut bytes = header().encode(0);
        bytes[19] |= 0xc7;
        assert_eq!(Header::decode(&bytes), Ok(header()));
    }
}
