//! Extensions (RFC 2332 §5.3).

use std::fmt;

use super::address::Families;
use super::cie::Cie;
use super::constants::extension_type;
use super::error::DecodeError;
use super::io::{Reader, put_u16, put_u32};

const COMPULSORY: u16 = 0x8000;
/// "Unused and must be set to zero" (§5.3).
const UNUSED: u16 = 0x4000;

/// One extension (RFC 2332 §5.3).
///
/// ```text
///   0               1               2               3
///  +-+-+-----------+---------------+---------------+---------------+
///  |C|u| type                      | length of the value           |
///  +-+-+-----------+---------------+---------------+---------------+
///  | value …                                                       |
///  +---------------------------------------------------------------+
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// The Compulsory bit (§5.3: "C").
    pub compulsory: bool,
    /// Value by type.
    pub body: ExtensionBody,
}

/// How the list of extensions ends. Only the first form is the RFC's (§5.3.0); the others are
/// taken from peers and given back as they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum End {
    /// The End extension, compulsory.
    #[default]
    Compulsory,
    /// The End extension without the Compulsory bit.
    NotCompulsory,
    /// No End extension: the list ends with the packet. With an empty list, ar$extoff is 0.
    Missing,
}

/// Value of an extension.
#[derive(Clone, PartialEq, Eq)]
pub enum ExtensionBody {
    /// Type 3; `None` while it is empty (in a request).
    ResponderAddress(Option<Cie>),
    /// Type 4.
    ForwardTransitNhs(Vec<Cie>),
    /// Type 5.
    ReverseTransitNhs(Vec<Cie>),
    /// Type 7: the authentication type (Cisco: 1, plain text) and its data. Never printed.
    Authentication {
        /// 1 = plain text (Cisco).
        kind: u32,
        /// The password.
        data: Vec<u8>,
    },
    /// Type 8.
    VendorPrivate {
        /// Organisation, 3 bytes.
        oui: [u8; 3],
        /// Its data.
        data: Vec<u8>,
    },
    /// Type 9, Cisco NAT address extension.
    NatAddress(Vec<Cie>),
    /// Any other type, and type 9 where its value is not a list of CIEs (RFC 2735's device
    /// capabilities).
    Unknown {
        /// The type, 14 bits. An extension with the unused bit set is unknown whatever its type,
        /// and has that bit here as 0x4000.
        kind: u16,
        /// Value, unchanged.
        value: Vec<u8>,
    },
}

impl Extension {
    /// A compulsory extension.
    pub fn compulsory(body: ExtensionBody) -> Self {
        Self { compulsory: true, body }
    }

    /// An extension that a station may ignore.
    pub fn optional(body: ExtensionBody) -> Self {
        Self { compulsory: false, body }
    }

    /// Reads extensions up to End or the end of the packet.
    pub(super) fn read_all(
        reader: &mut Reader<'_>,
        families: Families,
    ) -> Result<(Vec<Self>, End), DecodeError> {
        let mut extensions = Vec::new();
        while !reader.is_empty() {
            let head = reader.u16("extension type")?;
            let length = reader.u16("extension length")?;
            let mut value = reader.part(usize::from(length), "extension value")?;
            let compulsory = head & COMPULSORY != 0;
            let kind = head & !COMPULSORY;
            if kind == extension_type::END {
                value.finish().map_err(in_extension(kind))?;
                reader.finish()?;
                let end = if compulsory { End::Compulsory } else { End::NotCompulsory };
                return Ok((extensions, end));
            }
            let body =
                ExtensionBody::read(kind, &mut value, families).map_err(in_extension(kind))?;
            extensions.push(Self { compulsory, body });
        }
        Ok((extensions, End::Missing))
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let mut value = Vec::new();
        self.body.write(&mut value);
        value.truncate(usize::from(u16::MAX));
        put_u16(out, self.body.kind() | if self.compulsory { COMPULSORY } else { 0 });
        put_u16(out, value.len() as u16);
        out.append(&mut value);
    }
}

impl End {
    pub(super) fn write(self, out: &mut Vec<u8>) {
        let head = match self {
            Self::Compulsory => COMPULSORY | extension_type::END,
            Self::NotCompulsory => extension_type::END,
            Self::Missing => return,
        };
        put_u16(out, head);
        put_u16(out, 0);
    }
}

