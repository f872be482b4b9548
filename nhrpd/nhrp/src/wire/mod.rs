//! The NHRP packet on the wire (RFC 2332 §5), decoded totally and encoded exactly.
//!
//! [`Packet::decode`] gives a value or a [`DecodeError`] for any bytes, and allocates no more than
//! a small multiple of their number. [`Packet::encode`] gives back the bytes that were decoded,
//! with two exceptions that the RFC demands: ar$pro.snap is ignored on receipt and sent as zero
//! (§5.1), and a checksum of 0xFFFF, which verifies, is computed as 0x0000.

mod address;
mod body;
mod cie;
mod constants;
mod error;
mod extension;
mod io;
mod packet;

pub use address::{Family, NbmaAddress};
pub use body::{Body, ErrorIndication, Operation, Query, TrafficIndication};
pub use cie::Cie;
pub use constants::{
    GRE_PROTOCOL_TYPE, code, error_code, extension_type, flags, packet_type, traffic_code,
};
pub use error::DecodeError;
pub use extension::{End, Extension, ExtensionBody};
pub use packet::{Origin, Packet};
