//! What a next-hop server and an owner answer: registration (RFC 2332 §5.2.3) and resolution
//! (§5.2.1).

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::cache::{Entry, Shortcut};
use super::dispatch::Received;
use super::errors::Fault;
use super::packet::{nbma_field, nbma_of, seen, set_seen};
use super::timers::Timer;
use super::{BindingKind, Claim, Engine, Event, Nbma, Refusal};
use crate::wire::{Cie, Operation, Packet, code, flags};

/// One client that registers, as its request tells.
#[derive(Debug, Clone, Copy)]
struct Client {
    address: IpAddr,
    seen: Nbma,
    claimed: Nbma,
    unique: bool,
}

impl Engine {
    /// A Registration Request to us (§5.2.3).
    pub(super) fn registration_request(
        &mut self,
        now: Instant,
        received: Received<'_>,
    ) -> Result<(), Fault> {
        let Received { from, packet, query } = received;
        self.check_extensions(packet)?;
        let (Some(address), Some(claimed)) = (query.source_protocol, nbma_of(&query.source_nbma))
        else {
            return Err(Fault::PROTOCOL);
        };
        let unique = query.flags & flags::REGISTRATION_UNIQUE != 0;
        let prefix = |cie: &Cie| cie.prefix_of(cie.protocol.unwrap_or(address));
        let alone = query.entries.len() == 1 && matches!(query.entries[0].prefix_length, 0 | 0xff);
        if query.entries.is_empty()
            || query.entries.iter().any(|cie| prefix(cie).is_none())
            || (unique && !alone)
        {
            return Err(Fault::PROTOCOL);
        }
        let client = Client { address, seen: from, claimed, unique };
        let known = self.config.accept_registrations
            && self.may_claim(from, Claim::Registration, address.into());
        let mut entries = query.entries.clone();
        for cie in &mut entries {
            cie.code = match prefix(cie) {
                Some(prefix) if known => self.enroll(now, client, prefix, cie),
                _ => code::PROHIBITED,
            };
        }
        if !self.config.accept_registrations {
            self.counters.count(Refusal::NotEnabled);
        }
        let flags = query.flags & (flags::REGISTRATION_UNIQUE | flags::NAT);
        let mut reply = self.reply(packet, query, Operation::RegistrationReply, flags, entries);
        if let Some(query) = super::packet::query_of(&mut reply) {
            // A client that does not know its server's address writes its own.
            query.destination_protocol = Some(self.address());
        }
        if from != claimed {
            set_seen(&mut reply, address, from);
        }
        self.send(from, reply);
        Ok(())
    }

    /// Takes one binding into the cache, or says why not: the code of the reply (§5.2.4).
    fn enroll(&mut self, now: Instant, client: Client, prefix: IpNet, cie: &Cie) -> u8 {
        let Client { address, seen, claimed, unique } = client;
        let host = IpNet::from(address);
        if prefix != host && !self.may_claim(seen, Claim::Registration, prefix) {
            return code::PROHIBITED;
        }
        let key = (prefix, BindingKind::Registered);
        let refusal =
            if prefix == IpNet::from(self.address()) || self.config.advertise.contains(&prefix) {
                Some((code::PROHIBITED, "it is our own".to_owned()))
            } else if prefix != host
                && self.cache.get((host, key.1)).is_none_or(|entry| entry.nbma != seen)
            {
                Some((code::PROHIBITED, format!("{address} is not registered from there")))
            } else if let Some((_, holder)) = self
                .cache
                .at(prefix, key.1)
                .filter(|(k, _)| matches!(k.1, BindingKind::Static | BindingKind::Registered))
                .filter(|(k, entry)| {
                    let elsewhere = entry.nbma != seen;
                    entry.next_hop != address
                        || (elsewhere && (entry.unique || k.1 == BindingKind::Static))
                })
            {
                // The first binding stays (§5.2.3), with or without the U bit in the second.
                let reason = format!("{} has it, at {}", holder.next_hop, holder.nbma);
                Some((code::ALREADY_REGISTERED, reason))
            } else {
                None
            };
        if let Some((code, reason)) = refusal {
            let refusal = match code {
                code::ALREADY_REGISTERED => Refusal::NotUnique,
                _ => Refusal::Claim,
            };
            let allowed = self.authorization(seen).cloned();
            let reason = format!("{seen} may not register {prefix}: {reason}");
            self.refuse_claim(refusal, seen, Claim::Registration, prefix, allowed, reason);
            return code;
        }
        if cie.holding_time == 0 {
            self.uninstall(key, "registered with holding time 0");
            return code::SUCCESS;
        }
        let expires = now + Duration::from_secs(cie.holding_time.into());
        let claimed = nbma_of(&cie.nbma).unwrap_or(claimed);
        let old = self.cache.get_mut(key).map(|entry| {
            let before = entry.expires.replace(expires);
            self.timers.set_expiry(key, before, Some(expires));
            (entry.nbma, entry.claimed, entry.mtu, entry.unique)
        });
        if old == Some((seen, claimed, cie.mtu, unique)) {
            return code::SUCCESS;
        }
        let entry = Entry {
            next_hop: address,
            nbma: seen,
            claimed,
            mtu: cie.mtu,
            created: now,
            expires: Some(expires),
            unique,
            authoritative: true,
            shortcut: None,
        };
        if !self.install(now, key, entry) {
            return code::INSUFFICIENT_RESOURCES;
        }
        self.event(Event::Registered { prefix, client: address, seen, claimed: claimed.address });
        if let Some((before, ..)) = old.filter(|old| prefix == host && old.0 != seen) {
            // What is behind the client comes along.
            for key in self.cache.of_peer(address) {
                if key.1 == BindingKind::Registered
                    && self.cache.get(key).is_some_and(|entry| entry.nbma == before)
                {
                    self.relocate(key, seen, None);
                }
            }
        }
        code::SUCCESS
    }

