//! Which kind of tunnel an IKE SA keys, and its first keys, in IKE_AUTH.
//!
//! The initiator offers every kind that it can carry and that the peer may know: ESP by SA and
//! traffic selector payloads, WireGuard by the notify of [`crate::private`], which only our own
//! nodes understand. The responder takes the one that stands first in its configuration.

use std::net::{IpAddr, SocketAddr};

use rand_core::CryptoRng;

use crate::child::{self, Esp, Seed, Terms};
use crate::engine::Context;
use crate::private::{self, Offer, WireGuardPair};
use crate::sa::{Handshake, Request, Sa};
use crate::wire::{Notify, NotifyType, Payload, Proposal, TrafficSelector};
use crate::{Engine, EspProposal, Refusal, WireGuardKeys};

/// Kinds of tunnel that carry GRE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TunnelKind {
    /// ESP in transport mode (RFC 4303): what everybody speaks who speaks IKEv2.
    Esp,
    /// WireGuard, between our own nodes only.
    WireGuard,
}

impl std::fmt::Display for TunnelKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Esp => "ESP",
            Self::WireGuard => "WireGuard",
        })
    }
}

/// Local handle of one keyed tunnel; never used twice in one engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TunnelId(pub u64);

/// Keys of a tunnel, for the data plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TunnelKeys {
    /// The IKE SA's one WireGuard session.
    WireGuard(WireGuardKeys),
    /// A CHILD_SA.
    Esp(Esp),
}

impl TunnelKeys {
    /// What they are for.
    pub fn kind(&self) -> TunnelKind {
        match self {
            Self::WireGuard(_) => TunnelKind::WireGuard,
            Self::Esp(_) => TunnelKind::Esp,
        }
    }
}

/// What an initiator offered in IKE_AUTH.
pub(crate) struct Offered {
    pair: Option<WireGuardPair>,
    spi: Option<u32>,
}

/// Why there is no tunnel.
pub(crate) type NoTunnel = (NotifyType, Refusal);

fn no_proposal(words: impl Into<String>) -> NoTunnel {
    (NotifyType::NO_PROPOSAL_CHOSEN, Refusal(words.into()))
}

/// The payloads of a CHILD_SA in IKE_AUTH or CREATE_CHILD_SA.
pub(crate) struct ChildPayloads<'a> {
    pub(crate) proposals: &'a [Proposal],
    pub(crate) initiator: &'a [TrafficSelector],
    pub(crate) responder: &'a [TrafficSelector],
    pub(crate) transport: bool,
}

impl<'a> ChildPayloads<'a> {
    /// `None` where no CHILD_SA is asked for.
    pub(crate) fn find(payloads: &'a [Payload]) -> Option<Self> {
        let transport = private::notify(payloads, NotifyType::USE_TRANSPORT_MODE).is_some();
        let mut found = Self { proposals: &[], initiator: &[], responder: &[], transport };
        for payload in payloads {
            match payload {
                Payload::SecurityAssociation(proposals) => found.proposals = proposals,
                Payload::SelectorsInitiator(selectors) => found.initiator = selectors,
                Payload::SelectorsResponder(selectors) => found.responder = selectors,
                _ => {}
            }
        }
        (!found.proposals.is_empty()).then_some(found)
    }
}

/// The payloads that ask for a CHILD_SA, or grant it.
pub(crate) fn child_payloads(
    proposals: Vec<Proposal>,
    initiator: TrafficSelector,
    responder: TrafficSelector,
) -> Vec<Payload> {
    vec![
        Payload::Notify(Notify::new(NotifyType::USE_TRANSPORT_MODE, [])),
        Payload::SecurityAssociation(proposals),
        Payload::SelectorsInitiator(vec![initiator]),
        Payload::SelectorsResponder(vec![responder]),
    ]
}

impl Handshake {
    fn seed(&self) -> Seed<'_> {
        Seed {
            prf: self.suite.prf,
            sk_d: &self.sk_d,
            shared_secret: None,
            initiator_nonce: &self.initiator_nonce,
            responder_nonce: &self.responder_nonce,
        }
    }

    fn preshared_key(&self) -> crate::crypto::keys::Secret {
        let (ni, nr) = (&self.initiator_nonce, &self.responder_nonce);
        private::preshared_key(self.suite.prf, &self.sk_d, ni, nr)
    }
}

impl Engine {
    pub(crate) fn fresh_tunnel(&mut self) -> TunnelId {
        self.last_tunnel += 1;
        TunnelId(self.last_tunnel)
    }

