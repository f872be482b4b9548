//! Resolution as the client sees it (RFC 2332 §5.2.1, §5.2.2): asking, understanding the answer,
//! keeping a shortcut while it is used.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::cache::{Entry, Shortcut, narrow};
use super::client::code_words;
use super::dispatch::Received;
use super::errors::Fault;
use super::packet::{nbma_of, seen, set_seen};
use super::pending::Purpose;
use super::timers::Timer;
use super::{Asked, BindingKind, Claim, Engine, Event, Refusal, Usage};
use crate::wire::{Cie, Operation, Packet, code, flags};

/// For how long an answer "no", or none, keeps us from asking again.
const NEGATIVE: Duration = Duration::from_secs(15);

/// Shorter prefixes are no shortcuts but half the world.
const SHORTEST_PREFIX: u8 = 8;

/// A destination that was asked for in vain.
#[derive(Debug, Clone)]
pub(super) struct Negative {
    pub(super) created: Instant,
    pub(super) expires: Instant,
    pub(super) reason: String,
}

impl Engine {
    /// Asks for `destination` unless something is known of it; whether a request was sent.
    pub(super) fn seek(&mut self, now: Instant, destination: IpAddr) -> Result<(), Refusal> {
        if self.local(destination).is_some()
            || self.cache.longest(destination, BindingKind::Shortcut).is_some()
            || self.negative.contains_key(&destination)
            || self.resolving.contains_key(&destination)
        {
            return Err(Refusal::Known);
        }
        self.ask(now, destination, None)
    }

    fn ask(
        &mut self,
        now: Instant,
        destination: IpAddr,
        renews: Option<IpNet>,
    ) -> Result<(), Refusal> {
        let same_family = destination.is_ipv4() == self.address().is_ipv4();
        if self.stopping || self.config.nbma.is_none() || !same_family {
            return Err(Refusal::Unreachable);
        }
        if self.resolving.len() >= self.config.limits.pending {
            return Err(Refusal::PendingFull);
        }
        let (_, to) = self.best_server(None).ok_or(Refusal::Unreachable)?;
        let id = self.begin(now, Purpose::Resolve { destination, renews }, to, 0);
        self.resolving.insert(destination, id);
        Ok(())
    }

    /// The request (§5.2.1). Q: a node of this overlay is a router. A: only the owner or the
    /// server that it registered with shall answer. S: our own binding is stable, so it may be
    /// cached for the holding time in the CIE.
    pub(super) fn resolution(&mut self, id: u32, destination: IpAddr) -> Packet {
        if let Some((index, _)) = self.best_server(None) {
            self.servers[index].requests += 1;
        }
        let flags = flags::ROUTER | flags::AUTHORITATIVE | flags::SOURCE_STABLE | flags::NAT;
        let holding_time = self.holding_time();
        let source = Cie { prefix_length: Cie::HOST, holding_time, ..Cie::default() };
        let mut packet =
            self.request(Operation::ResolutionRequest, id, flags, destination, vec![source]);
        if let Some(seen) = self.seen_as() {
            set_seen(&mut packet, self.address(), seen);
        }
        packet
    }

    /// A Resolution Reply to us (§5.2.2).
    pub(super) fn resolution_reply(
        &mut self,
        now: Instant,
        received: Received<'_>,
    ) -> Result<(), Fault> {
        let Received { from, packet, query } = received;
        let id = query.request_id;
        let (destination, renews, asked) = match self.pending.get(&id) {
            Some(pending) => match pending.purpose {
                Purpose::Resolve { destination, renews }
                    if query.destination_protocol == Some(destination) =>
                {
                    (destination, renews, pending.to)
                }
                _ => return Err(Fault::UNKNOWN_REPLY),
            },
            None if self.answered_ids.contains(id) => {
                self.counters.count(Refusal::DuplicateReply);
                return Ok(());
            }
            None => return Err(Fault::UNKNOWN_REPLY),
        };
        self.check_extensions(packet)?;
        let trusted = from == asked && self.is_server(from);
        if let Some(nhs) = self.servers.iter_mut().find(|nhs| nhs.server.nbma == Some(from)) {
            nhs.replies += 1;
        }
        // Every entry is read; the owner's preference decides, then its order.
        let mut found: Option<(u8, IpNet, Entry)> = None;
        let mut refused = code::NO_BINDING;
        for cie in &query.entries {
            if cie.code != code::SUCCESS {
                refused = cie.code;
                continue;
            }
            let Some((prefix, entry)) = self.understand(now, received, trusted, cie, destination)
            else {
                continue;
            };
            if found.as_ref().is_none_or(|(preference, ..)| cie.preference > *preference) {
                found = Some((cie.preference, prefix, entry));
            }
        }
        match found {
            Some((_, prefix, entry)) => {
                if let Some(pending) = self.finish(id) {
                    let after = now - pending.since;
                    self.event(Event::Answered { asked: Asked::Resolution, after });
                }
                self.install(now, (prefix, BindingKind::Shortcut), entry);
            }
            // Somebody else than our server may not say no for the owner.
            None if !trusted => {}
            None => {
                if let Some(prefix) = renews {
                    self.uninstall((prefix, BindingKind::Shortcut), "");
                }
                self.resolution_failed(now, id, &code_words(refused));
            }
        }
        Ok(())
    }

