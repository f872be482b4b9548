//! Addresses as packets carry them.

use std::net::IpAddr;

use super::error::DecodeError;
use super::io::{Length, Reader, address_length, put_address};

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
    pub(super) fn afn(self) -> u16 {
        match self {
            Self::V4 => 1,
            Self::V6 => 2,
        }
    }

    /// ar$pro.type.
    pub(super) fn protocol_type(self) -> u16 {
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

/// The address families of a packet, which all its addresses share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Families {
    pub(super) nbma: Family,
    pub(super) protocol: Family,
}

/// NBMA address with its sub-address, as carried in a packet. Empty in a CIE that leaves it out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NbmaAddress {
    /// The address; `None` where its length is zero.
    pub address: Option<IpAddr>,
    /// Sub-address bytes, at most 63; empty almost always.
    pub subaddress: Vec<u8>,
}

/// Longest sub-address that a type/length byte can tell (RFC 2332 §5.1: six bits).
const MAX_SUBADDRESS: usize = 63;

impl NbmaAddress {
    /// An address with a UDP port as its two-byte sub-address; port 0 is left out.
    pub fn with_port(address: IpAddr, port: u16) -> Self {
        let subaddress = if port == 0 { Vec::new() } else { port.to_be_bytes().to_vec() };
        Self { address: Some(address), subaddress }
    }

    /// The UDP port that [`Self::with_port`] put there; 0 without a two-byte sub-address.
    pub fn port(&self) -> u16 {
        <[u8; 2]>::try_from(self.subaddress.as_slice()).map_or(0, u16::from_be_bytes)
    }

    pub(super) fn read(
        reader: &mut Reader<'_>,
        family: Family,
        length: Length,
        subaddress_length: Length,
    ) -> Result<Self, DecodeError> {
        Ok(Self {
            address: reader.address(family, length, "NBMA address")?,
            subaddress: reader
                .take(usize::from(subaddress_length.value), "NBMA sub-address")?
                .to_vec(),
        })
    }

    /// The type/length bytes of address and sub-address.
    pub(super) fn lengths(&self) -> [u8; 2] {
        [address_length(self.address), self.wire_subaddress().len() as u8]
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        put_address(out, self.address);
        out.extend_from_slice(self.wire_subaddress());
    }

    fn wire_subaddress(&self) -> &[u8] {
        &self.subaddress[..self.subaddress.len().min(MAX_SUBADDRESS)]
    }
}

impl From<IpAddr> for NbmaAddress {
    fn from(address: IpAddr) -> Self {
        Self::with_port(address, 0)
    }
}
