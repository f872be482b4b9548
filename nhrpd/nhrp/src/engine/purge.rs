//! Purge (RFC 2332 §5.2.5, §5.2.6): sent, obeyed, answered. Only the owner may purge.

use std::net::IpAddr;
use std::time::Instant;

use ipnet::IpNet;

use super::client::ENTRIES;
use super::dispatch::Received;
use super::errors::Fault;
use super::packet::nbma_of;
use super::pending::Purpose;
use super::timers::Timer;
use super::{Authorization, BindingKind, Claim, Engine, Event, Nbma, Refusal};
use crate::wire::{Cie, NbmaAddress, Operation, Query, code, flags};

impl Engine {
    /// Our address and prefixes, bound to the NBMA address `old`; `None`: to whichever.
    fn purge_entries(&self, old: Option<IpAddr>) -> Vec<Cie> {
        let nbma = old.map_or_else(NbmaAddress::default, NbmaAddress::from);
        let own = Cie::host(self.address(), nbma, 0);
        let prefixes = self.config.advertise.iter().map(|net| Cie {
            prefix_length: net.prefix_len(),
            protocol: Some(net.addr()),
            ..own.clone()
        });
        std::iter::once(own.clone()).chain(prefixes).collect()
    }

    /// Tells the servers that our binding to `old` holds no more.
    pub(super) fn purge_servers(&mut self, now: Instant, old: Option<IpAddr>) {
        for (station, to) in self.holders() {
            self.purge_at(now, station, to, old, None);
        }
    }

    /// Tells those who resolved us, by way of a server, once there is something to tell and a
    /// server that responds.
    pub(super) fn purge_requesters(&mut self, now: Instant) {
        let (Some(old), Some((_, to))) = (self.stale, self.best_server(None)) else { return };
        self.stale = None;
        for requester in std::mem::take(&mut self.requesters) {
            self.timers.cancel(Timer::Answered(requester));
            if self.index_of(requester).is_some() {
                continue;
            }
            if self.stopping {
                self.purge_unanswered(requester, to, Some(old));
            } else {
                self.purge_at(now, requester, to, Some(old), None);
            }
        }
    }

    /// Asks one station to purge what it knows of us; then registers with server `then`.
    pub(super) fn purge_at(
        &mut self,
        now: Instant,
        station: IpAddr,
        to: Nbma,
        old: Option<IpAddr>,
        then: Option<usize>,
    ) {
        let all = self.purge_entries(old);
        for (i, entries) in all.chunks(ENTRIES).enumerate() {
            let then = then.filter(|_| i == 0);
            let entries = entries.to_vec();
            self.begin(now, Purpose::Purge { station, entries, then }, to, 0);
        }
    }

    /// As [`Self::purge_at`], once and without an answer (N): when we leave, no server will know
    /// the way back to us.
    fn purge_unanswered(&mut self, station: IpAddr, to: Nbma, old: Option<IpAddr>) {
        let all = self.purge_entries(old);
        for entries in all.chunks(ENTRIES) {
            let id = self.next_id();
            let operation = Operation::PurgeRequest;
            let packet = self.request(operation, id, flags::NO_REPLY, station, entries.to_vec());
            self.send(to, packet);
        }
    }

    /// Gives up what would purge our binding to this address: it is ours again.
    pub(super) fn end_purges_of(&mut self, nbma: Option<IpAddr>) {
        let named = nbma.map(NbmaAddress::from);
        let names = |cie: &Cie| Some(&cie.nbma) == named.as_ref();
        let needless = |purpose: &Purpose| match purpose {
            Purpose::Purge { entries, .. } => entries.iter().any(names),
            Purpose::Register { .. } | Purpose::Resolve { .. } => false,
        };
        let pending = self.pending.iter().filter(|(_, pending)| needless(&pending.purpose));
        for id in pending.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.finish(id);
        }
    }

    /// A purge of ours is answered or given up.
    pub(super) fn purge_done(&mut self, now: Instant, id: u32) {
        if let Some(pending) = self.finish(id)
            && let Purpose::Purge { then: Some(server), .. } = pending.purpose
        {
            self.register(now, server);
        }
        self.tell_if_stopped();
    }

    pub(super) fn tell_if_stopped(&mut self) {
        if self.stopping && self.pending.is_empty() {
            self.event(Event::ShutdownComplete);
        }
    }

    /// A Purge Reply to us.
    pub(super) fn purge_reply(&mut self, now: Instant, from: Nbma, query: &Query) {
        let id = query.request_id;
        let ours = |p: &super::pending::Pending| {
            p.to == from && matches!(p.purpose, Purpose::Purge { .. })
        };
        if self.pending.get(&id).is_some_and(ours) {
            self.purge_done(now, id);
        } else {
            self.count_unknown_reply(id);
        }
    }

    /// A Purge Request to us: answered even when nothing matched, unless N is set.
    pub(super) fn purge_request(
        &mut self,
        Received { from, packet, query }: Received<'_>,
    ) -> Result<(), Fault> {
        self.check_extensions(packet)?;
        let owner = query.source_protocol.ok_or(Fault::PROTOCOL)?;
        if query.entries.iter().any(|cie| cie.protocol.is_some() && cie.prefix().is_none()) {
            return Err(Fault::PROTOCOL);
        }
        let known = self.vouch(from, Claim::Purge, owner.into());
        let mut entries = query.entries.clone();
        for cie in &mut entries {
            let done = known && self.purge(from, owner, cie);
            cie.code = if done { code::SUCCESS } else { code::PROHIBITED };
        }
        if query.flags & flags::NO_REPLY == 0 {
            let reply = self.reply(packet, query, Operation::PurgeReply, query.flags, entries);
            self.send(from, reply);
        }
        Ok(())
    }

    /// Removes what `cie` names of what `owner` has told us; an entry without protocol address
    /// names everything. `false` where something there is not his to purge.
    fn purge(&mut self, from: Nbma, owner: IpAddr, cie: &Cie) -> bool {
        let by_server = self.is_server(from);
        let prefix = cie.prefix();
        if let Some(prefix) = prefix {
            let registered = self.cache.get((prefix, BindingKind::Registered));
            if registered.is_some_and(|entry| entry.next_hop != owner) {
                self.refuse_purge(from, prefix);
                return false;
            }
        }
        let proven = matches!(self.authorization(from), Some(Authorization::Within(_)));
        let named = nbma_of(&cie.nbma);
        let mut done = true;
        for key in self.cache.of_peer(owner) {
            let Some(entry) = self.cache.get(key) else { continue };
            // What was registered with us, no server of ours may purge.
            let learnt = match key.1 {
                BindingKind::Registered => !by_server,
                BindingKind::Shortcut => true,
                BindingKind::Static | BindingKind::Nhs => false,
            };
            let matches = prefix.is_none_or(|prefix| prefix.contains(&key.0))
                && named.is_none_or(|n| n == entry.claimed || n == entry.nbma);
            if !learnt || !matches {
                continue;
            }
            // Where nobody proves anything, only the place that is bound may speak for itself, or
            // who names that place.
            if by_server || proven || entry.nbma == from || named.is_some() {
                self.uninstall(key, "purged by its owner");
            } else {
                self.refuse_purge(from, key.0);
                done = false;
            }
        }
        done
    }

    fn refuse_purge(&mut self, from: Nbma, prefix: IpNet) {
        let allowed = self.authorization(from).cloned();
        let reason = format!("{from} asks to purge {prefix}, which is another's");
        self.refuse_claim(Refusal::Purge, from, Claim::Purge, prefix, allowed, reason);
    }
}