    /// What one positive entry of a reply says, if it may be believed.
    fn understand(
        &mut self,
        now: Instant,
        Received { from, packet, query }: Received<'_>,
        trusted: bool,
        cie: &Cie,
        destination: IpAddr,
    ) -> Option<(IpNet, Entry)> {
        let next_hop = cie.protocol.filter(|next_hop| *next_hop != self.address());
        let (Some(next_hop), Some(claimed)) = (next_hop, nbma_of(&cie.nbma)) else {
            self.counters.count(Refusal::Protocol);
            return None;
        };
        let Some(prefix) = self.acceptable(cie, destination) else {
            self.counters.count(Refusal::ReplyPrefix);
            return None;
        };
        let claims = [IpNet::from(next_hop), prefix];
        if !trusted && !claims.iter().all(|claim| self.may_claim(from, Claim::Reply, *claim)) {
            return None;
        }
        let nbma = if trusted {
            seen(packet, next_hop).unwrap_or(claimed)
        } else {
            from // it speaks for itself
        };
        let holding_time = Duration::from_secs(cie.holding_time.into());
        if holding_time.is_zero() {
            return None;
        }
        let old = self.cache.get((prefix, BindingKind::Shortcut));
        let old = old.filter(|old| old.next_hop == next_hop);
        let entry = Entry {
            next_hop,
            nbma,
            claimed,
            mtu: cie.mtu,
            created: old.map_or(now, |old| old.created),
            expires: Some(now + holding_time),
            unique: query.flags & flags::RESOLUTION_UNIQUE != 0,
            authoritative: query.flags & flags::AUTHORITATIVE != 0,
            shortcut: Some(Box::new(Shortcut {
                destination,
                holding_time,
                packets: None,
                used: old.and_then(|old| old.shortcut.as_ref()).is_some_and(|s| s.used),
                implicit: false,
            })),
        };
        Some((prefix, entry))
    }

    /// The prefix of a reply, cut down so that it covers nothing of ours and not the tunnel's own
    /// network, where every address has an owner of its own.
    fn acceptable(&self, cie: &Cie, destination: IpAddr) -> Option<IpNet> {
        let prefix = cie.prefix_of(destination)?;
        if prefix.prefix_len() < SHORTEST_PREFIX || self.local(destination).is_some() {
            return None;
        }
        let tunnel = self.config.address.trunc();
        if tunnel.contains(&destination) {
            return Some(destination.into());
        }
        let ours = self.config.advertise.iter().copied().chain([tunnel, self.address().into()]);
        let length = narrow(destination, prefix.prefix_len(), ours)?;
        IpNet::new(destination, length).ok().map(|net| net.trunc())
    }

    /// The prefix around `destination` that we answer with where our route covers `route`: not
    /// what others registered within it, and never too short (RFC 2332 §5.2.0.1).
    pub(super) fn answerable(&self, destination: IpAddr, route: IpNet) -> Option<u8> {
        let host = IpNet::from(destination).prefix_len();
        if route.prefix_len() == host || route.prefix_len() < SHORTEST_PREFIX {
            return Some(Cie::HOST);
        }
        let others = self.cache.neighbours(destination, BindingKind::Registered);
        let tunnel = self.config.address.trunc();
        let others = others.chain([tunnel].into_iter().filter(|t| *t != route));
        let length = narrow(destination, route.prefix_len(), others)?;
        Some(if length == host { Cie::HOST } else { length })
    }

    /// The request found no usable answer.
    pub(super) fn resolution_failed(&mut self, now: Instant, id: u32, reason: &str) {
        let Some(pending) = self.finish(id) else { return };
        let Purpose::Resolve { destination, renews } = pending.purpose else { return };
        if renews.is_none() && !self.cache_full() {
            let expires = now + NEGATIVE;
            let negative = Negative { created: now, expires, reason: reason.to_owned() };
            self.negative.insert(destination, negative);
            self.timers.set(Timer::Negative(destination), expires);
        }
        self.event(Event::ResolutionFailed { destination, reason: reason.to_owned() });
    }

    /// Looks whether a shortcut carries traffic: first when it is new, then from two thirds of its
    /// holding time on. One that does is resolved again while it still holds.
    pub(super) fn look_at(&mut self, now: Instant, prefix: IpNet, usage: &dyn Usage) {
        let Some(entry) = self.cache.get_mut((prefix, BindingKind::Shortcut)) else { return };
        let (Some(shortcut), Some(expires)) = (&mut entry.shortcut, entry.expires) else { return };
        let packets = usage.packets(prefix);
        let Some(before) = shortcut.packets else {
            shortcut.packets = Some(packets);
            let at = now + shortcut.holding_time * 2 / 3;
            return self.timers.set(Timer::Use(prefix), at);
        };
        shortcut.used = packets > before;
        let (used, destination) = (shortcut.used, shortcut.destination);
        let next = now + shortcut.holding_time / 6;
        if next < expires {
            self.timers.set(Timer::Use(prefix), next);
        }
        if used
            && !self.resolving.contains_key(&destination)
            && let Err(refusal) = self.ask(now, destination, Some(prefix))
        {
            self.counters.count(refusal);
        }
    }
}