    /// An initiator's offer, and the payloads that make it.
    pub(crate) fn offer_tunnels(
        &self,
        handshake: &Handshake,
        remote: SocketAddr,
        rng: &mut dyn CryptoRng,
    ) -> Result<(Offered, Vec<Payload>), Refusal> {
        let can = |kind| self.config.tunnels.contains(&kind);
        let (esp, wireguard) = (can(TunnelKind::Esp), can(TunnelKind::WireGuard));
        let mut offered = Offered { pair: None, spi: None };
        let mut payloads = Vec::new();
        if !esp && !handshake.ours {
            return Err(Refusal(
                "peer is no nhrpd: it can only do ESP, and this node can only do WireGuard \
                 (userspace data plane)"
                    .into(),
            ));
        }
        if wireguard && handshake.ours {
            let pair = WireGuardPair::generate(rng).map_err(|e| Refusal(e.to_string()))?;
            payloads.push(Offer { public_key: pair.public }.payload());
            offered.pair = Some(pair);
        }
        if esp {
            let own = self.own_address(remote)?;
            let spi = self.fresh_esp_spi(rng);
            let proposals = child::proposals(&self.first_esp(), spi);
            payloads.extend(child_payloads(proposals, child::gre(own), child::gre(remote.ip())));
            offered.spi = Some(spi);
        }
        Ok((offered, payloads))
    }

    /// What is proposed in IKE_AUTH, which has no key exchange for a CHILD_SA (RFC 7296 §1.2).
    fn first_esp(&self) -> Vec<EspProposal> {
        let without = |esp: &EspProposal| EspProposal { groups: vec![None], ..esp.clone() };
        self.config.esp.iter().map(without).collect()
    }

    /// Own address, as traffic selectors name it.
    pub(crate) fn own_address(&self, remote: SocketAddr) -> Result<IpAddr, Refusal> {
        let fits = |own: &IpAddr| own.is_ipv4() == remote.is_ipv4();
        self.address.filter(fits).ok_or_else(|| {
            Refusal(format!("we have no NBMA address of the same family as {}", remote.ip()))
        })
    }

    /// A responder's choice: the payloads that grant it, and the keys; `None` where the initiator
    /// asks for nothing.
    pub(crate) fn grant_tunnel(
        &self,
        context: &mut Context<'_>,
        handshake: &Handshake,
        sa: &Sa,
        payloads: &[Payload],
    ) -> Option<Result<(Vec<Payload>, TunnelKeys), NoTunnel>> {
        let offer = if handshake.ours { Offer::find(payloads) } else { None };
        let asked = ChildPayloads::find(payloads);
        let mut refusal = None;
        for kind in self.config.tunnels.clone() {
            let granted = match (kind, &offer, &asked) {
                (TunnelKind::WireGuard, Some(offer), _) => {
                    self.grant_wireguard(context, handshake, offer.clone())
                }
                (TunnelKind::Esp, _, Some(asked)) => self.grant_esp(context, handshake, sa, asked),
                _ => continue,
            };
            match granted {
                Ok(granted) => return Some(Ok(granted)),
                Err(no) => _ = refusal.get_or_insert(no),
            }
        }
        let wants = match (&offer, &asked) {
            (Some(_), Some(_)) => "ESP or WireGuard",
            (Some(_), None) => "WireGuard",
            (None, Some(_)) => "ESP",
            (None, None) => return None,
        };
        let can: Vec<_> = self.config.tunnels.iter().map(ToString::to_string).collect();
        let words = format!("initiator can do {wants}; responder can do {}", can.join(" or "));
        Some(Err(refusal.unwrap_or_else(|| no_proposal(words))))
    }

    fn grant_wireguard(
        &self,
        context: &mut Context<'_>,
        handshake: &Handshake,
        offer: Result<Offer, Refusal>,
    ) -> Result<(Vec<Payload>, TunnelKeys), NoTunnel> {
        let offer = offer.map_err(|words| no_proposal(words.0))?;
        let pair = WireGuardPair::generate(context.rng).map_err(|e| no_proposal(e.to_string()))?;
        let own = Offer { public_key: pair.public };
        let keys = pair
            .keys(offer.public_key, &handshake.preshared_key())
            .map_err(|words| no_proposal(words.0))?;
        Ok((vec![own.payload()], TunnelKeys::WireGuard(keys)))
    }

