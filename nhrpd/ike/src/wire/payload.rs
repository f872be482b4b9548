//! Payloads and the chain they form (RFC 7296 §3.2).

use super::reader::Reader;
use super::{Delete, Error, Notify, PAYLOAD_HEADER_LEN, Proposal, TrafficSelector};
use super::{proposal, selector};
use crate::Identity;

/// Payload type of the Encrypted and Authenticated payload.
pub const ENCRYPTED: u8 = 46;
/// Payload type of the Encrypted and Authenticated Fragment payload (RFC 7383 §2.5).
pub const ENCRYPTED_FRAGMENT: u8 = 53;
/// Payload type "none": the end of a chain.
pub const NO_NEXT: u8 = 0;

const MAX_PAYLOADS: usize = 128;
const CRITICAL: u8 = 0x80;

/// One payload that may stand in a chain. The encrypted payload holds a chain and is
/// [`super::Encrypted`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// SA (§3.3).
    SecurityAssociation(Vec<Proposal>),
    /// KE (§3.4).
    KeyExchange {
        /// Key exchange method.
        group: u16,
        /// The sender's public value.
        data: Vec<u8>,
    },
    /// IDi (§3.5).
    IdInitiator(Identity),
    /// IDr (§3.5).
    IdResponder(Identity),
    /// CERT (§3.6).
    Certificate {
        /// 4: X.509 certificate for signatures.
        encoding: u8,
        /// DER for encoding 4.
        data: Vec<u8>,
    },
    /// CERTREQ (§3.7).
    CertificateRequest {
        /// As in the certificate payload.
        encoding: u8,
        /// SHA-1 hashes of the trusted authorities' keys, one after another; empty for any.
        authorities: Vec<u8>,
    },
    /// AUTH (§3.8).
    Authentication {
        /// 14: digital signature (RFC 7427).
        method: u8,
        /// Depends on the method.
        data: Vec<u8>,
    },
    /// Nonce (§3.9), 16 to 256 bytes.
    Nonce(Vec<u8>),
    /// N (§3.10).
    Notify(Notify),
    /// D (§3.11).
    Delete(Delete),
    /// V (§3.12).
    VendorId(Vec<u8>),
    /// TSi (§3.13).
    SelectorsInitiator(Vec<TrafficSelector>),
    /// TSr (§3.13).
    SelectorsResponder(Vec<TrafficSelector>),
}

impl Payload {
    /// Encoding of X.509 certificates in CERT and CERTREQ.
    pub const X509_SIGNATURE: u8 = 4;

    fn kind(&self) -> u8 {
        match self {
            Self::SecurityAssociation(_) => 33,
            Self::KeyExchange { .. } => 34,
            Self::IdInitiator(_) => 35,
            Self::IdResponder(_) => 36,
            Self::Certificate { .. } => 37,
            Self::CertificateRequest { .. } => 38,
            Self::Authentication { .. } => 39,
            Self::Nonce(_) => 40,
            Self::Notify(_) => 41,
            Self::Delete(_) => 42,
            Self::VendorId(_) => 43,
            Self::SelectorsInitiator(_) => 44,
            Self::SelectorsResponder(_) => 45,
        }
    }

    /// Decodes the body of a payload of type `kind`; `None` for a type that we do not know.
    pub fn decode(kind: u8, body: &[u8]) -> Result<Option<Self>, Error> {
        let mut reader = Reader::new(body, "payload");
        Ok(Some(match kind {
            33 => Self::SecurityAssociation(proposal::decode(body)?),
            34 => {
                let group = reader.u16()?;
                reader.u16()?;
                Self::KeyExchange { group, data: reader.rest().to_vec() }
            }
            35 => Self::IdInitiator(decode_identity(body)?),
            36 => Self::IdResponder(decode_identity(body)?),
            37 => Self::Certificate { encoding: reader.u8()?, data: reader.rest().to_vec() },
            38 => Self::CertificateRequest {
                encoding: reader.u8()?,
                authorities: reader.rest().to_vec(),
            },
            39 => {
                let method = reader.u8()?;
                reader.take(3)?;
                Self::Authentication { method, data: reader.rest().to_vec() }
            }
            40 if (16..=256).contains(&body.len()) => Self::Nonce(body.to_vec()),
            40 => return Err(Error::Invalid("nonce length")),
            41 => Self::Notify(Notify::decode(body)?),
            42 => Self::Delete(Delete::decode(body)?),
            43 => Self::VendorId(body.to_vec()),
            44 => Self::SelectorsInitiator(selector::decode(body)?),
            45 => Self::SelectorsResponder(selector::decode(body)?),
            _ => return Ok(None),
        }))
    }

