//! Registration with next-hop servers (RFC 2332 §5.2.3, §5.2.4, §6.2).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::cache::Entry;
use super::dispatch::Received;
use super::errors::Fault;
use super::packet::seen;
use super::pending::{Purpose, back_off};
use super::timers::Timer;
use super::{Asked, BindingKind, Engine, Event, Nbma, NhsState, Refusal, Server};
use crate::wire::{Cie, Operation, Packet, Query, code, flags};

/// A server that leaves this many requests in a row unanswered is down.
const LOST_AFTER: u32 = 4;

/// Entries in one request: of either family they fit into 1280 bytes.
pub(super) const ENTRIES: usize = 24;

/// What we know of one server.
#[derive(Debug)]
pub(super) struct Nhs {
    pub(super) server: Server,
    pub(super) state: NhsState,
    pub(super) why: String,
    pub(super) since: Instant,
    pub(super) requests: u64,
    pub(super) replies: u64,
    pub(super) last_refusal: Option<String>,
    pub(super) seen_as: Option<Nbma>,
    /// Registrations under way: part → request id.
    parts: BTreeMap<usize, u32>,
    /// Registrations of our address in vain since the last that was accepted.
    attempts: u32,
    /// It accepted our present NBMA address at least once: it holds a binding of ours.
    holds: bool,
    /// We asked it to purge what it held of us from an earlier life.
    purged: bool,
}

impl Nhs {
    pub(super) fn new(server: Server, now: Instant) -> Self {
        Self {
            server,
            state: NhsState::Waiting,
            why: "not asked yet".to_owned(),
            since: now,
            requests: 0,
            replies: 0,
            last_refusal: None,
            seen_as: None,
            parts: BTreeMap::new(),
            attempts: 0,
            holds: false,
            purged: false,
        }
    }

    fn key(&self) -> (IpNet, BindingKind) {
        (self.server.address.into(), BindingKind::Nhs)
    }

    fn set(&mut self, now: Instant, state: NhsState, why: String) {
        if self.state != state {
            self.since = now;
        }
        self.state = state;
        self.why = why;
    }
}

/// Reply code in words.
pub(super) fn code_words(code: u8) -> String {
    let words = match code {
        code::SUCCESS => "accepted",
        code::PROHIBITED => "administratively prohibited",
        code::INSUFFICIENT_RESOURCES => "insufficient resources",
        code::NO_BINDING => "no binding exists",
        code::NOT_UNIQUE => "a binding exists but is not unique",
        code::ALREADY_REGISTERED => "unique address already registered",
        _ => return format!("unknown code {code}"),
    };
    format!("{words} (code {code})")
}

impl Engine {
    pub(super) fn is_server(&self, peer: Nbma) -> bool {
        self.servers.iter().any(|nhs| nhs.server.nbma == Some(peer))
    }

    /// The responding server that is preferred, other than the one at `except`.
    pub(super) fn best_server(&self, except: Option<Nbma>) -> Option<(usize, Nbma)> {
        self.servers
            .iter()
            .enumerate()
            .filter(|(_, nhs)| nhs.state == NhsState::Responding)
            .filter_map(|(index, nhs)| Some((nhs.server.priority, index, nhs.server.nbma?)))
            .filter(|(_, _, nbma)| Some(*nbma) != except)
            .min()
            .map(|(_, index, nbma)| (index, nbma))
    }

    /// Where a server sees us, if not at the address that we claim.
    pub(super) fn seen_as(&self) -> Option<Nbma> {
        self.best_server(None).and_then(|(index, _)| self.servers[index].seen_as)
    }

    /// Registers our address with a server, unless that is under way.
    pub(super) fn register(&mut self, now: Instant, index: usize) {
        self.timers.cancel(Timer::Register(index));
        let nhs = &mut self.servers[index];
        if self.stopping || nhs.parts.contains_key(&0) {
            return;
        }
        let missing = match (nhs.server.nbma, self.config.nbma) {
            (None, _) => "its NBMA address is not known",
            (_, None) => "we have no NBMA address",
            (Some(to), Some(_)) => {
                if nhs.state != NhsState::Responding {
                    nhs.set(now, NhsState::ExpectingReplies, "registration sent".to_owned());
                }
                let attempts = nhs.attempts;
                return self.begin_part(now, index, 0, to, attempts);
            }
        };
        nhs.set(now, NhsState::Waiting, missing.to_owned());
    }

