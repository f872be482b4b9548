//! IKE SAs, and the pairs of ESP SAs that they keyed.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Counters, Refusal};

/// Reply of `ShowIkeSa`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IkeSas {
    /// Half-open ones too.
    pub sas: Vec<IkeSa>,
    /// Why others did not come up, the latest first.
    pub refusals: Vec<Refusal>,
}

/// One IKE SA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IkeSa {
    /// Own address, once known.
    pub local: Option<SocketAddr>,
    /// The peer's.
    pub remote: SocketAddr,
    /// How far it is.
    pub state: IkeState,
    /// This side sent IKE_SA_INIT.
    pub initiator: bool,
    /// SPI of the initiator.
    pub initiator_spi: Spi,
    /// SPI of the responder; zero before its first message.
    pub responder_spi: Spi,
    /// Age.
    pub age_seconds: u64,
    /// Who the peer proved to be: certificate subject.
    pub identity: Option<String>,
    /// How this node proved who it is, as `ECDSA with SHA2-256` or `pre-shared key`.
    pub own_authentication: Option<String>,
    /// How the peer did.
    pub peer_authentication: Option<String>,
    /// Algorithms, as `aes256gcm16-sha256-x25519`.
    pub suite: Option<String>,
    /// Until this side makes new keys; `null` before it is established.
    pub rekey_seconds: Option<u64>,
    /// Address translation was found in front of this node.
    pub nat_local: bool,
    /// Address translation was found in front of the peer.
    pub nat_remote: bool,
    /// Requests sent, each counted once.
    pub requests_sent: u64,
    /// Requests sent again.
    pub retransmissions: u64,
    /// Requests of the peer that were answered, each counted once.
    pub requests_received: u64,
    /// Its pairs of ESP SAs, oldest first; none with WireGuard.
    pub ipsec: Vec<IpsecSa>,
}

/// A pair of ESP SAs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpsecSa {
    /// SPI of what the peer sends, 8 hexadecimal digits.
    pub inbound_spi: String,
    /// SPI of what this node sends, 8 hexadecimal digits.
    pub outbound_spi: String,
    /// Cipher, as `aes256gcm16`.
    pub cipher: String,
    /// Extended sequence numbers.
    pub esn: bool,
    /// Key exchange of its own (perfect forward secrecy); `null`: keys from those of the IKE SA.
    pub pfs: Option<String>,
    /// Age.
    pub age_seconds: u64,
    /// Until this side makes new keys; `null` where there are some already.
    pub rekey_seconds: Option<u64>,
    /// Its traffic; `null` once a successor carries it.
    pub counters: Option<Counters>,
}

/// How far an IKE SA is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IkeState {
    /// IKE_SA_INIT or IKE_AUTH is under way.
    HalfOpen,
    /// The peer is authenticated, but what it asked to be keyed was refused (RFC 7296 §1.2).
    Childless,
    /// Both sides are authenticated.
    Established,
}

/// Security parameter index of IKE, on the socket as 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spi(pub u64);

impl fmt::Display for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spi({self})")
    }
}

impl Serialize for Spi {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Spi {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map(Self).map_err(de::Error::custom)
    }
}