    /// A Resolution Request, to us or through us (§5.2.1).
    pub(super) fn resolution_request(
        &mut self,
        now: Instant,
        received: Received<'_>,
    ) -> Result<(), Fault> {
        let Received { from, packet, query } = received;
        let (Some(source), Some(destination)) = (query.source_protocol, query.destination_protocol)
        else {
            return Err(Fault::PROTOCOL);
        };
        if !self.vouch(from, Claim::Request, source.into()) {
            return self.deny(received, code::PROHIBITED);
        }
        let owner = self.cache.longest(destination, BindingKind::Registered);
        if let Some(route) = self.local(destination)
            && owner.is_none_or(|((prefix, _), _)| prefix.prefix_len() <= route.prefix_len())
        {
            return self.answer_as_owner(now, received, source, destination, route);
        }
        if !self.config.accept_registrations {
            return self.deny(received, code::NO_BINDING);
        }
        let next = match owner {
            Some((_, entry)) if entry.next_hop == source || entry.nbma == from => None,
            Some((_, entry)) if self.authorization(entry.nbma).is_some() => Some(entry.nbma),
            // No path to the owner is up; it registered with us, so we answer for it.
            Some((key, entry)) if key.1 == BindingKind::Registered => {
                let (entry, key) = (entry.clone(), key.0);
                return self.answer_for(now, received, destination, key, &entry);
            }
            Some((_, entry)) => Some(entry.nbma),
            None => self.best_server(Some(from)).map(|(_, nbma)| nbma),
        };
        match next {
            Some(next) => self.forward_to(from, packet.clone(), next),
            None => self.deny(received, code::NO_BINDING),
        }
    }

    /// The destination is ours.
    fn answer_as_owner(
        &mut self,
        now: Instant,
        received: Received<'_>,
        source: IpAddr,
        destination: IpAddr,
        route: IpNet,
    ) -> Result<(), Fault> {
        let Received { from, packet, .. } = received;
        self.check_extensions(packet)?;
        let Some(prefix_length) =
            self.answerable(destination, route).filter(|_| self.config.nbma.is_some())
        else {
            return self.deny(received, code::NO_BINDING);
        };
        let cie = Cie { prefix_length, ..self.own_cie(packet.nbma_family) };
        let mut reply = self.resolution_answer(received, vec![cie], true);
        if let Some(seen) = self.seen_as() {
            set_seen(&mut reply, self.address(), seen);
        }
        self.send(from, reply);
        self.remember_requester(now, source);
        self.cache_source(now, received, source);
        Ok(())
    }