    fn begin_part(&mut self, now: Instant, server: usize, part: usize, to: Nbma, attempts: u32) {
        let id = self.begin(now, Purpose::Register { server, part }, to, attempts);
        self.servers[server].parts.insert(part, id);
    }

    /// The request of one part (§5.2.3). Part 0 is our address, alone, because of the unique bit;
    /// the others are the prefixes behind us.
    pub(super) fn registration(&mut self, id: u32, server: usize, part: usize) -> Packet {
        self.servers[server].requests += 1;
        let mut flags = flags::NAT;
        let family = self.config.nbma.unwrap_or(self.address()).into();
        let own = self.own_cie(family);
        let entries = match part.checked_sub(1) {
            None => {
                if self.config.unique {
                    flags |= flags::REGISTRATION_UNIQUE;
                }
                vec![own]
            }
            Some(chunk) => self
                .prefixes(chunk)
                .iter()
                .map(|net| Cie {
                    prefix_length: net.prefix_len(),
                    protocol: Some(net.addr()),
                    ..own.clone()
                })
                .collect(),
        };
        let station = self.servers[server].server.address;
        self.request(Operation::RegistrationRequest, id, flags, station, entries)
    }

    fn prefixes(&self, chunk: usize) -> &[IpNet] {
        self.config.advertise.chunks(ENTRIES).nth(chunk).unwrap_or_default()
    }

    /// A registration found no answer in time; it is sent again.
    pub(super) fn unanswered(&mut self, now: Instant, server: usize, part: usize) {
        let nhs = &mut self.servers[server];
        let attempts = nhs.parts.get(&0).and_then(|id| self.pending.get(id)).map(|p| p.attempts);
        let (0, Some(attempts)) = (part, attempts) else { return };
        nhs.attempts = attempts;
        if attempts < LOST_AFTER {
            return;
        }
        let why = format!("no reply to {attempts} registration requests");
        match nhs.state {
            NhsState::Responding => self.server_down(now, server, &why),
            _ => nhs.set(now, NhsState::ExpectingReplies, why),
        }
    }

    /// A Registration Reply to us (§5.2.4).
    pub(super) fn registration_reply(
        &mut self,
        now: Instant,
        received: Received<'_>,
    ) -> Result<(), Fault> {
        let Received { from, packet, query } = received;
        let id = query.request_id;
        let pending = self.pending.get(&id).filter(|pending| pending.to == from);
        let Some((Purpose::Register { server, part }, attempts, since)) =
            pending.map(|pending| (pending.purpose.clone(), pending.attempts, pending.since))
        else {
            self.count_unknown_reply(id);
            return Ok(());
        };
        self.check_extensions(packet)?;
        let own = self.address();
        let verdict = match part {
            0 => {
                let ours = |cie: &&Cie| cie.protocol.is_none_or(|address| address == own);
                Some(query.entries.iter().find(ours).cloned().ok_or(Fault::PROTOCOL)?)
            }
            _ => None,
        };
        self.finish(id);
        let nhs = &mut self.servers[server];
        nhs.parts.remove(&part);
        nhs.replies += 1;

        let claimed = self.config.nbma.map(Nbma::from);
        let seen_as = seen(packet, own).filter(|nbma| Some(*nbma) != claimed);
        if part == 0 && nhs.seen_as != seen_as {
            nhs.seen_as = seen_as;
            let server = nhs.server.address;
            self.output
                .extend(seen_as.map(|nbma| super::Output::Event(Event::SeenAs { server, nbma })));
        }
        match verdict {
            Some(cie) if cie.code == code::SUCCESS => {
                self.event(Event::Answered { asked: Asked::Registration, after: now - since });
                self.registered(now, server, from, &cie);
            }
            Some(cie) => {
                self.servers[server].attempts = attempts;
                let words = code_words(cie.code);
                self.registration_failed(now, server, 0, Some(cie.code), &words);
                if cie.code == code::ALREADY_REGISTERED {
                    self.purge_earlier_life(now, server);
                }
            }
            None => self.prefixes_answered(server, query),
        }
        Ok(())
    }

