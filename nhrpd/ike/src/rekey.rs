//! A new IKE SA in place of an old one, by CREATE_CHILD_SA (RFC 7296 §1.3.2, §2.8, §2.18).
//!
//! The layer above sees what it sees when a peer connects anew: the successor is
//! [`Event::Established`], with a handle and WireGuard keys of its own, and then the predecessor
//! [`Event::Closed`]. So its one way to move traffic from a path to the next serves here too, and a
//! certificate that has expired since is judged again. The WireGuard notify of
//! [`crate::private`] stands in both messages; the pre-shared key comes from the new SK_d. A
//! successor inherits the peer's identity and certificates, and its place in [`crate::crossing`].
//!
//! **Both at once** (RFC 7296 §2.8.2). Each side keeps the successor that the peer began until it
//! knows the fate of its own:
//!
//! 1. The peer answers: of two successors the one with the lowest of the four nonces goes, deleted
//!    by the side that began it. The side that began the other deletes the predecessor.
//! 2. The peer refuses (TEMPORARY_FAILURE), or deletes the predecessor: it has not noticed the
//!    crossing, and its successor is the only one.
//!
//! Whoever waits for a deletion that does not come deletes himself, after [`DELETE_WAIT`].

use std::time::{Duration, Instant};

use rand_core::CryptoRng;

use crate::crypto::group::{Group, PrivateKey};
use crate::crypto::keys::{Contributions, Keys, Secret};
use crate::crypto::suite::Suite;
use crate::engine::{Context, Fate};
use crate::private::{self, Offer, WireGuardPair};
use crate::responder::{InitPayloads, NONCE_LEN};
use crate::sa::{Established, Request, Sa, State};
use crate::wire::{
    self, Exchange, Notify, NotifyType, PROTOCOL_ESP, PROTOCOL_IKE, Payload, Proposal,
};
use crate::{Engine, Event, SaId, TunnelKeys, TunnelKind, WireGuardKeys};

/// Longer than a request is repeated: until then the peer may not have read our answer.
pub(crate) const DELETE_WAIT: Duration = Duration::from_secs(20);
/// A peer that rekeys an SA younger than this is asked to wait.
const SHORTEST_LIFE: Duration = Duration::from_millis(500);
/// After TEMPORARY_FAILURE (RFC 7296 §2.25).
pub(crate) const SOON: Duration = Duration::from_secs(1);
/// After any other refusal.
pub(crate) const LATER: Duration = Duration::from_secs(300);

/// A rekeying that we began and that is not answered.
pub(crate) struct OwnRekey {
    group: &'static Group,
    private: PrivateKey,
    nonce: Vec<u8>,
    local_spi: u64,
    /// With WireGuard.
    pair: Option<WireGuardPair>,
    /// SK_d of the predecessor.
    sk_d: Secret,
}

/// A new SA that the predecessor has not yet made way for.
pub(crate) struct Successor {
    sa: Sa,
    sk_d: Secret,
    /// With WireGuard.
    keys: Option<WireGuardKeys>,
    /// The lower one of the two.
    nonce: Vec<u8>,
}

/// Why there is no successor.
enum Refused {
    /// Try again soon.
    Temporary,
    /// Try again with this group.
    Group(u16),
    Other,
}

impl Engine {
    /// Replaces the keys of an established SA now, as the engine itself does after
    /// [`crate::Config::rekey_interval`].
    pub fn rekey(&mut self, now: Instant, sa: SaId, rng: &mut dyn CryptoRng) {
        let Some(mut sa) = self.take(sa) else { return };
        if let State::Established(established) = &mut sa.state {
            established.rekey_at = Some(now);
            if sa.outstanding.is_none() {
                self.begin_rekey(now, &mut sa, rng);
            }
        }
        self.put(sa);
    }

