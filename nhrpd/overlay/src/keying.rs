//! Key exchanges of ours: when one begins, when one that failed is tried again.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ike::SaId;
use nhrp::engine::{Authorization, Binding, BindingKind, Nbma};
use rand_core::CryptoRng;

use crate::Overlay;
use crate::config::{Config, Now, Security};
use crate::credentials::Judge;
use crate::desired::{PeerId, Transport};
use crate::forwarding::{self, Path};
use crate::notice::Notice;
use crate::session::{Proof, Session};
use crate::setback::{KNOWN_CAP, Occasion, pause};

/// A key exchange of ours that is under way, or that will be tried again.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// The IKE SA; `None` between two tries.
    pub sa: Option<SaId>,
    /// When the last try began.
    pub begun: Instant,
    pub failures: u32,
    /// Why the last try failed.
    pub reason: Option<String>,
    /// Whose direct path it is for, if it is for one.
    pub peer: Option<IpAddr>,
}

impl Overlay {
    /// Begins a key exchange with `nbma` unless one is under way or a session is there.
    pub(crate) fn connect(&mut self, now: Now, nbma: Nbma, rng: &mut dyn CryptoRng) {
        let busy = self.attempts.get(&nbma).is_some_and(|attempt| attempt.sa.is_some());
        let served = self.fitting(nbma).next().is_some();
        if busy || self.config.nhrp.nbma.is_none() || served || self.is_full() {
            return;
        }
        let Some(sa) = self.begin_exchange(now, nbma, rng) else {
            self.clear_session(now.instant, nbma);
            return;
        };
        let peer = self.direct_peer(nbma);
        let attempt = self.attempt(now.instant, nbma, peer);
        attempt.sa = Some(sa);
        attempt.begun = now.instant;
        attempt.peer = peer;
        self.retries.cancel(nbma);
    }

    /// As [`Self::connect`], for traffic to `destination`; but leaves a direct path alone that
    /// failed a moment ago, as long as a server takes that traffic.
    pub(crate) fn connect_in_turn(
        &mut self,
        now: Now,
        (nbma, destination): (Nbma, IpAddr),
        occasion: Occasion,
        rng: &mut dyn CryptoRng,
    ) {
        let Config { nhrp, routes, .. } = &self.config;
        let mut ours = routes.iter().copied().chain([nhrp.address.trunc()]);
        let served =
            self.forwarding.has_default() && ours.any(|prefix| prefix.contains(&destination));
        let peer = self.direct_peer(nbma).filter(|_| served);
        let setback =
            peer.and_then(|peer| self.setbacks.pending(now.instant, (peer, nbma), occasion));
        let Some(until) = setback.map(|setback| setback.until) else {
            return self.connect(now, nbma, rng);
        };
        let known = self.attempts.get(&nbma);
        if known.map_or(self.is_full(), |attempt| attempt.sa.is_some()) {
            return;
        }
        self.attempt(now.instant, nbma, peer);
        self.retries.set(nbma, until);
    }

    fn is_full(&self) -> bool {
        self.sessions.len() + self.attempts.len() >= self.config.sessions
    }

    /// The attempt with `nbma`: that which is there, or one that knows how the last one ended.
    fn attempt(&mut self, now: Instant, nbma: Nbma, peer: Option<IpAddr>) -> &mut Attempt {
        let setback = peer.and_then(|peer| self.setbacks.of(now, peer, nbma));
        self.attempts.entry(nbma).or_insert_with(|| Attempt {
            sa: None,
            begun: now,
            failures: setback.map_or(0, |setback| setback.failures),
            reason: setback.map(|setback| setback.reason.clone()),
            peer,
        })
    }

    /// What made direct paths fail may be gone: each is worth a try at once.
    pub(crate) fn forgive_setbacks(&mut self, now: Instant) {
        self.setbacks.forgive();
        for (&nbma, attempt) in &mut self.attempts {
            attempt.failures = 0;
            if self.retries.at(nbma).is_some() {
                self.retries.set(nbma, now);
            }
        }
    }

    /// The pause after a key exchange that failed is over.
    pub(crate) fn try_again(&mut self, now: Now, nbma: Nbma, rng: &mut dyn CryptoRng) {
        if !self.wants(nbma) {
            self.attempts.remove(&nbma);
            return;
        }
        self.connect(now, nbma, rng);
        if self.attempts.get(&nbma).is_some_and(|attempt| attempt.sa.is_none()) {
            // No address of ours to begin from, or no room.
            self.retries.set(nbma, now.instant + KNOWN_CAP);
        }
    }

    pub(crate) fn end_attempt(&mut self, nbma: Nbma) -> Option<Attempt> {
        self.retries.cancel(nbma);
        self.attempts.remove(&nbma)
    }

    /// Somebody uses keys that are not known here: perhaps a peer that does not know that we
    /// restarted. It learns so by a key exchange.
    pub(crate) fn meet(&mut self, now: Now, from: SocketAddr, rng: &mut dyn CryptoRng) {
        let nbma = self.sessions.nbma(from);
        if self.sessions.at(nbma).next().is_none() && self.unknown_budget.take(now.instant) {
            self.connect(now, nbma, rng);
        }
    }

