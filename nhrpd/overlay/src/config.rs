//! What one tunnel is told at its start.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use nhrp::engine as nhrp;

/// The two clocks of one moment: deadlines use `instant`, certificates `wall`.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Monotonic time.
    pub instant: std::time::Instant,
    /// Time of day.
    pub wall: SystemTime,
}

/// Configuration of one tunnel.
#[derive(Debug, Clone)]
pub struct Config {
    /// NHRP, with the next-hop servers and the static bindings.
    pub nhrp: nhrp::Config,
    /// How GRE packets are protected.
    pub security: Security,
    /// IKEv2.
    pub ike: ike::Config,
    /// UDP port that peers use unless translation moved them.
    pub port: u16,
    /// Prefixes reached through the preferred next-hop server, beside the tunnel's own.
    pub routes: Vec<IpNet>,
    /// Who gets copies of multicast packets.
    pub multicast: Vec<Member>,
    /// What a proven identity may claim.
    pub trust: Trust,
    /// What identities may claim beyond their certificates.
    pub accept: Vec<Accept>,
    /// Most sessions at one time; beyond it, a successor for each that is there.
    pub sessions: usize,
    /// How long a session that no binding uses any more is kept.
    pub idle_timeout: Duration,
}

/// How GRE packets are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// Not at all; it has to be asked for by name.
    None,
    /// Tunnels keyed by IKEv2, of the kinds that [`ike::Config::tunnels`] names.
    Ike,
}

/// Who gets copies of multicast packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Member {
    /// Every next-hop server.
    Servers,
    /// Every node that registered here.
    Dynamic,
    /// The node at this NBMA address.
    Nbma(IpAddr),
}

/// What a proven identity may claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// What its certificate and [`Config::accept`] name.
    Certificate,
    /// Anything: the classic behaviour of DMVPN.
    Any,
}

/// One identity and what it may claim beyond its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accept {
    /// Common name or DNS name; `*` stands for every identity.
    pub identity: String,
    /// Tunnel addresses and prefixes.
    pub prefixes: BTreeSet<IpNet>,
}
