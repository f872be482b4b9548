//! What IKE tells: sessions that are keyed, that move, that are refused or gone.

use std::time::Instant;

use ike::{SaId, TunnelId, TunnelKeys};
use rand_core::CryptoRng;

use crate::config::Now;
use crate::credentials;
use crate::desired::{PeerId, Transport};
use crate::lifecycle::LINGER;
use crate::notice::{Notice, Refused};
use crate::session::{Proof, Session};
use crate::{Began, Output, Overlay};

impl Overlay {
    pub(crate) fn ike_event(&mut self, now: Now, event: ike::Event, rng: &mut dyn CryptoRng) {
        match event {
            ike::Event::Established {
                sa,
                remote,
                initiator,
                identity,
                certificates,
                tunnel,
                keys,
                ..
            } => {
                let Some(credentials) = &self.credentials else { return };
                let (identity, authorization) =
                    match credentials.claims(&identity, &certificates, &self.config, now.wall) {
                        Ok(claims) => claims,
                        Err(reason) => {
                            let refused = Refused { peer: remote, identity: None, reason };
                            self.refuse(now.instant, refused);
                            self.ike.close(now.instant, sa, rng);
                            return;
                        }
                    };
                let proof = Proof::of(&certificates);
                let nbma = self.sessions.nbma(remote);
                if let Some(attempt) = self.end_attempt(nbma).filter(|a| a.sa == Some(sa)) {
                    let took = now.instant - attempt.begun;
                    self.outputs.push_back(Output::Took(Began::KeyExchange, took));
                }
                let id = self.sessions.insert(Session {
                    sa: Some(sa),
                    tunnel: Some(tunnel),
                    identity: Some(identity),
                    proof,
                    authorization,
                    endpoint: remote,
                    up: false,
                    since: now.instant,
                    idle_deadline: Some(now.instant + self.config.idle_timeout),
                });
                self.forwarding.key(id, transport(keys, initiator));
            }
            ike::Event::Failed { sa, remote, identity, reason, superseded, .. } => {
                let nbma = self.sessions.nbma(remote);
                let ours = self.attempts.get(&nbma).is_some_and(|a| a.sa == Some(sa));
                let needless = superseded || (ours && self.is_served(nbma));
                let news = match ours {
                    true => self.attempt_failed(now.instant, nbma, &reason.0, needless),
                    false => None,
                };
                if !needless {
                    let identity = identity.map(|identity| credentials::describe(&identity));
                    let refused = Refused { peer: remote, identity, reason: reason.0 };
                    let new = self.refusals.record(now.instant, refused.clone());
                    if news.unwrap_or(new) {
                        self.notice(Notice::Refused(refused));
                    }
                }
            }
            ike::Event::Confirmed { sa, tunnel } => {
                if let Some(id) = self.sessions.by_tunnel(sa, tunnel) {
                    self.session_up(now, id, rng);
                }
            }
            ike::Event::Keyed { sa, tunnel, keys, initiator, .. } => {
                self.key_session(now, sa, tunnel, transport(keys, initiator));
            }
            ike::Event::Succeeded { sa, successor, identity, certificates } => {
                self.sessions.succeed(sa, successor);
                if let Some(credentials) = &self.credentials
                    && let Err(reason) =
                        credentials.claims(&identity, &certificates, &self.config, now.wall)
                {
                    for id in self.sessions.by_sa(successor) {
                        self.refuse_session(now.instant, id, reason.clone());
                    }
                    self.ike.close(now.instant, successor, rng);
                }
            }
            ike::Event::Unkeyed { sa, tunnel, reason } => {
                if let Some(id) = self.sessions.by_tunnel(sa, tunnel) {
                    self.keys_gone(now.instant, id, &reason);
                }
            }
            ike::Event::Closed { sa, reason } => {
                for id in self.sessions.by_sa(sa) {
                    self.keys_gone(now.instant, id, &reason);
                }
            }
            ike::Event::Unknown { from } => self.meet(now, from, rng),
            ike::Event::Moved { sa, remote, encapsulated } => {
                for id in self.sessions.by_sa(sa) {
                    if let Some(Transport::Esp(esp)) = self.forwarding.transport_mut(id) {
                        esp.encapsulated = encapsulated;
                        self.sessions.touch(id);
                    }
                    self.move_session(now.instant, id, remote);
                }
            }
        }
    }

    /// A further tunnel of an IKE SA is another session with the same node.
    pub(crate) fn key_session(
        &mut self,
        now: Now,
        sa: SaId,
        tunnel: TunnelId,
        transport: Transport,
    ) {
        let former = self.sessions.by_sa(sa).pop().and_then(|id| self.sessions.get(id));
        let Some(former) = former else { return };
        let session = Session {
            sa: Some(sa),
            tunnel: Some(tunnel),
            identity: former.identity.clone(),
            proof: former.proof,
            authorization: former.authorization.clone(),
            endpoint: former.endpoint,
            up: false,
            since: now.instant,
            idle_deadline: Some(now.instant + self.config.idle_timeout),
        };
        let id = self.sessions.insert(session);
        self.forwarding.key(id, transport);
    }

    /// IKE has given up the keys of a session. Make before break: one that has a successor goes
    /// when that one is up.
    pub(crate) fn keys_gone(&mut self, now: Instant, id: PeerId, reason: &str) {
        let up = |id: PeerId| self.sessions.get(id).is_some_and(|session| session.up);
        let twins = self.sessions.twins(id);
        if !up(id) && twins.iter().any(|&twin| up(twin)) {
            // One of two that crossed, and not the one that lives. The peer may have begun to send
            // with it.
            self.lingering.set(id, now + LINGER);
            self.forget_session(now, id, reason);
            return;
        }
        if !twins.is_empty() {
            self.sessions.supersede(id);
            return;
        }
        // The peer may refuse us after we have accepted it.
        if self.sessions.get(id).is_some_and(|session| !session.up) {
            self.refuse_session(now, id, reason.to_owned());
        }
        self.forget_session(now, id, reason);
    }
}

fn transport(keys: TunnelKeys, ike_initiator: bool) -> Transport {
    match keys {
        TunnelKeys::WireGuard(keys) => Transport::WireGuard {
            private_key: keys.private_key,
            peer_public_key: keys.peer_public_key,
            preshared_key: keys.preshared_key,
            initiate: !ike_initiator,
        },
        TunnelKeys::Esp(esp) => Transport::Esp(esp),
    }
}
