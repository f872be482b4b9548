//! What both roles do with a peer that has proven its identity: decide whether the SA may live,
//! make the keys, and tell the layer above.

use crate::auth::{Denial, Peer};
use crate::crossing::{Rank, Superseded, superseded};
use crate::crypto::keys::Secret;
use crate::crypto::suite::Group;
use crate::engine::Context;
use crate::private::{self, Lineage, Offer, WireGuardPair};
use crate::sa::{Established, Handshake, Sa, State};
use crate::wire::{NotifyType, Payload};
use crate::{Engine, Event, Refusal, SaId, WireGuardKeys};

/// An authenticated peer whose SA may live.
pub(crate) struct Newcomer {
    pub(crate) peer: Peer,
    rank: Rank,
    instance: Option<u64>,
    pub(crate) replaced: Vec<SaId>,
    sk_d: Secret,
    group: &'static Group,
    keys: WireGuardKeys,
    initial_contact: bool,
}

impl Engine {
    /// What both roles check of a peer that has proven its identity, and the keys with it. `pair`
    /// is our WireGuard key where the peer has it already.
    pub(crate) fn admit(
        &mut self,
        context: &mut Context<'_>,
        handshake: &Handshake,
        peer: Peer,
        payloads: &[Payload],
        pair: Option<WireGuardPair>,
    ) -> Result<(Offer, Newcomer), Denial> {
        let initiator = pair.is_some();
        let identity = Some(peer.identity.clone());
        let deny = |kind, reason| Denial::new(kind, identity.clone(), reason);
        let refuse = |reason| deny(NotifyType::NO_PROPOSAL_CHOSEN, reason);
        let offer = Offer::find(payloads).map_err(refuse)?;
        let instance = offer.lineage.map(|lineage| lineage.instance);
        let own = Lineage { instance: self.instance(context.rng), stamp: handshake.stamp };
        let rank = handshake.rank(if initiator { Some(own) } else { offer.lineage });
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
        let pair = match pair {
            Some(pair) => pair,
            None => WireGuardPair::generate(context.rng)
                .map_err(|error| refuse(Refusal(error.to_string())))?,
        };
        let own_offer = Offer { public_key: pair.public, lineage: Some(own) };
        let preshared_key = private::preshared_key(
            handshake.suite.prf,
            &handshake.sk_d,
            &handshake.initiator_nonce,
            &handshake.responder_nonce,
        );
        let keys = pair.keys(offer.public_key, &preshared_key).map_err(refuse)?;
        let initial_contact = private::notify(payloads, NotifyType::INITIAL_CONTACT).is_some();
        let (sk_d, group) = (handshake.sk_d.clone(), handshake.suite.group);
        let newcomer =
            Newcomer { peer, rank, instance, replaced, sk_d, group, keys, initial_contact };
        Ok((own_offer, newcomer))
    }

    /// Both sides are authenticated.
    pub(crate) fn establish(&mut self, context: &mut Context<'_>, sa: &mut Sa, new: Newcomer) {
        let Newcomer { peer, rank, instance, replaced, sk_d, group, keys, initial_contact } = new;
        sa.state = State::Established(Established {
            rank,
            instance,
            certificates: peer.certificates.clone(),
            sk_d,
            group,
            rekey_at: self.rekey_at(context.now, context.rng),
            theirs: None,
        });
        sa.identity = Some(peer.identity.clone());
        self.established.insert((peer.identity.clone(), sa.id));
        self.event(Event::Established {
            sa: sa.id,
            remote: sa.remote,
            initiator: sa.initiator,
            identity: peer.identity,
            certificates: peer.certificates,
            keys,
            initial_contact,
        });
        self.supersede(context.now, sa, replaced, context.rng);
        self.send_queued(context.now, sa, context.rng);
    }
}
