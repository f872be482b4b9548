//! Traffic Indications (draft-detienne-dmvpn): "there is a better path for this packet".

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use super::errors::Fault;
use super::packet::HOP_COUNT;
use super::{Engine, Nbma, Refusal};
use crate::wire::{Body, Family, Packet, TrafficIndication, traffic_code};

/// Bytes of the packet that we send back.
const QUOTED: usize = 128;

impl Engine {
    /// Issues an indication about `packet`, which came from `peer` and went back into the tunnel.
    pub(super) fn indicate(&mut self, now: Instant, peer: Nbma, packet: &[u8]) {
        let refusal = match addresses(packet) {
            _ if !self.config.redirect || self.stopping => Refusal::NotEnabled,
            Some((source, _)) if Family::from(source) == Family::from(self.address()) => {
                if self.rates.indications.take(now, self.config.limits.indications) {
                    return self.send_indication(peer, source, packet);
                }
                Refusal::IndicationRate
            }
            _ => Refusal::Protocol,
        };
        self.counters.count(refusal);
    }

    fn send_indication(&mut self, peer: Nbma, source: IpAddr, packet: &[u8]) {
        let nbma = Family::from(peer.address);
        let traffic = TrafficIndication {
            code: traffic_code::REDIRECT,
            source_nbma: self.own_nbma(nbma),
            source_protocol: Some(self.address()),
            destination_protocol: Some(source),
            packet: packet[..packet.len().min(QUOTED)].to_vec(),
            ..TrafficIndication::default()
        };
        let protocol = Family::from(self.address());
        let body = Body::Traffic(traffic);
        self.send(peer, Packet::new(nbma, protocol, HOP_COUNT, body, Vec::new()));
    }

    /// An indication came in: only the packet within it is acted on.
    pub(super) fn traffic_indication(
        &mut self,
        now: Instant,
        from: Nbma,
        traffic: &TrafficIndication,
    ) -> Result<(), Fault> {
        let (_, destination) = addresses(&traffic.packet).ok_or(Fault::PROTOCOL)?;
        let refusal = if !self.config.shortcut || traffic.code != traffic_code::REDIRECT {
            Some(Refusal::NotEnabled)
        } else if !self.is_server(from) {
            Some(Refusal::IndicationSource)
        } else {
            self.seek(now, destination).err()
        };
        if let Some(refusal) = refusal {
            self.counters.count(refusal);
        }
        Ok(())
    }
}

/// Source and destination of an IP packet, of which the header at least must be there.
fn addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match packet.first()? >> 4 {
        4 => {
            let header = packet.get(..20)?;
            let v4 =
                |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(&header[at..at + 4]).ok()?));
            Some((v4(12)?.into(), v4(16)?.into()))
        }
        6 => {
            let header = packet.get(..40)?;
            let v6 =
                |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(&header[at..at + 16]).ok()?));
            Some((v6(8)?.into(), v6(24)?.into()))
        }
        _ => None,
    }
}