    /// Begins a key exchange with `nbma`; there is none without security.
    pub(crate) fn begin_exchange(
        &mut self,
        now: Now,
        nbma: Nbma,
        rng: &mut dyn CryptoRng,
    ) -> Option<SaId> {
        let judge = Judge {
            credentials: self.credentials.as_ref()?,
            config: &self.config,
            servers: &self.servers,
            sessions: &self.sessions,
            nbma,
            wall: now.wall,
        };
        Some(self.ike.initiate(now.instant, self.sessions.endpoint(nbma), &judge, rng))
    }

    /// Whether a key exchange that failed is worth another try by itself. Servers are not: their
    /// registrations are repeated anyway.
    pub(crate) fn wants(&self, nbma: Nbma) -> bool {
        self.wanting(nbma).is_some()
    }

    /// The peer at this address to whom a direct path is to be. Not a server: without it there is
    /// no other path.
    fn direct_peer(&self, nbma: Nbma) -> Option<IpAddr> {
        let server = self.servers.values().any(|&server| server == nbma);
        self.wanting(nbma).filter(|_| !server)
    }

    /// The peer of a shortcut that has no path yet.
    fn wanting(&self, nbma: Nbma) -> Option<IpAddr> {
        let mut shortcuts =
            self.nhrp.bindings_at(nbma).filter(|binding| binding.kind == BindingKind::Shortcut);
        let waits = |b: &Binding| matches!(forwarding::path(&self.sessions, b), Path::None);
        shortcuts.find(waits).map(|binding| binding.next_hop)
    }

    /// Whether everything that is bound to this address has a path: the peer came to us from
    /// another one.
    pub(crate) fn is_served(&self, nbma: Nbma) -> bool {
        let mut here = self.nhrp.bindings_at(nbma).peekable();
        here.peek().is_some()
            && here.all(|b| matches!(forwarding::path(&self.sessions, &b), Path::Session(_)))
    }

    /// Whether a server or a binding is at this address.
    fn knows(&self, nbma: Nbma) -> bool {
        self.servers.values().any(|&server| server == nbma)
            || self.nhrp.bindings_at(nbma).next().is_some()
    }

    /// With `security: none`, a session needs no key exchange.
    pub(crate) fn clear_session(&mut self, now: Instant, nbma: Nbma) -> Option<PeerId> {
        if self.config.security != Security::None {
            return None;
        }
        if let Some(id) = self.sessions.up_at(nbma) {
            return Some(id);
        }
        if self.sessions.len() >= self.config.sessions {
            return None;
        }
        let endpoint = self.sessions.endpoint(nbma);
        let id = self.sessions.insert(Session {
            sa: None,
            tunnel: None,
            identity: None,
            proof: Proof::Certificate,
            authorization: Authorization::Any,
            endpoint,
            up: true,
            since: now,
            idle_deadline: Some(now + self.config.idle_timeout),
        });
        self.forwarding.key(id, Transport::Clear);
        self.nhrp.set_authorization(nbma, Some(Authorization::Any));
        self.notice(Notice::PeerUp { endpoint, identity: None });
        Some(id)
    }

    /// Ends a try. Whether that is news, where it is known; `needless` is none at all.
    pub(crate) fn attempt_failed(
        &mut self,
        now: Instant,
        nbma: Nbma,
        reason: &str,
        needless: bool,
    ) -> Option<bool> {
        if needless {
            self.end_attempt(nbma);
            return None;
        }
        let (wanted, known, peer) = (self.wants(nbma), self.knows(nbma), self.direct_peer(nbma));
        let attempt = self.attempts.get_mut(&nbma)?;
        attempt.sa = None;
        attempt.reason = Some(reason.to_owned());
        attempt.failures += 1;
        let (peer, tries) = (attempt.peer.or(peer), attempt.failures);
        let verdict = peer.map(|peer| self.setbacks.failed(now, (peer, nbma), tries, reason));
        // Unknown: it was begun because of a stranger's packet, whose sender may be forged.
        if !known {
            self.end_attempt(nbma);
        } else if wanted {
            let pause = verdict.as_ref().map_or(pause(tries, KNOWN_CAP), |verdict| verdict.pause);
            self.retries.set(nbma, now + pause);
        }
        verdict.map(|verdict| verdict.news)
    }
}

/// A small allowance per second.
#[derive(Debug)]
pub(crate) struct Budget {
    per_second: u32,
    left: u32,
    since: Instant,
}

impl Budget {
    pub(crate) fn new(now: Instant, per_second: u32) -> Self {
        Self { per_second, left: per_second, since: now }
    }

    pub(crate) fn take(&mut self, now: Instant) -> bool {
        if now.duration_since(self.since) >= Duration::from_secs(1) {
            *self = Self::new(now, self.per_second);
        }
        let granted = self.left > 0;
        self.left = self.left.saturating_sub(1);
        granted
    }
}
