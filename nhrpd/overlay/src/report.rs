//! What the overlay knows, for display.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use ike::{SaId, TunnelId, TunnelKind};
use nhrp::engine::{Binding, Nbma};

use crate::desired::{Desired, PeerId, Transport};
use crate::forwarding::{self, Path};
use crate::session::Session;
use crate::{Credentials, Overlay, Refusal};

/// One session.
#[derive(Debug, Clone)]
pub struct SessionReport {
    /// Its id in the data plane.
    pub peer: PeerId,
    /// Its IKE SA; `None` with `security: none`.
    pub sa: Option<SaId>,
    /// Kind of tunnel; `None` with `security: none`.
    pub kind: Option<TunnelKind>,
    /// Its tunnel in that SA.
    pub tunnel: Option<TunnelId>,
    /// Who the peer proved to be.
    pub identity: Option<String>,
    /// Where it is.
    pub endpoint: SocketAddr,
    /// The data plane carried a packet through it.
    pub up: bool,
    /// When it came into this state.
    pub since: Instant,
}

/// A key exchange of ours that is not finished.
#[derive(Debug, Clone)]
pub struct AttemptReport {
    /// With whom.
    pub endpoint: SocketAddr,
    /// One is under way now.
    pub under_way: bool,
    /// How many tries have failed in a row.
    pub failures: u32,
    /// Why the last one failed.
    pub reason: Option<String>,
    /// When the next one begins by itself; `None` where traffic or a registration begins it.
    pub retry_at: Option<Instant>,
}

/// Where the traffic for a binding goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// Straight to the peer.
    Direct(PeerId),
    /// Through a next-hop server or nowhere; with the reason why not direct, where one is known.
    Indirect(Option<String>),
}

impl Overlay {
    /// Sessions in order of their age.
    pub fn sessions(&self) -> impl Iterator<Item = SessionReport> + '_ {
        self.sessions.iter().map(|(peer, session)| self.report(peer, session))
    }

    /// One session.
    pub fn session(&self, peer: PeerId) -> Option<SessionReport> {
        self.sessions.get(peer).map(|session| self.report(peer, session))
    }

    fn report(&self, peer: PeerId, session: &Session) -> SessionReport {
        SessionReport {
            peer,
            sa: session.sa,
            tunnel: session.tunnel,
            kind: match self.forwarding.transport(peer) {
                Some(Transport::Esp(_)) => Some(TunnelKind::Esp),
                Some(Transport::WireGuard { .. }) => Some(TunnelKind::WireGuard),
                Some(Transport::Clear) | None => None,
            },
            identity: session.identity.clone(),
            endpoint: session.endpoint,
            up: session.up,
            since: session.since,
        }
    }

    /// Key exchanges of ours that are under way or failed.
    pub fn attempts(&self) -> impl Iterator<Item = AttemptReport> + '_ {
        self.attempts.iter().map(|(&nbma, attempt)| AttemptReport {
            endpoint: self.sessions.endpoint(nbma),
            under_way: attempt.sa.is_some(),
            failures: attempt.failures,
            reason: attempt.reason.clone(),
            retry_at: self.retries.at(nbma),
        })
    }

    /// The last refusals, newest first.
    pub fn refusals(&self) -> impl Iterator<Item = &Refusal> {
        self.refusals.iter()
    }

    /// Everything that forwarding may use, in order of prefix.
    pub fn bindings(&self) -> impl Iterator<Item = Binding> {
        self.nhrp.bindings()
    }

    /// Where the traffic for `binding` goes.
    pub fn route(&self, binding: &Binding) -> Route {
        match forwarding::path(&self.sessions, binding) {
            Path::Session(id) => Route::Direct(id),
            Path::Refused(_, reason) => Route::Indirect(Some(reason)),
            Path::None => {
                let attempt = self.attempts.get(&binding.nbma);
                Route::Indirect(attempt.and_then(|attempt| attempt.reason.clone()))
            }
        }
    }

    /// The desired state as of the last [`Overlay::poll_desired`].
    pub fn desired(&self) -> &Desired {
        self.forwarding.desired()
    }

    /// Where a peer is reached on the underlay.
    pub fn endpoint(&self, nbma: Nbma) -> SocketAddr {
        self.sessions.endpoint(nbma)
    }

    /// NBMA addresses of the next-hop servers, as far as their names are resolved.
    pub fn servers(&self) -> impl Iterator<Item = (IpAddr, Nbma)> + '_ {
        self.servers.iter().map(|(&address, &nbma)| (address, nbma))
    }

    /// The session that traffic for the server or peer at `nbma` takes.
    pub fn session_at(&self, nbma: Nbma) -> Option<PeerId> {
        self.carrier(None, nbma)
    }

    /// The session of whoever may claim this tunnel address by its certificate.
    pub fn session_of(&self, address: IpAddr) -> Option<PeerId> {
        self.sessions.up_of(address)
    }

    /// Own credentials; `None` with `security: none`.
    pub fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    /// Own NBMA address.
    pub fn nbma(&self) -> Option<IpAddr> {
        self.config.nhrp.nbma
    }

    /// When this overlay was made.
    pub fn started(&self) -> Instant {
        self.started
    }
}
