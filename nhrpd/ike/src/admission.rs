//! What both roles do with a peer that has proven its identity: decide whether the SA may live,
//! make the keys, and tell the layer above.

use crate::auth::{Denial, Peer};
use crate::child::Child;
use crate::crossing::{Rank, Superseded, superseded};
use crate::crypto::group::Group;
use crate::crypto::keys::Secret;
use crate::engine::Context;
use crate::private::{self, Lineage};
use crate::sa::{Established, Handshake, Request, Sa, State};
use crate::tunnel::{Offered, TunnelKeys};
use crate::wire::{NotifyType, Payload};
use crate::{Engine, Event, Refusal, SaId};

/// An authenticated peer whose SA may live.
pub(crate) struct Newcomer {
    pub(crate) peer: Peer,
    rank: Rank,
    instance: Option<u64>,
    pub(crate) replaced: Vec<SaId>,
    sk_d: Secret,
    group: &'static Group,
    ours: bool,
    keys: TunnelKeys,
    initial_contact: bool,
}

impl Engine {
    /// What both roles check of a peer that has proven its identity, and the keys with it.
    /// `offered` is what we asked for as the initiator; a responder gets the payloads that grant
    /// what the peer asked for.
    pub(crate) fn admit(
        &mut self,
        context: &mut Context<'_>,
        handshake: &Handshake,
        sa: &mut Sa,
        peer: Peer,
        payloads: &[Payload],
        offered: Option<Offered>,
    ) -> Result<(Vec<Payload>, Newcomer), Denial> {
        let initiator = offered.is_some();
        let identity = Some(peer.identity.clone());
        let deny = |kind, reason| Denial::new(kind, identity.clone(), reason);
        sa.mobike = private::notify(payloads, NotifyType::MOBIKE_SUPPORTED).is_some();
        let lineage = Lineage::find(payloads).filter(|_| handshake.ours);
        let instance = lineage.map(|lineage| lineage.instance);
        let own = Lineage { instance: self.instance(context.rng), stamp: handshake.stamp };
        let rank = handshake.rank(if initiator { Some(own) } else { lineage });
        if instance == Some(own.instance) {
            let words = "this is ourselves: the address leads back to this node";
            return Err(deny(NotifyType::AUTHENTICATION_FAILED, Refusal(words.into())));
        }
        let replaced = self
            .settle(&peer.identity, &rank, instance)
            .map_err(|Superseded| deny(NotifyType::SUPERSEDED, superseded()))?;
        if self.established.len() >= self.config.established + replaced.len() {
            let words = format!("table of {} SAs is full", self.config.established);
            return Err(deny(NotifyType::TEMPORARY_FAILURE, Refusal(words)));
        }
        let granted = match offered {
            Some(offered) => {
                self.take_tunnel(handshake, sa, offered, payloads).map(|keys| (Vec::new(), keys))
            }
            None => self.grant_tunnel(context, handshake, sa, payloads),
        };
        let (mut grant, keys) = granted.map_err(|(kind, reason)| deny(kind, reason))?;
        if handshake.ours {
            grant.push(own.payload());
        }
        let initial_contact = private::notify(payloads, NotifyType::INITIAL_CONTACT).is_some();
        let (sk_d, group) = (handshake.sk_d.clone(), handshake.suite.group);
        let ours = handshake.ours;
        let newcomer =
            Newcomer { peer, rank, instance, replaced, sk_d, group, ours, keys, initial_contact };
        Ok((grant, newcomer))
    }

    /// Both sides are authenticated.
    pub(crate) fn establish(&mut self, context: &mut Context<'_>, sa: &mut Sa, new: Newcomer) {
        let Newcomer { peer, rank, instance, replaced, sk_d, group, ours, keys, initial_contact } =
            new;
        let tunnel = self.fresh_tunnel();
        let child = match &keys {
            TunnelKeys::WireGuard(_) => None,
            TunnelKeys::Esp(esp) => {
                let rekey_at = self.rekey_at(context.now, context.rng);
                Some(Child::new(tunnel, esp, sa.initiator, context.now, rekey_at))
            }
        };
        sa.state = State::Established(Established {
            rank,
            instance,
            certificates: peer.certificates.clone(),
            sk_d,
            group,
            kind: keys.kind(),
            children: Vec::new(),
            rekey_at: self.rekey_at(context.now, context.rng),
            theirs: None,
        });
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
