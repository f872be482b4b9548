//! NHRP (RFC 2332): the codec in [`wire`], the protocol in [`engine`].
//!
//! Sans-IO: no sockets, no clock, no source of randomness. Time and randomness are arguments.

pub mod engine;
pub mod index;
pub mod wire;
