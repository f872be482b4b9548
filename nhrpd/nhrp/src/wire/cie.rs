//! Client information entries.

use std::net::IpAddr;

use ipnet::IpNet;

use super::address::{Families, NbmaAddress};
use super::error::DecodeError;
use super::io::{Reader, address_length, put_address, put_u16};

/// Client information entry (RFC 2332 §5.2.0.1).
///
/// ```text
///   0               1               2               3
///  +---------------+---------------+---------------+---------------+
///  | code          | prefix length | unused                        |
///  +---------------+---------------+---------------+---------------+
///  | MTU                           | holding time                  |
///  +---------------+---------------+---------------+---------------+
///  | NBMA T/L      | sub-addr. T/L | protocol len. | preference    |
///  +---------------+---------------+---------------+---------------+
///  | NBMA address, NBMA sub-address, protocol address …            |
///  +---------------------------------------------------------------+
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cie {
    /// Reply code; 0 in requests. See [`super::code`].
    pub code: u8,
    /// Prefix length in bits. 0x00 on the wire means 0xFF: "not a prefix, the address alone".
    pub prefix_length: u8,
    /// Unused by every RFC so far; kept so that a forwarded entry stays what it was.
    pub unused: u16,
    /// Maximum transmission unit; 0 = default.
    pub mtu: u16,
    /// Holding time in seconds.
    pub holding_time: u16,
    /// Preference; higher is preferred.
    pub preference: u8,
    /// Client NBMA address.
    pub nbma: NbmaAddress,
    /// Client protocol address; `None` where its length is zero.
    pub protocol: Option<IpAddr>,
}

impl Cie {
    /// Prefix length that stands for the address alone (RFC 2332 §5.2.0.1); the only one that
    /// the U bit of a registration permits (§5.2.3).
    pub const HOST: u8 = 0xff;

    /// An entry for one protocol address reached at `nbma`.
    pub fn host(protocol: IpAddr, nbma: NbmaAddress, holding_time: u16) -> Self {
        Self {
            prefix_length: Self::HOST,
            holding_time,
            nbma,
            protocol: Some(protocol),
            ..Self::default()
        }
    }

    /// What the entry says of `address`: the address alone, or the prefix of that length around
    /// it; `None` where the prefix length exceeds the address.
    ///
    /// Which address the prefix length belongs to depends on the packet: the client protocol
    /// address in registration and purge, the destination protocol address in resolution.
    pub fn prefix_of(&self, address: IpAddr) -> Option<IpNet> {
        match self.prefix_length {
            0x00 | Self::HOST => Some(address.into()),
            length => IpNet::new(address, length).ok().map(|net| net.trunc()),
        }
    }

    /// [`Self::prefix_of`] the client protocol address.
    pub fn prefix(&self) -> Option<IpNet> {
        self.prefix_of(self.protocol?)
    }

    pub(super) fn read(reader: &mut Reader<'_>, families: Families) -> Result<Self, DecodeError> {
        let mut fixed = reader.part(12, "client information entry")?;
        let code = fixed.u8("code")?;
        let prefix_length = fixed.u8("prefix length")?;
        let unused = fixed.u16("unused")?;
        let mtu = fixed.u16("MTU")?;
        let holding_time = fixed.u16("holding time")?;
        let nbma_length = fixed.nbma_length()?;
        let subaddress_length = fixed.nbma_length()?;
        let protocol_length = fixed.protocol_length()?;
        let preference = fixed.u8("preference")?;
        let nbma = NbmaAddress::read(reader, families.nbma, nbma_length, subaddress_length)?;
        let protocol =
            reader.address(families.protocol, protocol_length, "client protocol address")?;
        Ok(Self { code, prefix_length, unused, mtu, holding_time, preference, nbma, protocol })
    }

    pub(super) fn read_all(
        reader: &mut Reader<'_>,
        families: Families,
    ) -> Result<Vec<Self>, DecodeError> {
        let mut entries = Vec::new();
        while !reader.is_empty() {
            entries.push(Self::read(reader, families)?);
        }
        Ok(entries)
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.code, self.prefix_length]);
        put_u16(out, self.unused);
        put_u16(out, self.mtu);
        put_u16(out, self.holding_time);
        out.extend_from_slice(&self.nbma.lengths());
        out.extend_from_slice(&[address_length(self.protocol), self.preference]);
        self.nbma.write(out);
        put_address(out, self.protocol);
    }
}