    /// Answers for a client that registered with us: for it we are the serving station, so that
    /// is authoritative (§5.2.1).
    fn answer_for(
        &mut self,
        now: Instant,
        received: Received<'_>,
        destination: IpAddr,
        route: IpNet,
        entry: &Entry,
    ) -> Result<(), Fault> {
        let Received { from, packet, query } = received;
        self.check_extensions(packet)?;
        if query.flags & flags::RESOLUTION_UNIQUE != 0 && !entry.unique {
            return self.deny(received, code::NOT_UNIQUE);
        }
        let Some(prefix_length) = self.answerable(destination, route) else {
            return self.deny(received, code::NO_BINDING);
        };
        let left = entry.expires.map_or(self.config.holding_time, |at| at - now);
        let cie = Cie {
            prefix_length,
            mtu: entry.mtu,
            holding_time: u16::try_from(left.as_secs()).unwrap_or(u16::MAX).max(1),
            nbma: nbma_field(packet.nbma_family, entry.claimed),
            protocol: Some(entry.next_hop),
            ..Cie::default()
        };
        let mut reply = self.resolution_answer(received, vec![cie], true);
        if entry.translated() {
            set_seen(&mut reply, entry.next_hop, entry.nbma);
        }
        self.send(from, reply);
        Ok(())
    }

    /// Answers "no" with a code.
    fn deny(&mut self, received: Received<'_>, code: u8) -> Result<(), Fault> {
        self.check_extensions(received.packet)?;
        let cie = Cie { code, prefix_length: Cie::HOST, ..Cie::default() };
        let reply = self.resolution_answer(received, vec![cie], false);
        self.send(received.from, reply);
        Ok(())
    }

    /// Q, U and S come back as they were; A and D say that a positive answer is first-hand
    /// (§5.2.2).
    fn resolution_answer(
        &self,
        Received { packet, query, .. }: Received<'_>,
        entries: Vec<Cie>,
        positive: bool,
    ) -> Packet {
        let mut flags = query.flags
            & (flags::ROUTER | flags::RESOLUTION_UNIQUE | flags::SOURCE_STABLE | flags::NAT);
        if positive {
            flags |= flags::AUTHORITATIVE | flags::DESTINATION_STABLE;
        }
        self.reply(packet, query, Operation::ResolutionReply, flags, entries)
    }

    /// Who got our binding is told when it changes (§5.2.5), until its copy has expired.
    fn remember_requester(&mut self, now: Instant, source: IpAddr) {
        if self.requesters.len() < self.config.limits.cache_entries
            || self.requesters.contains(&source)
        {
            self.requesters.insert(source);
            let until = now + Duration::from_secs(self.holding_time().into());
            self.timers.set(Timer::Answered(source), until);
        }
    }

    /// Keeps the requester's own binding: only with the S bit and a holding time above 0
    /// (§5.2.1), and never over a better source.
    fn cache_source(
        &mut self,
        now: Instant,
        Received { from, packet, query }: Received<'_>,
        source: IpAddr,
    ) {
        let stable = query.flags & flags::SOURCE_STABLE != 0;
        let seconds = query.entries.first().map_or(0, |cie| cie.holding_time);
        let known = self.cache.at(source.into(), BindingKind::Registered).is_some();
        let Some(claimed) = nbma_of(&query.source_nbma) else { return };
        if !stable || seconds == 0 || known || self.local(source).is_some() {
            return;
        }
        let nbma =
            if self.is_server(from) { seen(packet, source).unwrap_or(claimed) } else { from };
        let holding_time = Duration::from_secs(seconds.into());
        let key = (IpNet::from(source), BindingKind::Shortcut);
        let old = self.cache.get(key).filter(|old| old.next_hop == source && old.nbma == nbma);
        let entry = Entry {
            next_hop: source,
            nbma,
            claimed,
            mtu: 0,
            created: old.map_or(now, |old| old.created),
            expires: Some(now + holding_time),
            unique: false,
            authoritative: old.is_some_and(|old| old.authoritative),
            shortcut: Some(Box::new(Shortcut {
                destination: source,
                holding_time,
                packets: None,
                used: old.and_then(|old| old.shortcut.as_ref()).is_some_and(|s| s.used),
                implicit: true,
            })),
        };
        self.install(now, key, entry);
    }
}
