//! What the operator is told, and the record of refusals.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use ipnet::IpNet;
use nhrp::engine::Nbma;

/// One thing that happened, in words for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A session to a peer carries traffic.
    PeerUp {
        /// Where the peer is.
        endpoint: SocketAddr,
        /// Who it proved to be; `None` without security.
        identity: Option<String>,
    },
    /// A session is gone, and there is no other one with this peer.
    PeerDown {
        /// Where the peer was.
        endpoint: SocketAddr,
        /// Who it was.
        identity: Option<String>,
        /// Why.
        reason: String,
    },
    /// A session to a peer took the place of an older one with it: new keys.
    PeerRekeyed {
        /// Where the peer is.
        endpoint: SocketAddr,
        /// Who it proved to be.
        identity: Option<String>,
    },
    /// A peer is now reached elsewhere.
    PeerMoved {
        /// Before.
        from: SocketAddr,
        /// Now.
        to: SocketAddr,
    },
    /// Somebody was refused, here or by the peer.
    Refused(Refused),
    /// Traffic to `prefix` takes the direct path from now on.
    Direct {
        /// Destination.
        prefix: IpNet,
        /// Where it goes.
        endpoint: SocketAddr,
    },
    /// Traffic to `prefix` goes through the server again, or nowhere.
    Indirect {
        /// Destination.
        prefix: IpNet,
    },
    /// A next-hop server accepted our registration.
    ServerUp {
        /// Its protocol address.
        server: IpAddr,
    },
    /// A next-hop server is lost or refused us.
    ServerDown {
        /// Its protocol address.
        server: IpAddr,
        /// Why.
        reason: String,
    },
    /// A node registered here.
    Registered {
        /// What it registered.
        prefix: IpNet,
        /// Where it is.
        seen: Nbma,
        /// Where it says that it is.
        claimed: IpAddr,
    },
    /// A registration with us ended.
    Unregistered {
        /// What had been registered.
        prefix: IpNet,
        /// Why.
        reason: &'static str,
    },
    /// A server sees us behind address translation.
    SeenAs {
        /// Its protocol address.
        server: IpAddr,
        /// Where it sees us.
        nbma: Nbma,
    },
    /// Our NBMA address; `None` while the underlay has none.
    Underlay {
        /// From now on.
        nbma: Option<IpAddr>,
    },
    /// No shortcut to this destination.
    ResolutionFailed {
        /// Destination.
        destination: IpAddr,
        /// Why.
        reason: String,
    },
    /// A peer sent us an Error Indication.
    ErrorReceived {
        /// The peer.
        peer: Nbma,
        /// Error code (RFC 2332 §5.2.7).
        code: u16,
        /// In words.
        reason: &'static str,
    },
}

/// One refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The other side.
    pub peer: SocketAddr,
    /// Whom it said or proved to be.
    pub identity: Option<String>,
    /// Why, in words that an operator can act on.
    pub reason: String,
}

/// A refusal and when it happened last.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// First time.
    pub first: Instant,
    /// Last time.
    pub last: Instant,
    /// How often since.
    pub count: u64,
    /// What.
    pub refused: Refused,
}

/// The last refusals, newest first; the same one again only counts.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Vec<Refusal>);

impl Refusals {
    const KEPT: usize = 64;

