//! New CHILD_SAs on an SA that is up, by CREATE_CHILD_SA (RFC 7296 §1.3.1, §1.3.3, §2.8).
//!
//! The layer above sees [`Event::Keyed`] with a new tunnel, [`Event::Confirmed`] when traffic may
//! move to it, and nothing of the old one's end: who has moved needs it no more. Make before break:
//!
//! 1. Who answers has the new pair in place before its answer leaves, and goes on sending with the
//!    old one.
//! 2. Who began has it in place when the answer comes, sends with it from then on, and deletes the
//!    old one.
//! 3. The deletion shows who answered that the other is ready: now it sends with the new one too.
//!
//! **Both at once** (§2.8.1): of the two new pairs the one with the lowest of the four nonces goes,
//! deleted by the side that began it; the other side deletes the old pair. **Beside other things**
//! (§2.25): what crosses a rekeying of the IKE SA, or the deletion of the same CHILD_SA, is told
//! TEMPORARY_FAILURE. Whoever waits for a deletion that does not come deletes himself.

use std::time::{Duration, Instant};

use rand_core::CryptoRng;

use crate::child::{self, CONFIRM_WAIT, Child, Seed, TOLD_WAIT};
use crate::crypto::group::{Group, PrivateKey};
use crate::engine::Context;
use crate::private::{self, peer_refusal};
use crate::rekey::{DELETE_WAIT, LATER, SOON};
use crate::responder::NONCE_LEN;
use crate::sa::{Request, Sa, State};
use crate::tunnel::{ChildPayloads, child_payloads};
use crate::wire::{self, Exchange, Notify, NotifyType, PROTOCOL_ESP, Payload, Proposal};
use crate::{Engine, Event, SaId, TunnelId, TunnelKeys, TunnelKind};

/// CHILD_SAs of one IKE SA: the old one, its successor and another in a crossing, and as many that
/// are being deleted.
const MAX_CHILDREN: usize = 6;

/// A CHILD_SA that we asked for and that is not answered.
pub(crate) struct OwnChild {
    old: TunnelId,
    spi: u32,
    nonce: Vec<u8>,
    group: Option<(&'static Group, PrivateKey)>,
    /// What the peer's exchange that crosses this one made, and its lower nonce.
    theirs: Option<(TunnelId, Vec<u8>)>,
}

/// What becomes of the old CHILD_SA when there is no new one.
enum Refused {
    Soon,
    Group(u16),
    Later,
    /// The peer does not have it.
    Unknown,
    /// The peer makes no further one in this IKE SA (RFC 7296 §1.3).
    Never,
}

impl Engine {
    /// Replaces the keys of one CHILD_SA now: its volume is used up. With WireGuard, and for one
    /// that is being replaced already, nothing happens.
    pub fn rekey_tunnel(&mut self, now: Instant, sa: SaId, tunnel: TunnelId) {
        let Some(mut sa) = self.take(sa) else { return };
        if let Some(child) = find(&mut sa, tunnel)
            && child.rekey_at.is_some()
        {
            child.rekey_at = Some(now);
        }
        self.put(sa);
    }

    /// What is due of the CHILD_SAs of an SA without a request under way; `true` if there is one
    /// under way now.
    pub(crate) fn handle_child_deadlines(
        &mut self,
        now: Instant,
        sa: &mut Sa,
        rng: &mut dyn CryptoRng,
    ) -> bool {
        let State::Established(established) = &mut sa.state else { return false };
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if let Some(child) = established.children.iter().find(|child| due(child.rekey_at)) {
            let old = child.id;
            self.begin_child_rekey(now, sa, old, rng);
        } else if let Some(child) = established.children.iter().find(|c| due(c.delete_at)) {
            let old = child.id;
            self.delete_child(sa, old);
            self.send_queued(now, sa, rng);
        }
        sa.outstanding.is_some()
    }

