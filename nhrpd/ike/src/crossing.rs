//! One SA for one pair of nodes, also where both begin at the same moment.
//!
//! **After authentication** (RFC 7296 §2.8 has a rule for rekeying that cross; this is ours for
//! the first exchanges). Of two SAs with the same identity one is given up, and both sides find
//! the same one without asking each other:
//!
//! 1. The peer restarted in between (it names another *instance* in LINEAGE): the newer lives.
//! 2. Otherwise the SA with the greater *rank* lives: first the *stamp* counts, then the
//!    initiator's nonce, as bytes.
//!
//! The stamp is a logical clock (Lamport's): every node counts the SAs that it begins, and when
//! it accepts one it sets its count to that SA's stamp if that is greater. So an SA that was begun
//! by a node that knew of the other always has the greater stamp: who deleted an SA, or lost it,
//! and begins anew is not taken for a crossing. Where neither knew of the other, the stamps say
//! nothing, but both sides read the same ones. The stamp and the nonce are covered by the
//! signatures, so that nobody else can choose the survivor. INITIAL_CONTACT is sent for others and
//! not needed here: in a crossing both sides say it, and both would be wrong.
//!
//! A peer without LINEAGE: the newer lives.
//!
//! The layer above hears of the survivor first and of the end of the other after that.
//!
//! **Before authentication** the same moment shows as an IKE_SA_INIT that comes from the address
//! to which we are sending one. To save both sides the work, the one with the smaller nonce is
//! not answered; the other side, by the same rule, answers ours. Nothing is *given up* before
//! the peer is authenticated, because the source of an IKE_SA_INIT can be forged. When an SA with
//! that address is up, our own IKE_SA_INITs to it end. Where NAT hides that the addresses belong
//! together, or messages are lost, the rule above decides.

use std::net::SocketAddr;
use std::time::Instant;

use rand_core::CryptoRng;

use crate::child::CONFIRM_WAIT;
use crate::sa::{Request, Sa, State};
use crate::{Engine, Event, Identity, Refusal, SaId};

/// Order among the SAs of two nodes; the greatest lives.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(crate) stamp: u64,
    pub(crate) nonce: Vec<u8>,
}

/// Another SA with the same peer has the greater [`Rank`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Superseded;

/// Most that a peer can move our clock forward at once, so that none can use it up.
const MAX_LEAP: u64 = 1 << 32;

impl Engine {
    /// Counts an SA that we begin.
    pub(crate) fn next_stamp(&mut self) -> u64 {
        self.clock = self.clock.saturating_add(1);
        self.clock
    }

    fn witness(&mut self, stamp: u64) {
        self.clock = self.clock.max(stamp.min(self.clock.saturating_add(MAX_LEAP)));
    }

    /// An IKE_SA_INIT with `nonce` came from `from`: do we prefer one that we have under way
    /// there? One that is past IKE_SA_INIT is always preferred: the peer has answered it.
    pub(crate) fn prefers_own(&self, from: SocketAddr, nonce: &[u8]) -> bool {
        self.with_remote(from).any(|sa| match &sa.state {
            State::InitSent(init) => &init.nonce[..] > nonce,
            State::Intermediate(_) | State::AuthSent(..) => true,
            _ => false,
        })
    }

    /// Finds whether a newly authenticated SA may live: the older ones that it replaces, or an
    /// error if one of them lives in its place.
    pub(crate) fn settle(
        &mut self,
        identity: &Identity,
        rank: &Rank,
        instance: Option<u64>,
    ) -> Result<Vec<SaId>, Superseded> {
        self.witness(rank.stamp);
        let mut replaced = Vec::new();
        for sa in self.with_identity(identity) {
            let State::Established(other) = &sa.state else { continue };
            let same_run = instance.is_some() && other.instance == instance;
            if same_run && other.rank > *rank {
                return Err(Superseded);
            }
            replaced.push(sa.id);
        }
        Ok(replaced)
    }

    /// Ends what an SA that came up makes needless: `replaced`, as [`Self::settle`] found them,
    /// and our own IKE_SA_INITs to the same address.
    pub(crate) fn supersede(
        &mut self,
        now: Instant,
        survivor: &Sa,
        replaced: Vec<SaId>,
        rng: &mut dyn CryptoRng,
    ) {
        for id in replaced {
            let Some(mut sa) = self.take(id) else { continue };
            let reason = format!("replaced by SA {} with the same peer", survivor.id.0);
            self.depart(&mut sa, reason);
            let restarted = match (&sa.state, &survivor.state) {
                (State::Established(old), State::Established(new)) => old.instance != new.instance,
                _ => false,
            };
            let foreign = matches!(&survivor.state, State::Established(e) if e.instance.is_none());
            if restarted {
                self.forget(sa);
            } else if foreign && !survivor.initiator {
                // We go on sending with the old keys until the peer is known to have the new ones.
                sa.state = State::Closing;
                sa.queue.clear();
                sa.delete_at = Some(now + 2 * CONFIRM_WAIT);
                self.put(sa);
            } else {
                self.begin_closing(now, &mut sa, Request::Delete, rng);
                self.put(sa);
            }
        }
        let needless: Vec<SaId> = self
            .with_remote(survivor.remote)
            .filter(|sa| matches!(sa.state, State::InitSent(_)))
            .map(|sa| sa.id)
            .collect();
        for id in needless {
            let Some(sa) = self.take(id) else { continue };
            self.fail_superseded(&sa, None);
            self.forget(sa);
        }
    }

    /// The end of an established SA, as the layer above sees it.
    pub(crate) fn depart(&mut self, sa: &mut Sa, reason: String) {
        if let Some(identity) = &sa.identity {
            self.established.remove(&(identity.clone(), sa.id));
        }
        if let State::Established(established) = &mut sa.state {
            for child in established.children.drain(..) {
                self.esp_spis.remove(&child.inbound);
            }
        }
        self.event(Event::Closed { sa: sa.id, reason });
    }
}

pub(crate) fn superseded() -> Refusal {
    Refusal("superseded: another SA with the same peer lives in its place".into())
}
