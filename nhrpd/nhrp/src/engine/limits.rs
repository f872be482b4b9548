//! Rates, and who may claim what.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::{Authorization, Claim, Engine, Event, Nbma, Refusal};

const SECOND: Duration = Duration::from_secs(1);

/// Counts what happens within a second.
#[derive(Debug, Default)]
pub(super) struct Rate {
    began: Option<Instant>,
    count: u32,
}

impl Rate {
    /// Whether one more is within `limit` per second.
    pub(super) fn take(&mut self, now: Instant, limit: u32) -> bool {
        if self.began.is_none_or(|began| now >= began + SECOND) {
            *self = Self { began: Some(now), count: 0 };
        }
        let within = self.count < limit;
        self.count += u32::from(within);
        within
    }
}

/// A [`Rate`] for each peer. Bounded: at most `peers` are told apart within one second, the
/// others share one count.
#[derive(Debug, Default)]
pub(super) struct PeerRates {
    began: Option<Instant>,
    counts: BTreeMap<Nbma, u32>,
    others: u32,
}

impl PeerRates {
    pub(super) fn take(&mut self, now: Instant, peer: Nbma, limit: u32, peers: usize) -> bool {
        if self.began.is_none_or(|began| now >= began + SECOND) {
            *self = Self { began: Some(now), ..Self::default() };
        }
        let full = self.counts.len() >= peers;
        let count = match self.counts.get_mut(&peer) {
            Some(count) => count,
            None if full => &mut self.others,
            None => self.counts.entry(peer).or_default(),
        };
        let within = *count < limit;
        *count += u32::from(within);
        within
    }
}

impl Engine {
    pub(super) fn authorization(&self, peer: Nbma) -> Option<&Authorization> {
        self.authorizations.get(&peer).or(self.config.default_authorization.as_ref())
    }

    /// Whether `peer` may claim `prefix`. What a server of ours forwards it has judged itself.
    /// If not: counted and told.
    pub(super) fn vouch(&mut self, peer: Nbma, claim: Claim, prefix: IpNet) -> bool {
        self.is_server(peer) || self.may_claim(peer, claim, prefix)
    }

    /// As [`Self::vouch`], for what the peer says of itself.
    pub(super) fn may_claim(&mut self, peer: Nbma, claim: Claim, prefix: IpNet) -> bool {
        let allowed = self.authorization(peer);
        if allowed.is_some_and(|a| a.permits(prefix)) {
            return true;
        }
        let reason = match allowed {
            None => format!("{peer} has not proven who it is, so it may not claim {prefix}"),
            Some(allowed) => format!("{peer} claims {prefix}, but may claim {allowed} only"),
        };
        let allowed = allowed.cloned();
        self.refuse_claim(Refusal::Claim, peer, claim, prefix, allowed, reason);
        false
    }

    pub(super) fn refuse_claim(
        &mut self,
        refusal: Refusal,
        peer: Nbma,
        claim: Claim,
        prefix: IpNet,
        allowed: Option<Authorization>,
        reason: String,
    ) {
        self.counters.count(refusal);
        self.event(Event::ClaimRefused { peer, claim, prefix, allowed, reason });
    }
}
