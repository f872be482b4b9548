//! The side that begins: IKE_SA_INIT and IKE_AUTH (RFC 7296 §1.2).

use std::net::SocketAddr;
use std::time::Instant;

use rand_core::CryptoRng;

use crate::auth::{Denial, Proof};
use crate::cookie::{MAX_COOKIES, is_acceptable};
use crate::crypto::group::InvalidPublicValue;
use crate::crypto::keys::{Contributions, Keys};
use crate::crypto::signature;
use crate::crypto::suite::describe;
use crate::engine::{Context, Fate};
use crate::limits::DropReason;
use crate::nat::PLAIN_PORT;
use crate::private::{self, VENDOR_ID, peer_refusal};
use crate::responder::{InitPayloads, NONCE_LEN, syntax};
use crate::sa::{Handshake, InitSent, Request, Sa, State};
use crate::wire::{self, Delete, Header, Notify, NotifyType, Payload};
use crate::{Credentials, Engine, Refusal, SaId};

impl Engine {
    /// Starts an IKE SA with `remote`. The credentials are asked for when the peer has answered,
    /// in [`Self::handle_datagram`].
    pub fn initiate(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        _credentials: &dyn Credentials,
        rng: &mut dyn CryptoRng,
    ) -> SaId {
        let group = self.config.algorithms.first_group();
        let mut nonce = vec![0; NONCE_LEN];
        rng.fill_bytes(&mut nonce);
        let init = InitSent {
            group,
            private: group.generate(rng),
            tried: vec![group.id],
            cookie: None,
            cookies: 0,
            nonce,
            stamp: self.next_stamp(),
        };
        let mut sa = Sa::new(
            self.fresh_id(),
            true,
            self.fresh_spi(rng),
            (self.port_towards(remote), remote),
            now,
        );
        let id = sa.id;
        match self.send_init(now, &mut sa, init, rng) {
            Ok(()) => self.insert(sa),
            Err(error) => self.fail(&sa, None, Refusal(error.to_string())),
        }
        id
    }

    fn send_init(
        &mut self,
        now: Instant,
        sa: &mut Sa,
        init: InitSent,
        rng: &mut dyn CryptoRng,
    ) -> Result<(), InvalidPublicValue> {
        let cookie = init.cookie.iter().map(|cookie| {
            // RFC 7296 §2.6: the first payload.
            Payload::Notify(Notify::new(NotifyType::COOKIE, cookie.clone()))
        });
        let payloads = [
            Payload::SecurityAssociation(self.config.algorithms.proposals()),
            Payload::KeyExchange { group: init.group.id, data: init.group.public(&init.private)? },
            Payload::Nonce(init.nonce.clone()),
            Payload::Notify(Notify::new(
                NotifyType::SIGNATURE_HASH_ALGORITHMS,
                signature::hash_algorithms(),
            )),
            Payload::Notify(Notify::new(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED, [])),
        ];
        let mut payloads: Vec<Payload> = cookie.chain(payloads).collect();
        if self.config.extensions {
            payloads.push(Payload::VendorId(VENDOR_ID.to_vec()));
        }
        if self.config.algorithms.has_additional() {
            let kind = NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED;
            payloads.push(Payload::Notify(Notify::new(kind, [])));
        }
        payloads.extend(self.nat_detection((sa.local_spi, 0), sa.port, sa.remote));
        sa.next_request = 0;
        sa.state = State::InitSent(Box::new(init));
        self.send_request(now, sa, Request::Init, &payloads, rng);
        Ok(())
    }

    /// Response to IKE_SA_INIT. It is not authenticated, but nobody who has not read the request
    /// knows its SPI.
    pub(crate) fn handle_init_response(
        &mut self,
        context: &mut Context<'_>,
        sa: &mut Sa,
        header: &Header,
        datagram: &[u8],
    ) -> Result<Fate, DropReason> {
        if header.message_id != 0 {
            return Err(DropReason::Unexpected);
        }
        let payloads = wire::decode_plain(header, datagram).map_err(|_| DropReason::Malformed)?;
        if let Some(cookie) = private::notify(&payloads, NotifyType::COOKIE) {
            return self.show_cookie(context, sa, cookie);
        }
        if let Some(group) = private::notify(&payloads, NotifyType::INVALID_KE_PAYLOAD) {
            return self.change_group(context, sa, group);
        }
        if let Some((kind, words)) = peer_refusal(&payloads) {
            let ours = describe(&self.config.algorithms.proposals());
            let words = match (kind, private::notify(&payloads, NotifyType::REASON)) {
                (NotifyType::NO_PROPOSAL_CHOSEN, None) => {
                    format!("{words}; it accepts none of what we propose: {ours}")
                }
                _ => words,
            };
            self.fail(sa, None, Refusal(format!("peer refused us: {words}")));
            return Ok(Fate::Forget);
        }
        let spis = (header.initiator_spi, header.responder_spi);
        let nat = self.detect_nat(&payloads, spis, sa.port, sa.remote);
        let init = InitPayloads::find(payloads).ok_or(DropReason::Malformed)?;
        if header.responder_spi == 0 {
            return Err(DropReason::Malformed);
        }
        let State::InitSent(sent) = std::mem::replace(&mut sa.state, State::Closing) else {
            return Err(DropReason::Unexpected);
        };
        sa.peer_spi = header.responder_spi;
        sa.nat = nat.unwrap_or_default();
        if sa.nat.any() && sa.port == PLAIN_PORT {
            sa.port = self.config.port;
            self.set_remote(sa, SocketAddr::new(sa.remote.ip(), self.config.port));
        }
        if let Err(reason) = self.begin_auth(context, sa, *sent, init, datagram) {
            self.fail(sa, None, reason);
            return Ok(Fate::Forget);
        }
        Ok(Fate::Keep)
    }

