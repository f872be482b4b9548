//! Packets on their way to somebody else (RFC 2332 §5.2.1, §5.3.2, §5.3.3).

use std::net::IpAddr;

use super::dispatch::Received;
use super::errors::{Fault, unknown_compulsory};
use super::packet::set_seen;
use super::{BindingKind, Claim, Engine, Nbma};
use crate::wire::{Body, ExtensionBody, Operation, Packet, code};

impl Engine {
    /// Forwards a query (other than a Resolution Request) that is not for us. Who receives it
    /// from us trusts us to have judged its claims.
    pub(super) fn transit(
        &mut self,
        Received { from, packet, query }: Received<'_>,
    ) -> Result<(), Fault> {
        let source = query.source_protocol.ok_or(Fault::PROTOCOL)?;
        let destination = query.destination_protocol.ok_or(Fault::PROTOCOL)?;
        let (towards, claim, owners) = match query.operation {
            Operation::RegistrationRequest => (destination, Claim::Registration, vec![source]),
            Operation::PurgeRequest => (destination, Claim::Purge, vec![source]),
            Operation::ResolutionReply => {
                let positive = query.entries.iter().filter(|cie| cie.code == code::SUCCESS);
                (source, Claim::Reply, positive.filter_map(|cie| cie.protocol).collect())
            }
            _ => return self.forward(from, packet.clone(), source),
        };
        let mut claimed: Vec<ipnet::IpNet> = owners.into_iter().map(Into::into).collect();
        for cie in query.entries.iter().filter(|cie| cie.code == code::SUCCESS) {
            let of = match claim {
                Claim::Reply => Some(destination),
                _ => cie.protocol,
            };
            if let Some(of) = of {
                claimed.push(cie.prefix_of(of).ok_or(Fault::PROTOCOL)?);
            }
        }
        for prefix in claimed {
            if !self.vouch(from, claim, prefix) {
                return Ok(());
            }
        }
        self.forward(from, packet.clone(), towards)
    }

    /// Sends a packet on towards the station with this protocol address.
    pub(super) fn forward(
        &mut self,
        from: Nbma,
        packet: Packet,
        towards: IpAddr,
    ) -> Result<(), Fault> {
        if !self.config.accept_registrations {
            return Err(Fault::UNREACHABLE);
        }
        let known = self.cache.longest(towards, BindingKind::Registered).map(|(_, e)| e.nbma);
        let next = known
            .filter(|next| *next != from)
            .or_else(|| self.best_server(Some(from)).map(|(_, nbma)| nbma))
            .ok_or(Fault::UNREACHABLE)?;
        self.forward_to(from, packet, next)
    }

    /// Sends a packet on to the next hop.
    pub(super) fn forward_to(
        &mut self,
        from: Nbma,
        mut packet: Packet,
        next: Nbma,
    ) -> Result<(), Fault> {
        if packet.hop_count <= 1 {
            return Err(Fault::HOP_COUNT);
        }
        packet.hop_count -= 1;
        // §5.3: what we do not understand passes, and we leave no trace in it.
        if !packet.extensions.iter().any(unknown_compulsory) {
            self.record(from, &mut packet);
        }
        self.counters.forwarded += 1;
        self.send(next, packet);
        Ok(())
    }

    /// Lists ourselves among the stations that handled the packet, and says where we saw its
    /// sender if that is not where it claims to be.
    fn record(&self, from: Nbma, packet: &mut Packet) {
        let Body::Query(query) = &packet.body else { return };
        let is_reply = matches!(
            query.operation,
            Operation::ResolutionReply | Operation::RegistrationReply | Operation::PurgeReply
        );
        let speakers: Vec<IpAddr> = if is_reply {
            query.entries.iter().filter_map(|cie| cie.protocol).collect()
        } else {
            query.source_protocol.into_iter().collect()
        };
        let own = self.own_cie(packet.nbma_family);
        for extension in &mut packet.extensions {
            match &mut extension.body {
                ExtensionBody::ForwardTransitNhs(list) if !is_reply => list.push(own.clone()),
                ExtensionBody::ReverseTransitNhs(list) if is_reply => list.push(own.clone()),
                _ => {}
            }
        }
        for speaker in speakers {
            let key = (speaker.into(), BindingKind::Registered);
            if self.cache.get(key).is_some_and(|e| e.nbma == from && e.translated()) {
                set_seen(packet, speaker, from);
            }
        }
    }
}