fn in_extension(kind: u16) -> impl Fn(DecodeError) -> DecodeError {
    move |fault| DecodeError::Extension { kind, fault: Box::new(fault) }
}

impl ExtensionBody {
    /// Extension type; see [`extension_type`].
    pub fn kind(&self) -> u16 {
        match self {
            Self::ResponderAddress(_) => extension_type::RESPONDER_ADDRESS,
            Self::ForwardTransitNhs(_) => extension_type::FORWARD_TRANSIT_NHS,
            Self::ReverseTransitNhs(_) => extension_type::REVERSE_TRANSIT_NHS,
            Self::Authentication { .. } => extension_type::AUTHENTICATION,
            Self::VendorPrivate { .. } => extension_type::VENDOR_PRIVATE,
            Self::NatAddress(_) => extension_type::NAT_ADDRESS,
            Self::Unknown { kind, .. } => kind & !COMPULSORY,
        }
    }

    fn read(kind: u16, value: &mut Reader<'_>, families: Families) -> Result<Self, DecodeError> {
        Ok(match kind {
            extension_type::RESPONDER_ADDRESS if value.is_empty() => Self::ResponderAddress(None),
            extension_type::RESPONDER_ADDRESS => {
                let entry = Cie::read(value, families)?;
                value.finish()?;
                Self::ResponderAddress(Some(entry))
            }
            extension_type::FORWARD_TRANSIT_NHS => {
                Self::ForwardTransitNhs(Cie::read_all(value, families)?)
            }
            extension_type::REVERSE_TRANSIT_NHS => {
                Self::ReverseTransitNhs(Cie::read_all(value, families)?)
            }
            extension_type::AUTHENTICATION => Self::Authentication {
                kind: value.u32("authentication type")?,
                data: value.rest().to_vec(),
            },
            extension_type::VENDOR_PRIVATE => {
                Self::VendorPrivate { oui: value.array("OUI")?, data: value.rest().to_vec() }
            }
            extension_type::NAT_ADDRESS => match Cie::read_all(&mut value.clone(), families) {
                Ok(entries) => Self::NatAddress(entries),
                Err(_) => Self::Unknown { kind, value: value.rest().to_vec() },
            },
            _ => Self::Unknown { kind, value: value.rest().to_vec() },
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::ResponderAddress(entry) => entry.iter().for_each(|entry| entry.write(out)),
            Self::ForwardTransitNhs(entries)
            | Self::ReverseTransitNhs(entries)
            | Self::NatAddress(entries) => entries.iter().for_each(|entry| entry.write(out)),
            Self::Authentication { kind, data } => {
                put_u32(out, *kind);
                out.extend_from_slice(data);
            }
            Self::VendorPrivate { oui, data } => {
                out.extend_from_slice(oui);
                out.extend_from_slice(data);
            }
            Self::Unknown { value, .. } => out.extend_from_slice(value),
        }
    }
}

impl fmt::Debug for ExtensionBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ResponderAddress(entry) => {
                f.debug_tuple("ResponderAddress").field(entry).finish()
            }
            Self::ForwardTransitNhs(entries) => {
                f.debug_tuple("ForwardTransitNhs").field(entries).finish()
            }
            Self::ReverseTransitNhs(entries) => {
                f.debug_tuple("ReverseTransitNhs").field(entries).finish()
            }
            Self::NatAddress(entries) => f.debug_tuple("NatAddress").field(entries).finish(),
            Self::Authentication { kind, .. } => {
                f.debug_struct("Authentication").field("kind", kind).finish_non_exhaustive()
            }
            Self::VendorPrivate { oui, data } => {
                f.debug_struct("VendorPrivate").field("oui", oui).field("data", data).finish()
            }
            // A password could hide behind the unused bit.
            Self::Unknown { kind, .. } if kind & !UNUSED == extension_type::AUTHENTICATION => {
                f.debug_struct("Unknown").field("kind", kind).finish_non_exhaustive()
            }
            Self::Unknown { kind, value } => {
                f.debug_struct("Unknown").field("kind", kind).field("value", value).finish()
            }
        }
    }
}
