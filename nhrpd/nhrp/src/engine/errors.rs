//! Error Indications (RFC 2332 §5.2.7): made, passed on, understood.

use std::net::IpAddr;
use std::time::Instant;

use super::packet::HOP_COUNT;
use super::pending::Purpose;
use super::{Engine, Event, Nbma, Refusal};
use crate::wire::{
    Body, DecodeError, ErrorIndication, ExtensionBody, Family, Operation, Packet, Query,
    error_code, extension_type, packet_type,
};

/// Bytes of the packet in error that we send back: what fits together with the headers into the
/// 576 bytes that every host takes.
const QUOTED: usize = 448;

/// What is wrong with a packet, and what to tell its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) code: u16,
    /// Where in the packet it is wrong, in bytes.
    pub(super) offset: u16,
    pub(super) refusal: Refusal,
}

impl Fault {
    /// At ar$op.type, for a packet that is wrong as a whole.
    const WHOLE: u16 = 17;

    pub(super) const HOP_COUNT: Self =
        Self { code: error_code::HOP_COUNT_EXCEEDED, offset: 9, refusal: Refusal::HopCount };
    pub(super) const PROTOCOL: Self =
        Self { code: error_code::PROTOCOL_ERROR, offset: Self::WHOLE, refusal: Refusal::Protocol };
    pub(super) const UNREACHABLE: Self = Self {
        code: error_code::PROTOCOL_ADDRESS_UNREACHABLE,
        offset: Self::WHOLE,
        refusal: Refusal::Unreachable,
    };
    pub(super) const UNKNOWN_REPLY: Self = Self {
        code: error_code::INVALID_RESOLUTION_REPLY,
        offset: Self::WHOLE,
        refusal: Refusal::UnknownReply,
    };

    pub(super) fn authentication(packet: &Packet) -> Self {
        let found =
            packet.extensions.iter().position(|e| e.body.kind() == extension_type::AUTHENTICATION);
        Self {
            code: error_code::AUTHENTICATION_FAILURE,
            offset: found.map_or(Self::WHOLE, |i| packet.extension_offset(i)),
            refusal: Refusal::Authentication,
        }
    }
}

/// Error code in words.
pub(super) fn error_words(code: u16) -> &'static str {
    match code {
        error_code::UNRECOGNIZED_EXTENSION => "unrecognised extension",
        error_code::LOOP_DETECTED => "loop detected",
        error_code::PROTOCOL_ADDRESS_UNREACHABLE => "protocol address unreachable",
        error_code::PROTOCOL_ERROR => "protocol error",
        error_code::SDU_SIZE_EXCEEDED => "packet too large",
        error_code::INVALID_EXTENSION => "invalid extension",
        error_code::INVALID_RESOLUTION_REPLY => "invalid resolution reply",
        error_code::AUTHENTICATION_FAILURE => "authentication failure: another password than there",
        error_code::HOP_COUNT_EXCEEDED => "hop count exceeded",
        error_code::VPN_MISMATCH => "VPN mismatch",
        error_code::VPN_UNSUPPORTED => "VPN unsupported",
        _ => "unknown error code",
    }
}

impl Engine {
    /// Own protocol address in a list that it must not be in, or as the responder
    /// (RFC 2332 §5.3.1–§5.3.3). On its way back a reply carries the forward list of its request.
    pub(super) fn check_loop(&self, packet: &Packet, query: &Query) -> Result<(), Fault> {
        let own = Some(self.address());
        let is_reply = matches!(
            query.operation,
            Operation::ResolutionReply | Operation::RegistrationReply | Operation::PurgeReply
        );
        let looped = packet.extensions.iter().position(|extension| match &extension.body {
            ExtensionBody::ResponderAddress(Some(cie)) => cie.protocol == own,
            ExtensionBody::ForwardTransitNhs(list) if !is_reply => {
                list.iter().any(|cie| cie.protocol == own)
            }
            ExtensionBody::ReverseTransitNhs(list) if is_reply => {
                list.iter().any(|cie| cie.protocol == own)
            }
            _ => false,
        });
        looped.map_or(Ok(()), |index| {
            Err(Fault {
                code: error_code::LOOP_DETECTED,
                offset: packet.extension_offset(index),
                refusal: Refusal::Loop,
            })
        })
    }

    /// What a station that acts on a packet demands of its extensions: no type twice, and none
    /// that is compulsory and unknown (RFC 2332 §5.3).
    pub(super) fn check_extensions(&self, packet: &Packet) -> Result<(), Fault> {
        for (index, extension) in packet.extensions.iter().enumerate() {
            let kind = extension.body.kind();
            let (code, refusal) = if unknown_compulsory(extension) {
                (error_code::UNRECOGNIZED_EXTENSION, Refusal::UnknownExtension)
            } else if packet.extensions[..index].iter().any(|e| e.body.kind() == kind)
                && !matches!(
                    extension.body,
                    ExtensionBody::VendorPrivate { .. } | ExtensionBody::Unknown { .. }
                )
            {
                (error_code::INVALID_EXTENSION, Refusal::InvalidExtension)
            } else {
                continue;
            };
            return Err(Fault { code, offset: packet.extension_offset(index), refusal });
        }
        Ok(())
    }

