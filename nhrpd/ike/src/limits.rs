//! What strangers can make us keep, and the count of what we threw away.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// How long a responder waits for IKE_AUTH, and repeats a refusal.
pub const HALF_OPEN_LIFETIME: Duration = Duration::from_secs(20);

/// Longest IKE_SA_INIT that we answer. It is kept until IKE_AUTH, whose signature covers it, so
/// that this bounds the memory of a half-open SA: this and some 2 KiB.
pub const MAX_INIT_LEN: usize = 4096;

/// Cookies are demanded from this part of all half-open SAs on …
const COOKIE_SHARE: usize = 8;
/// … or of those of one source.
const COOKIE_SHARE_PER_SOURCE: usize = 2;

/// Failures that strangers can cause at will are told to the layer above once in this time.
const STRANGER_INTERVAL: Duration = Duration::from_secs(1);

/// Why a datagram was thrown away, or a half-open SA given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropReason {
    /// No IKE message, or one that contradicts itself.
    Malformed,
    /// Another major version (RFC 7296 §2.5).
    Version,
    /// No SA with these SPIs.
    UnknownSpi,
    /// Too many half-open SAs.
    HalfOpenLimit,
    /// Too many half-open SAs from this source.
    HalfOpenPerSource,
    /// IKE_SA_INIT without the cookie that is demanded at the moment (RFC 7296 §2.6).
    Cookie,
    /// IKE_SA_INIT with nothing that we accept.
    NoProposal,
    /// IKE_SA_INIT with the public value of another group than we want, or an invalid one.
    KeyExchange,
    /// IKE_SA_INIT of a peer to which we are connecting ourselves, see [`crate::crossing`].
    Crossing,
    /// Seen and done: an old message id, or the beginning of an SA that is up.
    Replayed,
    /// A message id that is not due (RFC 7296 §2.3).
    OutOfWindow,
    /// The integrity check failed.
    NotAuthentic,
    /// A fragment of a message that is too long, or in too many (RFC 7383).
    Fragment,
    /// A message that has no place in the state of its SA.
    Unexpected,
    /// A half-open SA whose IKE_AUTH never came.
    HalfOpenExpired,
}

impl DropReason {
    /// All of them, in the order of [`crate::Engine::drops`].
    pub const ALL: [Self; 15] = [
        Self::Malformed,
        Self::Version,
        Self::UnknownSpi,
        Self::HalfOpenLimit,
        Self::HalfOpenPerSource,
        Self::Cookie,
        Self::NoProposal,
        Self::KeyExchange,
        Self::Crossing,
        Self::Replayed,
        Self::OutOfWindow,
        Self::NotAuthentic,
        Self::Fragment,
        Self::Unexpected,
        Self::HalfOpenExpired,
    ];

    /// Short name for counters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Version => "version",
            Self::UnknownSpi => "unknown-spi",
            Self::HalfOpenLimit => "half-open-limit",
            Self::HalfOpenPerSource => "half-open-per-source",
            Self::Cookie => "cookie",
            Self::NoProposal => "no-proposal",
            Self::KeyExchange => "key-exchange",
            Self::Crossing => "crossing",
            Self::Replayed => "replayed",
            Self::OutOfWindow => "out-of-window",
            Self::NotAuthentic => "not-authentic",
            Self::Fragment => "fragment",
            Self::Unexpected => "unexpected",
            Self::HalfOpenExpired => "half-open-expired",
        }
    }
}

/// A counter for each reason.
#[derive(Debug, Default)]
pub(crate) struct Drops([u64; DropReason::ALL.len()]);

impl Drops {
    pub(crate) fn count(&mut self, reason: DropReason) {
        self.0[reason as usize] += 1;
    }

    pub(crate) fn of(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }
}

/// How many half-open SAs there are, and from where.
#[derive(Debug, Default)]
pub(crate) struct HalfOpen {
    total: usize,
    per_source: BTreeMap<IpAddr, usize>,
}

impl HalfOpen {
    pub(crate) fn admit(
        &self,
        from: IpAddr,
        total: usize,
        per_source: usize,
    ) -> Result<(), DropReason> {
        if self.total >= total {
            return Err(DropReason::HalfOpenLimit);
        }
        if self.from(from) >= per_source {
            return Err(DropReason::HalfOpenPerSource);
        }
        Ok(())
    }

    /// The source of another one must be shown not to be forged. Before it is, no stranger can
    /// use up the share of the real owner of an address.
    pub(crate) fn wants_cookie(&self, from: IpAddr, total: usize, per_source: usize) -> bool {
        self.total >= total / COOKIE_SHARE
            || self.from(from) >= per_source / COOKIE_SHARE_PER_SOURCE
    }

    fn from(&self, from: IpAddr) -> usize {
        self.per_source.get(&source(from)).copied().unwrap_or_default()
    }

    pub(crate) fn enter(&mut self, from: IpAddr) {
        self.total += 1;
        *self.per_source.entry(source(from)).or_default() += 1;
    }

    pub(crate) fn leave(&mut self, from: IpAddr) {
        let source = source(from);
        self.total -= 1;
        if let Some(count) = self.per_source.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.per_source.remove(&source);
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.total
    }
}

/// Whom an address belongs to: of IPv6 the first 64 bits, because who has one address has the
/// whole prefix.
pub(crate) fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

/// Lets one event through in [`STRANGER_INTERVAL`].
#[derive(Debug, Default)]
pub(crate) struct StrangerEvents {
    last: Option<Instant>,
}

impl StrangerEvents {
    pub(crate) fn admit(&mut self, now: Instant) -> bool {
        let quiet =
            self.last.is_none_or(|last| now.saturating_duration_since(last) >= STRANGER_INTERVAL);
        if quiet {
            self.last = Some(now);
        }
        quiet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_counter_and_a_name_of_its_own() {
        let mut drops = Drops::default();
        let mut names = std::collections::BTreeSet::new();
        for reason in DropReason::ALL {
            drops.count(reason);
            assert_eq!(drops.of(reason), 1);
            assert!(names.insert(reason.name()));
        }
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_an_ipv6_prefix() {
        let source = |text: &str| source(text.parse().unwrap());
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:0:0:2"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("192.0.2.1"), source("::ffff:192.0.2.1"));
    }

    #[test]
    fn half_open_sources_are_forgotten_when_they_leave() {
        let mut half_open = HalfOpen::default();
        let (a, b) = (IpAddr::from([1; 4]), IpAddr::from([2; 4]));
        half_open.enter(a);
        half_open.enter(a);
        half_open.enter(b);
        assert_eq!(half_open.admit(a, 4, 2), Err(DropReason::HalfOpenPerSource));
        assert_eq!(half_open.admit(b, 4, 2), Ok(()));
        assert_eq!(half_open.admit(b, 3, 2), Err(DropReason::HalfOpenLimit));
        for source in [a, a, b] {
            half_open.leave(source);
        }
        assert!(half_open.per_source.is_empty() && half_open.total == 0);
    }
}
