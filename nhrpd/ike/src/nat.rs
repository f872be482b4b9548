//! Address translation on the way (RFC 7296 §2.23), and moves (RFC 4555).
//!
//! Both sides tell in IKE_SA_INIT, as a hash, which addresses and ports they see. Where the other's
//! hash does not fit, somebody translates, and ESP goes in UDP. Who wants it in UDP anyway says a
//! hash that cannot fit. An initiator begins on the port of its configuration (4500): our own nodes
//! need one port and one mapping. Where a peer is to be reached on port 500, IKE moves to 4500 as
//! soon as a translator is found.
//!
//! There is no keepalive (RFC 3948 §4): a node behind a translator asks its peer for a sign of life
//! at least every `KEEPALIVE`, on the same port.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use aws_lc_rs::digest;

use crate::sa::Sa;
use crate::wire::{Notify, NotifyType, Payload};
use crate::{Engine, Event};

/// A port on which IKE has no non-ESP marker and ESP is not in UDP.
pub const PLAIN_PORT: u16 = 500;

/// Translators forget a mapping of UDP at the earliest after 30 seconds.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(20);

/// Who is behind a translator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Nat {
    /// This node.
    pub local: bool,
    /// The peer.
    pub remote: bool,
    /// One of them wants ESP in UDP anyway, and so does not tell where it is.
    pub wanted: bool,
}

impl Nat {
    /// ESP goes in UDP.
    pub(crate) fn any(self) -> bool {
        self.local || self.remote || self.wanted
    }
}

/// Where a node says that it is that wants ESP in UDP anyway: nobody is there.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// SHA-1 of the SPIs, the address and the port.
fn hash(spis: (u64, u64), at: SocketAddr) -> Vec<u8> {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(&spis.0.to_be_bytes());
    context.update(&spis.1.to_be_bytes());
    match at.ip().to_canonical() {
        IpAddr::V4(address) => context.update(&address.octets()),
        IpAddr::V6(address) => context.update(&address.octets()),
    }
    context.update(&at.port().to_be_bytes());
    context.finish().as_ref().to_vec()
}

/// The data of every notify of `kind`; an address may be said more than once.
fn said(payloads: &[Payload], kind: NotifyType) -> impl Iterator<Item = &[u8]> {
    payloads.iter().filter_map(move |payload| match payload {
        Payload::Notify(notify) if notify.kind == kind => Some(&notify.data[..]),
        _ => None,
    })
}

impl Engine {
    /// The port from which we speak to `remote`.
    pub(crate) fn port_towards(&self, remote: SocketAddr) -> u16 {
        if remote.port() == PLAIN_PORT { PLAIN_PORT } else { self.config.port }
    }

    /// What we say of our addresses.
    pub(crate) fn nat_detection(
        &self,
        spis: (u64, u64),
        port: u16,
        remote: SocketAddr,
    ) -> [Payload; 2] {
        let own = self.address.map(|own| SocketAddr::new(own, port));
        let source = match own.filter(|_| !self.config.encapsulate) {
            Some(own) => hash(spis, own),
            None => hash(spis, NOWHERE),
        };
        [
            Payload::Notify(Notify::new(NotifyType::NAT_DETECTION_SOURCE_IP, source)),
            Payload::Notify(Notify::new(
                NotifyType::NAT_DETECTION_DESTINATION_IP,
                hash(spis, remote),
            )),
        ]
    }

    /// What the peer's say, in a message that came to `port`. `None` where it says nothing.
    pub(crate) fn detect_nat(
        &self,
        payloads: &[Payload],
        spis: (u64, u64),
        port: u16,
        remote: SocketAddr,
    ) -> Option<Nat> {
        let source = hash(spis, remote);
        let mut sources = said(payloads, NotifyType::NAT_DETECTION_SOURCE_IP).peekable();
        let mut destinations = said(payloads, NotifyType::NAT_DETECTION_DESTINATION_IP).peekable();
        sources.peek().and(destinations.peek())?;
        let own = self.address.map(|own| hash(spis, SocketAddr::new(own, port)));
        let nowhere = hash(spis, NOWHERE);
        let (mut seen, mut wanted) = (false, false);
        for data in sources {
            seen |= data == source;
            wanted |= data == nowhere;
        }
        Some(Nat {
            local: !destinations.any(|data| own.as_deref() == Some(data)),
            remote: !seen && !wanted,
            wanted: wanted || self.config.encapsulate,
        })
    }

    /// A new, authenticated request from another address or port than before: the peer moved (RFC
    /// 4555 §3.5), or its NAT did (RFC 7296 §2.23). Repetitions prove nothing and do not come here.
    pub(crate) fn notice_move(&mut self, sa: &mut Sa, port: u16, from: SocketAddr) {
        if (port, from) == (sa.port, sa.remote) {
            return;
        }
        sa.port = port;
        self.set_remote(sa, from);
        self.tell_move(sa);
    }

    fn tell_move(&mut self, sa: &Sa) {
        if sa.is_established() {
            let encapsulated = sa.nat.any();
            self.event(Event::Moved { sa: sa.id, remote: sa.remote, encapsulated });
        }
    }

    /// NAT detection in an exchange on an SA that is up (RFC 4555 §3.8). Gives what to answer.
    pub(crate) fn renew_nat(&mut self, sa: &mut Sa, payloads: &[Payload]) -> Vec<Payload> {
        let Some(nat) = self.detect_nat(payloads, sa.spis(), sa.port, sa.remote) else {
            return Vec::new();
        };
        if std::mem::replace(&mut sa.nat, nat).any() != nat.any() {
            self.tell_move(sa);
        }
        self.nat_detection(sa.spis(), sa.port, sa.remote).into()
    }
}