    /// Counts what is wrong with a packet and tells its sender.
    pub(super) fn fault(
        &mut self,
        now: Instant,
        from: Nbma,
        packet: &Packet,
        bytes: &[u8],
        fault: Fault,
    ) {
        self.counters.count(fault.refusal);
        if fault.refusal == Refusal::Authentication && self.rates.failures.take(now, 1) {
            self.event(Event::AuthenticationFailed { peer: from });
        }
        let culprit = match &packet.body {
            // RFC 2332 §5.2.7: never an error about an error.
            Body::Error(_) => return,
            Body::Traffic(traffic) => traffic.source_protocol,
            Body::Query(query) => match query.operation {
                Operation::ResolutionRequest
                | Operation::RegistrationRequest
                | Operation::PurgeRequest => query.source_protocol,
                _ => match packet.extension(extension_type::RESPONDER_ADDRESS) {
                    Some(ExtensionBody::ResponderAddress(Some(cie))) => cie.protocol,
                    _ => query.destination_protocol,
                },
            },
        };
        let (nbma, protocol) = (packet.nbma_family, packet.protocol_family);
        self.indicate_error(now, from, (nbma, protocol), culprit, fault, bytes);
    }

    /// Tells the sender of bytes that are no packet, where they say who that is.
    pub(super) fn malformed(
        &mut self,
        now: Instant,
        from: Nbma,
        bytes: &[u8],
        error: &DecodeError,
    ) {
        self.counters.count(Refusal::Malformed);
        let (Some((code, offset)), Some(origin)) = (error.indication(), Packet::origin(bytes))
        else {
            return;
        };
        if origin.packet_type == packet_type::ERROR_INDICATION {
            return;
        }
        let families = (origin.nbma_family, origin.protocol_family);
        let fault = Fault { code, offset, refusal: Refusal::Malformed };
        self.indicate_error(now, from, families, origin.source_protocol, fault, bytes);
    }

    fn indicate_error(
        &mut self,
        now: Instant,
        to: Nbma,
        (nbma, protocol): (Family, Family),
        culprit: Option<IpAddr>,
        fault: Fault,
        bytes: &[u8],
    ) {
        if Family::from(self.address()) != protocol {
            return;
        }
        if !self.rates.errors.take(now, self.config.limits.errors) {
            self.counters.count(Refusal::ErrorRate);
            return;
        }
        let error = ErrorIndication {
            unused: 0,
            error_code: fault.code,
            error_offset: fault.offset,
            source_nbma: self.own_nbma(nbma),
            source_protocol: Some(self.address()),
            destination_protocol: culprit,
            packet: bytes[..bytes.len().min(QUOTED)].to_vec(),
        };
        self.send(to, Packet::new(nbma, protocol, HOP_COUNT, Body::Error(error), Vec::new()));
    }

    /// An Error Indication came in.
    pub(super) fn error_indication(
        &mut self,
        now: Instant,
        from: Nbma,
        packet: &Packet,
        error: &ErrorIndication,
    ) -> Result<(), Fault> {
        if let Some(destination) = error.destination_protocol.filter(|d| *d != self.address()) {
            return self.forward(from, packet.clone(), destination);
        }
        let reason = error_words(error.error_code);
        let (observer, code) = (error.source_protocol, error.error_code);
        self.event(Event::ErrorReceived { peer: from, observer, code, reason });

        // It concerns a request of ours only if it comes from where that was sent to.
        let Some(id) = quoted_request_id(&error.packet) else { return Ok(()) };
        let Some(pending) = self.pending.get(&id).filter(|p| p.to == from) else { return Ok(()) };
        match pending.purpose {
            Purpose::Register { server, part } => {
                self.registration_failed(now, server, part, None, reason);
            }
            Purpose::Resolve { .. } => {
                let words = match observer {
                    Some(observer) => format!("{reason}, says {observer}"),
                    None => reason.to_owned(),
                };
                self.resolution_failed(now, id, &words);
            }
            Purpose::Purge { .. } => {}
        }
        Ok(())
    }
}

/// Vendors' extensions are all unknown to us (RFC 2332 §5.3.5).
pub(super) fn unknown_compulsory(extension: &crate::wire::Extension) -> bool {
    let known = !matches!(
        extension.body,
        ExtensionBody::Unknown { .. } | ExtensionBody::VendorPrivate { .. }
    );
    extension.compulsory && !known
}

/// Request id of a request that an Error Indication quotes, perhaps cut short.
fn quoted_request_id(packet: &[u8]) -> Option<u32> {
    let is_request = matches!(packet.get(17)?, 1 | 3 | 5);
    let id = packet.get(24..28)?.try_into().ok()?;
    is_request.then(|| u32::from_be_bytes(id))
}