    fn begin_child_rekey(
        &mut self,
        now: Instant,
        sa: &mut Sa,
        old: TunnelId,
        rng: &mut dyn CryptoRng,
    ) {
        let (Ok(own), remote) = (self.own_address(sa.remote), sa.remote.ip()) else {
            self.postpone_child(now, sa, old, LATER);
            return;
        };
        let agreed = sa.suite.map(|suite| suite.group);
        let Some(child) = find(sa, old) else { return };
        child.rekey_at = now.checked_add(LATER);
        let inbound = child.inbound;
        let first = child.group.or_else(|| {
            let groups = &self.config.esp.first()?.groups;
            // What both have is known of the IKE SA; libreswan 4.10 ends the exchange on another.
            let known = groups.iter().flatten().find(|g| agreed.is_some_and(|a| a.id == g.id));
            groups[0].map(|preferred| known.copied().unwrap_or(preferred))
        });
        let group = first.map(|group| (group, group.generate(rng)));
        let public = group.as_ref().map(|(group, private)| group.public(private));
        let Ok(public) = public.transpose() else { return };
        let spi = self.fresh_esp_spi(rng);
        let mut nonce = vec![0; NONCE_LEN];
        rng.fill_bytes(&mut nonce);
        let proposals = child::proposals(&self.config.esp, spi);
        let rekey = Notify {
            protocol: PROTOCOL_ESP,
            spi: inbound.to_be_bytes().into(),
            kind: NotifyType::REKEY_SA,
            data: Vec::new(),
        };
        let mut payloads = vec![Payload::Notify(rekey)];
        payloads.extend(child_payloads(proposals, child::gre(own), child::gre(remote)));
        payloads.push(Payload::Nonce(nonce.clone()));
        let key = group.as_ref().map(|(group, _)| group.id).zip(public);
        payloads.extend(key.map(|(group, data)| Payload::KeyExchange { group, data }));
        sa.child = Some(Box::new(OwnChild { old, spi, nonce, group, theirs: None }));
        self.send_request(now, sa, Request::Child, &payloads, rng);
    }

    /// The peer's CREATE_CHILD_SA for a CHILD_SA.
    pub(crate) fn handle_child_request(
        &mut self,
        context: &mut Context<'_>,
        sa: &mut Sa,
        payloads: &[Payload],
    ) {
        let exchange = Exchange::CREATE_CHILD_SA;
        if matches!(sa.state, State::Childless(_)) {
            return self.handle_first_child(context, sa, payloads);
        }
        match self.accept_child(context, sa, payloads) {
            Ok((response, child, keys, replaces)) => {
                self.respond(sa, exchange, &response);
                self.install_child(sa, child, keys, false, replaces);
            }
            Err(notify) => self.respond(sa, exchange, &[Payload::Notify(notify)]),
        }
    }

    /// RFC 7296 §1.3.1: the first one of an SA whose IKE_AUTH made none.
    fn handle_first_child(&mut self, context: &mut Context<'_>, sa: &mut Sa, payloads: &[Payload]) {
        let State::Childless(mut newcomer) = std::mem::replace(&mut sa.state, State::Closing)
        else {
            return;
        };
        sa.state = State::Established(newcomer.established(TunnelKind::Esp));
        let seated = match self.seat(&mut newcomer) {
            Ok(()) => self.accept_child(context, sa, payloads),
            Err(_) => Err(Notify::new(NotifyType::TEMPORARY_FAILURE, [])),
        };
        match seated {
            Ok((response, child, keys, _)) => {
                self.leave_half_open(sa);
                self.respond(sa, Exchange::CREATE_CHILD_SA, &response);
                self.announce(context, sa, *newcomer, (child.id, keys), Some(child));
            }
            Err(notify) => {
                self.respond(sa, Exchange::CREATE_CHILD_SA, &[Payload::Notify(notify)]);
                sa.state = State::Childless(newcomer);
            }
        }
    }

