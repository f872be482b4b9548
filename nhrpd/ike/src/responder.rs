//! The side that answers: IKE_SA_INIT and IKE_AUTH (RFC 7296 §1.2).

use std::net::SocketAddr;

use crate::admission::Newcomer;
use crate::auth::{Denial, Proof, request_certificate};
use crate::crypto::keys::{Contributions, Keys};
use crate::crypto::signature;
use crate::crypto::suite::describe;
use crate::engine::{Context, Fate};
use crate::limits::{DropReason, MAX_INIT_LEN};
use crate::private::{self, VENDOR_ID};
use crate::sa::{Handshake, Sa, State};
use crate::wire::{self, Exchange, Header, Notify, NotifyType, Payload, Proposal};
use crate::{Engine, Event, Identity, Refusal, TunnelKeys, TunnelKind};

/// Bytes of our nonces (RFC 7296 §2.10: at least half of the prf's key).
pub(crate) const NONCE_LEN: usize = 32;

/// The payloads of IKE_SA_INIT that matter, of either side.
#[derive(Debug, Default)]
pub(crate) struct InitPayloads {
    pub(crate) proposals: Vec<Proposal>,
    pub(crate) group: u16,
    pub(crate) public: Vec<u8>,
    pub(crate) nonce: Vec<u8>,
    pub(crate) hashes: Vec<u8>,
    pub(crate) cookie: Vec<u8>,
    pub(crate) intermediate: bool,
    pub(crate) fragmentation: bool,
    /// It sent [`VENDOR_ID`].
    pub(crate) ours: bool,
}

impl InitPayloads {
    /// `None` unless SA, KE and nonce are there.
    pub(crate) fn find(payloads: Vec<Payload>) -> Option<Self> {
        let mut found = Self::default();
        for payload in payloads {
            match payload {
                Payload::SecurityAssociation(proposals) => found.proposals = proposals,
                Payload::KeyExchange { group, data } => (found.group, found.public) = (group, data),
                Payload::Nonce(nonce) => found.nonce = nonce,
                Payload::Notify(notify) => match notify.kind {
                    NotifyType::SIGNATURE_HASH_ALGORITHMS => found.hashes = notify.data,
                    NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED => found.intermediate = true,
                    NotifyType::IKEV2_FRAGMENTATION_SUPPORTED => found.fragmentation = true,
                    NotifyType::COOKIE => found.cookie = notify.data,
                    _ => {}
                },
                Payload::VendorId(id) => found.ours |= id == VENDOR_ID,
                _ => {}
            }
        }
        let complete =
            !found.proposals.is_empty() && !found.public.is_empty() && !found.nonce.is_empty();
        complete.then_some(found)
    }
}