    /// When an SA that comes up now is rekeyed: up to a fifth before its time, so that the two
    /// sides seldom do it at once.
    pub(crate) fn rekey_at(&self, now: Instant, rng: &mut dyn CryptoRng) -> Option<Instant> {
        let interval = self.config.rekey_interval;
        let early = interval.mul_f64(f64::from(rng.next_u32() >> 16) / 327_680.0);
        now.checked_add(interval.saturating_sub(early))
    }

    pub(crate) fn begin_rekey(&mut self, now: Instant, sa: &mut Sa, rng: &mut dyn CryptoRng) {
        let local_spi = self.fresh_spi(rng);
        let State::Established(established) = &mut sa.state else { return };
        let group = established.group;
        established.rekey_at = now.checked_add(LATER);
        let mut nonce = vec![0; NONCE_LEN];
        rng.fill_bytes(&mut nonce);
        let private = group.generate(rng);
        let pair = match established.kind {
            TunnelKind::WireGuard => WireGuardPair::generate(rng).map(Some),
            TunnelKind::Esp => Ok(None),
        };
        let (Ok(public), Ok(pair)) = (group.public(&private), pair) else { return };
        let payloads = rekey_payloads(
            self.config.algorithms.for_rekeying().proposals(),
            local_spi,
            group,
            public,
            nonce.clone(),
            pair.as_ref(),
        );
        let sk_d = established.sk_d.clone();
        sa.rekey = Some(Box::new(OwnRekey { group, private, nonce, local_spi, pair, sk_d }));
        self.send_request(now, sa, Request::Rekey, &payloads, rng);
    }

    /// The peer's CREATE_CHILD_SA.
    pub(crate) fn handle_rekey_request(
        &mut self,
        context: &mut Context<'_>,
        sa: &mut Sa,
        payloads: Vec<Payload>,
    ) {
        let esp = |p: &Proposal| p.protocol == PROTOCOL_ESP;
        let child = |payload: &Payload| matches!(payload, Payload::SecurityAssociation(all) if all.iter().any(esp));
        if payloads.iter().any(child) {
            return self.handle_child_request(context, sa, &payloads);
        }
        let exchange = Exchange::CREATE_CHILD_SA;
        let (response, successor) = match self.accept_rekey(context, sa, payloads) {
            Ok(accepted) => accepted,
            Err(notify) => return self.respond(sa, exchange, &[Payload::Notify(notify)]),
        };
        self.respond(sa, exchange, &response);
        match &mut sa.state {
            State::Established(established) if sa.rekey.is_some() => {
                established.theirs = Some(Box::new(successor));
            }
            _ => self.succeed(context.now, sa, successor, false, context.rng),
        }
    }

