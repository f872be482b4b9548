//! Where a packet goes: to the client, the server, or on to somebody else.

use std::time::Instant;

use super::errors::Fault;
use super::{Engine, Nbma};
use crate::wire::{Body, Operation, Packet, Query};

/// A request or reply that came in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received<'a> {
    pub(super) from: Nbma,
    pub(super) packet: &'a Packet,
    pub(super) query: &'a Query,
}

impl Engine {
    /// A packet that decoded: judged, then answered, forwarded or taken in.
    pub(super) fn accept(
        &mut self,
        now: Instant,
        from: Nbma,
        packet: &Packet,
    ) -> Result<(), Fault> {
        if packet.hop_count == 0 {
            return Err(Fault::HOP_COUNT);
        }
        if !matches!(packet.body, Body::Error(_)) && !self.is_authentic(packet) {
            return Err(Fault::authentication(packet));
        }
        let query = match &packet.body {
            Body::Query(query) => query,
            Body::Error(error) => return self.error_indication(now, from, packet, error),
            Body::Traffic(_) if self.stopping => return Ok(()),
            Body::Traffic(traffic) => return self.traffic_indication(now, from, traffic),
        };
        if self.stopping && query.operation != Operation::PurgeReply {
            return Ok(());
        }
        self.check_loop(packet, query)?;
        let received = Received { from, packet, query };
        let own = Some(self.address());
        let to_us = query.destination_protocol.is_none_or(|d| Some(d) == own);
        match query.operation {
            Operation::ResolutionRequest => self.resolution_request(now, received),
            Operation::ResolutionReply if query.source_protocol == own => {
                self.resolution_reply(now, received)
            }
            // A client that does not know its server's address writes its own.
            Operation::RegistrationRequest
                if to_us || query.destination_protocol == query.source_protocol =>
            {
                self.registration_request(now, received)
            }
            Operation::RegistrationReply if query.source_protocol == own => {
                self.registration_reply(now, received)
            }
            Operation::PurgeRequest if to_us => self.purge_request(received),
            Operation::PurgeReply if query.source_protocol == own => {
                self.purge_reply(now, from, query);
                Ok(())
            }
            _ => self.transit(received),
        }
    }
}