impl Engine {
    /// IKE_SA_INIT from anybody: the cheap checks first.
    pub(crate) fn handle_init(
        &mut self,
        context: &mut Context<'_>,
        (port, from): (u16, SocketAddr),
        header: &Header,
        datagram: &[u8],
    ) -> Result<(), DropReason> {
        let first = header.from_initiator && header.responder_spi == 0 && header.message_id == 0;
        if !first || datagram.len() > MAX_INIT_LEN {
            return Err(DropReason::Malformed);
        }
        if let Some(sa) = self.with_origin(from, header.initiator_spi) {
            // RFC 7296 §2.1: a repetition is bitwise the same.
            let State::HalfOpen(handshake) = &sa.state else { return Err(DropReason::Replayed) };
            if handshake.init_request != datagram {
                return Err(DropReason::Replayed);
            }
            let response = handshake.init_response.clone();
            self.transmit(port, from, response);
            return Ok(());
        }
        let (total, per_source) = (self.config.half_open, self.config.half_open_per_source);
        let (nat, mut init) = match wire::decode_plain(header, datagram) {
            Ok(payloads) => {
                let nat = self.detect_nat(&payloads, (header.initiator_spi, 0), port, from);
                (nat, InitPayloads::find(payloads).ok_or(DropReason::Malformed)?)
            }
            Err(wire::Error::UnsupportedCritical(kind)) => {
                let notify = Notify::new(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, [kind]);
                let payloads = [Payload::Notify(notify)];
                self.respond_unprotected((port, from), header, datagram.len(), &payloads);
                return Err(DropReason::Malformed);
            }
            Err(_) => return Err(DropReason::Malformed),
        };
        init.ours &= self.config.extensions;
        if self.half_open.wants_cookie(from.ip(), total, per_source) {
            let (now, spi) = (context.now, header.initiator_spi);
            if !self.cookies.knows(now, &init.cookie, from, spi, &init.nonce) {
                let cookie = self.cookies.make(now, from, spi, &init.nonce, context.rng);
                let payloads = [Payload::Notify(Notify::new(NotifyType::COOKIE, cookie))];
                self.respond_unprotected((port, from), header, datagram.len(), &payloads);
                return Err(DropReason::Cookie);
            }
        }
        self.half_open.admit(from.ip(), total, per_source)?;
        if self.prefers_own(from, &init.nonce) {
            return Err(DropReason::Crossing);
        }
        let (group, intermediate) = (init.group, init.intermediate);
        let choice = self.config.algorithms.choose_for(&init.proposals, group, intermediate);
        let Some(choice) = choice else {
            self.refuse_proposal(context, (port, from), header, datagram, &init);
            return Err(DropReason::NoProposal);
        };
        let group = choice.suite.group;
        if init.group != group.id {
            // RFC 7296 §1.2: nothing is kept; the initiator begins again with this group.
            let notify = Notify::new(NotifyType::INVALID_KE_PAYLOAD, group.id.to_be_bytes());
            let payloads = [Payload::Notify(notify)];
            self.respond_unprotected((port, from), header, datagram.len(), &payloads);
            return Err(DropReason::KeyExchange);
        }
        let private = group.generate(context.rng);
        let shared_secret =
            group.agree(&private, &init.public).map_err(|_| DropReason::KeyExchange)?;
        let public = group.public(&private).map_err(|_| DropReason::KeyExchange)?;
        let mut nonce = vec![0; NONCE_LEN];
        context.rng.fill_bytes(&mut nonce);
        let local_spi = self.fresh_spi(context.rng);
        let keys = Keys::derive(
            &choice.suite,
            &Contributions {
                shared_secret: &shared_secret,
                initiator_nonce: &init.nonce,
                responder_nonce: &nonce,
                initiator_spi: header.initiator_spi,
                responder_spi: local_spi,
            },
            false,
        );
        self.log_ike_keys((header.initiator_spi, local_spi), &choice.suite, &keys);
        let response_header = Header {
            responder_spi: local_spi,
            from_initiator: false,
            response: true,
            version: Header::VERSION,
            ..*header
        };
        let mut payloads = vec![
            Payload::SecurityAssociation(vec![choice.proposal]),
            Payload::KeyExchange { group: group.id, data: public },
            Payload::Nonce(nonce.clone()),
            Payload::Notify(Notify::new(
                NotifyType::SIGNATURE_HASH_ALGORITHMS,
                signature::hash_algorithms(),
            )),
        ];
        payloads.extend(request_certificate(context.credentials));
        if self.config.extensions {
            payloads.push(Payload::VendorId(VENDOR_ID.to_vec()));
        }
        if self.config.tunnels.contains(&TunnelKind::WireGuard) {
            let kind = NotifyType::CHILDLESS_IKEV2_SUPPORTED;
            payloads.push(Payload::Notify(Notify::new(kind, [])));
        }
        if init.fragmentation {
            let kind = NotifyType::IKEV2_FRAGMENTATION_SUPPORTED;
            payloads.push(Payload::Notify(Notify::new(kind, [])));
        }
        if choice.suite.additional.is_some() {
            let kind = NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED;
            payloads.push(Payload::Notify(Notify::new(kind, [])));
        }
        if nat.is_some() {
            payloads.extend(self.nat_detection((header.initiator_spi, local_spi), port, from));
        }
        let init_response = wire::encode_plain(response_header, &payloads);
        self.transmit(port, from, init_response.clone());
        self.half_open.enter(from.ip());
        let mut sa = Sa::new(self.fresh_id(), false, local_spi, (port, from), context.now);
        sa.nat = nat.unwrap_or_default();
        sa.peer_spi = header.initiator_spi;
        sa.origin = Some(from);
        sa.state = State::HalfOpen(Box::new(Handshake {
            suite: choice.suite,
            sk_d: keys.sk_d,
            sk_pi: keys.sk_pi,
            sk_pr: keys.sk_pr,
            initiator_nonce: init.nonce,
            responder_nonce: nonce,
            init_request: datagram.to_vec(),
            init_response,
            peer_hashes: init.hashes,
            ours: init.ours,
            stamp: 0,
            int_auth: None,
            former: None,
        }));
        sa.suite = Some(choice.suite);
        sa.channel = Some(Box::new(keys.channel));
        sa.fragmentation = init.fragmentation;
        sa.expected_request = 1;
        self.insert(sa);
        Ok(())
    }

    fn refuse_proposal(
        &mut self,
        context: &Context<'_>,
        (port, from): (u16, SocketAddr),
        header: &Header,
        datagram: &[u8],
        init: &InitPayloads,
    ) {
        let (theirs, ours) =
            (describe(&init.proposals), describe(&self.config.algorithms.proposals()));
        let theirs = private::printable(theirs.as_bytes());
        let words = format!("no common proposal: initiator has {theirs}; responder has {ours}");
        let payloads = private::refusal(NotifyType::NO_PROPOSAL_CHOSEN, &[], &words, init.ours);
        self.respond_unprotected((port, from), header, datagram.len(), &payloads);
        if self.strangers.admit(context.now) {
            let (sa, remote) = (self.fresh_id(), from);
            let reason = Refusal(words);
            self.event(Event::Failed {
                sa,
                remote,
                initiator: false,
                identity: None,
                reason,
                superseded: false,
            });
        }
    }