    /// Records a refusal; `true` where it is news.
    pub(crate) fn record(&mut self, now: Instant, refused: Refused) -> bool {
        if let Some(position) = self.0.iter().position(|r| r.refused == refused) {
            let mut known = self.0.remove(position);
            known.last = now;
            known.count += 1;
            self.0.insert(0, known);
            return false;
        }
        self.0.truncate(Self::KEPT - 1);
        self.0.insert(0, Refusal { first: now, last: now, count: 1, refused });
        true
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Refusal> {
        self.0.iter()
    }
}

/// `CN=… at 203.0.113.2:4500`, or the address alone.
fn who(f: &mut fmt::Formatter<'_>, identity: Option<&String>, at: SocketAddr) -> fmt::Result {
    match identity {
        Some(identity) => write!(f, "{identity} at {at}"),
        None => write!(f, "{at}"),
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        who(f, self.identity.as_ref(), self.peer)?;
        write!(f, ": {}", self.reason)
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PeerUp { endpoint, identity } => {
                f.write_str("session up with ")?;
                who(f, identity.as_ref(), *endpoint)
            }
            Self::PeerDown { endpoint, identity, reason } => {
                f.write_str("session down with ")?;
                who(f, identity.as_ref(), *endpoint)?;
                write!(f, ": {reason}")
            }
            Self::PeerRekeyed { endpoint, identity } => {
                f.write_str("new keys with ")?;
                who(f, identity.as_ref(), *endpoint)
            }
            Self::PeerMoved { from, to } => write!(f, "peer moved from {from} to {to}"),
            Self::Refused(refused) => write!(f, "refused: {refused}"),
            Self::Direct { prefix, endpoint } => {
                write!(f, "direct path to {prefix} through {endpoint}")
            }
            Self::Indirect { prefix } => write!(f, "no direct path to {prefix} any more"),
            Self::ServerUp { server } => write!(f, "registered with next-hop server {server}"),
            Self::ServerDown { server, reason } => {
                write!(f, "next-hop server {server} is down: {reason}")
            }
            Self::Registered { prefix, seen, claimed } if seen.address == *claimed => {
                write!(f, "{prefix} registered from {seen}")
            }
            Self::Registered { prefix, seen, claimed } => {
                write!(f, "{prefix} registered from {seen} (behind NAT, claims {claimed})")
            }
            Self::Unregistered { prefix, reason } => {
                write!(f, "registration of {prefix} ended: {reason}")
            }
            Self::SeenAs { server, nbma } => {
                write!(f, "behind NAT: next-hop server {server} sees us at {nbma}")
            }
            Self::Underlay { nbma: Some(nbma) } => write!(f, "own NBMA address is {nbma}"),
            Self::Underlay { nbma: None } => f.write_str("the underlay has no NBMA address for us"),
            Self::ResolutionFailed { destination, reason } => {
                write!(f, "no shortcut to {destination}: {reason}")
            }
            Self::ErrorReceived { peer, code, reason } => {
                write!(f, "{peer} reports an error: {reason} (code {code})")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn refused(n: u16) -> Refused {
        let peer = SocketAddr::from(([203, 0, 113, 1], n));
        Refused { peer, identity: Some("CN=spoke1".into()), reason: "expired".into() }
    }

    #[test]
    fn the_same_refusal_again_only_counts() {
        let mut refusals = Refusals::default();
        let start = Instant::now();
        let later = start + Duration::from_secs(5);
        assert!(refusals.record(start, refused(1)));
        assert!(refusals.record(start, refused(2)));
        assert!(!refusals.record(later, refused(1)));
        let newest = refusals.iter().next().expect("there are two");
        assert_eq!((newest.count, newest.first, newest.last), (2, start, later));
        assert_eq!(newest.refused, refused(1));
        assert_eq!(refusals.iter().count(), 2);
    }

    #[test]
    fn refusals_are_bounded_and_the_oldest_go_first() {
        let mut refusals = Refusals::default();
        let now = Instant::now();
        for n in 0..1000 {
            assert!(refusals.record(now, refused(n)));
        }
        assert_eq!(refusals.iter().count(), Refusals::KEPT);
        assert!(refusals.iter().all(|r| r.refused.peer.port() >= 936));
    }

    #[test]
    fn a_registration_says_where_its_client_claims_to_be_only_if_that_differs() {
        let prefix = "10.0.1.0/24".parse().expect("a prefix");
        let seen = Nbma { address: [203, 0, 113, 1].into(), port: 20_001 };
        let notice = |claimed| Notice::Registered { prefix, seen, claimed }.to_string();
        assert_eq!(notice(seen.address), "10.0.1.0/24 registered from 203.0.113.1:20001");
        assert_eq!(
            notice([192, 168, 1, 2].into()),
            "10.0.1.0/24 registered from 203.0.113.1:20001 (behind NAT, claims 192.168.1.2)"
        );
    }
}