    fn accept_rekey(
        &mut self,
        context: &mut Context<'_>,
        sa: &Sa,
        payloads: Vec<Payload>,
    ) -> Result<(Vec<Payload>, Successor), Notify> {
        let refuse = |kind| Notify::new(kind, []);
        let offer = Offer::find(&payloads);
        let Some(init) = InitPayloads::find(payloads)
            .filter(|init| init.proposals.iter().any(|p| p.protocol == PROTOCOL_IKE))
        else {
            // RFC 7296 §1.3: an SA that has its one tunnel and takes no more.
            return Err(refuse(NotifyType::NO_ADDITIONAL_SAS));
        };
        let State::Established(established) = &sa.state else {
            return Err(refuse(NotifyType::TEMPORARY_FAILURE));
        };
        let age = context.now.saturating_duration_since(sa.begun);
        // RFC 7296 §2.25.2: not while a CHILD_SA of this SA is being made or deleted.
        let busy = sa.child.is_some()
            || matches!(&sa.outstanding, Some(o) if matches!(o.request, Request::DeleteChild(_)));
        if established.theirs.is_some() || age < SHORTEST_LIFE || busy {
            return Err(refuse(NotifyType::TEMPORARY_FAILURE));
        }
        let unacceptable = || refuse(NotifyType::NO_PROPOSAL_CHOSEN);
        let (pair, theirs) = match (established.kind, offer) {
            (TunnelKind::Esp, _) => (None, None),
            (TunnelKind::WireGuard, Some(Ok(offer))) => {
                let pair = WireGuardPair::generate(context.rng).map_err(|_| unacceptable())?;
                (Some(pair), Some(offer))
            }
            (TunnelKind::WireGuard, _) => return Err(unacceptable()),
        };
        let proposals: Vec<Proposal> = init.proposals.iter().filter_map(without_spi).collect();
        let choice = self
            .config
            .algorithms
            .for_rekeying()
            .choose(&proposals, init.group)
            .ok_or_else(unacceptable)?;
        let named = init.proposals.iter().find(|p| p.number == choice.proposal.number);
        let peer_spi = named.and_then(spi).ok_or_else(unacceptable)?;
        let group = choice.suite.group;
        if group.id != init.group {
            let kind = NotifyType::INVALID_KE_PAYLOAD;
            return Err(Notify::new(kind, group.id.to_be_bytes()));
        }
        let private = group.generate(context.rng);
        let secret = group.agree(&private, &init.public).map_err(|_| unacceptable())?;
        let public = group.public(&private).map_err(|_| unacceptable())?;
        let mut nonce = vec![0; NONCE_LEN];
        context.rng.fill_bytes(&mut nonce);
        let local_spi = self.fresh_spi(context.rng);
        let response = rekey_payloads(
            vec![choice.proposal],
            local_spi,
            group,
            public,
            nonce.clone(),
            pair.as_ref(),
        );
        let contributions = Contributions {
            shared_secret: &secret,
            initiator_nonce: &init.nonce,
            responder_nonce: &nonce,
            initiator_spi: peer_spi,
            responder_spi: local_spi,
        };
        let (suite, sk_d) = (choice.suite, &established.sk_d);
        let successor = self
            .successor(context.now, sa, suite, sk_d, &contributions, false, pair.zip(theirs))
            .ok_or_else(unacceptable)?;
        Ok((response, successor))
    }

    /// The peer's answer to our CREATE_CHILD_SA.
    pub(crate) fn handle_rekey_response(
        &mut self,
        context: &mut Context<'_>,
        sa: &mut Sa,
        payloads: Result<Vec<Payload>, wire::Error>,
    ) -> Fate {
        let Some(own) = sa.rekey.take() else { return Fate::Keep };
        let theirs = match &mut sa.state {
            State::Established(established) => established.theirs.take(),
            _ => None,
        };
        let (now, established) = (context.now, sa.is_established());
        match (self.complete_rekey(now, sa, *own, payloads), theirs) {
            (Ok(ours), _) if !established => self.discard(now, ours, true, context.rng),
            (Ok(ours), Some(theirs)) if ours.nonce < theirs.nonce => {
                self.discard(now, ours, true, context.rng);
                self.succeed(now, sa, *theirs, false, context.rng);
            }
            (Ok(ours), theirs) => {
                if let Some(theirs) = theirs {
                    self.discard(now, *theirs, false, context.rng);
                }
                self.succeed(now, sa, ours, true, context.rng);
            }
            (Err(_), Some(theirs)) => self.succeed(now, sa, *theirs, false, context.rng),
            (Err(refused), None) => self.postpone_rekey(now, sa, &refused, context.rng),
        }
        Fate::Keep
    }

    fn postpone_rekey(
        &self,
        now: Instant,
        sa: &mut Sa,
        refused: &Refused,
        rng: &mut dyn CryptoRng,
    ) {
        let State::Established(established) = &mut sa.state else { return };
        let pause = match *refused {
            Refused::Group(id) if id != established.group.id => {
                match self.config.algorithms.group(id) {
                    Some(group) => {
                        established.group = group;
                        Duration::ZERO
                    }
                    None => LATER,
                }
            }
            Refused::Temporary => SOON + SOON.mul_f64(f64::from(rng.next_u32() >> 16) / 65_536.0),
            Refused::Group(_) | Refused::Other => LATER,
        };
        established.rekey_at = now.checked_add(pause);
    }

