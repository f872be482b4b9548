//! How a session comes up, moves and goes, and what that means for NHRP.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use nhrp::engine::{Binding, BindingKind, Nbma};
use rand_core::CryptoRng;

use crate::Overlay;
use crate::config::Now;
use crate::desired::PeerId;
use crate::forwarding::{self, Path};
use crate::notice::Notice;
use crate::session;

/// How long a path whose successor is up may still receive: more than a packet stays on the way, and
/// its answer's switch to the successor.
pub(crate) const LINGER: Duration = Duration::from_secs(5);

impl Overlay {
    pub(crate) fn session_up(&mut self, now: Now, id: PeerId, rng: &mut dyn CryptoRng) {
        if !self.sessions.set_up(id, now.instant) {
            return;
        }
        let Some(session) = self.sessions.get(id) else { return };
        let (endpoint, nbma) = (session.endpoint, self.sessions.nbma(session.endpoint));
        let authorization = session.authorization.clone();
        let (identity, sa) = (session.identity.clone(), session.sa);
        let known = self.is_reached_otherwise(id);
        self.notice(match known {
            true => Notice::PeerRekeyed { endpoint, identity },
            false => Notice::PeerUp { endpoint, identity },
        });
        self.authorize(nbma);
        self.note_direct(now.instant, id);
        // IKE leaves one SA for each pair of nodes; what the former one carried moves here.
        for twin in self.sessions.twins(id).into_iter().filter(|&twin| twin < id) {
            if let Some(former) = self.sessions.get(twin).map(|s| self.sessions.nbma(s.endpoint)) {
                self.nhrp.peer_moved(now.instant, former, nbma, &authorization);
            }
            if self.desired().peers.contains_key(&twin) {
                self.lingering.set(twin, now.instant + LINGER);
            }
            // A former tunnel of the same IKE SA is IKE's to end.
            let reason = "replaced by a newer session";
            if sa.is_some() && self.sessions.get(twin).is_some_and(|twin| twin.sa == sa) {
                self.forget_session(now.instant, twin, reason);
            } else {
                self.remove_session(now, twin, reason, rng);
            }
        }
        self.nhrp.path_up(now.instant, nbma);
    }

    /// Whether another session with the same peer is up.
    pub(crate) fn is_reached_otherwise(&self, id: PeerId) -> bool {
        let twins = self.sessions.twins(id);
        twins.into_iter().any(|twin| self.sessions.get(twin).is_some_and(|twin| twin.up))
    }

    /// Tells NHRP what whoever stands at `nbma` may claim.
    pub(crate) fn authorize(&mut self, nbma: Nbma) {
        let session = self.carrier(None, nbma).and_then(|id| self.sessions.get(id));
        let authorization = session.map(|session| session.authorization.clone());
        self.nhrp.set_authorization(nbma, authorization);
    }

    pub(crate) fn move_session(&mut self, now: Instant, id: PeerId, endpoint: SocketAddr) {
        let Some(former) = self.sessions.relocate(id, endpoint) else { return };
        let (from, to) = (self.sessions.nbma(former), self.sessions.nbma(endpoint));
        self.authorize(from);
        self.authorize(to);
        if let Some(authorization) = self.sessions.get(id).map(|s| s.authorization.clone()) {
            self.nhrp.peer_moved(now, from, to, &authorization);
        }
        self.note_direct(now, id);
        self.notice(Notice::PeerMoved { from: former, to: endpoint });
    }

    /// A session that is up is a direct path to those whose shortcuts take it.
    fn note_direct(&mut self, now: Instant, id: PeerId) {
        let Some(session) = self.sessions.get(id).filter(|session| session.up) else { return };
        let nbma = self.sessions.nbma(session.endpoint);
        let hosts = session::hosts(&session.authorization);
        let tried = hosts.filter(|&host| self.setbacks.contains(host));
        let through = self.shortcuts_through(id).map(|binding| binding.next_hop);
        for peer in tried.chain(through).collect::<BTreeSet<IpAddr>>() {
            self.setbacks.worked(now, peer, nbma);
        }
    }

    /// Ends a session of ours and tells the peer.
    pub(crate) fn remove_session(
        &mut self,
        now: Now,
        id: PeerId,
        reason: &str,
        rng: &mut dyn CryptoRng,
    ) {
        if let Some(sa) = self.sessions.get(id).and_then(|session| session.sa) {
            self.ike.close(now.instant, sa, rng);
        }
        self.forget_session(now.instant, id, reason);
    }

    /// Forgets a session that is gone.
    pub(crate) fn forget_session(&mut self, now: Instant, id: PeerId, reason: &str) {
        let twins = self.sessions.twins(id);
        let still_up = self.is_reached_otherwise(id);
        let mut lost: BTreeSet<Nbma> = self.shortcuts_through(id).map(|b| b.nbma).collect();
        let Some(session) = self.sessions.remove(id) else { return };
        lost.insert(self.sessions.nbma(session.endpoint));
        // A session without an SA waited for this one to succeed it.
        for twin in twins {
            if self.sessions.get(twin).is_some_and(|twin| twin.sa.is_none()) {
                self.forget_session(now, twin, reason);
            }
        }
        if session.up && !still_up {
            self.notice(Notice::PeerDown {
                endpoint: session.endpoint,
                identity: session.identity,
                reason: reason.to_owned(),
            });
        }
        for nbma in lost {
            self.authorize(nbma);
            // Traffic is back on the path through the server; if it goes on, a new indication
            // comes.
            if self.carrier(None, nbma).is_none() {
                self.nhrp.path_down(now, nbma, reason);
            }
        }
    }

    /// The shortcuts that a session carries.
    pub(crate) fn shortcuts_through(&self, id: PeerId) -> impl Iterator<Item = Binding> {
        let session = self.sessions.get(id);
        let nbma = session.map(|session| self.sessions.nbma(session.endpoint));
        let hosts = session.into_iter().flat_map(|session| session::hosts(&session.authorization));
        let at = nbma.into_iter().flat_map(|nbma| self.nhrp.bindings_at(nbma));
        at.chain(hosts.flat_map(|host| self.nhrp.bindings_of(host))).filter(move |binding| {
            let path = forwarding::path(&self.sessions, binding);
            binding.kind == BindingKind::Shortcut && matches!(path, Path::Session(at) if at == id)
        })
    }
}
