//! What both roles do with a peer that has proven its identity: decide whether the SA may live,
//! and tell the layer above of its tunnel.

use rand_core::CryptoRng;

use crate::auth::{Denial, Peer};
use crate::child::{CONFIRM_WAIT, Child, TOLD_WAIT};
use crate::crossing::{Rank, Superseded, superseded};
use crate::crypto::group::Group;
use crate::crypto::keys::Secret;
use crate::engine::Context;
use crate::private::{self, Lineage};
use crate::sa::{Established, Handshake, Request, Sa, State};
use crate::tunnel::{NoTunnel, TunnelKeys};
use crate::wire::{NotifyType, Payload};
use crate::{Engine, Event, Refusal, SaId, TunnelId, TunnelKind};

/// An authenticated peer whose SA may live.
pub(crate) struct Newcomer {
    pub(crate) peer: Peer,
    rank: Rank,
    instance: Option<u64>,
    pub(crate) replaced: Vec<SaId>,
    sk_d: Secret,
    group: &'static Group,
    ours: bool,
    initial_contact: bool,
}

impl Newcomer {
    /// The state of its SA before the first tunnel.
    pub(crate) fn established(&self, kind: TunnelKind) -> Established {
        Established {
            rank: self.rank.clone(),
            instance: self.instance,
            certificates: self.peer.certificates.clone(),
            sk_d: self.sk_d.clone(),
            group: self.group,
            kind,
            children: Vec::new(),
            rekey_at: None,
            theirs: None,
        }
    }
}

impl Engine {
    /// What both roles check of a peer that has proven its identity; `initiator` if the peer is it.
    pub(crate) fn admit(
        &mut self,
        context: &mut Context<'_>,
        handshake: &Handshake,
        sa: &mut Sa,
        peer: Peer,
        payloads: &[Payload],
        initiator: bool,
    ) -> Result<Newcomer, Denial> {
        let identity = Some(peer.identity.clone());
        let deny = |kind, reason| Denial::new(kind, identity.clone(), reason);
        sa.mobike = private::notify(payloads, NotifyType::MOBIKE_SUPPORTED).is_some();
        let lineage = Lineage::find(payloads).filter(|_| handshake.ours);
        let instance = lineage.map(|lineage| lineage.instance);
        let own = self.lineage(handshake, context.rng);
        let rank = handshake.rank(if initiator { lineage } else { Some(own) });
        if instance == Some(own.instance) {
            let words = "this is ourselves: the address leads back to this node";
            return Err(deny(NotifyType::AUTHENTICATION_FAILED, Refusal(words.into())));
        }
        let mut newcomer = Newcomer {
            peer,
            rank,
            instance,
            replaced: Vec::new(),
            sk_d: handshake.sk_d.clone(),
            group: handshake.suite.group,
            ours: handshake.ours,
            initial_contact: private::notify(payloads, NotifyType::INITIAL_CONTACT).is_some(),
        };
        self.seat(&mut newcomer).map_err(|(kind, reason)| deny(kind, reason))?;
        Ok(newcomer)
    }

    /// Finds a place among the SAs that are up, and which of them make way.
    pub(crate) fn seat(&mut self, newcomer: &mut Newcomer) -> Result<(), NoTunnel> {
        let replaced = self
            .settle(&newcomer.peer.identity, &newcomer.rank, newcomer.instance)
            .map_err(|Superseded| (NotifyType::SUPERSEDED, superseded()))?;
        if self.established.len() >= self.config.established + replaced.len() {
            let words = format!("table of {} SAs is full", self.config.established);
            return Err((NotifyType::TEMPORARY_FAILURE, Refusal(words)));
        }
        newcomer.replaced = replaced;
        Ok(())
    }

    /// What we say of ourselves to one of our own nodes.
    pub(crate) fn lineage(&mut self, handshake: &Handshake, rng: &mut dyn CryptoRng) -> Lineage {
        Lineage { instance: self.instance(rng), stamp: handshake.stamp }
    }

    /// Both sides are authenticated, and agreed on a tunnel.
    pub(crate) fn establish(
        &mut self,
        context: &mut Context<'_>,
        sa: &mut Sa,
        new: Newcomer,
        keys: TunnelKeys,
    ) {
        let tunnel = self.fresh_tunnel();
        let child = match &keys {
            TunnelKeys::WireGuard(_) => None,
            TunnelKeys::Esp(esp) => {
                let rekey_at = self.rekey_at(context.now, context.rng);
                let wait = if new.ours { TOLD_WAIT } else { CONFIRM_WAIT };
                let confirm_at = (!sa.initiator).then(|| context.now + wait);
                Some(Child::new(tunnel, esp, confirm_at, context.now, rekey_at))
            }
        };
        self.announce(context, sa, new, (tunnel, keys), child);
    }

    /// Tells the layer above of an SA and its first tunnel, and ends what that replaces.
    pub(crate) fn announce(
        &mut self,
        context: &mut Context<'_>,
        sa: &mut Sa,
        new: Newcomer,
        (tunnel, keys): (TunnelId, TunnelKeys),
        child: Option<Child>,
    ) {
        sa.state = State::Established(Established {
            rekey_at: self.rekey_at(context.now, context.rng),
            ..new.established(keys.kind())
        });
        let Newcomer { peer, replaced, ours, initial_contact, .. } = new;
        sa.identity = Some(peer.identity.clone());
        sa.peer_auth = Some(peer.method);
        self.established.insert((peer.identity.clone(), sa.id));
        self.event(Event::Established {
            sa: sa.id,
            remote: sa.remote,
            initiator: sa.initiator,
            identity: peer.identity,
            certificates: peer.certificates,
            tunnel,
            keys,
            initial_contact,
        });
        if let Some(child) = child {
            // The responder has had its SAs in place since before it answered. It may send when it
            // knows that we have ours: our own nodes tell each other.
            if ours && sa.initiator {
                sa.queue.push_back(Request::Probe);
            }
            self.add_child(sa, child);
        }
        self.supersede(context.now, sa, replaced, context.rng);
        self.send_queued(context.now, sa, context.rng);
    }
}
