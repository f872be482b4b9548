//! Making packets: own addresses, extensions, authentication.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Engine, Event, Nbma, Output};
use crate::wire::{
    Body, Cie, Extension, ExtensionBody, Family, NbmaAddress, Operation, Packet, Query,
    extension_type,
};

/// Hop count of what we originate.
pub(super) const HOP_COUNT: u8 = 64;

/// Authentication type of Cisco's plain-text password.
const PLAIN_TEXT: u32 = 1;

impl Engine {
    pub(super) fn event(&mut self, event: Event) {
        self.output.push_back(Output::Event(event));
    }

    /// Own protocol address.
    pub(super) fn address(&self) -> IpAddr {
        self.config.address.addr()
    }

    /// Own holding time in seconds.
    pub(super) fn holding_time(&self) -> u16 {
        u16::try_from(self.config.holding_time.as_secs()).unwrap_or(u16::MAX).max(1)
    }

    pub(super) fn next_id(&mut self) -> u32 {
        self.request_id = self.request_id.wrapping_add(1);
        self.request_id
    }

    /// Own NBMA address as a packet of this family carries it.
    pub(super) fn own_nbma(&self, family: Family) -> NbmaAddress {
        self.config.nbma.map_or_else(NbmaAddress::default, |a| nbma_field(family, a.into()))
    }

    /// A CIE for ourselves (RFC 2332 §5.2.0.1).
    pub(super) fn own_cie(&self, family: Family) -> Cie {
        Cie::host(self.address(), self.own_nbma(family), self.holding_time())
    }

    /// A request of our own (types 1, 3, 5), with the extensions that ask who handled it.
    pub(super) fn request(
        &self,
        operation: Operation,
        id: u32,
        flags: u16,
        destination: IpAddr,
        entries: Vec<Cie>,
    ) -> Packet {
        let nbma = Family::from(self.config.nbma.unwrap_or(self.address()));
        let query = Query {
            operation,
            flags,
            request_id: id,
            source_nbma: self.own_nbma(nbma),
            source_protocol: Some(self.address()),
            destination_protocol: Some(destination),
            entries,
        };
        let extensions = vec![
            Extension::compulsory(ExtensionBody::ResponderAddress(None)),
            Extension::compulsory(ExtensionBody::ForwardTransitNhs(Vec::new())),
            Extension::compulsory(ExtensionBody::ReverseTransitNhs(Vec::new())),
            Extension::optional(ExtensionBody::NatAddress(Vec::new())),
        ];
        let protocol = Family::from(self.address());
        Packet::new(nbma, protocol, HOP_COUNT, Body::Query(query), extensions)
    }

    /// The reply to a request: its addresses and id, its extensions (RFC 2332 §5.3: those that we
    /// do not know come back unchanged) with ourselves as the responder.
    pub(super) fn reply(
        &self,
        request: &Packet,
        query: &Query,
        operation: Operation,
        flags: u16,
        entries: Vec<Cie>,
    ) -> Packet {
        let family = request.nbma_family;
        let mut extensions = request.extensions.clone();
        for extension in &mut extensions {
            if let ExtensionBody::ResponderAddress(responder) = &mut extension.body {
                *responder = Some(self.own_cie(family));
            }
        }
        let query = Query { operation, flags, entries, ..query.clone() };
        let body = Body::Query(query);
        Packet::new(family, request.protocol_family, HOP_COUNT, body, extensions)
    }

    /// Sends a packet, with our authentication in place of any that it has (RFC 2332 §5.3.4: made
    /// anew at each hop). Error Indications have no extensions (§5.2.7).
    pub(super) fn send(&mut self, to: Nbma, mut packet: Packet) {
        if !matches!(packet.body, Body::Error(_)) {
            self.authenticate(&mut packet);
        }
        self.counters.sent[usize::from(packet.packet_type())] += 1;
        self.output.push_back(Output::Transmit { to, packet: packet.encode() });
    }

    fn authenticate(&self, packet: &mut Packet) {
        let list = &mut packet.extensions;
        let is_authentication = |e: &Extension| e.body.kind() == extension_type::AUTHENTICATION;
        let place = list.iter().position(is_authentication);
        list.retain(|e| !is_authentication(e));
        if let Some(password) = &self.config.authentication {
            let data = password.0.clone();
            // IOS wants it before the NAT extension.
            let place = place.unwrap_or_else(|| {
                list.iter()
                    .position(|e| e.body.kind() == extension_type::NAT_ADDRESS)
                    .unwrap_or(list.len())
            });
            let body = ExtensionBody::Authentication { kind: PLAIN_TEXT, data };
            list.insert(place.min(list.len()), Extension::compulsory(body));
        }
        if !list.is_empty() {
            packet.end = crate::wire::End::Compulsory;
        }
    }

    /// Whether the packet carries our password, once.
    pub(super) fn is_authentic(&self, packet: &Packet) -> bool {
        let Some(password) = &self.config.authentication else { return true };
        let mut found = packet
            .extensions
            .iter()
            .map(|e| &e.body)
            .filter(|body| body.kind() == extension_type::AUTHENTICATION);
        let right = matches!(found.next(), Some(ExtensionBody::Authentication { kind, data })
            if *kind == PLAIN_TEXT && *data == password.0);
        right && found.next().is_none()
    }

    /// What of ours covers `destination`: own address or an advertised prefix, the longest.
    pub(super) fn local(&self, destination: IpAddr) -> Option<IpNet> {
        let own = IpNet::from(self.address());
        std::iter::once(&own)
            .chain(&self.config.advertise)
            .filter(|net| net.contains(&destination))
            .max_by_key(|net| net.prefix_len())
            .copied()
    }
}

/// An NBMA address as a field of a packet of this family; empty where it does not fit.
pub(super) fn nbma_field(family: Family, nbma: Nbma) -> NbmaAddress {
    if Family::from(nbma.address) == family {
        NbmaAddress::with_port(nbma.address, nbma.port)
    } else {
        NbmaAddress::default()
    }
}

/// The NBMA address in a field, with the port of its sub-address.
pub(super) fn nbma_of(field: &NbmaAddress) -> Option<Nbma> {
    field.address.map(|address| Nbma { address, port: field.port() })
}

/// What the NAT extension says of where `protocol` was seen.
pub(super) fn seen(packet: &Packet, protocol: IpAddr) -> Option<Nbma> {
    let Some(ExtensionBody::NatAddress(entries)) = packet.extension(extension_type::NAT_ADDRESS)
    else {
        return None;
    };
    entries.iter().find(|cie| cie.protocol == Some(protocol)).and_then(|cie| nbma_of(&cie.nbma))
}

/// Says in the NAT extension, if the packet has one, that `protocol` was seen at `nbma`.
pub(super) fn set_seen(packet: &mut Packet, protocol: IpAddr, nbma: Nbma) {
    let field = nbma_field(packet.nbma_family, nbma);
    if field.address.is_none() {
        return;
    }
    for extension in &mut packet.extensions {
        if let ExtensionBody::NatAddress(entries) = &mut extension.body {
            entries.retain(|cie| cie.protocol != Some(protocol));
            entries.push(Cie { protocol: Some(protocol), nbma: field, ..Cie::default() });
            return;
        }
    }
}

/// The query of a packet that is one.
pub(super) fn query_of(packet: &mut Packet) -> Option<&mut Query> {
    match &mut packet.body {
        Body::Query(query) => Some(query),
        _ => None,
    }
}
