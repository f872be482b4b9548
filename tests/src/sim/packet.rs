//! Packets of the hosts behind the nodes, and what became of each.

use std::net::IpAddr;
use std::time::Duration;

use super::NodeId;

/// As much of an IPv4 packet as the overlay looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpPacket {
    /// Sender.
    pub source: IpAddr,
    /// Receiver.
    pub destination: IpAddr,
    /// Time to live.
    pub ttl: u8,
    /// Index of its [`Fate`].
    pub number: u32,
}

/// TTL of a fresh packet.
pub const TTL: u8 = 64;

impl IpPacket {
    /// Its IPv4 header and the number, as a redirect carries them.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0x45, 0, 0, 28, 0, 0, 0, 0, self.ttl, 17, 0, 0];
        for address in [self.source, self.destination] {
            if let IpAddr::V4(address) = address {
                bytes.extend(address.octets());
            }
        }
        bytes.extend(self.number.to_be_bytes());
        bytes.extend([0; 4]);
        bytes
    }
}

/// What became of one packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fate {
    /// Who sent it.
    pub from: NodeId,
    /// Sender.
    pub source: IpAddr,
    /// Receiver.
    pub destination: IpAddr,
    /// When, since the start of the run.
    pub sent: Duration,
    /// Its first arrival.
    pub arrival: Option<Arrival>,
    /// Why a node dropped it.
    pub dropped: Option<(NodeId, &'static str)>,
    /// Times it arrived.
    pub(super) arrivals: u32,
    /// Copies that there may be at most.
    pub(super) copies: u32,
    /// The receiver answers it.
    pub(super) echo: bool,
}

/// How a packet arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// When, since the start of the run.
    pub at: Duration,
    /// Nodes that forwarded it.
    pub hops: u8,
}

impl Fate {
    /// It arrived without passing a third node.
    pub fn direct(&self) -> bool {
        self.arrival.is_some_and(|arrival| arrival.hops == 0)
    }
}
