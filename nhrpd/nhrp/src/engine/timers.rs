//! One table of deadlines.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use ipnet::IpNet;

use super::BindingKind;
use super::cache::Key;

/// What is due at a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A cache entry's holding time is over.
    Expire(IpNet, BindingKind),
    /// Look whether a shortcut carries traffic, and renew it if so.
    Use(IpNet),
    /// A negative entry may be forgotten.
    Negative(IpAddr),
    /// A requester's copy of our binding has expired.
    Answered(IpAddr),
    /// Register with the server of this index.
    Register(usize),
    /// Repeat the request with this id.
    Retry(u32),
}

/// At most one deadline for each timer.
#[derive(Debug, Default)]
pub(super) struct Timers {
    queue: BTreeSet<(Instant, Timer)>,
    /// Those of all timers but [`Timer::Expire`]: the cache knows when its entries expire.
    at: BTreeMap<Timer, Instant>,
}

impl Timers {
    /// Sets or moves a deadline.
    pub(super) fn set(&mut self, timer: Timer, at: Instant) {
        self.cancel(timer);
        self.at.insert(timer, at);
        self.queue.insert((at, timer));
    }

    /// The holding time of a cache entry ends at another time, or not at all.
    pub(super) fn set_expiry(&mut self, key: Key, from: Option<Instant>, to: Option<Instant>) {
        let timer = Timer::Expire(key.0, key.1);
        if let Some(from) = from {
            self.queue.remove(&(from, timer));
        }
        if let Some(to) = to {
            self.queue.insert((to, timer));
        }
    }

    /// Forgets a deadline; tells when it would have been.
    pub(super) fn cancel(&mut self, timer: Timer) -> Option<Instant> {
        let at = self.at.remove(&timer)?;
        self.queue.remove(&(at, timer));
        Some(at)
    }

    pub(super) fn at(&self, timer: Timer) -> Option<Instant> {
        self.at.get(&timer).copied()
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Takes the first timer that is due.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Timer> {
        let (at, timer) = *self.queue.first()?;
        if at > now {
            return None;
        }
        self.queue.pop_first();
        self.at.remove(&timer);
        Some(timer)
    }
}