    /// The server accepted our address.
    fn registered(&mut self, now: Instant, index: usize, from: Nbma, cie: &Cie) {
        let seconds = match cie.holding_time {
            0 => self.holding_time(),
            granted => granted.min(self.holding_time()),
        };
        let holding_time = Duration::from_secs(seconds.into());
        let nhs = &mut self.servers[index];
        let was_up = nhs.state == NhsState::Responding;
        nhs.set(now, NhsState::Responding, String::new());
        nhs.attempts = 0;
        nhs.holds = true;
        let (key, server) = (nhs.key(), nhs.server.address);
        let created = self.cache.get(key).map_or(now, |entry| entry.created);
        let entry = Entry {
            next_hop: server,
            nbma: from,
            claimed: from,
            mtu: 0,
            created,
            expires: Some(now + holding_time),
            unique: false,
            authoritative: true,
            shortcut: None,
        };
        if !was_up {
            self.event(Event::NhsUp { server });
        }
        self.install(now, key, entry);
        self.timers.set(Timer::Register(index), now + holding_time / 3);
        self.purge_requesters(now);
        for part in 1..=self.config.advertise.len().div_ceil(ENTRIES) {
            if !self.servers[index].parts.contains_key(&part) {
                self.begin_part(now, index, part, from, 0);
            }
        }
    }

    fn prefixes_answered(&mut self, index: usize, query: &Query) {
        for cie in query.entries.iter().filter(|cie| cie.code != code::SUCCESS) {
            let Some(prefix) = cie.prefix() else { continue };
            let server = self.servers[index].server.address;
            let reason = code_words(cie.code);
            self.servers[index].last_refusal = Some(format!("{prefix}: {reason}"));
            self.event(Event::RegistrationRefused { server, prefix, code: Some(cie.code), reason });
        }
    }

    /// The server said no to a registration: with a code, or by an Error Indication.
    pub(super) fn registration_failed(
        &mut self,
        now: Instant,
        index: usize,
        part: usize,
        code: Option<u8>,
        reason: &str,
    ) {
        let prefix = match part.checked_sub(1) {
            None => Some(IpNet::from(self.address())),
            Some(chunk) => self.prefixes(chunk).first().copied(),
        };
        let nhs = &mut self.servers[index];
        let (server, attempts) = (nhs.server.address, nhs.attempts);
        nhs.last_refusal = Some(reason.to_owned());
        if let Some(prefix) = prefix {
            let reason = reason.to_owned();
            self.event(Event::RegistrationRefused { server, prefix, code, reason });
        }
        if part != 0 {
            return;
        }
        let why = format!("registration refused: {reason}");
        self.server_down(now, index, &why);
        self.servers[index].set(now, NhsState::Waiting, why);
        if code.is_some() {
            self.timers.set(Timer::Register(index), now + back_off(attempts));
        }
    }

    /// Our unique address is registered from another NBMA address, and we never had it since we
    /// started: that is a registration of ours from before. Who may not purge it stays refused.
    fn purge_earlier_life(&mut self, now: Instant, index: usize) {
        let nhs = &mut self.servers[index];
        let Some(to) = nhs.server.nbma.filter(|_| !nhs.holds && !nhs.purged) else { return };
        nhs.purged = true;
        let station = nhs.server.address;
        self.purge_at(now, station, to, None, Some(index));
    }

