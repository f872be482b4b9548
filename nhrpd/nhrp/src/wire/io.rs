//! Reading with bounds and offsets, the checksum, and small writers.

use std::net::IpAddr;

use super::address::Family;
use super::error::DecodeError;

/// A cursor over one part of a packet. Offsets count from the packet's first byte, so that errors
/// can name them.
#[derive(Debug, Clone)]
pub(super) struct Reader<'a> {
    /// The packet up to the end of the part.
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    /// Reads `bytes[position..]`.
    pub(super) fn new(bytes: &'a [u8], position: usize) -> Self {
        Self { bytes, position }
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    pub(super) fn remaining(&self) -> usize {
        self.bytes.len().saturating_sub(self.position)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.remaining() == 0
    }

    pub(super) fn take(
        &mut self,
        length: usize,
        field: &'static str,
    ) -> Result<&'a [u8], DecodeError> {
        let offset = self.position;
        let taken = offset
            .checked_add(length)
            .and_then(|end| self.bytes.get(offset..end))
            .ok_or(DecodeError::Truncated { offset, field })?;
        self.position += length;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, field)?);
        Ok(array)
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        Ok(self.array::<1>(field)?[0])
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array(field)?))
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array(field)?))
    }

    /// A part of `length` bytes as a reader of its own.
    pub(super) fn part(
        &mut self,
        length: usize,
        field: &'static str,
    ) -> Result<Reader<'a>, DecodeError> {
        let start = self.position;
        self.take(length, field)?;
        Ok(Reader { bytes: &self.bytes[..self.position], position: start })
    }

    /// Everything that is left.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        self.position += rest.len();
        rest
    }

    pub(super) fn finish(&self) -> Result<(), DecodeError> {
        match self.remaining() {
            0 => Ok(()),
            length => Err(DecodeError::Surplus { offset: self.position, length }),
        }
    }

    /// The address whose length was read as `length`.
    pub(super) fn address(
        &mut self,
        family: Family,
        length: Length,
        field: &'static str,
    ) -> Result<Option<IpAddr>, DecodeError> {
        let expected = family.address_length();
        if length.value == 0 {
            return Ok(None);
        }
        if length.value != expected {
            let Length { offset, value } = length;
            return Err(DecodeError::AddressLength { offset, length: value, expected });
        }
        Ok(Some(match family {
            Family::V4 => self.array::<4>(field)?.into(),
            Family::V6 => self.array::<16>(field)?.into(),
        }))
    }

    /// A protocol address length.
    pub(super) fn protocol_length(&mut self) -> Result<Length, DecodeError> {
        Ok(Length { offset: self.position, value: self.u8("protocol address length")? })
    }

    /// An NBMA type/length byte (RFC 2332 §5.1): reserved bit, E.164 bit, six bits of length.
    pub(super) fn nbma_length(&mut self) -> Result<Length, DecodeError> {
        let offset = self.position;
        let value = self.u8("address type/length")?;
        if value & 0xc0 != 0 {
            return Err(DecodeError::AddressType { offset, value });
        }
        Ok(Length { offset, value })
    }
}

/// An address length and the byte that it was read from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Length {
    pub(super) offset: usize,
    pub(super) value: u8,
}

/// The IP checksum (RFC 1071); an odd last byte counts as if a zero byte followed it.
pub(super) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u64 = 0;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u64::from(u16::from_be_bytes([pair[0], low]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

pub(super) fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(super) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(super) fn put_address(out: &mut Vec<u8>, address: Option<IpAddr>) {
    match address {
        None => {}
        Some(IpAddr::V4(address)) => out.extend_from_slice(&address.octets()),
        Some(IpAddr::V6(address)) => out.extend_from_slice(&address.octets()),
    }
}

pub(super) fn address_length(address: Option<IpAddr>) -> u8 {
    address.map_or(0, |address| Family::from(address).address_length())
}