    fn complete_rekey(
        &mut self,
        now: Instant,
        sa: &Sa,
        own: OwnRekey,
        payloads: Result<Vec<Payload>, wire::Error>,
    ) -> Result<Successor, Refused> {
        let payloads = payloads.map_err(|_| Refused::Other)?;
        if let Some(group) = private::notify(&payloads, NotifyType::INVALID_KE_PAYLOAD) {
            let group = group.try_into().map_err(|_| Refused::Other)?;
            return Err(Refused::Group(u16::from_be_bytes(group)));
        }
        if private::notify(&payloads, NotifyType::TEMPORARY_FAILURE).is_some() {
            return Err(Refused::Temporary);
        }
        let offer = Offer::find(&payloads).transpose().map_err(|_| Refused::Other)?;
        if own.pair.is_some() && offer.is_none() {
            return Err(Refused::Other);
        }
        let init = InitPayloads::find(payloads).ok_or(Refused::Other)?;
        let peer_spi = init.proposals.first().and_then(spi).ok_or(Refused::Other)?;
        let chosen: Vec<Proposal> = init.proposals.iter().filter_map(without_spi).collect();
        let suite = self
            .config
            .algorithms
            .for_rekeying()
            .accept(&chosen, own.group.id)
            .ok_or(Refused::Other)?;
        if init.group != own.group.id {
            return Err(Refused::Other);
        }
        let secret = own.group.agree(&own.private, &init.public).map_err(|_| Refused::Other)?;
        let contributions = Contributions {
            shared_secret: &secret,
            initiator_nonce: &own.nonce,
            responder_nonce: &init.nonce,
            initiator_spi: own.local_spi,
            responder_spi: peer_spi,
        };
        self.successor(now, sa, suite, &own.sk_d, &contributions, true, own.pair.zip(offer))
            .ok_or(Refused::Other)
    }

    #[allow(clippy::too_many_arguments, reason = "what both roles have in common")]
    fn successor(
        &mut self,
        now: Instant,
        old: &Sa,
        suite: Suite,
        sk_d: &Secret,
        from: &Contributions<'_>,
        initiator: bool,
        wireguard: Option<(WireGuardPair, Offer)>,
    ) -> Option<Successor> {
        let former = old.suite?;
        let suite = Suite { additional: former.additional, ..suite };
        let keys = Keys::derive_from(former.prf, sk_d, &suite, from, initiator);
        self.log_ike_keys((from.initiator_spi, from.responder_spi), &suite, &keys);
        let (ni, nr) = (from.initiator_nonce, from.responder_nonce);
        let wireguard = match wireguard {
            Some((pair, offer)) => {
                let preshared_key = private::preshared_key(suite.prf, &keys.sk_d, ni, nr);
                Some(pair.keys(offer.public_key, &preshared_key).ok()?)
            }
            None => None,
        };
        let (local_spi, peer_spi) = if initiator {
            (from.initiator_spi, from.responder_spi)
        } else {
            (from.responder_spi, from.initiator_spi)
        };
        let mut sa = Sa::new(self.fresh_id(), initiator, local_spi, (old.port, old.remote), now);
        sa.peer_spi = peer_spi;
        sa.suite = Some(suite);
        sa.channel = Some(Box::new(keys.channel));
        sa.fragmentation = old.fragmentation;
        (sa.own_auth, sa.peer_auth) = (old.own_auth, old.peer_auth);
        sa.identity.clone_from(&old.identity);
        Some(Successor { sa, sk_d: keys.sk_d, keys: wireguard, nonce: ni.min(nr).to_vec() })
    }