    fn encode_body(&self, out: &mut Vec<u8>) {
        match self {
            Self::SecurityAssociation(proposals) => proposal::encode(proposals, out),
            Self::KeyExchange { group, data } => {
                out.extend_from_slice(&group.to_be_bytes());
                out.extend_from_slice(&[0, 0]);
                out.extend_from_slice(data);
            }
            Self::IdInitiator(identity) | Self::IdResponder(identity) => {
                out.extend_from_slice(&encode_identity(identity));
            }
            Self::Certificate { encoding, data }
            | Self::CertificateRequest { encoding, authorities: data } => {
                out.push(*encoding);
                out.extend_from_slice(data);
            }
            Self::Authentication { method, data } => {
                out.extend_from_slice(&[*method, 0, 0, 0]);
                out.extend_from_slice(data);
            }
            Self::Nonce(data) | Self::VendorId(data) => out.extend_from_slice(data),
            Self::Notify(notify) => notify.encode(out),
            Self::Delete(delete) => delete.encode(out),
            Self::SelectorsInitiator(selectors) | Self::SelectorsResponder(selectors) => {
                selector::encode(selectors, out);
            }
        }
    }
}

fn decode_identity(body: &[u8]) -> Result<Identity, Error> {
    let mut reader = Reader::new(body, "identification payload");
    let kind = reader.u8()?;
    reader.take(3)?;
    Ok(Identity { kind, data: reader.rest().to_vec() })
}

/// Body of an identification payload, which is also what AUTH covers (RFC 7296 §2.15).
pub(crate) fn encode_identity(identity: &Identity) -> Vec<u8> {
    let mut out = vec![identity.kind, 0, 0, 0];
    out.extend_from_slice(&identity.data);
    out
}

/// Decodes a chain whose first payload has type `first`. Unknown payloads are left out, unless
/// they are critical (RFC 7296 §2.5).
pub fn decode_chain(first: u8, bytes: &[u8]) -> Result<Vec<Payload>, Error> {
    let mut reader = Reader::new(bytes, "payload");
    let mut payloads = Vec::new();
    let mut kind = first;
    let mut count = 0;
    while kind != NO_NEXT {
        count += 1;
        if count > MAX_PAYLOADS {
            return Err(Error::TooMany("payloads"));
        }
        let next = reader.u8()?;
        let critical = reader.u8()? & CRITICAL != 0;
        let len = usize::from(reader.u16()?);
        let body = reader
            .take(len.checked_sub(PAYLOAD_HEADER_LEN).ok_or(Error::Invalid("payload length"))?)?;
        match Payload::decode(kind, body)? {
            Some(payload) => payloads.push(payload),
            None if matches!(kind, ENCRYPTED | ENCRYPTED_FRAGMENT) => {
                return Err(Error::Invalid("place of encrypted payload"));
            }
            None if critical => return Err(Error::UnsupportedCritical(kind)),
            None => {}
        }
        kind = next;
    }
    reader.end()?;
    Ok(payloads)
}

/// Encodes a chain: the type of its first payload, and the bytes.
pub fn encode_chain(payloads: &[Payload]) -> (u8, Vec<u8>) {
    let mut out = Vec::new();
    for (index, payload) in payloads.iter().enumerate() {
        let start = out.len();
        let next = payloads.get(index + 1).map_or(NO_NEXT, Payload::kind);
        out.extend_from_slice(&[next, 0, 0, 0]);
        payload.encode_body(&mut out);
        let len = (out.len() - start) as u16;
        out[start + 2..start + 4].copy_from_slice(&len.to_be_bytes());
    }
    (payloads.first().map_or(NO_NEXT, Payload::kind), out)
}
