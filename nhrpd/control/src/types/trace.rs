//! How a packet goes, and what stands in its way.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::IkeSa;

/// Reply of `Trace`: how a packet to one address goes now, and what stands in its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// What was asked for.
    pub destination: IpAddr,
    /// Tunnel interface.
    pub interface: String,
    /// How it goes.
    pub verdict: Verdict,
    /// The same in one sentence, with the cause where it goes nowhere.
    pub summary: String,
    /// Entry of the overlay's forwarding table that it takes; `null` = none.
    pub route: Option<IpNet>,
    /// Tunnel address of the node that gets it.
    pub next_hop: Option<IpAddr>,
    /// NBMA address and UDP port of that node (port 0 with clear GRE).
    pub endpoint: Option<SocketAddr>,
    /// Who it proved to be: certificate subject.
    pub identity: Option<String>,
    /// The IKE SA of that path.
    pub ike: Option<IkeSa>,
    /// What was tried, in the order in which it has to succeed.
    pub steps: Vec<TraceStep>,
}

/// How a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The address is on this node, or behind it.
    Local,
    /// Straight to the node that has it.
    Direct,
    /// Through a next-hop server.
    ViaHub,
    /// It is dropped.
    Nowhere,
    /// It does not belong into the overlay.
    Outside,
}

/// One thing that has to succeed before a packet gets through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceStep {
    /// What.
    pub stage: TraceStage,
    /// With whom: tunnel address, NBMA address or name; `null` = with nobody.
    pub peer: Option<String>,
    /// Whether it did.
    pub outcome: Outcome,
    /// In words.
    pub text: String,
}

/// Stages in the order in which they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TraceStage {
    /// This node's own NBMA address.
    Underlay,
    /// The server's name becomes an address.
    Name,
    /// IKEv2.
    KeyExchange,
    /// The first packet through the session.
    Session,
    /// NHRP registration.
    Registration,
    /// NHRP resolution.
    Resolution,
    /// What was refused lately, by this node or by the other one.
    Refusal,
}

/// How far one step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Done.
    Done,
    /// Under way, or not begun because nothing asked for it.
    Waiting,
    /// Not possible, or not answered.
    Failed,
}
