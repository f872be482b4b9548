//! What the operator may make a running node forget.

use std::collections::BTreeSet;
use std::net::IpAddr;

use nhrp::engine::BindingKind;
use rand_core::CryptoRng;

use crate::Overlay;
use crate::config::Now;
use crate::desired::PeerId;
use crate::forwarding::{self, Path};
use crate::session::Session;

impl Overlay {
    /// Forgets everything learnt, at the operator's wish. The sessions of those who registered
    /// end too: so they register again at once, not when a third of their holding time is over.
    /// Gives the number of sessions that ended.
    pub fn clear_cache(&mut self, now: Now, rng: &mut dyn CryptoRng) -> usize {
        let registered = self.nhrp.bindings().filter(|b| b.kind == BindingKind::Registered);
        let sessions = registered.filter_map(|b| match forwarding::path(&self.sessions, &b) {
            Path::Session(id) => Some(id),
            _ => None,
        });
        let sessions: BTreeSet<PeerId> = sessions.collect();
        self.forgive_setbacks(now.instant);
        self.nhrp.clear_cache();
        self.clear_sessions(now, sessions, rng)
    }

    /// Forgets shortcuts and what is being resolved; traffic goes through the servers until
    /// there are new ones.
    pub fn clear_shortcuts(&mut self, now: Now, rng: &mut dyn CryptoRng) {
        self.forgive_setbacks(now.instant);
        self.nhrp.clear_shortcuts();
        self.pump(now, rng);
    }

    /// Forgets the peer with this tunnel or NBMA address and ends its sessions, whose number it
    /// gives. A server is registered with anew.
    pub fn clear_peer(&mut self, now: Now, peer: IpAddr, rng: &mut dyn CryptoRng) -> usize {
        let of_peer = |session: &Session| session.endpoint.ip() == peer;
        let at = self.sessions.iter().filter(|(_, session)| of_peer(session)).map(|(id, _)| id);
        let sessions: BTreeSet<PeerId> = at.chain(self.sessions.up_of(peer)).collect();
        self.forgive_setbacks(now.instant);
        self.nhrp.clear_peer(now.instant, peer);
        self.clear_sessions(now, sessions, rng)
    }

    fn clear_sessions(
        &mut self,
        now: Now,
        sessions: BTreeSet<PeerId>,
        rng: &mut dyn CryptoRng,
    ) -> usize {
        let count = sessions.len();
        for id in sessions {
            self.remove_session(now, id, "cleared by the operator", rng);
        }
        self.pump(now, rng);
        count
    }
}
