//! NHRP packets on their way in and out, and what the engine tells.

use ::nhrp::engine::{self as nhrp, BindingKind, Nbma};
use ::nhrp::wire::code::{ALREADY_REGISTERED, PROHIBITED};
use ipnet::IpNet;
use rand_core::CryptoRng;

use crate::config::Now;
use crate::desired::PeerId;
use crate::forwarding::{self, Path};
use crate::notice::Notice;
use crate::session::{self, Proof, Session};
use crate::setback::Occasion;
use crate::{Began, Output, Overlay};

impl Overlay {
    /// A packet of `peer`. Who sends from an address that another has too, or from that of a
    /// server, speaks for itself only: what it may claim is what its own session has proven.
    pub(crate) fn nhrp_packet(
        &mut self,
        now: Now,
        peer: PeerId,
        packet: &[u8],
        rng: &mut dyn CryptoRng,
    ) {
        let Some(session) = self.sessions.get(peer) else { return };
        let nbma = self.sessions.nbma(session.endpoint);
        if let Some(reason) = self.impersonates(nbma, session) {
            self.refuse_session(now.instant, peer, reason);
            return;
        }
        self.nhrp.set_authorization(nbma, Some(session.authorization.clone()));
        self.nhrp.handle_packet(now.instant, nbma, packet);
        self.pump_for(Some(peer), now, rng);
    }

    /// Sends an NHRP packet. Without a session it is dropped and one is begun: the engine
    /// repeats its requests when the path is up.
    pub(crate) fn transmit(
        &mut self,
        now: Now,
        speaker: Option<PeerId>,
        to: Nbma,
        packet: Vec<u8>,
        rng: &mut dyn CryptoRng,
    ) {
        let carrier = self.carrier(speaker, to).or_else(|| self.clear_session(now.instant, to));
        match carrier {
            Some(peer) => self.outputs.push_back(Output::Nhrp { peer, packet }),
            None => self.connect(now, to, rng),
        }
    }

    /// The session that carries a packet to `nbma`: that of `speaker` if it leads there, else the
    /// newest.
    pub(crate) fn carrier(&self, speaker: Option<PeerId>, nbma: Nbma) -> Option<PeerId> {
        let mut up = self.fitting(nbma).filter(|(_, session)| session.up).map(|(id, _)| id);
        let newest = up.next()?;
        speaker.filter(|&id| id == newest || up.any(|other| other == id)).or(Some(newest))
    }

    /// Sessions that may stand for `nbma`, newest first: at the address of a server those only
    /// that have proven to be that server.
    pub(crate) fn fitting(&self, nbma: Nbma) -> impl Iterator<Item = (PeerId, &Session)> {
        let fits = move |(_, s): &(PeerId, &Session)| self.impersonates(nbma, s).is_none();
        self.sessions.at(nbma).filter(fits)
    }

    /// Who has `prefix`, if that is somebody at another address than `peer`.
    pub(crate) fn holder(&self, prefix: IpNet, peer: Nbma) -> Option<&str> {
        let binding = self.nhrp.binding(prefix).filter(|binding| binding.nbma != peer)?;
        let (_, session) = self.sessions.at(binding.nbma).next()?;
        session.identity.as_deref()
    }

    /// Why whoever has this authorization may not stand at `nbma`, if that is a server's.
    pub(crate) fn impersonates(&self, nbma: Nbma, session: &Session) -> Option<String> {
        let Session { authorization, proof, .. } = session;
        forwarding::impersonates(&self.servers, nbma, authorization, *proof)
    }

    pub(crate) fn nhrp_event(&mut self, now: Now, event: nhrp::Event, rng: &mut dyn CryptoRng) {
        match event {
            nhrp::Event::BindingChanged { prefix, binding } => {
                self.forwarding.touch(prefix);
                if let Some(binding) = binding.filter(|b| b.kind == BindingKind::Shortcut) {
                    self.setbacks.found_at(binding.next_hop, binding.nbma);
                    if matches!(forwarding::path(&self.sessions, &binding), Path::None) {
                        let wanted = (binding.nbma, prefix.addr());
                        self.connect_in_turn(now, wanted, Occasion::Resolution, rng);
                    }
                }
            }
            nhrp::Event::ClaimRefused { peer, prefix, allowed, reason, .. } => {
                let reason = match allowed.filter(|allowed| !allowed.permits(prefix)) {
                    Some(allowed) => {
                        let here = self.sessions.at(peer).next();
                        let proof = here.map_or(Proof::Certificate, |(_, session)| session.proof);
                        format!("claims {prefix}, but {}", session::allowance(&allowed, proof))
                    }
                    None => match self.holder(prefix, peer) {
                        Some(identity) => format!("{reason} ({identity})"),
                        None => reason,
                    },
                };
                self.refuse_peer(now.instant, peer, reason);
            }
            nhrp::Event::RegistrationRefused { server, prefix, code, reason } => {
                let mut reason = format!("refuses our registration of {prefix}: {reason}");
                if let (Some(PROHIBITED), Some(credentials)) = (code, &self.credentials) {
                    reason = format!("{reason}; ours: {}", credentials.allowance(&self.config));
                }
                if code == Some(ALREADY_REGISTERED) {
                    reason.push_str(": another node has it; the server knows which");
                }
                if let Some(&nbma) = self.servers.get(&server) {
                    self.refuse_peer(now.instant, nbma, reason);
                }
            }
            nhrp::Event::AuthenticationFailed { peer } => {
                let reason = "NHRP authentication failed: `nhrp.authentication` differs here \
                              and there"
                    .to_owned();
                self.refuse_peer(now.instant, peer, reason);
            }
            nhrp::Event::NhsUp { server } => self.notice(Notice::ServerUp { server }),
            nhrp::Event::NhsDown { server, reason } => {
                self.notice(Notice::ServerDown { server, reason });
            }
            nhrp::Event::Registered { prefix, seen, claimed, .. } => {
                self.notice(Notice::Registered { prefix, seen, claimed });
            }
            nhrp::Event::Unregistered { prefix, reason, .. } => {
                self.notice(Notice::Unregistered { prefix, reason });
            }
            nhrp::Event::Answered { asked, after } => {
                let began = match asked {
                    nhrp::Asked::Registration => Began::Registration,
                    nhrp::Asked::Resolution => Began::Resolution,
                };
                self.outputs.push_back(Output::Took(began, after));
            }
            nhrp::Event::SeenAs { server, nbma } => {
                self.forgive_setbacks(now.instant);
                self.notice(Notice::SeenAs { server, nbma });
            }
            nhrp::Event::ResolutionFailed { destination, reason } => {
                self.notice(Notice::ResolutionFailed { destination, reason });
            }
            nhrp::Event::ErrorReceived { peer, code, reason, .. } => {
                self.notice(Notice::ErrorReceived { peer, code, reason });
            }
            nhrp::Event::ShutdownComplete => self.stopped = true,
        }
    }
}
