//! The NHRP protocol of one node on one tunnel: client, server and transit in one.
//!
//! Feed it packets, requests and the time; ask it for packets, events and the next deadline:
//! after every input, call [`Engine::poll_output`] until it gives `None`, then arm a timer for
//! [`Engine::poll_timeout`]. Instants that are fed in never go back.

mod cache;
mod client;
mod config;
mod dispatch;
mod errors;
mod event;
mod indications;
mod limits;
mod packet;
mod pending;
mod purge;
mod reconfigure;
mod resolution;
mod server;
mod show;
mod timers;
mod transit;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use ipnet::IpNet;
use rand_core::Rng;

use self::cache::{Cache, Entry};
use self::client::Nhs;
use self::limits::{PeerRates, Rate};
use self::pending::{Answered, Pending, Purpose};
use self::resolution::Negative;
use self::timers::{Timer, Timers};
use crate::index::Index;
use crate::wire::Packet;

pub use config::{Authorization, Config, Limits, Nbma, Password, Server};
pub use event::{Asked, Binding, BindingKind, Claim, Event, Output, Usage};
pub use show::{
    CacheEntry, Counters, EntryFlags, EntryKind, NhsState, Refusal, Resolution, ServerStatus,
};

/// The engine.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    started: Instant,
    output: VecDeque<Output>,
    timers: Timers,
    cache: Cache,
    negative: BTreeMap<IpAddr, Negative>,
    servers: Vec<Nhs>,
    /// Requests of our own, by id.
    pending: BTreeMap<u32, Pending>,
    /// Those of them that resolve, by destination.
    resolving: BTreeMap<IpAddr, u32>,
    answered_ids: Answered,
    /// Who holds a copy of our binding, by our answer.
    requesters: BTreeSet<IpAddr>,
    authorizations: Index<Nbma, Authorization>,
    /// The NBMA address that our registrations name.
    bound: Option<IpAddr>,
    /// The one before it, of which requesters are still to be told.
    stale: Option<IpAddr>,
    rates: Rates,
    counters: Counters,
    request_id: u32,
    stopping: bool,
}

#[derive(Debug, Default)]
struct Rates {
    peers: PeerRates,
    errors: Rate,
    indications: Rate,
    failures: Rate,
}

impl Engine {
    /// A fresh engine; `rng` gives the first request id (it must not repeat after a restart).
    /// The first registration is due at once.
    ///
    /// One tunnel has one protocol family: advertised prefixes and maps of the other family are
    /// left out, and so is a default route, which a CIE cannot express (RFC 2332 §5.2.0.1).
    pub fn new(config: Config, now: Instant, rng: &mut dyn Rng) -> Self {
        let config = config.checked();
        let servers: Vec<Nhs> =
            config.servers.iter().map(|server| Nhs::new(server.clone(), now)).collect();
        let (maps, bound) = (config.maps.clone(), config.nbma);
        let request_id = rng.next_u32();
        let mut engine = Self {
            config,
            started: now,
            output: VecDeque::new(),
            timers: Timers::default(),
            cache: Cache::new(rng.next_u64()),
            negative: BTreeMap::new(),
            servers,
            pending: BTreeMap::new(),
            resolving: BTreeMap::new(),
            answered_ids: Answered::default(),
            requesters: BTreeSet::new(),
            authorizations: Index::new(rng.next_u64()),
            bound,
            stale: None,
            rates: Rates::default(),
            counters: Counters::default(),
            request_id,
            stopping: false,
        };
        for (address, nbma) in maps {
            engine.install_map(now, address, nbma);
        }
        for index in 0..engine.servers.len() {
            engine.timers.set(Timer::Register(index), now);
        }
        engine
    }

    fn install_map(&mut self, now: Instant, address: IpAddr, nbma: Nbma) {
        let entry = Entry {
            next_hop: address,
            nbma,
            claimed: nbma,
            mtu: 0,
            created: now,
            expires: None,
            unique: false,
            authoritative: true,
            shortcut: None,
        };
        self.install(now, (address.into(), BindingKind::Static), entry);
    }

    /// Takes an NHRP packet that `from` sent inside the tunnel.
    pub fn handle_packet(&mut self, now: Instant, from: Nbma, packet: &[u8]) {
        let limits = &self.config.limits;
        if !self.rates.peers.take(now, from, limits.packets_per_peer, limits.cache_entries) {
            return self.counters.count(Refusal::PeerRate);
        }
        match Packet::decode(packet) {
            Ok(decoded) => {
                self.counters.received[usize::from(decoded.packet_type())] += 1;
                if let Err(fault) = self.accept(now, from, &decoded) {
                    self.fault(now, from, &decoded, packet, fault);
                }
            }
            Err(error) => self.malformed(now, from, packet, &error),
        }
    }