    #[allow(clippy::type_complexity, reason = "used twice")]
    fn accept_child(
        &mut self,
        context: &mut Context<'_>,
        sa: &mut Sa,
        payloads: &[Payload],
    ) -> Result<(Vec<Payload>, Child, TunnelKeys, Option<TunnelId>), Notify> {
        let refuse = |kind| Notify::new(kind, []);
        let remote = sa.remote;
        let rekeying = sa.rekey.is_some();
        let (prf, nat) = (sa.suite.map(|suite| suite.prf), sa.nat.any());
        let State::Established(established) = &mut sa.state else {
            return Err(refuse(NotifyType::TEMPORARY_FAILURE));
        };
        if established.kind == TunnelKind::WireGuard {
            // RFC 7296 §1.3: an SA that has its one tunnel and takes no more.
            return Err(refuse(NotifyType::NO_ADDITIONAL_SAS));
        }
        if rekeying || established.theirs.is_some() {
            return Err(refuse(NotifyType::TEMPORARY_FAILURE));
        }
        if established.children.len() >= MAX_CHILDREN {
            return Err(refuse(NotifyType::NO_ADDITIONAL_SAS));
        }
        let old = match rekeyed(payloads) {
            Some(notify) => {
                let spi = child::spi(&notify.spi).filter(|_| notify.protocol == PROTOCOL_ESP);
                let named = |child: &&Child| Some(child.outbound) == spi;
                // RFC 7296 §2.25: the notify names what was not found.
                let missing = Notify {
                    kind: NotifyType::CHILD_SA_NOT_FOUND,
                    data: Vec::new(),
                    ..notify.clone()
                };
                let old = established.children.iter().find(named).ok_or(missing)?;
                if old.deleting || old.successor.is_some() {
                    return Err(refuse(NotifyType::TEMPORARY_FAILURE));
                }
                Some(old.id)
            }
            None => None,
        };
        let unacceptable = || refuse(NotifyType::NO_PROPOSAL_CHOSEN);
        if !self.config.tunnels.contains(&TunnelKind::Esp) || self.check_encapsulation(sa).is_err()
        {
            return Err(unacceptable());
        }
        let asked = ChildPayloads::find(payloads).ok_or_else(unacceptable)?;
        let nonce = nonce(payloads).ok_or_else(|| refuse(NotifyType::INVALID_SYNTAX))?;
        let offered = key_exchange(payloads);
        let method = offered.map(|(group, _)| group);
        let choice =
            child::choose(&self.config.esp, asked.proposals, method).ok_or_else(unacceptable)?;
        if let Some(group) = choice.group
            && Some(group.id) != method
        {
            return Err(Notify::new(NotifyType::INVALID_KE_PAYLOAD, group.id.to_be_bytes()));
        }
        let (initiator, responder) =
            self.agree_selectors(remote, &asked).map_err(|(kind, _)| refuse(kind))?;
        let (mut key, mut secret) = (None, None);
        if let (Some(group), Some((_, public))) = (choice.group, offered) {
            let private = group.generate(context.rng);
            secret = Some(group.agree(&private, public).map_err(|_| unacceptable())?);
            let data = group.public(&private).map_err(|_| unacceptable())?;
            key = Some(Payload::KeyExchange { group: group.id, data });
        }
        let mut own_nonce = vec![0; NONCE_LEN];
        context.rng.fill_bytes(&mut own_nonce);
        let spi = self.fresh_esp_spi(context.rng);
        let lifetime = self.lifetime();
        let State::Established(established) = &mut sa.state else {
            return Err(refuse(NotifyType::TEMPORARY_FAILURE));
        };
        let seed = Seed {
            prf: prf.ok_or_else(unacceptable)?,
            sk_d: &established.sk_d,
            shared_secret: secret.as_ref().map(|secret| &secret[..]),
            initiator_nonce: nonce,
            responder_nonce: &own_nonce,
        };
        let esp = seed.derive(choice.terms, spi, false, (nat, lifetime));
        let rekey_at = self.rekey_at(context.now, context.rng);
        let wait = if old.is_some() { TOLD_WAIT } else { CONFIRM_WAIT };
        let confirm_at = Some(context.now + wait);
        let mut child = Child::new(self.fresh_tunnel(), &esp, confirm_at, context.now, rekey_at);
        child.group = choice.group;
        // Without REKEY_SA it stands beside the others: they go when it is in use.
        for former in &mut established.children {
            if old.is_none_or(|old| former.id == old) && !former.deleting {
                let crossing = sa.child.as_mut().filter(|own| own.old == former.id);
                former.successor = Some(child.id);
                former.rekey_at = None;
                let wait = if old.is_some() { DELETE_WAIT } else { SOON };
                former.delete_at = context.now.checked_add(wait);
                if let Some(own) = crossing {
                    own.theirs = Some((child.id, nonce.min(&own_nonce[..]).to_vec()));
                }
            }
        }
        let proposal = Proposal { spi: spi.to_be_bytes().into(), ..choice.proposal };
        let mut response = child_payloads(vec![proposal], initiator, responder);
        response.push(Payload::Nonce(own_nonce));
        response.extend(key);
        Ok((response, child, TunnelKeys::Esp(esp), old))
    }

    fn install_child(
        &mut self,
        sa: &mut Sa,
        child: Child,
        keys: TunnelKeys,
        initiator: bool,
        replaces: Option<TunnelId>,
    ) {
        self.event(Event::Keyed { sa: sa.id, tunnel: child.id, initiator, keys, replaces });
        self.add_child(sa, child);
    }