    /// RFC 7296 §2.6: the same message again, with the cookie in front.
    fn show_cookie(
        &mut self,
        context: &mut Context<'_>,
        sa: &mut Sa,
        cookie: &[u8],
    ) -> Result<Fate, DropReason> {
        if !is_acceptable(cookie) {
            return Err(DropReason::Malformed);
        }
        let State::InitSent(init) = &mut sa.state else { return Err(DropReason::Unexpected) };
        if init.cookie.as_deref() == Some(cookie) || init.cookies == MAX_COOKIES {
            return Err(DropReason::Replayed);
        }
        init.cookies += 1;
        init.cookie = Some(cookie.to_vec());
        let State::InitSent(init) = std::mem::replace(&mut sa.state, State::Closing) else {
            return Err(DropReason::Unexpected);
        };
        self.send_init(context.now, sa, *init, context.rng).map_err(|_| DropReason::KeyExchange)?;
        Ok(Fate::Keep)
    }

    /// RFC 7296 §1.2: begins again with the group that the responder wants, under the same SPI
    /// and nonce; each group once.
    fn change_group(
        &mut self,
        context: &mut Context<'_>,
        sa: &mut Sa,
        wanted: &[u8],
    ) -> Result<Fate, DropReason> {
        let wanted = wanted.try_into().map(u16::from_be_bytes);
        let wanted = wanted.map_err(|_| DropReason::Malformed)?;
        let State::InitSent(init) = &mut sa.state else { return Err(DropReason::Unexpected) };
        if init.tried.contains(&wanted) {
            return Err(DropReason::Replayed);
        }
        let Some(group) = self.config.algorithms.group(wanted) else {
            let words = format!("peer wants key exchange method {wanted}, which we do not propose");
            self.fail(sa, None, Refusal(words));
            return Ok(Fate::Forget);
        };
        let mut tried = std::mem::take(&mut init.tried);
        tried.push(wanted);
        let init = InitSent {
            group,
            private: group.generate(context.rng),
            tried,
            cookie: init.cookie.take(),
            cookies: init.cookies,
            nonce: std::mem::take(&mut init.nonce),
            stamp: init.stamp,
        };
        self.send_init(context.now, sa, init, context.rng).map_err(|_| DropReason::KeyExchange)?;
        Ok(Fate::Keep)
    }

    fn begin_auth(
        &mut self,
        context: &mut Context<'_>,
        sa: &mut Sa,
        sent: InitSent,
        init: InitPayloads,
        init_response: &[u8],
    ) -> Result<(), Refusal> {
        let refuse = |words: &str| Refusal(words.to_owned());
        let suite =
            self.config.algorithms.accept(&init.proposals, sent.group.id).ok_or_else(|| {
                Refusal(format!(
                    "peer chose what we did not propose: {}",
                    private::printable(describe(&init.proposals).as_bytes())
                ))
            })?;
        let shared_secret = match sent.group.agree(&sent.private, &init.public) {
            Ok(secret) if init.group == sent.group.id => secret,
            _ => return Err(refuse("peer's key exchange value is not valid")),
        };
        let outstanding = sa.outstanding.take().ok_or_else(|| refuse("no IKE_SA_INIT was sent"))?;
        let keys = Keys::derive(
            &suite,
            &Contributions {
                shared_secret: &shared_secret,
                initiator_nonce: &sent.nonce,
                responder_nonce: &init.nonce,
                initiator_spi: sa.local_spi,
                responder_spi: sa.peer_spi,
            },
            true,
        );
        self.log_ike_keys(sa.spis(), &suite, &keys);
        sa.suite = Some(suite);
        sa.channel = Some(Box::new(keys.channel));
        sa.fragmentation = init.fragmentation;
        let handshake = Handshake {
            suite,
            sk_d: keys.sk_d,
            sk_pi: keys.sk_pi,
            sk_pr: keys.sk_pr,
            initiator_nonce: sent.nonce,
            responder_nonce: init.nonce,
            init_request: outstanding.datagrams.concat(),
            init_response: init_response.to_vec(),
            peer_hashes: init.hashes,
            ours: init.ours && self.config.extensions,
            stamp: sent.stamp,
            int_auth: None,
            former: None,
        };
        if !handshake.wants_intermediate() {
            return self.send_auth(context, sa, handshake);
        }
        if !init.intermediate {
            return Err(refuse("peer chose ML-KEM, but has no IKE_INTERMEDIATE to do it in"));
        }
        self.send_intermediate(context, sa, handshake)
    }