    /// A server that was up, if it was, is up no more; registration goes on.
    pub(super) fn server_down(&mut self, now: Instant, index: usize, reason: &str) {
        let nhs = &mut self.servers[index];
        if nhs.state != NhsState::Responding {
            return;
        }
        nhs.set(now, NhsState::ExpectingReplies, reason.to_owned());
        let (key, server) = (nhs.key(), nhs.server.address);
        self.end_prefix_parts(index);
        self.uninstall(key, "");
        self.event(Event::NhsDown { server, reason: reason.to_owned() });
    }

    /// Gives up the registrations of prefixes that are under way: who holds nothing of our address
    /// refuses them.
    pub(super) fn end_prefix_parts(&mut self, index: usize) {
        for id in self.servers[index].parts.split_off(&1).into_values() {
            self.finish(id);
        }
    }

    /// The holding time of our registration is over.
    pub(super) fn server_expired(&mut self, now: Instant, server: IpAddr) {
        if let Some(index) = self.index_of(server) {
            self.server_down(now, index, "the holding time of our registration ran out");
        }
    }

    pub(super) fn index_of(&self, server: IpAddr) -> Option<usize> {
        self.servers.iter().position(|nhs| nhs.server.address == server)
    }

    /// Begins anew with a server, without back-off.
    pub(super) fn register_anew(&mut self, now: Instant, index: usize) {
        let nhs = &mut self.servers[index];
        nhs.attempts = 0;
        for id in std::mem::take(&mut nhs.parts).into_values() {
            self.finish(id);
        }
        self.register(now, index);
    }

    /// Servers reached at this NBMA address.
    pub(super) fn servers_at(&self, peer: Nbma) -> Vec<usize> {
        let here = |(_, nhs): &(usize, &Nhs)| nhs.server.nbma == Some(peer);
        self.servers.iter().enumerate().filter(here).map(|(index, _)| index).collect()
    }

    pub(super) fn server_path_down(&mut self, now: Instant, peer: Nbma, reason: &str) {
        for index in self.servers_at(peer) {
            self.server_down(now, index, reason);
            self.register_anew(now, index);
        }
    }

    /// A new path may mean a server that has begun anew and holds nothing of us any more.
    pub(super) fn server_path_up(&mut self, now: Instant, index: usize) {
        self.servers[index].attempts = 0;
        self.register(now, index);
    }

    pub(super) fn server_moved(&mut self, now: Instant, index: usize, nbma: Nbma) {
        let old = self.servers[index].server.nbma.replace(nbma);
        let waiting: Vec<u32> = self
            .pending
            .iter()
            .filter(|(_, p)| Some(p.to) == old && !matches!(p.purpose, Purpose::Register { .. }))
            .map(|(id, _)| *id)
            .collect();
        for id in waiting {
            self.readdress(id, nbma);
        }
        self.register_anew(now, index);
    }

    /// Own NBMA address changed (§5.2.5: what was said of the old one is purged).
    pub(super) fn nbma_changed(&mut self, now: Instant, nbma: Option<IpAddr>) {
        self.config.nbma = nbma;
        if let (Some(new), Some(old)) = (nbma, self.bound)
            && new != old
        {
            self.stale = Some(old);
            self.purge_servers(now, Some(old));
            self.purge_requesters(now);
            for nhs in &mut self.servers {
                (nhs.holds, nhs.purged, nhs.seen_as) = (false, false, None);
            }
        }
        self.bound = nbma.or(self.bound);
        self.end_purges_of(self.bound);
        for index in 0..self.servers.len() {
            if nbma.is_none() {
                self.server_down(now, index, "we have no NBMA address");
            }
            self.register_anew(now, index);
        }
    }

    /// Servers that hold a binding of ours.
    pub(super) fn holders(&self) -> Vec<(IpAddr, Nbma)> {
        self.servers
            .iter()
            .filter(|nhs| nhs.holds)
            .filter_map(|nhs| Some((nhs.server.address, nhs.server.nbma?)))
            .collect()
    }

    /// A reply that answers nothing of ours, or not any more.
    pub(super) fn count_unknown_reply(&mut self, id: u32) {
        self.counters.count(if self.answered_ids.contains(id) {
            Refusal::DuplicateReply
        } else {
            Refusal::UnknownReply
        });
    }
}