    fn grant_esp(
        &self,
        context: &mut Context<'_>,
        handshake: &Handshake,
        sa: &Sa,
        asked: &ChildPayloads<'_>,
    ) -> Result<(Vec<Payload>, TunnelKeys), NoTunnel> {
        self.check_encapsulation(sa)?;
        let choice = child::choose(&self.first_esp(), asked.proposals, None);
        let choice = choice.ok_or_else(|| self.no_common_esp(asked.proposals))?;
        let (initiator, responder) = self.agree_selectors(sa.remote, asked)?;
        let spi = self.fresh_esp_spi(context.rng);
        let proposal = Proposal { spi: spi.to_be_bytes().into(), ..choice.proposal };
        let esp =
            handshake.seed().derive(choice.terms, spi, false, (sa.nat.any(), self.lifetime()));
        Ok((child_payloads(vec![proposal], initiator, responder), TunnelKeys::Esp(esp)))
    }

    pub(crate) fn check_encapsulation(&self, sa: &Sa) -> Result<(), NoTunnel> {
        if self.config.encapsulate && !sa.nat.any() {
            return Err(no_proposal(
                "peer does no NAT traversal, and the ESP of this node goes in UDP only \
                 (userspace data plane)",
            ));
        }
        Ok(())
    }

    pub(crate) fn no_common_esp(&self, theirs: &[Proposal]) -> NoTunnel {
        let ours = crate::crypto::suite::describe(&child::proposals(&self.first_esp(), 0));
        let theirs = crate::crypto::suite::describe(theirs);
        let theirs = private::printable(theirs.as_bytes());
        no_proposal(format!("no common ESP proposal: initiator has {theirs}; responder has {ours}"))
    }

    /// The selectors that a responder answers with.
    pub(crate) fn agree_selectors(
        &self,
        remote: SocketAddr,
        asked: &ChildPayloads<'_>,
    ) -> Result<(TrafficSelector, TrafficSelector), NoTunnel> {
        if !asked.transport {
            return Err(no_proposal("initiator asks for tunnel mode; GRE needs transport mode"));
        }
        let initiator = child::narrow(asked.initiator, Some(remote.ip()));
        let responder = child::narrow(asked.responder, self.address);
        initiator.zip(responder).ok_or_else(|| {
            let words = "initiator's traffic selectors do not hold GRE (47) between the two nodes";
            (NotifyType::TS_UNACCEPTABLE, Refusal(words.into()))
        })
    }

    /// What the responder granted of an initiator's offer.
    pub(crate) fn take_tunnel(
        &self,
        handshake: &Handshake,
        sa: &Sa,
        offered: Offered,
        payloads: &[Payload],
    ) -> Result<TunnelKeys, NoTunnel> {
        if let Some(pair) = offered.pair
            && let Some(offer) = Offer::find(payloads)
        {
            let keys = offer.and_then(|o| pair.keys(o.public_key, &handshake.preshared_key()));
            return Ok(TunnelKeys::WireGuard(keys.map_err(|words| no_proposal(words.0))?));
        }
        let granted = ChildPayloads::find(payloads);
        let (Some(granted), Some(spi)) = (granted, offered.spi) else {
            return Err(no_proposal("responder grants no tunnel that we asked for"));
        };
        self.check_encapsulation(sa)?;
        let terms = self.check_grant(sa, &granted, &self.first_esp(), None)?;
        Ok(TunnelKeys::Esp(handshake.seed().derive(
            terms,
            spi,
            true,
            (sa.nat.any(), self.lifetime()),
        )))
    }

    /// Checks what a responder granted of a CHILD_SA that we asked for.
    pub(crate) fn check_grant(
        &self,
        sa: &Sa,
        granted: &ChildPayloads<'_>,
        proposed: &[EspProposal],
        group: Option<u16>,
    ) -> Result<Terms, NoTunnel> {
        let choice = child::accept(proposed, granted.proposals, group);
        let choice = choice
            .filter(|choice| choice.group.map(|group| group.id) == group)
            .ok_or_else(|| no_proposal("responder chose of ESP what we did not propose"))?;
        if !granted.transport {
            return Err(no_proposal("responder insists on tunnel mode; GRE needs transport mode"));
        }
        let own = self.own_address(sa.remote).map_err(|words| no_proposal(words.0))?;
        // Who has moved since it asked says so when the SA is up.
        let elsewhere = sa.nat.any() || sa.queue.contains(&Request::Update);
        let fits = child::grants(granted.initiator, own, elsewhere)
            && child::grants(granted.responder, sa.remote.ip(), sa.nat.any());
        if !fits {
            let words = "responder's traffic selectors do not hold GRE (47) between the two nodes";
            return Err((NotifyType::TS_UNACCEPTABLE, Refusal(words.into())));
        }
        Ok(choice.terms)
    }
}
