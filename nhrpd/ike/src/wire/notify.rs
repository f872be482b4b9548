//! Notify and Delete payloads (RFC 7296 §3.10, §3.11).

use super::reader::Reader;
use super::{Error, PROTOCOL_IKE};

/// Notify message type: below 16384 an error, from there on a status.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NotifyType(pub u16);

macro_rules! notify_types {
    ($($(#[$doc:meta])* $name:ident = $value:expr;)*) => {
        impl NotifyType {
            $($(#[$doc])* pub const $name: Self = Self($value);)*

            fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

notify_types! {
    /// RFC 7296 §2.5.
    UNSUPPORTED_CRITICAL_PAYLOAD = 1;
    /// RFC 7296 §2.21.4.
    INVALID_IKE_SPI = 4;
    /// RFC 7296 §2.5.
    INVALID_MAJOR_VERSION = 5;
    /// RFC 7296 §2.21.
    INVALID_SYNTAX = 7;
    /// RFC 7296 §3.10.1.
    INVALID_MESSAGE_ID = 9;
    /// RFC 7296 §2.7.
    NO_PROPOSAL_CHOSEN = 14;
    /// RFC 7296 §1.2: data is the group that the responder wants, two bytes.
    INVALID_KE_PAYLOAD = 17;
    /// RFC 7296 §2.21.2.
    AUTHENTICATION_FAILED = 24;
    /// RFC 7296 §1.3.
    NO_ADDITIONAL_SAS = 35;
    /// RFC 7296 §2.9.
    TS_UNACCEPTABLE = 38;
    /// RFC 7296 §2.25.
    TEMPORARY_FAILURE = 43;
    /// RFC 7296 §2.25.
    CHILD_SA_NOT_FOUND = 44;
    /// Private: another SA with the same peer lives, see [`crate::crossing`].
    SUPERSEDED = 11820;
    /// RFC 7296 §2.4.
    INITIAL_CONTACT = 16384;
    /// RFC 7296 §2.23.
    NAT_DETECTION_SOURCE_IP = 16388;
    /// RFC 7296 §2.23.
    NAT_DETECTION_DESTINATION_IP = 16389;
    /// RFC 7296 §2.6.
    COOKIE = 16390;
    /// RFC 7296 §1.3.1.
    USE_TRANSPORT_MODE = 16391;
    /// RFC 7296 §1.3.3.
    REKEY_SA = 16393;
    /// RFC 4555 §3.3.
    MOBIKE_SUPPORTED = 16396;
    /// RFC 4555 §3.5.
    UPDATE_SA_ADDRESSES = 16400;
    /// RFC 4555 §3.7.
    COOKIE2 = 16401;
    /// RFC 6023 §3.
    CHILDLESS_IKEV2_SUPPORTED = 16418;
    /// RFC 7383 §2.3.
    IKEV2_FRAGMENTATION_SUPPORTED = 16430;
    /// RFC 7427 §4: two bytes for each hash algorithm.
    SIGNATURE_HASH_ALGORITHMS = 16431;
    /// RFC 9242 §3.1.
    INTERMEDIATE_EXCHANGE_SUPPORTED = 16438;
    /// Private: WireGuard keys, see [`crate::private`].
    WIREGUARD = 51820;
    /// Private: which of two SAs between the same nodes lives, see [`crate::private`].
    LINEAGE = 51821;
    /// Private: the words that belong to an error notify, see [`crate::private`].
    REASON = 51822;
}

impl NotifyType {
    /// It says that something failed.
    pub fn is_error(self) -> bool {
        self.0 < 16384
    }
}

impl std::fmt::Display for NotifyType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "notify {}", self.0),
        }
    }
}

impl std::fmt::Debug for NotifyType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// Notify payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notify {
    /// Protocol of `spi`: 0 where there is none.
    pub protocol: u8,
    /// SPI that it concerns; empty when it concerns the IKE SA it is sent in.
    pub spi: Vec<u8>,
    /// What is notified.
    pub kind: NotifyType,
    /// Depends on `kind`.
    pub data: Vec<u8>,
}

impl Notify {
    /// About the IKE SA itself, with `data`.
    pub fn new(kind: NotifyType, data: impl Into<Vec<u8>>) -> Self {
        Self { protocol: 0, spi: Vec::new(), kind, data: data.into() }
    }

    /// Decodes the body of a payload.
    pub fn decode(body: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(body, "notify payload");
        let protocol = reader.u8()?;
        let spi_len = reader.u8()?;
        let kind = NotifyType(reader.u16()?);
        let spi = reader.take(spi_len.into())?.to_vec();
        Ok(Self { protocol, spi, kind, data: reader.rest().to_vec() })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.protocol, self.spi.len() as u8]);
        out.extend_from_slice(&self.kind.0.to_be_bytes());
        out.extend_from_slice(&self.spi);
        out.extend_from_slice(&self.data);
    }
}

/// Delete payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delete {
    /// 1 the IKE SA it is sent in, 2 AH, 3 ESP.
    pub protocol: u8,
    /// The sender's inbound SPIs; none for an IKE SA.
    pub spis: Vec<Vec<u8>>,
}

impl Delete {
    /// Deletes the IKE SA it is sent in.
    pub fn ike_sa() -> Self {
        Self { protocol: PROTOCOL_IKE, spis: Vec::new() }
    }

    /// Decodes the body of a payload.
    pub fn decode(body: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(body, "delete payload");
        let protocol = reader.u8()?;
        let spi_len = usize::from(reader.u8()?);
        let count = usize::from(reader.u16()?);
        let spis = reader.rest();
        if spi_len * count != spis.len() || (spi_len == 0 && count != 0) {
            return Err(Error::Invalid("delete payload"));
        }
        let spis = if spi_len == 0 {
            Vec::new()
        } else {
            spis.chunks(spi_len).map(<[u8]>::to_vec).collect()
        };
        Ok(Self { protocol, spis })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let spi_len = self.spis.first().map_or(0, Vec::len);
        out.extend_from_slice(&[self.protocol, spi_len as u8]);
        out.extend_from_slice(&(self.spis.len() as u16).to_be_bytes());
        for spi in &self.spis {
            out.extend_from_slice(spi);
        }
    }
}