    /// The peer's answer to our CREATE_CHILD_SA for a CHILD_SA.
    pub(crate) fn handle_child_response(
        &mut self,
        context: &mut Context<'_>,
        sa: &mut Sa,
        payloads: Result<Vec<Payload>, wire::Error>,
    ) {
        let Some(mut own) = sa.child.take() else { return };
        let (old, theirs) = (own.old, own.theirs.take());
        let granted = payloads
            .map_err(|_| Refused::Later)
            .and_then(|payloads| self.complete_child(context, sa, &own, &payloads));
        match (granted, theirs) {
            (Ok((child, keys, lowest)), theirs) => {
                if !sa.is_established() {
                    return;
                }
                if theirs.as_ref().is_some_and(|(_, theirs)| lowest < *theirs) {
                    // The peer's lives, and the peer deletes the old one.
                    let spi = child.inbound.to_be_bytes();
                    sa.queue.push_back(Request::DeleteChild(spi));
                    return;
                }
                let id = child.id;
                if let Some(theirs) = theirs.and_then(|(theirs, _)| find(sa, theirs)) {
                    // Nobody sends with it; the peer deletes it.
                    (theirs.confirm_at, theirs.rekey_at) = (None, None);
                    theirs.successor = Some(id);
                    theirs.delete_at = context.now.checked_add(DELETE_WAIT);
                }
                self.install_child(sa, child, keys, true, Some(old));
                if let Some(former) = find(sa, old) {
                    former.successor = Some(id);
                    self.delete_child(sa, old);
                }
            }
            // Their new one is there, and they delete the old one.
            (Err(_), Some(_)) => {}
            (Err(refused), None) => self.child_refused(context, sa, old, &refused),
        }
        self.close_without_children(context.now, sa, context.rng);
    }

    fn complete_child(
        &mut self,
        context: &mut Context<'_>,
        sa: &Sa,
        own: &OwnChild,
        payloads: &[Payload],
    ) -> Result<(Child, TunnelKeys, Vec<u8>), Refused> {
        if let Some(group) = private::notify(payloads, NotifyType::INVALID_KE_PAYLOAD) {
            let group = group.try_into().map_err(|_| Refused::Later)?;
            return Err(Refused::Group(u16::from_be_bytes(group)));
        }
        if let Some((kind, _)) = peer_refusal(payloads) {
            return Err(match kind {
                NotifyType::TEMPORARY_FAILURE => Refused::Soon,
                NotifyType::CHILD_SA_NOT_FOUND => Refused::Unknown,
                NotifyType::NO_ADDITIONAL_SAS => Refused::Never,
                _ => Refused::Later,
            });
        }
        let State::Established(established) = &sa.state else { return Err(Refused::Later) };
        let granted = ChildPayloads::find(payloads).ok_or(Refused::Later)?;
        let nonce = nonce(payloads).ok_or(Refused::Later)?;
        let answered = key_exchange(payloads);
        let method = answered.map(|(group, _)| group);
        let terms =
            self.check_grant(sa, &granted, &self.config.esp, method).map_err(|_| Refused::Later)?;
        let secret = match (&own.group, answered) {
            (Some((group, private)), Some((answered, public))) if answered == group.id => {
                Some(group.agree(private, public).map_err(|_| Refused::Later)?)
            }
            (_, None) => None,
            _ => return Err(Refused::Later),
        };
        let seed = Seed {
            prf: sa.suite.ok_or(Refused::Later)?.prf,
            sk_d: &established.sk_d,
            shared_secret: secret.as_ref().map(|secret| &secret[..]),
            initiator_nonce: &own.nonce,
            responder_nonce: nonce,
        };
        let esp = seed.derive(terms, own.spi, true, (sa.nat.any(), self.lifetime()));
        let rekey_at = self.rekey_at(context.now, context.rng);
        let mut child = Child::new(self.fresh_tunnel(), &esp, None, context.now, rekey_at);
        child.group = own.group.as_ref().map(|(group, _)| *group).filter(|_| secret.is_some());
        let lowest = Ord::min(&own.nonce[..], nonce).to_vec();
        Ok((child, TunnelKeys::Esp(esp), lowest))
    }

