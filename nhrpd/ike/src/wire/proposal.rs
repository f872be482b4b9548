//! Security Association payload: proposals, transforms, attributes (RFC 7296 §3.3).

use super::Error;
use super::reader::Reader;

const MAX_PROPOSALS: usize = 32;
const MAX_TRANSFORMS: usize = 128;
const LAST: u8 = 0;
const MORE_PROPOSALS: u8 = 2;
const MORE_TRANSFORMS: u8 = 3;
const KEY_LENGTH: u16 = 14;
const SHORT_FORM: u16 = 0x8000;

/// Transform type (RFC 7296 §3.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TransformKind(pub u8);

impl TransformKind {
    /// Encryption algorithm.
    pub const ENCRYPTION: Self = Self(1);
    /// Pseudorandom function.
    pub const PRF: Self = Self(2);
    /// Integrity algorithm; absent or NONE beside an AEAD (RFC 5282 §8).
    pub const INTEGRITY: Self = Self(3);
    /// Key exchange method.
    pub const KEY_EXCHANGE: Self = Self(4);
    /// Sequence numbers of ESP: 1 extended, 0 not.
    pub const SEQUENCE_NUMBERS: Self = Self(5);
    /// The first additional key exchange (RFC 9370 §3.1).
    pub const ADDITIONAL_KEY_EXCHANGE_1: Self = Self(6);
}

/// Transform attribute (RFC 7296 §3.3.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    /// Type and value in the short form.
    Short(u16, u16),
    /// Type and value in the long form.
    Long(u16, Vec<u8>),
}

/// One transform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transform {
    /// What it is for.
    pub kind: TransformKind,
    /// Which algorithm; 0 is NONE where a type has one.
    pub id: u16,
    /// Its parameters.
    pub attributes: Vec<Attribute>,
}

impl Transform {
    /// With the key length in bits where the algorithm has several.
    pub fn new(kind: TransformKind, id: u16, key_length: Option<u16>) -> Self {
        let attributes = key_length.map(|bits| Attribute::Short(KEY_LENGTH, bits));
        Self { kind, id, attributes: attributes.into_iter().collect() }
    }

    /// Key length in bits, where given.
    pub fn key_length(&self) -> Option<u16> {
        self.attributes.iter().find_map(|attribute| match attribute {
            Attribute::Short(KEY_LENGTH, bits) => Some(*bits),
            _ => None,
        })
    }
}

/// One proposal: of each transform type that occurs in it, one transform is to be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// Its number, from 1 on.
    pub number: u8,
    /// 1 IKE, 2 AH, 3 ESP.
    pub protocol: u8,
    /// The sender's SPI; empty for the first IKE SA.
    pub spi: Vec<u8>,
    /// The choice.
    pub transforms: Vec<Transform>,
}

/// Decodes the body of an SA payload.
pub fn decode(body: &[u8]) -> Result<Vec<Proposal>, Error> {
    let mut reader = Reader::new(body, "proposal");
    let mut proposals = Vec::new();
    loop {
        if proposals.len() == MAX_PROPOSALS {
            return Err(Error::TooMany("proposals"));
        }
        let more = reader.u8()?;
        reader.u8()?;
        let len = usize::from(reader.u16()?);
        let body = reader.take(len.checked_sub(4).ok_or(Error::Invalid("proposal length"))?)?;
        proposals.push(decode_proposal(body)?);
        match more {
            MORE_PROPOSALS => {}
            LAST => break,
            _ => return Err(Error::Invalid("proposal")),
        }
    }
    reader.end()?;
    Ok(proposals)
}

fn decode_proposal(body: &[u8]) -> Result<Proposal, Error> {
    let mut reader = Reader::new(body, "proposal");
    let number = reader.u8()?;
    let protocol = reader.u8()?;
    let spi_len = usize::from(reader.u8()?);
    let count = usize::from(reader.u8()?);
    if count > MAX_TRANSFORMS {
        return Err(Error::TooMany("transforms"));
    }
    let spi = reader.take(spi_len)?.to_vec();
    let mut transforms = Vec::new();
    for index in 1..=count {
        let more = reader.u8()?;
        if more != if index == count { LAST } else { MORE_TRANSFORMS } {
            return Err(Error::Invalid("transform"));
        }
        reader.u8()?;
        let len = usize::from(reader.u16()?);
        let body = reader.take(len.checked_sub(4).ok_or(Error::Invalid("transform length"))?)?;
        transforms.push(decode_transform(body)?);
    }
    reader.end()?;
    Ok(Proposal { number, protocol, spi, transforms })
}

fn decode_transform(body: &[u8]) -> Result<Transform, Error> {
    let mut reader = Reader::new(body, "transform");
    let kind = TransformKind(reader.u8()?);
    reader.u8()?;
    let id = reader.u16()?;
    let mut attributes = Vec::new();
    while !reader.is_empty() {
        let kind = reader.u16()?;
        let value = reader.u16()?;
        attributes.push(if kind & SHORT_FORM != 0 {
            Attribute::Short(kind & !SHORT_FORM, value)
        } else {
            Attribute::Long(kind, reader.take(value.into())?.to_vec())
        });
    }
    Ok(Transform { kind, id, attributes })
}

pub(super) fn encode(proposals: &[Proposal], out: &mut Vec<u8>) {
    for (index, proposal) in proposals.iter().enumerate() {
        let more = if index + 1 == proposals.len() { LAST } else { MORE_PROPOSALS };
        let start = begin(more, out);
        out.extend_from_slice(&[
            proposal.number,
            proposal.protocol,
            proposal.spi.len() as u8,
            proposal.transforms.len() as u8,
        ]);
        out.extend_from_slice(&proposal.spi);
        for (index, transform) in proposal.transforms.iter().enumerate() {
            let more = if index + 1 == proposal.transforms.len() { LAST } else { MORE_TRANSFORMS };
            let start = begin(more, out);
            out.extend_from_slice(&[transform.kind.0, 0]);
            out.extend_from_slice(&transform.id.to_be_bytes());
            for attribute in &transform.attributes {
                match attribute {
                    Attribute::Short(kind, value) => {
                        out.extend_from_slice(&(kind | SHORT_FORM).to_be_bytes());
                        out.extend_from_slice(&value.to_be_bytes());
                    }
                    Attribute::Long(kind, value) => {
                        out.extend_from_slice(&kind.to_be_bytes());
                        out.extend_from_slice(&(value.len() as u16).to_be_bytes());
                        out.extend_from_slice(value);
                    }
                }
            }
            end(start, out);
        }
        end(start, out);
    }
}

fn begin(more: u8, out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[more, 0, 0, 0]);
    start
}

fn end(start: usize, out: &mut [u8]) {
    let len = (out.len() - start) as u16;
    out[start + 2..start + 4].copy_from_slice(&len.to_be_bytes());
}