    /// Runs what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant, usage: &dyn Usage) {
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Expire(prefix, kind) => self.expire(now, (prefix, kind)),
                Timer::Use(prefix) => self.look_at(now, prefix, usage),
                Timer::Negative(destination) => {
                    self.negative.remove(&destination);
                }
                Timer::Answered(requester) => {
                    self.requesters.remove(&requester);
                }
                Timer::Register(index) => self.register(now, index),
                Timer::Retry(id) => self.retry(now, id),
            }
        }
    }

    /// When [`Self::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The next packet or event; call until `None` after every input.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.output.pop_front()
    }

    /// What the identity behind `peer` may claim; `None` forgets it (then
    /// [`Config::default_authorization`] holds). A client with neither is one to whom no path is
    /// up: its server answers for it instead of forwarding to it.
    pub fn set_authorization(&mut self, peer: Nbma, authorization: Option<Authorization>) {
        match authorization {
            Some(authorization) => self.authorizations.insert(peer, authorization),
            None => self.authorizations.remove(&peer),
        };
    }

    /// A path to `peer` came up: what waits for it is sent at once instead of after its back-off,
    /// and if it is a next-hop server, we register with it.
    pub fn path_up(&mut self, now: Instant, peer: Nbma) {
        let servers = self.servers_at(peer);
        // Registrations of prefixes come again behind that of our address.
        for &index in &servers {
            self.end_prefix_parts(index);
        }
        self.hasten(now, peer);
        for index in servers {
            self.server_path_up(now, index);
        }
    }

    /// The path to `peer` is dead. Shortcuts through it are dropped, so that traffic returns to
    /// the server. If it is a next-hop server, it is down at once and registration begins anew;
    /// `reason` is for the operator.
    pub fn path_down(&mut self, now: Instant, peer: Nbma, reason: &str) {
        for key in self.cache.at_nbma(peer) {
            if key.1 == BindingKind::Shortcut {
                self.uninstall(key, "");
            }
        }
        self.server_path_down(now, peer, reason);
    }

    /// Own NBMA address changed: purges the old binding at the servers and at those who resolved
    /// us, and registers anew.
    pub fn set_nbma(&mut self, now: Instant, nbma: Option<IpAddr>) {
        if nbma != self.config.nbma && !self.stopping {
            self.nbma_changed(now, nbma);
        }
    }

    /// A peer is now reached elsewhere (authenticated move): what is known at `from` follows to
    /// `to`, bindings and servers, as far as `who` may claim it. Whatever else is at `from` is
    /// another's.
    pub fn peer_moved(&mut self, now: Instant, from: Nbma, to: Nbma, who: &Authorization) {
        if from == to {
            return;
        }
        for key in self.cache.at_nbma(from) {
            let Some(entry) = self.cache.get(key) else { continue };
            if who.permits(entry.next_hop.into()) {
                // Who claimed the place where he was seen claims the new one: his purge of the old
                // one is not meant for this.
                let claimed = (entry.claimed == from).then_some(to);
                self.relocate(key, to, claimed);
            }
        }
        for index in 0..self.servers.len() {
            let Server { address, nbma, .. } = self.servers[index].server;
            if nbma == Some(from) && who.permits(address.into()) {
                self.server_moved(now, index, to);
            }
        }
    }

    /// The NBMA address of a server became known or changed (its name was resolved). `None`: the
    /// name does not resolve at present; a known address is then kept.
    pub fn set_server_nbma(&mut self, now: Instant, server: IpAddr, nbma: Option<Nbma>) {
        if let (Some(index), Some(nbma)) = (self.index_of(server), nbma)
            && self.servers[index].server.nbma != Some(nbma)
        {
            self.server_moved(now, index, nbma);
        }
    }

    /// Traffic for `destination` wants a better path than the one through a server. Does nothing
    /// where the destination is known, ours, being resolved, or was asked for in vain just now.
    pub fn resolve(&mut self, now: Instant, destination: IpAddr) {
        if let Err(refusal) = self.seek(now, destination)
            && refusal != Refusal::Known
        {
            self.counters.count(refusal);
        }
    }

    /// The forwarding path sent a packet of `peer` back into the tunnel; `packet` is its
    /// IP header and the first bytes. Issues a Traffic Indication, within limits.
    pub fn redirect(&mut self, now: Instant, peer: Nbma, packet: &[u8]) {
        self.indicate(now, peer, packet);
    }

    /// Clean stop: purges own registrations, at the servers and at those who resolved us. Nothing
    /// is registered, resolved or answered any more. [`Event::ShutdownComplete`] tells when all
    /// purges are answered or given up; who cannot wait may drop the engine at any time.
    pub fn shutdown(&mut self, now: Instant) {
        if std::mem::replace(&mut self.stopping, true) {
            return;
        }
        for id in self.pending.keys().copied().collect::<Vec<_>>() {
            self.finish(id);
        }
        self.timers = Timers::default();
        self.stale = self.bound;
        self.purge_requesters(now);
        self.purge_servers(now, self.bound);
        self.tell_if_stopped();
    }

    /// Everything that forwarding may use now, in order of prefix. Costs time in proportion to
    /// their number; [`Event::BindingChanged`] tells the same step by step.
    pub fn bindings(&self) -> impl Iterator<Item = Binding> + '_ {
        self.cache.bindings()
    }

    /// What forwarding may use for exactly this prefix.
    pub fn binding(&self, prefix: IpNet) -> Option<Binding> {
        self.cache.binding(prefix)
    }

    /// What forwarding may use for this destination: the longest match.
    pub fn lookup(&self, destination: IpAddr) -> Option<Binding> {
        self.binding(self.cache.longest(destination, BindingKind::Shortcut)?.0.0)
    }

    /// The bindings of those who are reached at this NBMA address.
    pub fn bindings_at(&self, nbma: Nbma) -> impl Iterator<Item = Binding> + '_ {
        self.cache.bindings_among(self.cache.at_nbma(nbma))
    }

    /// The bindings of the peer with this protocol address.
    pub fn bindings_of(&self, peer: IpAddr) -> impl Iterator<Item = Binding> + '_ {
        self.cache.bindings_among(self.cache.of_peer(peer))
    }

    /// Forgets everything learnt: registrations of others, shortcuts, negative entries. Static
    /// bindings and servers stay.
    pub fn clear_cache(&mut self) {
        self.clear_kinds(BindingKind::Registered);
    }

    /// Forgets shortcuts and negative entries, and what is being resolved.
    pub fn clear_shortcuts(&mut self) {
        self.clear_kinds(BindingKind::Shortcut);
    }

    fn clear_kinds(&mut self, from: BindingKind) {
        let keys = self.cache.iter().map(|(key, _)| key).filter(|(_, kind)| *kind >= from);
        for key in keys.collect::<Vec<_>>() {
            self.uninstall(key, "cleared by the operator");
        }
        for destination in std::mem::take(&mut self.negative).into_keys() {
            self.timers.cancel(Timer::Negative(destination));
        }
        for id in self.resolving.values().copied().collect::<Vec<_>>() {
            self.finish(id);
        }
    }

    /// Forgets everything learnt of the peer with this protocol address. A server is registered
    /// with anew.
    pub fn clear_peer(&mut self, now: Instant, peer: IpAddr) {
        for key in self.cache.of_peer(peer) {
            if key.1 >= BindingKind::Registered {
                self.uninstall(key, "cleared by the operator");
            }
        }
        if self.negative.remove(&peer).is_some() {
            self.timers.cancel(Timer::Negative(peer));
        }
        if let Some(index) = self.index_of(peer) {
            self.server_down(now, index, "cleared by the operator");
            self.register_anew(now, index);
        }
    }

    /// Every cache entry, own prefixes included, in order of prefix.
    pub fn cache(&self) -> Vec<CacheEntry> {
        let own = std::iter::once(IpNet::from(self.address()))
            .chain(self.config.advertise.iter().copied())
            .map(|prefix| CacheEntry {
                next_hop: Some(self.address()),
                claimed: self.config.nbma,
                seen: self.config.nbma.map(|nbma| self.seen_as().unwrap_or(nbma.into())),
                ..CacheEntry::bare(prefix, EntryKind::Local, self.started)
            });
        let known = self.cache.iter().map(|(key, entry)| entry.show(key));
        let incomplete = self.resolving.iter().filter_map(|(destination, id)| {
            let since = self.pending.get(id)?.since;
            Some(CacheEntry::bare((*destination).into(), EntryKind::Incomplete, since))
        });
        let negative = self.negative.iter().map(|(destination, negative)| CacheEntry {
            expires: Some(negative.expires),
            ..CacheEntry::bare((*destination).into(), EntryKind::Negative, negative.created)
        });
        let mut all: Vec<_> = own.chain(known).chain(incomplete).chain(negative).collect();
        all.sort_by_key(|entry| entry.prefix);
        all
    }

    /// The next-hop servers, in the order of the configuration.
    pub fn servers(&self) -> Vec<ServerStatus> {
        let next = |index| {
            let retry = self.pending.iter().find_map(|(id, pending)| match pending.purpose {
                Purpose::Register { server, part: 0 } if server == index => {
                    self.timers.at(Timer::Retry(*id))
                }
                _ => None,
            });
            retry.or(self.timers.at(Timer::Register(index)))
        };
        let servers = self.servers.iter().enumerate();
        servers.map(|(index, nhs)| ServerStatus { next: next(index), ..nhs.show() }).collect()
    }

    /// How far the resolution of `destination` is; `None`: nobody is being asked, nor was just now.
    pub fn resolution_of(&self, destination: IpAddr) -> Option<Resolution> {
        if let Some(negative) = self.negative.get(&destination) {
            let Negative { created, expires, ref reason } = *negative;
            return Some(Resolution::Failed {
                at: created,
                until: expires,
                reason: reason.clone(),
            });
        }
        let id = *self.resolving.get(&destination)?;
        let pending = self.pending.get(&id)?;
        Some(Resolution::Asked {
            server: pending.to,
            since: pending.since,
            times: pending.attempts,
            next: self.timers.at(Timer::Retry(id)),
        })
    }

    /// Counters since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The configuration, as it is now.
    pub fn config(&self) -> &Config {
        &self.config
    }
}