    fn child_refused(
        &mut self,
        context: &mut Context<'_>,
        sa: &mut Sa,
        old: TunnelId,
        refused: &Refused,
    ) {
        let pause = match *refused {
            Refused::Group(id) => {
                let groups = self.config.esp.iter().flat_map(|esp| esp.groups.iter().flatten());
                let group = groups.copied().find(|group| group.id == id);
                match (group, find(sa, old)) {
                    (Some(group), Some(child)) if child.group.map(|g| g.id) != Some(id) => {
                        child.group = Some(group);
                        Duration::ZERO
                    }
                    _ => LATER,
                }
            }
            Refused::Soon => {
                let chance = f64::from(context.rng.next_u32() >> 16) / 65_536.0;
                SOON + SOON.mul_f64(chance)
            }
            Refused::Later => LATER,
            Refused::Unknown => {
                self.forget_child(sa, old, "the peer does not know it any more");
                return;
            }
            Refused::Never => {
                if sa.is_established() {
                    self.depart(sa, "the peer makes no further CHILD_SA: connecting anew".into());
                    self.begin_closing(context.now, sa, Request::Delete, context.rng);
                }
                return;
            }
        };
        self.postpone_child(context.now, sa, old, pause);
    }

    fn postpone_child(&self, now: Instant, sa: &mut Sa, old: TunnelId, pause: Duration) {
        if let Some(child) = find(sa, old)
            && child.successor.is_none()
        {
            child.rekey_at = now.checked_add(pause);
        }
    }

    /// Tells the peer; the CHILD_SA is forgotten when the peer confirms it.
    fn delete_child(&mut self, sa: &mut Sa, tunnel: TunnelId) {
        let Some(child) = find(sa, tunnel) else { return };
        child.rekey_at = None;
        child.delete_at = None;
        if !std::mem::replace(&mut child.deleting, true) {
            let spi = child.inbound.to_be_bytes();
            sa.queue.push_back(Request::DeleteChild(spi));
        }
    }

    /// The peer has confirmed a deletion of ours.
    pub(crate) fn child_deleted(&mut self, sa: &mut Sa, inbound: [u8; 4]) {
        let State::Established(established) = &sa.state else { return };
        let inbound = u32::from_be_bytes(inbound);
        let gone = established.children.iter().find(|child| child.inbound == inbound);
        if let Some(id) = gone.map(|child| child.id) {
            self.forget_child(sa, id, "deleted by us");
        }
    }

    fn forget_child(&mut self, sa: &mut Sa, tunnel: TunnelId, reason: &str) {
        let State::Established(established) = &mut sa.state else { return };
        for child in established.children.extract_if(.., |child| child.id == tunnel) {
            self.esp_spis.remove(&child.inbound);
            let reason = reason.to_owned();
            let event = Event::Unkeyed { sa: sa.id, tunnel: child.id, reason };
            self.outputs.push_back(crate::Output::Event(event));
        }
    }

    /// An IKE SA that keys nothing is of no use: who needs a tunnel begins anew.
    pub(crate) fn close_without_children(
        &mut self,
        now: Instant,
        sa: &mut Sa,
        rng: &mut dyn CryptoRng,
    ) {
        let State::Established(established) = &sa.state else { return };
        let bare = established.kind == TunnelKind::Esp && established.children.is_empty();
        if bare && sa.child.is_none() {
            self.depart(sa, "its last CHILD_SA is gone".into());
            self.begin_closing(now, sa, Request::Delete, rng);
        }
    }
}

fn find(sa: &mut Sa, tunnel: TunnelId) -> Option<&mut Child> {
    let State::Established(established) = &mut sa.state else { return None };
    established.children.iter_mut().find(|child| child.id == tunnel)
}

fn rekeyed(payloads: &[Payload]) -> Option<&Notify> {
    payloads.iter().find_map(|payload| match payload {
        Payload::Notify(notify) if notify.kind == NotifyType::REKEY_SA => Some(notify),
        _ => None,
    })
}

fn nonce(payloads: &[Payload]) -> Option<&[u8]> {
    payloads.iter().find_map(|payload| match payload {
        Payload::Nonce(nonce) => Some(&nonce[..]),
        _ => None,
    })
}

fn key_exchange(payloads: &[Payload]) -> Option<(u16, &[u8])> {
    payloads.iter().find_map(|payload| match payload {
        Payload::KeyExchange { group, data } => Some((*group, &data[..])),
        _ => None,
    })
}
