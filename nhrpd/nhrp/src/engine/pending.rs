//! Requests of our own that await their reply: sent again with the same id, by one back-off.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::timers::Timer;
use super::{Engine, Nbma};
use crate::wire::{Cie, Operation, Packet};

/// Resolution and purge: how often they are sent before they are given up.
const ATTEMPTS: u32 = 5;

/// Ids of answered requests that are remembered, to know a second reply.
const REMEMBERED: usize = 256;

/// A request under way.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) purpose: Purpose,
    /// Where it was sent to last.
    pub(super) to: Nbma,
    /// How often it was sent since its back-off began.
    pub(super) attempts: u32,
    pub(super) since: Instant,
}

#[derive(Debug, Clone)]
pub(super) enum Purpose {
    /// Part 0 is the own address, the others are prefixes.
    Register { server: usize, part: usize },
    Resolve {
        destination: IpAddr,
        /// The shortcut that is being renewed.
        renews: Option<IpNet>,
    },
    Purge {
        /// Protocol address of the station that is to purge.
        station: IpAddr,
        entries: Vec<Cie>,
        /// Register with the server of this index when it is done.
        then: Option<usize>,
    },
}

/// 1, 2, 4 … 64 seconds.
pub(super) fn back_off(attempts: u32) -> Duration {
    Duration::from_secs(1 << attempts.saturating_sub(1).min(6))
}

/// A set that forgets its oldest members.
#[derive(Debug, Default)]
pub(super) struct Answered(VecDeque<u32>);

impl Answered {
    pub(super) fn insert(&mut self, id: u32) {
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(id);
    }

    pub(super) fn contains(&self, id: u32) -> bool {
        self.0.contains(&id)
    }
}

impl Engine {
    /// Sends a new request for the first time. `attempts`: how often its like was sent in vain.
    pub(super) fn begin(&mut self, now: Instant, purpose: Purpose, to: Nbma, attempts: u32) -> u32 {
        let id = self.next_id();
        self.pending.insert(id, Pending { purpose, to, attempts, since: now });
        self.transmit(now, id);
        id
    }

    /// Ends a request, answered or not.
    pub(super) fn finish(&mut self, id: u32) -> Option<Pending> {
        self.timers.cancel(Timer::Retry(id));
        let pending = self.pending.remove(&id)?;
        self.answered_ids.insert(id);
        if let Purpose::Resolve { destination, .. } = pending.purpose {
            self.resolving.remove(&destination);
        }
        Some(pending)
    }

    /// No reply in time.
    pub(super) fn retry(&mut self, now: Instant, id: u32) {
        let Some(pending) = self.pending.get(&id) else { return };
        let exhausted = pending.attempts >= ATTEMPTS;
        match pending.purpose.clone() {
            Purpose::Register { server, part } => self.unanswered(now, server, part),
            Purpose::Resolve { .. } if exhausted => {
                return self.resolution_failed(now, id, "no reply");
            }
            Purpose::Resolve { .. } => match self.best_server(None) {
                Some((_, to)) => self.readdress(id, to),
                None => return self.resolution_failed(now, id, "no next-hop server responds"),
            },
            Purpose::Purge { .. } if exhausted => return self.purge_done(now, id),
            Purpose::Purge { .. } => {}
        }
        self.transmit(now, id);
    }

    /// A path to `peer` came up: repeats at once what waits for it.
    pub(super) fn hasten(&mut self, now: Instant, peer: Nbma) {
        let waiting: Vec<u32> =
            self.pending.iter().filter(|(_, p)| p.to == peer).map(|(id, _)| *id).collect();
        for id in waiting {
            if let Some(pending) = self.pending.get_mut(&id) {
                pending.attempts = 0;
            }
            self.transmit(now, id);
        }
    }

    pub(super) fn readdress(&mut self, id: u32, to: Nbma) {
        if let Some(pending) = self.pending.get_mut(&id) {
            pending.to = to;
        }
    }

    fn transmit(&mut self, now: Instant, id: u32) {
        let Some(pending) = self.pending.get_mut(&id) else { return };
        pending.attempts += 1;
        let (to, attempts) = (pending.to, pending.attempts);
        let purpose = pending.purpose.clone();
        self.timers.set(Timer::Retry(id), now + back_off(attempts));
        let packet = self.make(id, &purpose);
        self.send(to, packet);
    }

    fn make(&mut self, id: u32, purpose: &Purpose) -> Packet {
        match purpose {
            Purpose::Register { server, part } => self.registration(id, *server, *part),
            Purpose::Resolve { destination, .. } => self.resolution(id, *destination),
            Purpose::Purge { station, entries, .. } => {
                self.request(Operation::PurgeRequest, id, 0, *station, entries.clone())
            }
        }
    }
}
