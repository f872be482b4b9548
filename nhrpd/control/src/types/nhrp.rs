//! What NHRP knows and counts: cache, shortcuts, traffic.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Reply of `ShowNhrpCache`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    /// In order of prefix.
    pub entries: Vec<CacheEntry>,
}

/// One NHRP cache entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheEntry {
    /// Tunnel interface.
    pub interface: String,
    /// Protocol address (host prefix) or prefix behind a peer.
    pub prefix: IpNet,
    /// Protocol address of the peer; `null` while there is none (incomplete, negative).
    pub next_hop: Option<IpAddr>,
    /// NBMA address in use; `null` while there is none.
    pub nbma: Option<IpAddr>,
    /// NBMA address that the peer claims, where NAT made it another one.
    pub nbma_claimed: Option<IpAddr>,
    /// How it is known.
    pub kind: EntryKind,
    /// Flags.
    pub flags: Vec<EntryFlag>,
    /// Age.
    pub created_seconds: u64,
    /// Remaining holding time; `null` = never expires.
    pub expires_seconds: Option<u64>,
}

/// Cisco's entry type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// Configured (`map`, `nhs`).
    Static,
    /// Registered or resolved.
    Dynamic,
    /// A resolution is under way.
    Incomplete,
    /// A resolution was answered "no binding".
    Negative,
    /// Of this node.
    Local,
}

/// Cisco's entry flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryFlag {
    /// Registered with the unique bit.
    Unique,
    /// Came by a registration with this node.
    Registered,
    /// Carried traffic lately.
    Used,
    /// Answered by the owner itself.
    Authoritative,
    /// Learned from a packet in passing.
    Implicit,
    /// The peer is behind NAT.
    Nat,
}

/// Reply of `ShowShortcuts`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortcuts {
    /// In order of prefix.
    pub shortcuts: Vec<Shortcut>,
}

/// A direct way to another spoke that a Traffic Indication led to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortcut {
    /// Tunnel interface.
    pub interface: String,
    /// What is reached by it.
    pub prefix: IpNet,
    /// Protocol address of the peer; `null` while resolving.
    pub next_hop: Option<IpAddr>,
    /// NBMA address of the peer; `null` while resolving.
    pub nbma: Option<IpAddr>,
    /// How far it is.
    pub state: ShortcutState,
    /// For how long it has been in this state.
    pub since_seconds: u64,
    /// Remaining holding time.
    pub expires_seconds: Option<u64>,
    /// Who the peer proved to be: certificate subject.
    pub identity: Option<String>,
    /// Why it is not active, in words.
    pub why: Option<String>,
    /// Packets sent by it.
    pub packets: u64,
}

/// How far a shortcut is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShortcutState {
    /// The hub is being asked.
    Resolving,
    /// Keys are being agreed; traffic still goes through the hub.
    Keying,
    /// Traffic goes direct.
    Active,
}

/// Reply of `ShowNhrpTraffic`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Tunnel interfaces.
    pub interfaces: Vec<InterfaceTraffic>,
}

/// What one interface counted since the daemon's start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceTraffic {
    /// Device name.
    pub name: String,
    /// Always all of them, in the same order.
    pub counters: Vec<Counter>,
}

/// A number with a name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// In words: `sent resolution request`, `received registration reply`, `refused: …`.
    pub name: String,
    /// How many.
    pub value: u64,
}