    /// IKE_AUTH, decrypted: the first word of somebody who can be identified.
    pub(crate) fn handle_auth(
        &mut self,
        context: &mut Context<'_>,
        sa: &mut Sa,
        payloads: Result<Vec<Payload>, wire::Error>,
    ) -> Fate {
        let State::HalfOpen(handshake) = std::mem::replace(&mut sa.state, State::Refused) else {
            return Fate::Forget;
        };
        match self.accept(context, sa, &handshake, payloads) {
            Ok(Accepted { response, method, newcomer, keys }) => {
                sa.own_auth = Some(method);
                self.respond(sa, Exchange::IKE_AUTH, &response);
                match keys {
                    Ok(keys) => {
                        self.leave_half_open(sa);
                        self.establish(context, sa, newcomer, keys);
                    }
                    Err(reason) => {
                        let identity = newcomer.peer.identity.clone();
                        sa.identity = Some(identity.clone());
                        sa.peer_auth = Some(newcomer.peer.method);
                        sa.state = State::Childless(Box::new(newcomer));
                        if let Some(reason) = reason {
                            let words = format!("we refused the peer's tunnel: {reason}");
                            self.fail(sa, Some(identity), Refusal(words));
                        }
                    }
                }
            }
            Err(denial) => {
                let Denial { notify, data, identity, reason, own_fault } = denial;
                sa.identity.clone_from(&identity);
                let told = if own_fault { "trouble of its own" } else { &reason.0 };
                let refusal = private::refusal(notify, &data, told, handshake.ours);
                self.respond(sa, Exchange::IKE_AUTH, &refusal);
                if notify == NotifyType::SUPERSEDED {
                    self.fail_superseded(sa, identity);
                } else if own_fault {
                    self.fail(sa, identity, reason);
                } else {
                    self.fail(sa, identity, Refusal(format!("we refused the peer: {reason}")));
                }
            }
        }
        Fate::Keep
    }

    fn accept(
        &mut self,
        context: &mut Context<'_>,
        sa: &mut Sa,
        handshake: &Handshake,
        payloads: Result<Vec<Payload>, wire::Error>,
    ) -> Result<Accepted, Denial> {
        let payloads = payloads.map_err(syntax)?;
        let peer = handshake.check_proof(true, &payloads, context.credentials)?;
        let newcomer = self.admit(context, handshake, sa, peer, &payloads, true)?;
        let Proof { payloads: mut response, method } = handshake
            .own_proof(context.credentials, Some(&newcomer.peer))
            .map_err(|reason| Denial {
                own_fault: true,
                ..Denial::new(
                    NotifyType::AUTHENTICATION_FAILED,
                    Some(newcomer.peer.identity.clone()),
                    reason,
                )
            })?;
        if newcomer.replaced.is_empty() {
            response.push(Payload::Notify(Notify::new(NotifyType::INITIAL_CONTACT, [])));
        }
        if sa.mobike {
            response.push(Payload::Notify(Notify::new(NotifyType::MOBIKE_SUPPORTED, [])));
        }
        if handshake.ours {
            response.push(self.lineage(handshake, context.rng).payload());
        }
        // RFC 7296 §1.2: without a tunnel the IKE SA is created all the same.
        let keys = match self.grant_tunnel(context, handshake, sa, &payloads) {
            Some(Ok((grant, keys))) => {
                response.extend(grant);
                Ok(keys)
            }
            Some(Err((kind, reason))) => {
                response.extend(private::refusal(kind, &[], &reason.0, handshake.ours));
                Err(Some(reason))
            }
            None => Err(None),
        };
        Ok(Accepted { response, method, newcomer, keys })
    }
}

struct Accepted {
    response: Vec<Payload>,
    /// How we prove who we are.
    method: &'static str,
    newcomer: Newcomer,
    /// Or why there are none; without a reason where the peer asked for nothing (RFC 6023).
    keys: Result<TunnelKeys, Option<Refusal>>,
}

/// RFC 7296 §2.21: what a message that cannot be decoded is answered with.
pub(crate) fn syntax(error: wire::Error) -> Denial {
    let (kind, data) = syntax_notify(error);
    Denial { data, ..Denial::new(kind, None::<Identity>, Refusal(error.to_string())) }
}

pub(crate) fn syntax_notify(error: wire::Error) -> (NotifyType, Vec<u8>) {
    match error {
        wire::Error::UnsupportedCritical(kind) => {
            (NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, vec![kind])
        }
        _ => (NotifyType::INVALID_SYNTAX, Vec::new()),
    }
}