    pub(crate) fn send_auth(
        &mut self,
        context: &mut Context<'_>,
        sa: &mut Sa,
        handshake: Handshake,
    ) -> Result<(), Refusal> {
        let (offered, offer) = self.offer_tunnels(&handshake, sa.remote, context.rng)?;
        let Proof { mut payloads, method } = handshake.own_proof(context.credentials, None)?;
        sa.own_auth = Some(method);
        if !self.with_remote(sa.remote).any(Sa::is_established) {
            payloads.push(Payload::Notify(Notify::new(NotifyType::INITIAL_CONTACT, [])));
        }
        payloads.push(Payload::Notify(Notify::new(NotifyType::MOBIKE_SUPPORTED, [])));
        if handshake.ours {
            payloads.push(self.lineage(&handshake, context.rng).payload());
        }
        payloads.extend(offer);
        self.send_request(context.now, sa, Request::Auth, &payloads, context.rng);
        sa.state = State::AuthSent(Box::new(handshake), Box::new(offered));
        Ok(())
    }

    /// Response to IKE_AUTH, decrypted.
    pub(crate) fn handle_auth_response(
        &mut self,
        context: &mut Context<'_>,
        sa: &mut Sa,
        payloads: Result<Vec<Payload>, wire::Error>,
    ) -> Fate {
        let State::AuthSent(handshake, offered) = std::mem::replace(&mut sa.state, State::Closing)
        else {
            return Fate::Forget;
        };
        let refusal = payloads.as_deref().ok().and_then(peer_refusal);
        let proves = |payloads: &Vec<Payload>| {
            payloads.iter().any(|payload| matches!(payload, Payload::Authentication { .. }))
        };
        // RFC 7296 §1.2: one that proves who it is refuses no more than the tunnel.
        if let Some((kind, words)) = &refusal
            && !payloads.as_ref().is_ok_and(proves)
        {
            if *kind == NotifyType::SUPERSEDED {
                self.fail_superseded(sa, None);
            } else {
                self.fail(sa, None, Refusal(format!("peer refused us: {words}")));
            }
            return Fate::Forget;
        }
        let newcomer = payloads.map_err(syntax).and_then(|payloads| {
            let peer = handshake.check_proof(false, &payloads, context.credentials)?;
            let newcomer = self.admit(context, &handshake, sa, peer, &payloads, false)?;
            Ok((newcomer, payloads))
        });
        let ours = handshake.ours;
        let (newcomer, payloads) = match newcomer {
            Ok(admitted) => admitted,
            Err(denial) => {
                self.refuse_responder(context, sa, denial, ours);
                return Fate::Keep;
            }
        };
        let identity = Some(newcomer.peer.identity.clone());
        let request = match refusal {
            Some((_, words)) => {
                self.fail(sa, identity, Refusal(format!("peer refused our tunnel: {words}")));
                Request::Delete
            }
            None => match self.take_tunnel(&handshake, sa, *offered, &payloads) {
                Ok(keys) => {
                    self.establish(context, sa, newcomer, keys);
                    return Fate::Keep;
                }
                Err((kind, reason)) => {
                    let mut told = private::refusal(kind, &[], &reason.0, ours);
                    told.push(Payload::Delete(Delete::ike_sa()));
                    let words = format!("we refused the peer's tunnel: {reason}");
                    self.fail(sa, identity, Refusal(words));
                    Request::Refuse(told)
                }
            },
        };
        // An IKE SA without a tunnel is of no use here, and is ended as one that is up; the layer
        // above begins anew when it wants to.
        self.begin_closing(context.now, sa, request, context.rng);
        Fate::Keep
    }

    /// RFC 7296 §2.21.2: for the responder the SA is up, and it has to learn that it is not.
    fn refuse_responder(
        &mut self,
        context: &mut Context<'_>,
        sa: &mut Sa,
        denial: Denial,
        ours: bool,
    ) {
        let Denial { notify, identity, reason, .. } = denial;
        let request = if notify == NotifyType::SUPERSEDED {
            self.fail_superseded(sa, identity);
            Request::Delete
        } else {
            self.fail(sa, identity, Refusal(format!("we refused the peer: {reason}")));
            let kind = NotifyType::AUTHENTICATION_FAILED;
            Request::Refuse(private::refusal(kind, &[], &reason.0, ours))
        };
        self.begin_closing(context.now, sa, request, context.rng);
    }
}