    /// `old` makes way; `delete` if it is on us to say so.
    pub(crate) fn succeed(
        &mut self,
        now: Instant,
        old: &mut Sa,
        new: Successor,
        delete: bool,
        rng: &mut dyn CryptoRng,
    ) {
        let State::Established(former) = std::mem::replace(&mut old.state, State::Closing) else {
            return;
        };
        let (Successor { mut sa, sk_d, keys, .. }, Some(identity)) = (new, old.identity.clone())
        else {
            return;
        };
        (sa.port, sa.remote) = (old.port, old.remote);
        (sa.nat, sa.mobike) = (old.nat, old.mobike);
        if old.has_update() {
            sa.queue.push_back(Request::Update);
        }
        let of_child = |request: &Request| matches!(request, Request::DeleteChild(_));
        sa.queue.extend(old.queue.iter().filter(|request| of_child(request)).cloned());
        self.established.insert((identity.clone(), sa.id));
        match keys {
            Some(keys) => {
                let tunnel = self.fresh_tunnel();
                self.event(Event::Established {
                    sa: sa.id,
                    remote: sa.remote,
                    initiator: sa.initiator,
                    identity,
                    certificates: former.certificates.clone(),
                    tunnel,
                    keys: TunnelKeys::WireGuard(keys),
                    initial_contact: false,
                });
                self.depart(old, format!("rekeyed: SA {} with the same peer", sa.id.0));
            }
            None => {
                self.established.remove(&(identity.clone(), old.id));
                let (sa, successor) = (old.id, sa.id);
                let certificates = former.certificates.clone();
                self.event(Event::Succeeded { sa, successor, identity, certificates });
            }
        }
        let group = sa.suite.map_or(former.group, |suite| suite.group);
        let rekey_at = self.rekey_at(now, rng);
        sa.state = State::Established(Established { sk_d, group, rekey_at, ..former });
        self.retire(now, old, delete, rng);
        self.send_queued(now, &mut sa, rng);
        self.insert(sa);
    }

    /// Ends a successor that the layer above has never heard of.
    pub(crate) fn discard(
        &mut self,
        now: Instant,
        successor: Successor,
        delete: bool,
        rng: &mut dyn CryptoRng,
    ) {
        let mut sa = successor.sa;
        self.retire(now, &mut sa, delete, rng);
        self.insert(sa);
    }

    fn retire(&mut self, now: Instant, sa: &mut Sa, delete: bool, rng: &mut dyn CryptoRng) {
        sa.delete_at = Some(now + DELETE_WAIT);
        if delete {
            self.begin_closing(now, sa, Request::Delete, rng);
        } else {
            sa.queue.clear();
        }
    }
}

fn rekey_payloads(
    proposals: Vec<Proposal>,
    local_spi: u64,
    group: &Group,
    public: Vec<u8>,
    nonce: Vec<u8>,
    pair: Option<&WireGuardPair>,
) -> Vec<Payload> {
    let spi = local_spi.to_be_bytes();
    let proposals = proposals.into_iter().map(|proposal| Proposal { spi: spi.into(), ..proposal });
    let mut payloads = vec![
        Payload::SecurityAssociation(proposals.collect()),
        Payload::Nonce(nonce),
        Payload::KeyExchange { group: group.id, data: public },
    ];
    payloads.extend(pair.map(|pair| Offer { public_key: pair.public }.payload()));
    payloads
}

/// The SPI that a proposal for an IKE SA carries when rekeying (RFC 7296 §3.3.1).
fn spi(proposal: &Proposal) -> Option<u64> {
    let spi = u64::from_be_bytes(proposal.spi.as_slice().try_into().ok()?);
    (spi != 0).then_some(spi)
}

/// As a proposal of IKE_SA_INIT looks.
fn without_spi(proposal: &Proposal) -> Option<Proposal> {
    spi(proposal)?;
    Some(Proposal { spi: Vec::new(), ..proposal.clone() })
}
