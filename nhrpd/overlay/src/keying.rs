//! Key exchanges of ours: when one begins, when one that failed is tried again.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ike::SaId;
use nhrp::engine::{Authorization, BindingKind, Nbma};
use rand_core::CryptoRng;

use crate::Overlay;
use crate::config::{Now, Security};
use crate::credentials::Judge;
use crate::desired::{PeerId, Transport};
use crate::forwarding::{self, Path};
use crate::notice::Notice;
use crate::session::{Proof, Session};

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
}

/// Longest pause between two tries of a key exchange.
const RETRY_CAP: Duration = Duration::from_secs(64);

impl Overlay {
    /// Begins a key exchange with `nbma` unless one is under way or a session is there.
    pub(crate) fn connect(&mut self, now: Now, nbma: Nbma, rng: &mut dyn CryptoRng) {
        let busy = self.attempts.get(&nbma).is_some_and(|attempt| attempt.sa.is_some());
        let full = self.sessions.len() + self.attempts.len() >= self.config.sessions;
        if busy || self.config.nhrp.nbma.is_none() || self.fitting(nbma).next().is_some() || full {
            return;
        }
        let Some(sa) = self.begin_exchange(now, nbma, rng) else {
            self.clear_session(now.instant, nbma);
            return;
        };
        let attempt = self.attempts.entry(nbma).or_insert(Attempt {
            sa: None,
            begun: now.instant,
            failures: 0,
            reason: None,
        });
        attempt.sa = Some(sa);
        attempt.begun = now.instant;
        self.retries.cancel(nbma);
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
            self.retries.set(nbma, now.instant + RETRY_CAP);
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
        self.nhrp.bindings_at(nbma).any(|binding| {
            binding.kind == BindingKind::Shortcut
                && matches!(forwarding::path(&self.sessions, &binding), Path::None)
        })
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

    pub(crate) fn attempt_failed(
        &mut self,
        now: Instant,
        nbma: Nbma,
        reason: &str,
        needless: bool,
    ) {
        let (wanted, known) = (self.wants(nbma), self.knows(nbma));
        let Some(attempt) = self.attempts.get_mut(&nbma) else { return };
        attempt.sa = None;
        attempt.reason = Some(reason.to_owned());
        attempt.failures += 1;
        let pause = Duration::from_secs(1 << attempt.failures.min(6)).min(RETRY_CAP);
        // Unknown: it was begun because of a stranger's packet, whose sender may be forged.
        if needless || !known {
            self.end_attempt(nbma);
        } else if wanted {
            self.retries.set(nbma, now + pause);
        }
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
